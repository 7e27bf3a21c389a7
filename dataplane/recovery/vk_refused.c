/* SPDX-License-Identifier: MIT */
#include "vk_refused.h"

#include <string.h>

int vk_refused_find(const struct vk_refusals *refusals, uint64_t number)
{
	for (uint32_t i = 0; i < refusals->count && number <= refusals->ranges[i].last; i++)
		if (number >= refusals->ranges[i].first)
			return 1;
	return 0;
}

static void enter(struct vk_refusals *refusals, uint64_t number)
{
	struct vk_range *ranges = refusals->ranges, *lowest = &ranges[VK_REFUSED_RANGES - 2];
	uint32_t at = 0;

	while (at < refusals->count && number < ranges[at].first)
		at++;
	if (at < refusals->count && number <= ranges[at].last + 1) {
		if (number > ranges[at].last)
			ranges[at].last = number;
		return;
	}
	if (refusals->count == VK_REFUSED_RANGES) {
		lowest->first = ranges[--refusals->count].first;
		if (at > refusals->count)
			lowest->first = number;
		if (at >= refusals->count)
			return;
	}
	memmove(&ranges[at + 1], &ranges[at], (refusals->count - at) * sizeof *ranges);
	ranges[at] = (struct vk_range){ number, number };
	refusals->count++;
}

void vk_refused_note(struct vk_run *run, struct vk_session *session, const struct vk_frame *frame)
{
	vk_received_add(&session->refused[frame->space], frame->number, 0, 0, run->came_ns,
			run->now_ns);
	enter(&session->refusals[frame->space], frame->number);
	if (frame->number >= session->received[frame->space].refused_end)
		session->received[frame->space].refused_end = frame->number + 1;
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
