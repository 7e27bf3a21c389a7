/* SPDX-License-Identifier: MIT */
#include "vk_refused.h"

void vk_refused_note(struct vk_run *run, struct vk_session *session, const struct vk_frame *frame)
{
	vk_received_add(&session->refused[frame->space], frame->number, 0, 0, run->came_ns,
			run->now_ns);
	if (frame->space == VK_SPACE_L && frame->number >= session->refused_next)
		session->refused_next = frame->number + 1;
	vk_session_touch(run, session);
}

void vk_refused_send_all(struct vk_run *run)
{
	for (uint32_t i = 0; i < run->touched_count; i++) {
		struct vk_session *session = run->sessions[run->touched[i]];

		for (uint32_t s = 0; s < VK_SPACE_COUNT; s++) {
			struct vk_received *refused = &session->refused[s];

			if (!refused->range_count)
				continue;
			vk_session_ack(run, session, s, refused, VK_ACK_REFUSED);
			refused->range_count = 0;
		}
	}
}
