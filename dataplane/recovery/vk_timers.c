/* SPDX-License-Identifier: MIT */
#include "vk_timers.h"

#include <stdlib.h>
#include <string.h>

enum { CAPACITY_MIN = 64 };

static void put(struct vk_timers *timers, uint32_t at, uint32_t number)
{
	timers->heap[at] = number;
	timers->place[number] = at + 1;
}

static void rise(struct vk_timers *timers, uint32_t at, uint32_t number)
{
	while (at) {
		uint32_t above = (at - 1) / 2;

		if (timers->due_ns[timers->heap[above]] <= timers->due_ns[number])
			break;
		put(timers, at, timers->heap[above]);
		at = above;
	}
	put(timers, at, number);
}

static void sink(struct vk_timers *timers, uint32_t at, uint32_t number)
{
	for (;;) {
		uint32_t below = 2 * at + 1;

		if (below >= timers->count)
			break;
		if (below + 1 < timers->count &&
		    timers->due_ns[timers->heap[below + 1]] < timers->due_ns[timers->heap[below]])
			below++;
		if (timers->due_ns[timers->heap[below]] >= timers->due_ns[number])
			break;
		put(timers, at, timers->heap[below]);
		at = below;
	}
	put(timers, at, number);
}

static int grow(struct vk_timers *timers, uint32_t number)
{
	uint32_t capacity = timers->capacity ? timers->capacity : CAPACITY_MIN;
	uint64_t *due_ns;
	uint32_t *place, *heap;

	while (capacity <= number)
		capacity *= 2;
	due_ns = realloc(timers->due_ns, capacity * sizeof *due_ns);
	if (due_ns)
		timers->due_ns = due_ns;
	place = realloc(timers->place, capacity * sizeof *place);
	if (place)
		timers->place = place;
	heap = realloc(timers->heap, capacity * sizeof *heap);
	if (heap)
		timers->heap = heap;
	if (!due_ns || !place || !heap)
		return 0;
	memset(place + timers->capacity, 0, (capacity - timers->capacity) * sizeof *place);
	timers->capacity = capacity;
	return 1;
}

int vk_timers_set(struct vk_timers *timers, uint32_t number, uint64_t due_ns)
{
	uint64_t before_ns;

	if (due_ns == UINT64_MAX) {
		vk_timers_clear(timers, number);
		return 1;
	}
	if (number >= timers->capacity && !grow(timers, number))
		return 0;
	if (!timers->place[number]) {
		timers->due_ns[number] = due_ns;
		rise(timers, timers->count++, number);
		return 1;
	}
	before_ns = timers->due_ns[number];
	timers->due_ns[number] = due_ns;
	if (due_ns < before_ns)
		rise(timers, timers->place[number] - 1, number);
	else
		sink(timers, timers->place[number] - 1, number);
	return 1;
}

void vk_timers_clear(struct vk_timers *timers, uint32_t number)
{
	uint32_t at, last;

	if (number >= timers->capacity || !timers->place[number])
		return;
	at = timers->place[number] - 1;
	timers->place[number] = 0;
	last = timers->heap[--timers->count];
	if (last == number)
		return;
	if (at && timers->due_ns[last] < timers->due_ns[timers->heap[(at - 1) / 2]])
		rise(timers, at, last);
	else
		sink(timers, at, last);
}

int vk_timers_pop(struct vk_timers *timers, uint64_t now_ns)
{
	uint32_t number;

	if (!timers->count || vk_timers_next(timers) > now_ns)
		return -1;
	number = timers->heap[0];
	vk_timers_clear(timers, number);
	return (int)number;
}

void vk_timers_free(struct vk_timers *timers)
{
	free(timers->due_ns);
	free(timers->place);
	free(timers->heap);
	*timers = (struct vk_timers){ 0 };
}
