/* SPDX-License-Identifier: MIT */
#include "vk_refused.h"

#include <stddef.h>

void vk_refused_note(struct vk_run *run, struct vk_session *session, const struct vk_frame *frame)
{
	vk_received_add(&session->refused[frame->space], frame->number, 0, 0, run->came_ns,
			run->now_ns);
	vk_session_touch(run, session);
}

static void send_space(struct vk_run *run, struct vk_session *session, uint32_t space)
{
	uint8_t payload[sizeof(struct vk_ack) + VK_ACK_RANGES_MAX * sizeof(struct vk_ack_range)];
	struct vk_received *refused = &session->refused[space];
	struct vk_part part = {
		.frame = { .type = VK_STREAM_ACK, .stream = session->ack_stream[space] },
		.payload = payload,
		.peer = session->peer,
		.class = vk_stream_class(session->ack_stream[space]),
		.quiet = 1,
	};

	part.frame.priority = vk_priority_lowest(part.class);
	part.size = vk_received_write(refused, space, payload, sizeof payload, run->now_ns);
	payload[offsetof(struct vk_ack, flags)] |= VK_ACK_REFUSED;
	refused->range_count = 0;
	if (vk_datagram_add(run, &part, 1))
		vk_count_row(run, part.class)[VK_TX_CONTROL]++;
}

void vk_refused_send_all(struct vk_run *run)
{
	for (uint32_t i = 0; i < run->touched_count; i++) {
		struct vk_session *session = run->sessions[run->touched[i]];

		for (uint32_t s = 0; s < VK_SPACE_COUNT; s++) {
			if (session->refused[s].range_count)
				send_space(run, session, s);
		}
	}
}
