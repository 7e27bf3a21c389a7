/* SPDX-License-Identifier: MIT */
#ifndef VK_AHEAD_H
#define VK_AHEAD_H
/* vk_ahead.h: the flows of the next records of a ring, begun to be fetched before the records are
 * handled: of many none is in a cache, and the misses overlap.
 */
#include "vk_flows.h"

#include <string.h>

enum vk_ahead_const {
	VK_AHEAD_RECORDS = 16, /* that are looked at together */
};

/* How far a ring was looked at. */
struct vk_ahead {
	uint64_t at;
	uint32_t left; /* records of other flows to be handled before the next look */
	uint32_t flow; /* of the last record */
};

/* vk_ahead_begin begins a turn of a ring. */
static inline struct vk_ahead vk_ahead_begin(const struct vk_run *run)
{
	return (struct vk_ahead){ .left = vk_flows_many(run) ? 0 : UINT32_MAX, .flow = VK_NO_FLOW };
}

/* vk_ahead_flow returns the flow that the message at a place of a ring names. */
static inline uint32_t vk_ahead_flow(const struct vk_rx *in, uint64_t at)
{
	const uint8_t *place = in->data + (at & (in->capacity - 1));
	uint32_t flow;

	memcpy(&flow, place + sizeof(struct vk_record) + offsetof(struct vk_message, flow),
	       sizeof flow);
	return flow;
}

/* vk_ahead_look is called before each record is handled. Nothing of a record is believed. Those of
 * one flow behind the other have its rows already, however many others are open. */
static inline void vk_ahead_look(const struct vk_run *run, const struct vk_rx *in,
				 struct vk_ahead *ahead)
{
	uint64_t at = ahead->at - in->head < in->tail - in->head ? ahead->at : in->head;
	uint32_t next = vk_ahead_flow(in, in->head);

	if (next == ahead->flow)
		return;
	ahead->flow = next;
	if (ahead->left--)
		return;
	for (uint32_t i = 0; i < VK_AHEAD_RECORDS && at - in->head < in->tail - in->head; i++) {
		uint32_t flow = vk_ahead_flow(in, at);
		struct vk_record record;

		VK_RECORD_GET(&record, in->data + (at & (in->capacity - 1)));
		if (flow < VK_FLOWS_MAX)
			vk_flows_fetch(run, flow);
		at += vk_record_span(record.size);
	}
	ahead->at = at;
	ahead->left = VK_AHEAD_RECORDS / 2 - 1;
}
#endif
