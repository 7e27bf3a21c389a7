/* SPDX-License-Identifier: MIT */
#ifndef VK_BURST_H
#define VK_BURST_H
/* vk_burst.h: small messages to one peer that lie one behind the other in a ring, or are held one
 * behind the other. What was looked up and checked for the first of a datagram holds for all that
 * follow it there and differ only in what they say and in their stream: they are copied and counted
 * together, and of a stream only what is its own is looked up.
 */
#include "vk_ahead.h"
#include "vk_out.h"

/* vk_burst_begin notes a message that was just added to the datagram, whole and for the first time:
 * it may begin a burst. */
static inline void vk_burst_begin(struct vk_run *run, const struct vk_out *out)
{
	run->burst.flow = out->flow;
	run->burst.like = *out->message;
}

/* vk_burst_go sends the records at the scan position of a ring that go on like the message that was
 * noted, until the datagram is full or *bytes, which it counts up, reach the budget. Whatever else
 * comes is left where it is. */
void vk_burst_go(struct vk_run *run, uint32_t slot, uint32_t ring, int64_t budget, int64_t *bytes,
		 struct vk_ahead *ahead);

/* vk_burst_held does the same for what the flow of that message holds. */
void vk_burst_held(struct vk_run *run, int64_t budget, int64_t *bytes);
#endif
