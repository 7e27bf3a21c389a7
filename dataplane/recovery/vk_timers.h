/* SPDX-License-Identifier: MIT */
#ifndef VK_TIMERS_H
#define VK_TIMERS_H
/* vk_timers.h: one deadline for each of many numbered things: a binary heap that knows where each
 * stands. Memory grows with the highest number seen. Sans-IO, time is an argument (ns).
 */
#include <stdint.h>

struct vk_timers {
	uint64_t *due_ns; /* by number */
	uint32_t *place; /* by number: position in heap + 1, 0 = not in it */
	uint32_t *heap; /* numbers */
	uint32_t count;
	uint32_t capacity; /* numbers */
};

/* vk_timers_set sets the deadline of a number, UINT64_MAX = none. Without memory nothing is set and
 * 0 is returned; else 1. */
int vk_timers_set(struct vk_timers *timers, uint32_t number, uint64_t due_ns);

/* vk_timers_clear takes its deadline away. */
void vk_timers_clear(struct vk_timers *timers, uint32_t number);

/* vk_timers_pop takes the number that is due longest, -1 when none is due. */
int vk_timers_pop(struct vk_timers *timers, uint64_t now_ns);

/* vk_timers_free gives all memory back. */
void vk_timers_free(struct vk_timers *timers);

/* vk_timers_next returns the next deadline, UINT64_MAX = none. */
static inline uint64_t vk_timers_next(const struct vk_timers *timers)
{
	return timers->count ? timers->due_ns[timers->heap[0]] : UINT64_MAX;
}
#endif
