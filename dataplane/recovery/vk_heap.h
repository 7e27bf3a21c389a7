/* SPDX-License-Identifier: MIT */
#ifndef VK_HEAP_H
#define VK_HEAP_H
/* vk_heap.h: what comes next: a binary heap by time, first in first out within one time. */
#include <stdint.h>
#include <stdlib.h>

struct vk_heap_item {
	uint64_t at_ns;
	uint64_t order;
	uint64_t value;
};

struct vk_heap {
	struct vk_heap_item *items;
	uint32_t count;
	uint32_t capacity;
	uint64_t order; /* of the next item */
};

/* vk_heap_before says whether one item comes before another. */
static inline int vk_heap_before(const struct vk_heap_item *a, const struct vk_heap_item *b)
{
	return a->at_ns < b->at_ns || (a->at_ns == b->at_ns && a->order < b->order);
}

/* vk_heap_push adds a value; returns 0 without memory. */
static inline int vk_heap_push(struct vk_heap *heap, uint64_t at_ns, uint64_t value)
{
	struct vk_heap_item item = { at_ns, heap->order++, value };
	uint32_t at = heap->count;

	if (at == heap->capacity) {
		uint32_t capacity = at ? 2 * at : 64;
		void *items = realloc(heap->items, capacity * sizeof *heap->items);

		if (!items)
			return 0;
		heap->items = items;
		heap->capacity = capacity;
	}
	heap->count++;
	while (at && vk_heap_before(&item, &heap->items[(at - 1) / 2])) {
		heap->items[at] = heap->items[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	heap->items[at] = item;
	return 1;
}

/* vk_heap_pop takes the first value out of a heap that is not empty. */
static inline uint64_t vk_heap_pop(struct vk_heap *heap)
{
	uint64_t value = heap->items[0].value;
	struct vk_heap_item last = heap->items[--heap->count];
	uint32_t at = 0, child;

	while ((child = 2 * at + 1) < heap->count) {
		if (child + 1 < heap->count &&
		    vk_heap_before(&heap->items[child + 1], &heap->items[child]))
			child++;
		if (!vk_heap_before(&heap->items[child], &last))
			break;
		heap->items[at] = heap->items[child];
		at = child;
	}
	if (heap->count)
		heap->items[at] = last;
	return value;
}

/* vk_heap_next returns the time of the first, UINT64_MAX when empty. */
static inline uint64_t vk_heap_next(const struct vk_heap *heap)
{
	return heap->count ? heap->items[0].at_ns : UINT64_MAX;
}

/* vk_heap_free gives the memory back. */
static inline void vk_heap_free(struct vk_heap *heap)
{
	free(heap->items);
	*heap = (struct vk_heap){ .items = NULL };
}
#endif
