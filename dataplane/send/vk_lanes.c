/* SPDX-License-Identifier: MIT */
#include "vk_lanes.h"

#include "vk_flows.h"
#include "vk_pages.h"

static const size_t rows_size = VK_PEERS_MAX * sizeof(struct vk_peer_lane);

/* Bytes a flow has left of the message that it sends next; of one in fragments, as much as is known
 * of it. */
static uint64_t left(struct vk_run *run, const struct vk_flow *flow, const struct vk_flow_run *own)
{
	struct vk_ledger *ledger = &run->slots[flow->app].ledgers[flow->class];
	const struct vk_entry *entry = vk_ledger_get(ledger, own->held_first);
	uint64_t bytes = entry->more ? own->held_bytes : entry->size;

	if (entry->shards)
		bytes -= run->shards.rows[entry->shards - 1].sent;
	return bytes < VK_LANES_LEFT_MAX ? bytes : VK_LANES_LEFT_MAX;
}

static void list(struct vk_lanes *lanes, struct vk_peer_lane *lane)
{
	uint32_t peer = (uint32_t)(lane - lanes->rows);

	if (lane->listed || !lane->heap.count)
		return;
	lane->listed = 1;
	lane->next = 0;
	if (lanes->last)
		lanes->rows[lanes->last - 1].next = peer + 1;
	else
		lanes->first = peer + 1;
	lanes->last = peer + 1;
}

void vk_lanes_return(struct vk_lanes *lanes, struct vk_peer_lane *lane)
{
	lane->listed = 0;
	list(lanes, lane);
}

void vk_lanes_add(struct vk_run *run, struct vk_flow *flow)
{
	uint32_t number = vk_flow_number(run, flow);
	struct vk_flow_run *own = &run->flows[number];
	struct vk_lanes *lanes = &run->slots[flow->app].lanes[flow->class];
	struct vk_peer_lane *lane;
	uint64_t key = 0; /* first come, first served */

	if (!own->held_count || own->ready)
		return;
	if (!lanes->rows)
		lanes->rows = vk_pages_map(rows_size);
	if (!lanes->rows)
		return; /* it may try when it holds one more, or has more credit */
	lane = &lanes->rows[flow->peer];
	if (flow->class == VK_CLASS_DATA)
		key = own->since_ns + left(run, flow, own) * VK_LANES_AGE_NS;
	own->ready = (uint8_t)vk_heap_push(&lane->heap, key, number);
	list(lanes, lane);
}

/* Takes a lane's first flow that is still one of it; NULL = none is. */
static struct vk_flow *take(struct vk_run *run, uint32_t slot, uint32_t class,
			    struct vk_peer_lane *lane)
{
	uint32_t peer = (uint32_t)(lane - run->slots[slot].lanes[class].rows);

	while (lane->heap.count) {
		uint32_t number = (uint32_t)vk_heap_pop(&lane->heap);
		struct vk_flow *flow = &run->work->flows[number];

		run->flows[number].ready = 0;
		if (flow->state != VK_ROW_LIVE)
			continue;
		if (flow->app == slot && flow->class == class && flow->peer == peer)
			return flow;
		vk_lanes_add(run, flow); /* another's by now */
	}
	return NULL;
}

struct vk_flow *vk_lanes_next(struct vk_run *run, uint32_t slot, uint32_t class,
			      struct vk_peer_lane **lane)
{
	struct vk_lanes *lanes = &run->slots[slot].lanes[class];

	while (lanes->first) {
		struct vk_peer_lane *first = &lanes->rows[lanes->first - 1];
		struct vk_flow *flow;

		lanes->first = first->next;
		if (!lanes->first)
			lanes->last = 0;
		flow = take(run, slot, class, first);
		if (flow) {
			*lane = first;
			return flow;
		}
		first->listed = 0;
	}
	return NULL;
}

void vk_lanes_free(struct vk_run *run, uint32_t slot, uint32_t class)
{
	struct vk_lanes *lanes = &run->slots[slot].lanes[class];

	for (uint32_t peer = 0; lanes->rows && peer < run->peer_count; peer++) {
		struct vk_heap *heap = &lanes->rows[peer].heap;

		for (uint32_t i = 0; i < heap->count; i++) {
			struct vk_flow *flow = &run->work->flows[heap->items[i].value];

			run->flows[heap->items[i].value].ready = 0;
			if (flow->state == VK_ROW_LIVE &&
			    (flow->app != slot || flow->class != class))
				vk_lanes_add(run, flow); /* another's by now */
		}
		vk_heap_free(heap);
	}
	vk_pages_unmap(lanes->rows, rows_size);
	*lanes = (struct vk_lanes){ .rows = NULL };
}
