/* SPDX-License-Identifier: MIT */
#include "vk_flows.h"
#include "vk_peers.h"
#include "vk_slots.h"

#include <string.h>

enum { DELETED = 0xffffffff, WINDOW = 64 };

static uint32_t bucket_of(uint32_t peer, uint32_t stream)
{
	uint64_t key = ((uint64_t)peer << 32 | stream) * 0x9e3779b97f4a7c15u;

	return (uint32_t)(key >> 40) % VK_FLOW_BUCKETS;
}

static void index_flow(struct vk_run *run, uint32_t number)
{
	const struct vk_flow *flow = &run->work->flows[number];
	uint32_t at = bucket_of(flow->peer, flow->stream);

	while (run->work->flow_index[at] && run->work->flow_index[at] != DELETED)
		at = (at + 1) % VK_FLOW_BUCKETS;
	run->work->flow_index[at] = number + 1;
}

static void rebuild_index(struct vk_run *run)
{
	memset(run->work->flow_index, 0, sizeof run->work->flow_index);
	run->flow_deleted = 0;
	run->flow_high = 0;
	run->work->flow_count = 0;
	for (uint32_t i = 0; i < VK_FLOWS_MAX; i++) {
		if (run->work->flows[i].state != VK_ROW_LIVE)
			continue;
		index_flow(run, i);
		run->flow_high = i + 1;
		run->work->flow_count++;
	}
}

void vk_flows_load(struct vk_run *run)
{
	run->last_flow = VK_NO_FLOW;
	rebuild_index(run);
	for (uint32_t i = 0; i < run->flow_high; i++) {
		struct vk_flow *flow = &run->work->flows[i];
		const struct vk_run_slot *slot;

		if (flow->state != VK_ROW_LIVE)
			continue;
		slot = flow->app < VK_APPS_MAX ? &run->slots[flow->app] : NULL;
		if (!slot || !slot->attached || slot->generation != flow->app_generation ||
		    flow->peer >= VK_PEERS_MAX ||
		    run->peers[flow->peer].generation != flow->peer_generation)
			vk_flows_close(run, flow);
	}
}

struct vk_flow *vk_flows_find(struct vk_run *run, uint32_t peer, uint32_t stream)
{
	struct vk_flow *flow;
	uint32_t at;

	if (run->last_flow != VK_NO_FLOW) {
		flow = &run->work->flows[run->last_flow];
		if (flow->stream == stream && flow->peer == peer)
			return flow;
	}
	for (at = bucket_of(peer, stream); run->work->flow_index[at];
	     at = (at + 1) % VK_FLOW_BUCKETS) {
		uint32_t entry = run->work->flow_index[at];

		if (entry == DELETED)
			continue;
		flow = &run->work->flows[entry - 1];
		if (flow->stream == stream && flow->peer == peer) {
			run->last_flow = entry - 1;
			return flow;
		}
	}
	return NULL;
}

static struct vk_flow *take_free(struct vk_run *run)
{
	if (run->work->flow_count >= VK_FLOWS_MAX)
		return NULL;
	for (;;) {
		struct vk_flow *flow = &run->work->flows[run->flow_cursor];

		run->flow_cursor = (run->flow_cursor + 1) % VK_FLOWS_MAX;
		if (flow->state == VK_ROW_FREE)
			return flow;
	}
}

struct vk_flow *vk_flows_open(struct vk_run *run, uint32_t peer, uint32_t stream, uint32_t slot,
			      uint32_t token, int opener)
{
	struct vk_flow *flow = take_free(run);
	uint32_t number;

	if (!flow)
		return NULL;
	number = vk_flow_number(run, flow);
	*flow = (struct vk_flow){
		.state = VK_ROW_FREE,
		.generation = flow->generation + 1,
		.stream = stream,
		.peer = (uint16_t)peer,
		.app = (uint16_t)slot,
		.peer_generation = run->peers[peer].generation,
		.app_generation = run->slots[slot].generation,
		.class = (uint8_t)vk_stream_class(stream),
		.opener = opener != 0,
		.token = token,
	};
	VK_STORE_RELEASE(&flow->state, VK_ROW_LIVE);
	index_flow(run, number);
	if (number >= run->flow_high)
		run->flow_high = number + 1;
	run->work->flow_count++;
	run->counters->gauges[VK_FLOWS_OPEN] = run->work->flow_count;
	return flow;
}

void vk_flows_close(struct vk_run *run, struct vk_flow *flow)
{
	uint32_t number = vk_flow_number(run, flow), at = bucket_of(flow->peer, flow->stream);

	VK_STORE_RELEASE(&flow->state, VK_ROW_FREE);
	while (run->work->flow_index[at] && run->work->flow_index[at] != number + 1)
		at = (at + 1) % VK_FLOW_BUCKETS;
	if (run->work->flow_index[at]) {
		run->work->flow_index[at] = DELETED;
		run->flow_deleted++;
	}
	if (run->last_flow == number)
		run->last_flow = VK_NO_FLOW;
	run->work->flow_count--;
	run->counters->gauges[VK_FLOWS_OPEN] = run->work->flow_count;
	if (run->flow_deleted > VK_FLOW_BUCKETS / 4)
		rebuild_index(run);
}

void vk_flows_close_slot(struct vk_run *run, uint32_t slot)
{
	for (uint32_t i = 0; i < run->flow_high; i++) {
		struct vk_flow *flow = &run->work->flows[i];

		if (flow->state != VK_ROW_LIVE || flow->app != slot)
			continue;
		vk_reply_put(run, (struct vk_reply){
					  .type = VK_STREAM_RESET,
					  .class = flow->class,
					  .peer = flow->peer,
					  .stream = flow->stream,
					  .correlation = flow->token,
					  .code = VK_CODE_APPLICATION_GONE,
				  });
		vk_flows_close(run, flow);
	}
}

void vk_flows_close_peer(struct vk_run *run, uint32_t peer)
{
	for (uint32_t i = 0; i < run->flow_high; i++) {
		struct vk_flow *flow = &run->work->flows[i];

		if (flow->state == VK_ROW_LIVE && flow->peer == peer)
			vk_flows_reset(run, flow, VK_CODE_NO_PEER);
	}
}

void vk_flows_reset(struct vk_run *run, struct vk_flow *flow, uint32_t code)
{
	struct vk_message message = {
		.flow = vk_flow_number(run, flow),
		.flow_generation = flow->generation,
		.peer = flow->peer,
		.stream = flow->stream,
		.correlation = flow->token,
		.code = code,
	};
	int opening = flow->opener && !flow->answered;
	uint32_t slot = flow->app, class = flow->class;
	uint8_t *body = vk_slots_out(run, slot, class, sizeof message);

	if (body) {
		memcpy(body, &message, sizeof message);
		vk_slots_commit(run, slot, class, sizeof message,
				opening ? VK_RECORD_OPENED : VK_RECORD_RESET);
	}
	if (flow->state == VK_ROW_LIVE) /* the application may have been cut off */
		vk_flows_close(run, flow);
}

int vk_flows_seen(const struct vk_flow *flow, uint32_t sequence)
{
	uint32_t behind = flow->rx_sequence - sequence; /* 1 = the newest; wraps */

	if (!behind || behind > (uint32_t)INT32_MAX + 1)
		return 0;
	return behind > WINDOW || (flow->rx_window >> (behind - 1) & 1);
}

int vk_flows_accept(struct vk_run *run, struct vk_flow *flow, uint32_t sequence)
{
	uint32_t ahead = sequence - flow->rx_sequence; /* messages skipped; wraps */
	uint64_t *row = vk_count_row(run, flow->class);

	if (ahead <= INT32_MAX) {
		flow->rx_window = ahead >= WINDOW - 1 ? 0 : flow->rx_window << (ahead + 1);
		flow->rx_window |= 1;
		flow->rx_sequence = sequence + 1;
		flow->rx_gaps += ahead;
		row[VK_RX_GAPS] += ahead;
	} else {
		if (vk_flows_seen(flow, sequence))
			return 0;
		flow->rx_window |= (uint64_t)1 << (0 - ahead - 1);
		flow->rx_gaps--;
		row[VK_RX_GAPS]--;
	}
	flow->rx_messages++;
	return 1;
}

int vk_services_find(struct vk_run *run, const uint8_t *name, uint32_t size)
{
	for (uint32_t i = 0; i < VK_SERVICES_MAX; i++) {
		const struct vk_service *row = &run->state->services[i];
		struct vk_service service;

		if (VK_LOAD_RELAXED(&row->state) != VK_ROW_LIVE ||
		    vk_seqlock_copy(&service, row, sizeof service) ||
		    service.state != VK_ROW_LIVE || service.name_size != size ||
		    size > VK_NAME_MAX || memcmp(service.name, name, size))
			continue;
		if (service.app < VK_APPS_MAX && run->slots[service.app].attached &&
		    run->slots[service.app].generation == service.app_generation)
			return service.app;
	}
	return -1;
}
