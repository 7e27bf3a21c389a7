/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vk_send.h"

#include "vk_again.h"
#include "vk_ahead.h"
#include "vk_burst.h"
#include "vk_credit.h"
#include "vk_flows.h"
#include "vk_outgoing.h"
#include "vk_refused.h"
#include "vk_session.h"
#include "vk_slots.h"

#include <poll.h>
#include <string.h>
#include <time.h>

enum {
	REPORTS_A_TURN = 256, /* of one application */
	HELD_TURN = 16384, /* bytes a stream sends of what it holds before the next one does */
	CRITICAL_TURN = 4096, /* bytes of an application's, between two parts of a turn */
	AHEAD_TURN = 131072, /* bytes of records that are looked at in one go and held */
	HEADS_MAX = 100, /* bytes of a datagram of a large message that are not the message's */
};

void vk_send_replies(struct vk_run *run)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < run->reply_count; i++) {
		struct vk_reply reply = run->replies[i];
		uint8_t code[4];
		struct vk_part part = {
			.frame = {
				.type = reply.type,
				.flags = VK_FLAG_ACK,
				.stream = reply.stream,
				.priority = vk_priority_lowest(reply.class),
				.correlation = reply.correlation,
			},
			.payload = code,
			.size = reply.code ? sizeof code : 0,
			.peer = reply.peer,
			.class = reply.class,
			.quiet = 1, /* whoever needs it asks again */
		};

		vk_put32(code, reply.code);
		if (!vk_session_of(run, reply.peer))
			continue;
		if (vk_datagram_add(run, &part, 1))
			vk_count_row(run, reply.class)[VK_TX_CONTROL]++;
		else
			run->replies[kept++] = reply;
	}
	run->reply_count = kept;
	vk_datagram_close(run);
}

static int within_rate(const struct vk_run *run, const struct vk_run_slot *slot)
{
	return vk_meter_ready(&slot->messages, run->now_ns) &&
	       vk_meter_ready(&slot->bytes, run->now_ns);
}

/* The worker has to be awake when the bucket has something again. */
static void wait_for_rate(struct vk_run *run, const struct vk_run_slot *slot)
{
	uint64_t due_ns = vk_meter_due(&slot->messages);

	if (slot->bytes.cost_ns && vk_meter_due(&slot->bytes) > due_ns)
		due_ns = vk_meter_due(&slot->bytes);
	if (due_ns < run->due_ns)
		run->due_ns = due_ns;
}

/* Handles the record at the scan position of a ring; VK_SERVED_BUDGET = on to the next. Adds its
 * bytes to *bytes, or to *ahead if it has to wait. */
static enum vk_served send_next(struct vk_run *run, uint32_t number, uint32_t class, int64_t *bytes,
				int64_t *ahead)
{
	struct vk_run_slot *slot = &run->slots[number];
	struct vk_rx *in = &slot->in[class];
	struct vk_record record;
	const uint8_t *body;
	int found = vk_rx_peek(in, &record, &body), alone;
	enum vk_outcome outcome;
	uint32_t next;

	if (found < 0 || (found && record.size < sizeof(struct vk_message))) {
		vk_slots_violation(run, number);
		return VK_SERVED_GONE;
	}
	if (!found)
		return VK_SERVED_ALL;
	__builtin_prefetch(body + vk_record_span(record.size));
	__builtin_prefetch(body + vk_record_span(record.size) + VK_LINE);
	if (!within_rate(run, slot)) {
		wait_for_rate(run, slot);
		return VK_SERVED_RATE;
	}
	alone = in->head + vk_record_span(record.size) == in->tail;
	next = slot->ledgers[class].next;
	outcome = vk_outgoing_record(run, number, class, &record, body, alone);
	if (outcome == VK_LATER)
		return VK_SERVED_PATH;
	if (outcome == VK_STAYS)
		return VK_SERVED_CREDIT;
	if (!slot->attached)
		return VK_SERVED_GONE; /* cut off while a refusal was written */
	vk_meter_spend(&slot->messages, run->now_ns, 1);
	vk_meter_spend(&slot->bytes, run->now_ns, record.size);
	if (slot->ledgers[class].next == next)
		vk_slots_skip(run, number, class);
	vk_rx_advance(in, &record);
	if (in->head > run->work->looked[number][class])
		VK_STORE_RELAXED(&run->work->looked[number][class], in->head);
	slot->consumed |= 1u << class;
	*(outcome == VK_HOLD ? ahead : bytes) += record.size;
	return VK_SERVED_BUDGET;
}

/* Puts lanes aside that can send no more in this turn, one behind the other. */
static void put_aside(struct vk_lanes *lanes, struct vk_peer_lane *lane, uint32_t *first)
{
	lane->next = *first;
	*first = (uint32_t)(lane - lanes->rows) + 1;
}

static void put_back(struct vk_lanes *lanes, uint32_t first)
{
	while (first) {
		struct vk_peer_lane *lane = &lanes->rows[first - 1];

		first = lane->next;
		vk_lanes_return(lanes, lane);
	}
}

/* Sends what flows hold: each in its turn, at most HELD_TURN bytes. */
static enum vk_served send_held(struct vk_run *run, uint32_t number, uint32_t class, int64_t budget,
				int64_t *bytes)
{
	struct vk_lanes *lanes = &run->slots[number].lanes[class];
	uint32_t aside = 0, refused = 0;
	struct vk_peer_lane *lane;
	struct vk_flow *flow;

	while (*bytes < budget && refused != VK_BLOCKED_PATH &&
	       (flow = vk_lanes_next(run, number, class, &lane))) {
		int alone = !lanes->first && !lane->heap.count;
		int64_t limit = !alone && *bytes + HELD_TURN < budget ? *bytes + HELD_TURN : budget;
		int more;
		enum vk_outcome outcome = vk_again_held(run, flow, limit, bytes, &more);

		if (outcome == VK_LATER || more)
			vk_lanes_add(run, flow);
		if (outcome == VK_LATER) {
			refused = run->refused;
			put_aside(lanes, lane, &aside);
		} else {
			vk_lanes_return(lanes, lane);
		}
	}
	put_back(lanes, aside);
	if (aside) {
		run->refused = refused;
		return VK_SERVED_PATH;
	}
	return *bytes >= budget ? VK_SERVED_BUDGET : VK_SERVED_ALL;
}

/* Why the record at the front of a ring keeps all behind it there. */
static uint8_t why_held(struct vk_run *run, uint32_t number, uint32_t class)
{
	struct vk_ledger *ledger = &run->slots[number].ledgers[class];
	const struct vk_entry *entry = vk_ledger_get(ledger, ledger->first);
	const struct vk_flow_run *own;

	if (!entry || entry->state != VK_ENTRY_HELD || entry->flow == VK_NO_FLOW)
		return VK_BLOCKED_NONE;
	own = &run->flows[entry->flow];
	if (own->ready)
		return VK_BLOCKED_CONGESTION;
	return own->waiting ? VK_BLOCKED_SESSION : VK_BLOCKED_CREDIT;
}

/* Why an application's ring does not move, for its library to tell. */
static void say_why(struct vk_run *run, uint32_t number, uint32_t class, enum vk_served why)
{
	struct vk_run_slot *slot = &run->slots[number];
	uint8_t reason = VK_BLOCKED_NONE;

	if (why == VK_SERVED_RATE)
		reason = VK_BLOCKED_POLICY;
	else if (why == VK_SERVED_PATH)
		reason = (uint8_t)run->refused;
	else if (why == VK_SERVED_CREDIT)
		reason = VK_BLOCKED_CREDIT;
	else if (why == VK_SERVED_ALL)
		reason = why_held(run, number, class);
	if (slot->self->blocked[class] != reason)
		VK_STORE_RELAXED(&slot->self->blocked[class], reason);
}

static enum vk_served send_ring(void *context, uint32_t number, uint32_t class, int64_t budget,
				int64_t *bytes)
{
	struct vk_run *run = context;
	struct vk_run_slot *slot = &run->slots[number];
	enum vk_served why = VK_SERVED_BUDGET, held = VK_SERVED_ALL;
	int64_t ahead = 0, turn = budget;
	struct vk_ahead fetched = vk_ahead_begin(run);

	if (!slot->capacity[class])
		return VK_SERVED_ALL;
	if (slot->lanes[class].first) {
		/* Of several streams some may hold nothing. Of a single one all that is looked at
		 * now is held, and handled twice, until it has caught up. */
		if (slot->many_peers || slot->many_streams & 1u << class)
			turn = budget / 2 + 1;
		else
			vk_again_unhold(run, number, class);
		held = send_held(run, number, class, turn, bytes);
		if (held == VK_SERVED_PATH && !vk_outgoing_ahead(run, number, class)) {
			say_why(run, number, class, held);
			slot->stuck |= 1u << class;
			return held;
		}
	}
	run->burst.flow = NULL;
	while (why == VK_SERVED_BUDGET && *bytes < budget && ahead < AHEAD_TURN) {
		vk_ahead_look(run, &slot->in[class], &fetched);
		why = send_next(run, number, class, bytes, &ahead);
		if (run->burst.flow)
			vk_burst_go(run, number, class, budget, bytes, &fetched);
	}
	slot->stuck &= ~(1u << class);
	slot->stays &= ~(1u << class);
	if (why == VK_SERVED_PATH || why == VK_SERVED_RATE)
		slot->stuck |= 1u << class;
	if (why == VK_SERVED_CREDIT)
		slot->stays |= 1u << class;
	if (held == VK_SERVED_PATH && !slot->many_peers && why != VK_SERVED_GONE)
		why = held; /* what was looked at behind is held, too */
	if (why != VK_SERVED_GONE)
		say_why(run, number, class, why);
	if ((why == VK_SERVED_ALL || why == VK_SERVED_CREDIT) && held == VK_SERVED_BUDGET)
		why = VK_SERVED_BUDGET;
	if (class == VK_CLASS_CRITICAL && *bytes) { /* not behind what the others send this turn */
		run->critical_ns = run->now_ns;
		vk_datagram_close(run);
		vk_send_flush(run);
	}
	return why;
}

void vk_send_critical(struct vk_run *run)
{
	for (uint32_t i = run->schedule.count; i-- > 0 && !run->path_full;) {
		uint32_t number = run->schedule.apps[i];
		const struct vk_run_slot *slot = &run->slots[number];
		int64_t bytes = 0;

		if (slot->capacity[VK_CLASS_CRITICAL] && !(slot->stuck & 1u << VK_CLASS_CRITICAL) &&
		    VK_LOAD_RELAXED(&slot->peer->tail[VK_CLASS_CRITICAL]) !=
			    slot->in[VK_CLASS_CRITICAL].head)
			send_ring(run, number, VK_CLASS_CRITICAL, CRITICAL_TURN, &bytes);
	}
}

/* What applications say they have taken. */
static void take_reports(struct vk_run *run, uint32_t number)
{
	struct vk_run_slot *slot = &run->slots[number];
	struct vk_rx *in = &slot->in[VK_CLASS_CONTROL];
	struct vk_record record;
	struct vk_consumed report;
	const uint8_t *body;
	int found = 0;

	if (!slot->capacity[VK_CLASS_CONTROL])
		return;
	for (int i = 0; i < REPORTS_A_TURN && (found = vk_rx_peek(in, &record, &body)) > 0; i++) {
		if (record.kind != VK_RECORD_CONSUMED || record.size != sizeof report) {
			found = -EPROTO;
			break;
		}
		memcpy(&report, body, sizeof report);
		vk_rx_advance(in, &record);
		slot->consumed |= 1u << VK_CLASS_CONTROL;
		vk_credit_consumed(run, number, &report);
	}
	if (found < 0)
		vk_slots_violation(run, number);
}

/* How long a turn is, in bytes: while nothing presses, what whole super-packets carry where a path
 * has them. A little less costs little, a little more another send. */
static void measure_turn(struct vk_run *run)
{
	int64_t most = 0;

	for (uint32_t port = 0; port < run->boot->port_count; port++) {
		const struct vk_path *path = run->tx[port];
		int64_t bytes =
			(int64_t)path->super_bytes - (int64_t)path->super_datagrams * HEADS_MAX;

		most = bytes > most ? bytes : most;
	}
	run->schedule.turn_max = most ? VK_TURN_BYTES / most * most : VK_TURN_BYTES;
	run->schedule.cut = most > 0;
	if (vk_urgent(run)) {
		run->schedule.turn_max = VK_TURN_BYTES_URGENT;
		run->schedule.cut = vk_pressing(run);
	}
}

uint64_t vk_send_all(struct vk_run *run)
{
	int64_t sent;

	run->path_full = 0;
	run->due_ns = UINT64_MAX;
	run->refused = VK_BLOCKED_PATH;
	for (uint32_t i = run->schedule.count; i-- > 0;)
		take_reports(run, run->schedule.apps[i]);
	vk_refused_send_all(run);
	vk_send_replies(run);
	vk_session_send_all(run);
	for (uint32_t i = 0; i < run->schedule.count; i++)
		vk_slots_policy(run, run->schedule.apps[i]);
	measure_turn(run);
	sent = vk_schedule_turn(&run->schedule, send_ring, run);
	vk_datagram_close(run);
	vk_session_end_turn(run);
	for (uint32_t i = run->schedule.count; i-- > 0;)
		vk_credit_tell_limits(run, run->schedule.apps[i]);
	return (uint64_t)sent;
}

/* What an application that is gone leaves behind in a ring is counted. */
static void refuse_rest(struct vk_run *run, uint32_t number, uint32_t class)
{
	struct vk_rx *in = &run->slots[number].in[class];
	struct vk_record record;
	const uint8_t *body;
	uint64_t count = 0;

	for (int64_t left = in->capacity; left > 0 && vk_rx_peek(in, &record, &body) > 0;
	     left -= (int64_t)vk_record_span(record.size)) {
		count += record.kind == VK_RECORD_DATA;
		vk_rx_advance(in, &record);
	}
	vk_count_row(run, class)[VK_REFUSED_POLICY] += count;
	run->counters->apps[number][class].refused += count;
}

int vk_send_drained(struct vk_run *run, uint32_t number)
{
	struct vk_run_slot *slot = &run->slots[number];

	for (uint32_t c = VK_CLASS_CRITICAL; c < VK_CLASS_COUNT; c++) {
		if (slot->capacity[c] &&
		    (!vk_ledger_empty(&slot->ledgers[c]) ||
		     VK_LOAD_ACQUIRE(&slot->peer->tail[c]) != slot->in[c].head))
			return 0;
	}
	return 1;
}

void vk_send_give_up(struct vk_run *run, uint32_t number)
{
	for (uint32_t c = VK_CLASS_CRITICAL; c < VK_CLASS_COUNT; c++) {
		if (run->slots[number].attached && run->slots[number].capacity[c])
			refuse_rest(run, number, c);
	}
}

uint32_t vk_send_flush(struct vk_run *run)
{
	uint32_t kept = 0;

	for (uint32_t port = 0; port < run->boot->port_count; port++) {
		struct vk_path *path = run->tx[port];
		int left = path->ops->tx_flush(path);

		if (left > 0)
			kept += (uint32_t)left;
		for (uint32_t c = 0; c < VK_CLASS_COUNT; c++) {
			vk_count_row(run, c)[VK_DROP_TX_FRAMES] += path->lost[c];
			path->lost[c] = 0;
		}
	}
	return kept;
}
