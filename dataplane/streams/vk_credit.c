/* SPDX-License-Identifier: MIT */
#include "vk_credit.h"

#include "vk_flows.h"
#include "vk_session.h"
#include "vk_slots.h"

#include <string.h>

enum {
	SYSTEM_SHARE = 4, /* of params.window_bytes: its messages are small */
	SYSTEM_MAX = 262144, /* bytes */
	RING_SHARE = 4, /* of a ring: what one stream may be promised in any case */
	WOKEN = 4, /* flows that may try when a pool has something again */
};

void vk_credit_tune(struct vk_run *run)
{
	uint64_t most = run->params.window_bytes, fixed = most / SYSTEM_SHARE;

	if (fixed > SYSTEM_MAX)
		fixed = SYSTEM_MAX;
	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++)
		run->windows[c] = (struct vk_window_rule){ .kind = VK_WINDOW_NONE };
	run->windows[VK_CLASS_SYSTEM] = (struct vk_window_rule){
		.kind = VK_WINDOW_FIXED,
		.min = VK_WINDOW_START,
		.max = fixed > VK_WINDOW_START ? fixed : VK_WINDOW_START,
	};
	for (uint32_t c = VK_CLASS_JOB; c <= VK_CLASS_DATA; c++)
		run->windows[c] = (struct vk_window_rule){
			.kind = VK_WINDOW_ADAPTIVE,
			.min = VK_WINDOW_START,
			.max = most,
		};
}

/* What holds for a flow: its class's rule, within the bounds of its session. */
static struct vk_window_rule rule_of(const struct vk_run *run, const struct vk_flow *flow)
{
	const struct vk_session *session = run->sessions[flow->peer];
	struct vk_window_rule rule = run->windows[flow->class];

	if (!session)
		return rule;
	if (session->stream_max && rule.max > session->stream_max)
		rule.max = session->stream_max;
	if (rule.min < session->stream_min)
		rule.min = session->stream_min < rule.max ? session->stream_min : rule.max;
	return rule;
}

/* ---- What we promise ---- */

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* Enters what a flow has been promised beyond its start: `base` takes no room any more. */
static void promise(struct vk_run *run, struct vk_flow *flow, uint64_t base)
{
	struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];
	uint64_t now = less(flow->rx_limit, base + VK_WINDOW_START), change = now - own->promised;

	own->promised = now;
	run->slots[flow->app].promised[flow->class] += change; /* it may wrap: it is a sum */
	run->pools[flow->peer].promised += change;
	run->promised += change;
}

/* How much more may be promised. A promise cannot be taken back: so a stream gets a share of its
 * ring though others, which may never use it, were promised all of it. When they do the ring is
 * full for a while, and what finds no room comes again. */
static uint64_t budget(const struct vk_run *run, const struct vk_flow *flow)
{
	const struct vk_run_slot *slot = &run->slots[flow->app];
	uint64_t capacity = slot->capacity[flow->class];
	uint64_t own = run->flows[vk_flow_number(run, flow)].promised;
	uint64_t ring = less(capacity, VK_WINDOW_START + slot->promised[flow->class]);
	uint64_t share = less(capacity / RING_SHARE, VK_WINDOW_START + own);
	uint64_t node = less((uint64_t)run->params.memory_kib * 1024, run->promised);
	uint64_t session = less(node, run->pools[flow->peer].promised);

	if (ring < share)
		ring = share;
	return ring < session ? ring : session;
}

static uint64_t rtt_ns(const struct vk_run *run, uint32_t peer)
{
	return run->sessions[peer] ? run->sessions[peer]->recovery.rtt.smoothed_ns :
				     VK_RTT_INITIAL_NS;
}

/* Whether a peer has to hear of a stream that it knows nothing of, though there is little to say;
 * until then its messages take from the peer's pool. */
static int noisy(struct vk_run *run, struct vk_flow *flow)
{
	struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];
	struct vk_pool *pool = &run->pools[flow->peer];

	if (flow->rx_limit > VK_WINDOW_START || !flow->rx_consumed)
		return 0;
	pool->quiet += flow->rx_consumed - own->quiet;
	own->quiet = (uint32_t)flow->rx_consumed;
	return pool->quiet > VK_CREDIT_QUIET;
}

static void speak(struct vk_run *run, struct vk_flow *flow)
{
	struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];

	run->pools[flow->peer].quiet -= own->quiet;
	own->quiet = 0;
}

/* What takes no room of a flow's window: what was read, and what has landed of messages that are
 * not all there. */
static uint64_t base_of(const struct vk_run *run, const struct vk_flow *flow)
{
	const struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];

	return flow->rx_consumed + less(own->landed, own->undelivered);
}

static void offer(struct vk_run *run, struct vk_flow *flow)
{
	struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];
	uint64_t base = base_of(run, flow), most, limit;

	if (!vk_credit_windowed(flow))
		return;
	promise(run, flow, base);
	limit = vk_window_limit(&own->window, base);
	most = base + VK_WINDOW_START > flow->rx_limit ? base + VK_WINDOW_START : flow->rx_limit;
	most += budget(run, flow);
	if (limit > most)
		limit = most;
	/* Of what it is now, not of what it would be with more memory: who has used it up hears. */
	if (limit <= flow->rx_limit ||
	    (limit - flow->rx_limit < (limit - base) / VK_WINDOW_TELL && !noisy(run, flow)))
		return;
	speak(run, flow);
	flow->rx_limit = limit;
	promise(run, flow, base);
	vk_session_owe(run, flow, VK_OWE_CREDIT);
}

void vk_credit_consumed(struct vk_run *run, uint32_t slot, const struct vk_consumed *report)
{
	struct vk_window_rule rule;
	struct vk_flow *flow;

	if (report->flow >= VK_FLOWS_MAX)
		return;
	flow = &run->work->flows[report->flow];
	if (flow->state != VK_ROW_LIVE || flow->generation != report->flow_generation ||
	    flow->app != slot || report->cost <= flow->rx_consumed || report->cost > flow->rx_cost)
		return;
	flow->rx_consumed = report->cost;
	rule = rule_of(run, flow);
	vk_window_consumed(&run->flows[report->flow].window, &rule, report->cost,
			   rtt_ns(run, flow->peer), run->now_ns);
	offer(run, flow);
}

void vk_credit_grow(struct vk_run *run, struct vk_flow *flow, uint32_t bytes)
{
	run->flows[vk_flow_number(run, flow)].landed += bytes;
	offer(run, flow);
}

void vk_credit_hold(struct vk_run *run, struct vk_flow *flow, uint32_t bytes)
{
	if (!bytes)
		return;
	run->flows[vk_flow_number(run, flow)].undelivered += bytes;
	offer(run, flow);
}

/* ---- What we were promised ---- */

static void wait(struct vk_run *run, const struct vk_flow *flow)
{
	uint32_t number = vk_flow_number(run, flow);
	struct vk_flow_run *own = &run->flows[number];
	struct vk_pool *pool = &run->pools[flow->peer];

	if (own->waiting)
		return;
	own->waiting = 1;
	own->wait_next = 0;
	if (pool->last)
		run->flows[pool->last - 1].wait_next = number + 1;
	else
		pool->first = number + 1;
	pool->last = number + 1;
}

/* Lets flows try that wait for a pool. */
static void wake(struct vk_run *run, struct vk_pool *pool, uint32_t count)
{
	while (pool->first && count) {
		uint32_t number = pool->first - 1;
		struct vk_flow *flow = &run->work->flows[number];

		pool->first = run->flows[number].wait_next;
		if (!pool->first)
			pool->last = 0;
		run->flows[number].waiting = 0;
		if (flow->state != VK_ROW_LIVE || !run->flows[number].held_count)
			continue;
		vk_lanes_add(run, flow); /* of another peer by now, perhaps: it asks anew */
		count--;
	}
}

/* A flow takes nothing from its pool any more. */
static void leave_pool(struct vk_run *run, const struct vk_flow *flow)
{
	struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];
	struct vk_pool *pool = &run->pools[flow->peer];

	own->pooled = 0;
	pool->taken -= own->taken;
	pool->app_taken[flow->app] -= own->taken;
	own->taken = 0;
	wake(run, pool, WOKEN);
}

void vk_credit_told(struct vk_run *run, struct vk_flow *flow, uint64_t limit)
{
	int pooled = run->flows[vk_flow_number(run, flow)].pooled;

	if (limit <= flow->tx_limit && !pooled)
		return;
	if (limit > flow->tx_limit) { /* RFC 9000, 4.1: a limit never shrinks */
		flow->tx_limit = limit;
		run->sessions[flow->peer]->creditless = 0;
	}
	if (pooled) /* also by less than it began with: the pool is for streams nobody spoke of */
		leave_pool(run, flow);
	vk_lanes_add(run, flow);
	vk_credit_limit(run, flow);
}

static void take(struct vk_run *run, const struct vk_flow *flow, uint64_t bytes)
{
	struct vk_pool *pool = &run->pools[flow->peer];

	run->flows[vk_flow_number(run, flow)].taken += bytes;
	pool->taken += bytes;
	pool->app_taken[flow->app] += bytes;
}

int vk_credit_begin(struct vk_run *run, struct vk_flow *flow, uint64_t cost)
{
	const struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];
	struct vk_pool *pool = &run->pools[flow->peer];
	uint64_t size = run->peers[flow->peer].session_window, wanted;

	if (!own->pooled || !size)
		return 1;
	if (size < VK_CREDIT_POOL_MIN)
		size = VK_CREDIT_POOL_MIN;
	wanted = flow->tx_cost[flow->tx_sequence & 1] + cost;
	wanted = less(wanted < flow->tx_limit ? wanted : flow->tx_limit, own->taken);
	if (!wanted)
		return 1;
	if (pool->app_taken[flow->app] &&
	    pool->app_taken[flow->app] + wanted > less(size, pool->taken)) {
		wait(run, flow);
		return 0;
	}
	take(run, flow, wanted);
	wake(run, pool, 1);
	return 1;
}

/* ---- What applications are told ---- */

void vk_credit_limit(struct vk_run *run, struct vk_flow *flow)
{
	uint32_t number = vk_flow_number(run, flow);
	struct vk_flow_run *own = &run->flows[number];
	struct vk_run_slot *slot = &run->slots[flow->app];

	if ((!slot->many_peers && !flow->limited) || !slot->capacity[VK_CLASS_CONTROL] ||
	    own->telling || !vk_credit_windowed(flow) || (flow->opener && !flow->opened))
		return;
	own->telling = 1;
	own->tell_next = 0;
	if (slot->tell_last)
		run->flows[slot->tell_last - 1].tell_next = number + 1;
	else
		slot->tell_first = number + 1;
	slot->tell_last = number + 1;
}

/* Puts one limit into ring 0; 0 = no room. */
static int tell_limit(struct vk_run *run, uint32_t slot, struct vk_flow *flow)
{
	struct vk_message message = {
		.flow = vk_flow_number(run, flow),
		.flow_generation = flow->generation,
		.peer = flow->peer,
		.stream = flow->stream,
		.time_ns = flow->tx_limit,
	};
	uint8_t *body = vk_slots_out(run, slot, VK_CLASS_CONTROL, sizeof message);

	if (!body)
		return 0;
	memcpy(body, &message, sizeof message);
	flow->limited = 1; /* before: the next worker must go on with it */
	vk_slots_commit(run, slot, VK_CLASS_CONTROL, sizeof message, VK_RECORD_LIMIT);
	return 1;
}

void vk_credit_tell_limits(struct vk_run *run, uint32_t slot)
{
	struct vk_run_slot *owner = &run->slots[slot];

	while (owner->tell_first) {
		uint32_t number = owner->tell_first - 1;
		struct vk_flow *flow = &run->work->flows[number];
		int own = flow->state == VK_ROW_LIVE && flow->app == slot;

		if (own && !tell_limit(run, slot, flow))
			return;
		owner->tell_first = run->flows[number].tell_next;
		if (!owner->tell_first)
			owner->tell_last = 0;
		run->flows[number].telling = 0;
		if (!own && flow->state == VK_ROW_LIVE)
			vk_credit_limit(run, flow); /* another's by now */
	}
}

/* ---- Flows come and go ---- */

void vk_credit_open(struct vk_run *run, struct vk_flow *flow)
{
	struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];
	struct vk_window_rule rule = rule_of(run, flow);

	vk_window_init(&own->window, &rule, 0, run->now_ns);
	own->pooled = (uint8_t)vk_credit_windowed(flow);
}

void vk_credit_load(struct vk_run *run, struct vk_flow *flow)
{
	struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];
	uint32_t start = run->peers[flow->peer].window_start;
	uint64_t told = less(flow->rx_limit, flow->rx_consumed);

	vk_credit_open(run, flow);
	if (told > own->window.size)
		own->window.size = told;
	own->window.consumed = flow->rx_consumed;
	own->pooled &= flow->tx_limit <= (start ? start : VK_WINDOW_START);
	if (!vk_credit_windowed(flow))
		return;
	if (own->pooled)
		take(run, flow, flow->tx_cost[flow->tx_sequence & 1]);
	promise(run, flow, base_of(run, flow));
}

void vk_credit_close(struct vk_run *run, struct vk_flow *flow)
{
	if (!vk_credit_windowed(flow) || flow->peer >= VK_PEERS_MAX || flow->app >= VK_APPS_MAX)
		return;
	promise(run, flow, flow->rx_limit);
	speak(run, flow);
	if (run->flows[vk_flow_number(run, flow)].pooled)
		leave_pool(run, flow);
}
