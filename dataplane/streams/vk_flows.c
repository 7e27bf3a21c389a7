/* SPDX-License-Identifier: MIT */
#include "vk_flows.h"

#include "vk_content.h"
#include "vk_credit.h"
#include "vk_ends.h"
#include "vk_peers.h"
#include "vk_reassembly.h"
#include "vk_session.h"
#include "vk_slots.h"

#include <stdlib.h>
#include <string.h>

enum {
	DELETED = 0xffffffff,
	LINGERING_MIN = 64, /* rows of the first allocation */
	LINGER_NS = 200000000, /* how long late copies of a stream that ended are expected */
};

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
	for (uint32_t i = 0; i < run->peer_count; i++)
		run->work->packets[i].streams = 0;
	for (uint32_t i = 0; i < VK_FLOWS_MAX; i++) {
		if (run->work->flows[i].state == VK_ROW_FREE)
			continue;
		run->flow_high = i + 1;
		run->work->flow_count++;
		if (run->work->flows[i].state == VK_ROW_TELLING)
			continue;
		index_flow(run, i);
		if (run->work->flows[i].peer < VK_PEERS_MAX)
			run->work->packets[run->work->flows[i].peer].streams++;
	}
}

/* A stream counts until its peer cannot but know that it is over. Before, when both directions have
 * ended or it was reset here, it counts when we open another one, and not when the peer does. */
static void count(struct vk_run *run, const struct vk_flow *flow)
{
	run->flows[vk_flow_number(run, flow)].counted = 1;
	run->pools[flow->peer].streams++;
}

static void count_ending(struct vk_run *run, const struct vk_flow *flow)
{
	struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];

	if (own->counted && !own->ending) {
		own->ending = 1;
		run->pools[flow->peer].ending++;
	}
}

static void count_no_more(struct vk_run *run, const struct vk_flow *flow)
{
	struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];

	if (!own->counted)
		return;
	run->pools[flow->peer].streams--;
	run->pools[flow->peer].ending -= own->ending;
	own->counted = own->ending = 0;
}

/* Whether one more may be open: one that we ask for as both take, one of the peer's as we do. Of
 * rows whose end it does not acknowledge a peer may have no more than are free. */
static int room(const struct vk_run *run, uint32_t peer, int ours)
{
	const struct vk_pool *pool = &run->pools[peer];
	uint32_t theirs = run->peers[peer].streams_max;

	if (!ours)
		return pool->streams - pool->ending < run->params.streams_max &&
		       pool->ending <= VK_FLOWS_MAX - run->work->flow_count;
	return pool->streams < run->params.streams_max && (!theirs || pool->streams < theirs);
}

/* Of messages that a worker before this one began to receive. */
static void count_landed(struct vk_run *run)
{
	for (uint32_t i = 0; i < VK_PARTIALS_MAX; i++) {
		const struct vk_partial *partial = &run->work->partials[i];
		const struct vk_flow *flow = &run->work->flows[partial->flow % VK_FLOWS_MAX];
		const struct vk_party party = { flow->peer, flow->app, flow->class,
						(uint8_t)vk_flow_reliable(flow) };

		if (!partial->total)
			continue;
		if (partial->flow >= VK_FLOWS_MAX || flow->state != VK_ROW_LIVE ||
		    flow->generation != partial->flow_generation) {
			vk_reassembly_lose(run->reassembly, i);
			continue;
		}
		vk_reassembly_adopt(run->reassembly, i, &party);
		for (uint32_t k = 0; k < partial->run_count; k++)
			run->flows[partial->flow].landed +=
				partial->runs[k].end - partial->runs[k].begin;
	}
}

/* Lets an application know the limits of all its streams. */
static void limit_all(struct vk_run *run, uint32_t slot)
{
	for (uint32_t i = 0; i < run->flow_high; i++) {
		struct vk_flow *flow = &run->work->flows[i];

		if (flow->state == VK_ROW_LIVE && flow->app == slot)
			vk_credit_limit(run, flow);
	}
}

void vk_flows_many_peers(struct vk_run *run, uint32_t slot)
{
	if (run->slots[slot].many_peers)
		return;
	run->slots[slot].many_peers = 1;
	limit_all(run, slot);
}

/* Whom an application has streams with, for those that may not keep the others waiting. */
static void meet(struct vk_run *run, struct vk_flow *flow)
{
	struct vk_run_slot *slot = &run->slots[flow->app];
	uint32_t number = vk_flow_number(run, flow);

	if (!slot->some_peer)
		slot->some_peer = flow->peer + 1;
	if (slot->some_peer != flow->peer + 1)
		vk_flows_many_peers(run, flow->app);
	vk_credit_limit(run, flow);
	if (!slot->some_stream[flow->class])
		slot->some_stream[flow->class] = number + 1;
	if (slot->some_stream[flow->class] != number + 1)
		slot->many_streams |= 1u << flow->class;
}

/* What a flow owes its peer in any new session. */
static void retell(struct vk_run *run, uint32_t number)
{
	struct vk_flow *flow = &run->work->flows[number];
	uint32_t owes = run->flows[number].owes;

	if (flow->state == VK_ROW_CLOSING)
		owes |= run->flows[number].code ? VK_OWE_RESET : 0;
	else if (!flow->opener && !flow->answered)
		owes |= VK_OWE_ACCEPT;
	if (flow->state == VK_ROW_LIVE && flow->rx_limit > VK_WINDOW_START)
		owes |= VK_OWE_CREDIT;
	if (owes)
		vk_session_owe(run, flow, owes);
}

/* Goes on with a flow of an earlier worker, or ends it. */
static void load(struct vk_run *run, struct vk_flow *flow)
{
	const struct vk_run_slot *slot = flow->app < VK_APPS_MAX ? &run->slots[flow->app] : NULL;
	const struct vk_peer *peer = flow->peer < VK_PEERS_MAX ? &run->peers[flow->peer] : NULL;
	int here = slot && slot->attached && slot->generation == flow->app_generation;

	if (peer)
		count(run, flow);
	if (peer && flow->state != VK_ROW_LIVE)
		count_ending(run, flow);
	if (peer && flow->state != VK_ROW_TELLING)
		run->pools[flow->peer].gaps += flow->rx.runs != 0;
	vk_ends_load(run, flow);
	if (flow->state == VK_ROW_TELLING) {
		if (!flow->end_code)
			vk_flows_free(run, flow);
	} else if (!slot || !peer || (flow->state == VK_ROW_CLOSING && vk_flows_ended(flow))) {
		vk_flows_close(run, flow);
	} else if (peer->generation != flow->peer_generation) {
		if (here && flow->state == VK_ROW_LIVE && !flow->end_code)
			vk_flows_reset(run, flow,
				       peer->end_code ? peer->end_code : VK_CODE_NO_PEER);
		else
			vk_flows_close(run, flow);
	} else if (flow->state == VK_ROW_CLOSING || flow->end_code || !here) {
		vk_flows_end(run, flow, VK_CODE_APPLICATION_GONE);
	}
}

void vk_flows_load(struct vk_run *run)
{
	run->last_flow = VK_NO_FLOW;
	if (run->work->starts == 1)
		return; /* the first worker: there is nothing, and no need to touch all of it */
	vk_sequences_check(run->work->flows, VK_FLOWS_MAX, &run->gaps);
	rebuild_index(run);
	for (uint32_t i = 0; i < run->flow_high; i++)
		if (run->work->flows[i].state != VK_ROW_FREE)
			load(run, &run->work->flows[i]);
	count_landed(run);
	for (uint32_t i = 0; i < run->flow_high; i++) {
		if (run->work->flows[i].state != VK_ROW_LIVE)
			continue;
		vk_credit_load(run, &run->work->flows[i]);
		meet(run, &run->work->flows[i]);
	}
	for (uint32_t i = 0; i < run->flow_high; i++) {
		if (run->work->flows[i].state != VK_ROW_FREE &&
		    run->peers[run->work->flows[i].peer].state == VK_ROW_LIVE)
			retell(run, i);
	}
}

void vk_flows_retell(struct vk_run *run, uint32_t peer)
{
	for (uint32_t i = 0; i < run->flow_high; i++)
		if (run->work->flows[i].state != VK_ROW_FREE && run->work->flows[i].peer == peer)
			retell(run, i);
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

void vk_flows_look_ahead(const struct vk_run *run, uint32_t peer, const uint32_t *streams,
			 uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		__builtin_prefetch(&run->work->flow_index[bucket_of(peer, streams[i])]);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t entry = run->work->flow_index[bucket_of(peer, streams[i])];

		if (!entry || entry == DELETED)
			continue;
		vk_flows_fetch(run, entry - 1);
		__builtin_prefetch(&run->work->flows[entry - 1].rx_cost);
	}
}

static struct vk_flow *take_free(struct vk_run *run)
{
	if (run->work->flow_count >= VK_FLOWS_MAX)
		return NULL;
	for (;;) {
		struct vk_flow *flow = &run->work->flows[run->work->flow_cursor];

		run->work->flow_cursor = (run->work->flow_cursor + 1) % VK_FLOWS_MAX;
		if (flow->state == VK_ROW_FREE)
			return flow;
	}
}

/* The lists it is in stay: who comes by finds that it is another's flow now. */
static void forget(struct vk_flow_run *own)
{
	own->held_count = 0;
	own->held_bytes = 0;
	own->unacked = 0;
	own->landed = 0;
	own->undelivered = 0;
	own->owes = 0;
	own->closing = 0;
	own->code = 0;
	own->pooled = 0;
	own->taken = 0;
	own->quiet = 0;
	own->promised = 0;
}

struct vk_flow *vk_flows_open(struct vk_run *run, uint32_t peer, uint32_t stream, uint32_t slot,
			      uint32_t token, int opener)
{
	struct vk_flow *flow = room(run, peer, opener) ? take_free(run) : NULL;
	uint32_t number;

	if (!flow)
		return NULL;
	number = vk_flow_number(run, flow);
	forget(&run->flows[number]);
	*flow = (struct vk_flow){
		.state = VK_ROW_FREE,
		.generation = flow->generation + 1,
		.stream = stream,
		.peer = peer,
		.app = (uint16_t)slot,
		.tx_limit = run->peers[peer].window_start ? run->peers[peer].window_start :
							    VK_WINDOW_START,
		.rx_limit = VK_WINDOW_START,
		.peer_generation = run->peers[peer].generation,
		.app_generation = run->slots[slot].generation,
		.class = (uint8_t)vk_stream_class(stream),
		.opener = opener != 0,
		.token = token,
	};
	count(run, flow);
	vk_credit_open(run, flow);
	meet(run, flow);
	VK_STORE_RELEASE(&flow->state, VK_ROW_LIVE);
	index_flow(run, number);
	if (number >= run->flow_high)
		run->flow_high = number + 1;
	run->work->flow_count++;
	run->work->packets[peer].streams++;
	run->counters->gauges[VK_FLOWS_OPEN] = run->work->flow_count;
	return flow;
}

/* Nothing that comes on a flow is taken any more. Behind the store of its state, by which the next
 * worker knows whose rows it has to give back. */
static void stop_receiving(struct vk_run *run, struct vk_flow *flow)
{
	vk_sequences_free(&flow->rx, &run->gaps, &run->pools[flow->peer].gaps);
	if (run->reassembly)
		vk_reassembly_forget(run->reassembly, vk_flow_number(run, flow));
}

void vk_flows_close(struct vk_run *run, struct vk_flow *flow)
{
	uint32_t number = vk_flow_number(run, flow), at = bucket_of(flow->peer, flow->stream);

	count_ending(run, flow);
	vk_credit_close(run, flow);
	vk_content_forget(run, flow);
	run->flows[number].owes = 0;
	VK_STORE_RELEASE(&flow->state, VK_ROW_TELLING);
	stop_receiving(run, flow);
	while (run->work->flow_index[at] && run->work->flow_index[at] != number + 1)
		at = (at + 1) % VK_FLOW_BUCKETS;
	if (run->work->flow_index[at]) {
		run->work->flow_index[at] = DELETED;
		run->flow_deleted++;
	}
	if (run->last_flow == number)
		run->last_flow = VK_NO_FLOW;
	if (flow->peer < VK_PEERS_MAX)
		run->work->packets[flow->peer].streams--;
	if (!flow->end_code)
		vk_flows_free(run, flow);
	if (run->flow_deleted > VK_FLOW_BUCKETS / 4)
		rebuild_index(run);
}

void vk_flows_free(struct vk_run *run, struct vk_flow *flow)
{
	count_no_more(run, flow);
	VK_STORE_RELEASE(&flow->state, VK_ROW_FREE);
	run->work->flow_count--;
	run->counters->gauges[VK_FLOWS_OPEN] = run->work->flow_count;
}

void vk_flows_end(struct vk_run *run, struct vk_flow *flow, uint32_t code)
{
	if (!vk_session_of(run, flow->peer)) {
		vk_flows_close(run, flow);
		return;
	}
	vk_credit_close(run, flow);
	vk_content_forget(run, flow);
	count_ending(run, flow);
	VK_STORE_RELEASE(&flow->state, VK_ROW_CLOSING);
	stop_receiving(run, flow);
	run->flows[vk_flow_number(run, flow)].code = code;
	vk_session_owe(run, flow, VK_OWE_RESET);
}

void vk_flows_close_slot(struct vk_run *run, uint32_t slot)
{
	for (uint32_t i = 0; i < run->flow_high; i++) {
		struct vk_flow *flow = &run->work->flows[i];

		if (flow->state == VK_ROW_LIVE && flow->app == slot)
			vk_flows_end(run, flow, VK_CODE_APPLICATION_GONE);
	}
}

void vk_flows_close_peer(struct vk_run *run, uint32_t peer, uint32_t code)
{
	for (uint32_t i = 0; i < run->flow_high; i++) {
		struct vk_flow *flow = &run->work->flows[i];

		if (flow->peer != peer)
			continue;
		if (flow->state == VK_ROW_LIVE)
			vk_flows_reset(run, flow, code);
		else if (flow->state == VK_ROW_CLOSING)
			vk_flows_close(run, flow);
	}
}

void vk_flows_reset(struct vk_run *run, struct vk_flow *flow, uint32_t code)
{
	vk_ends_tell(run, flow, code);
	if (flow->state != VK_ROW_FREE) /* the application may have been cut off */
		vk_flows_close(run, flow);
}

void vk_flows_break(struct vk_run *run, struct vk_flow *flow, uint32_t code)
{
	vk_ends_tell(run, flow, code);
	if (flow->state == VK_ROW_LIVE)
		vk_flows_end(run, flow, code);
}

/* ---- The end of both directions ---- */

static void linger(struct vk_run *run, uint32_t number, uint32_t generation)
{
	struct vk_lingering *list = &run->lingering;

	if (!list->rows || list->next - list->first > list->mask) {
		uint32_t size = list->rows ? 2 * (list->mask + 1) : LINGERING_MIN;
		struct vk_linger *rows = malloc(size * sizeof *rows);

		if (!rows) { /* late copies are answered with a reset then */
			vk_flows_close(run, &run->work->flows[number]);
			return;
		}
		for (uint32_t i = list->first; i != list->next; i++)
			rows[i & (size - 1)] = list->rows[i & list->mask];
		free(list->rows);
		list->rows = rows;
		list->mask = size - 1;
	}
	list->rows[list->next++ & list->mask] =
		(struct vk_linger){ number, generation, run->now_ns + LINGER_NS };
}

void vk_flows_gone(struct vk_run *run, struct vk_flow *flow, uint32_t code)
{
	vk_ends_tell(run, flow, code);
	if (flow->state != VK_ROW_LIVE)
		return; /* the application was cut off */
	count_no_more(run, flow);
	vk_credit_close(run, flow);
	vk_content_forget(run, flow);
	VK_STORE_RELEASE(&flow->state, VK_ROW_CLOSING);
	stop_receiving(run, flow);
	linger(run, vk_flow_number(run, flow), flow->generation);
}

int vk_flows_ended(const struct vk_flow *flow)
{
	return flow->closed == (VK_CLOSED_HERE | VK_CLOSED_THERE) &&
	       (!vk_flow_reliable(flow) || flow->rx.next == flow->rx_final);
}

void vk_flows_settle(struct vk_run *run, struct vk_flow *flow)
{
	uint32_t number = vk_flow_number(run, flow);
	const struct vk_flow_run *own = &run->flows[number];

	if (flow->state != VK_ROW_LIVE || !vk_flows_ended(flow))
		return;
	count_ending(run, flow);
	if (own->unacked || own->held_count)
		return;
	count_no_more(run, flow);
	vk_credit_close(run, flow);
	VK_STORE_RELEASE(&flow->state, VK_ROW_CLOSING);
	stop_receiving(run, flow);
	linger(run, number, flow->generation);
}

void vk_flows_expire(struct vk_run *run)
{
	struct vk_lingering *list = &run->lingering;

	while (list->first != list->next) {
		const struct vk_linger *at = &list->rows[list->first & list->mask];
		struct vk_flow *flow = &run->work->flows[at->flow];

		if (at->due_ns > run->now_ns)
			return;
		list->first++;
		if (flow->state == VK_ROW_CLOSING && flow->generation == at->generation)
			vk_flows_close(run, flow);
	}
}

void vk_flows_entries_done(struct vk_run *run, uint32_t number, uint32_t count)
{
	struct vk_flow_run *own;

	if (number == VK_NO_FLOW)
		return;
	own = &run->flows[number];
	if (!own->unacked)
		return;
	own->unacked -= count < own->unacked ? count : own->unacked;
	if (!own->unacked)
		vk_flows_settle(run, &run->work->flows[number]);
}

/* ---- Best effort ---- */

void vk_flows_came(struct vk_run *run, struct vk_flow *flow, uint32_t sequence)
{
	uint32_t ahead = sequence - flow->rx_sequence; /* messages skipped; wraps */
	uint64_t *gaps = &vk_count_row(run, flow->class)[VK_RX_GAPS];

	if (ahead <= INT32_MAX) {
		flow->rx_sequence = sequence + 1;
		*gaps += ahead;
	} else {
		*gaps -= *gaps != 0; /* a peer that repeats itself takes none back */
	}
}

/* What the peer's own rights say; the worker keeps no copy of what it asks so seldom. */
static int peer_may(const struct vk_run *run, uint32_t peer, uint32_t service, uint32_t stream)
{
	const struct vk_peer *row = &run->state->peers[peer];
	const uint8_t *refused = run->state->rights[peer].refused;

	if (VK_LOAD_RELAXED(&row->refused_classes) & 1u << vk_stream_class(stream))
		return 0;
	return !VK_LOAD_RELAXED(&row->limited) ||
	       !(VK_LOAD_RELAXED(&refused[service / 8]) & 1u << service % 8);
}

int vk_services_find(struct vk_run *run, uint32_t peer, const struct vk_frame *open, uint32_t *code)
{
	uint32_t size = open->length;

	for (uint32_t i = 0; i < VK_SERVICES_MAX; i++) {
		const struct vk_service *row = &run->state->services[i];
		struct vk_service service;

		if (VK_LOAD_RELAXED(&row->state) != VK_ROW_LIVE ||
		    vk_seqlock_copy(&service, row, sizeof service) ||
		    service.state != VK_ROW_LIVE || service.name_size != size ||
		    size > VK_NAME_MAX || memcmp(service.name, open->payload, size))
			continue;
		if (service.app >= VK_APPS_MAX || !run->slots[service.app].attached ||
		    run->slots[service.app].generation != service.app_generation)
			continue;
		if (peer_may(run, peer, i, open->stream) &&
		    vk_slots_allow(&run->slots[service.app], open->stream))
			return service.app;
		*code = VK_CODE_POLICY;
		return -1;
	}
	*code = VK_CODE_NO_SERVICE;
	return -1;
}
