/* SPDX-License-Identifier: MIT */
#include "vk_engine.h"

#include "vk_credit.h"
#include "vk_flows.h"
#include "vk_intake.h"
#include "vk_pages.h"
#include "vk_peers.h"
#include "vk_probe.h"
#include "vk_reassembly.h"
#include "vk_rekey.h"
#include "vk_send.h"
#include "vk_session.h"
#include "vk_signals.h"
#include "vk_slots.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
	LEAVE_NS = 500000000, /* for what an application sent before it left */
};

/* Values that hold when the daemon is gone, and the bounds of those it may set. */
static const struct vk_params safe_params = {
	.spin_ns = 50000,
	.budget_frames = 256,
	.quantum_bytes = { 0, 0, 65536, 65536, 65536, 32768, 0, 0 },
	.aggregate = 1,
	.reassembly_bytes = 32 << 20,
	.reassembly_ns_high = 0,
	.reassembly_ns_low = 2000000000,
	.controller = VK_CONTROLLER_CUBIC,
	.ack_delay_us = 1000,
	.window_bytes = 1 << 20,
	.memory_kib = 256 << 10,
	.rotate_ms = VK_ROTATE_MS,
	.rotate_packets = VK_ROTATE_PACKETS_MAX,
	.streams_max = VK_FLOWS_MAX,
};

const struct vk_params *vk_engine_params(void)
{
	return &safe_params;
}

static uint32_t clamp(uint32_t value, uint32_t low, uint32_t high)
{
	return value < low ? low : value > high ? high : value;
}

static uint32_t at_most(uint32_t value, uint32_t most)
{
	return value && value < most ? value : most;
}

static void take_params(struct vk_run *run)
{
	uint64_t beat_ns = VK_LOAD_RELAXED(&run->state->daemon_heartbeat_ns);
	int leased = beat_ns + VK_LEASE_NS >= run->now_ns;
	struct vk_params params;

	if (!leased)
		params = safe_params;
	else if (vk_seqlock_copy(&params, &run->state->params, sizeof params))
		return;
	params.spin_ns = clamp(params.spin_ns, 0, 1000000);
	params.budget_frames = clamp(params.budget_frames, 1, VK_BUDGET_FRAMES_MAX);
	for (uint32_t c = VK_CLASS_SYSTEM; c < VK_CLASS_COUNT; c++) {
		params.quantum_bytes[c] = clamp(params.quantum_bytes[c], 1500, 1 << 18);
		run->schedule.quantum[c] = params.quantum_bytes[c];
	}
	params.controller = clamp(params.controller, 0, VK_CONTROLLER_COUNT - 1);
	params.ack_delay_us = clamp(params.ack_delay_us, 10, 100000);
	params.window_bytes = clamp(params.window_bytes, VK_WINDOW_START, 1u << 30);
	params.memory_kib = clamp(params.memory_kib, 1 << 10, 1u << 30);
	params.reassembly_bytes = clamp(params.reassembly_bytes, 1 << 18, 1u << 30);
	params.rotate_ms = at_most(params.rotate_ms, VK_ROTATE_MS);
	params.streams_max = clamp(params.streams_max, 1, VK_FLOWS_MAX);
	params.rotate_packets = at_most(params.rotate_packets, VK_ROTATE_PACKETS_MAX);
	run->params = params;
	vk_credit_tune(run);
	vk_signals_tick(run, leased);
	vk_reassembly_limit(run->reassembly, params.reassembly_bytes);
}

static void tell_turns(struct vk_run *run)
{
	uint64_t *gauges = run->counters->gauges;

	gauges[VK_TURN_MEAN_NS] = run->turn_count ? run->turn_sum_ns / run->turn_count : 0;
	gauges[VK_TURN_MAX_NS] = run->turn_max_ns;
	run->turn_sum_ns = run->turn_max_ns = 0;
	run->turn_count = 0;
}

static void tick(struct vk_run *run)
{
	uint64_t age_ns = (uint64_t)run->params.reassembly_ns_high << 32 |
			  run->params.reassembly_ns_low;

	run->tick_ns = run->now_ns + VK_TICK_NS;
	VK_STORE_RELAXED(&run->work->heartbeat_ns, run->now_ns);
	vk_reassembly_expire(run->reassembly, run->now_ns, age_ns ? age_ns : 1);
	run->counters->gauges[VK_REASSEMBLY_BYTES] = vk_reassembly_bytes(run->reassembly);
	for (uint32_t port = 0; port < run->boot->port_count; port++) {
		run->counters->gauges[VK_SYSCALLS_RX] += run->rx[port]->syscalls_rx;
		run->counters->gauges[VK_SYSCALLS_TX] += run->tx[port]->syscalls_tx;
		run->rx[port]->syscalls_rx = 0;
		run->tx[port]->syscalls_tx = 0;
	}
	tell_turns(run);
	take_params(run);
	vk_flows_expire(run);
	vk_rekey_expire(run);
}

int vk_engine_start(struct vk_run *run, struct vk_boot *boot, uint64_t now_ns)
{
	run->boot = boot;
	run->state = boot->state;
	run->work = boot->work;
	run->counters = boot->counters;
	run->last_flow = VK_NO_FLOW;
	run->params = safe_params;
	vk_sequences_open(&run->gaps, run->work->runs);
	run->reassembly = vk_reassembly_new(run->work->partials, run->work->partial_data,
					    safe_params.reassembly_bytes);
	run->flows = vk_pages_map(VK_FLOWS_MAX * sizeof *run->flows);
	if (!run->reassembly || !run->flows || vk_peers_open(run))
		return -ENOMEM;
	run->now_ns = now_ns;
	vk_credit_tune(run);
	run->random = now_ns;
	run->work->magic = VK_SHM_MAGIC;
	run->work->abi = VK_WORKER_ABI;
	run->work->starts++;
	run->counters->gauges[VK_WORKER_STARTS]++;
	vk_peers_load(run);
	for (uint32_t i = 0; i < run->peer_count; i++)
		if (!run->sessions[i] && run->work->packets[i].heard_ns)
			vk_signals_end(run, i); /* a worker before this one had it */
	vk_slots_inherit(run);
	vk_flows_load(run);
	tick(run);
	return 0;
}

/* Detaches the applications that are done, or have had their time; returns how many: others may
 * wait for what they had. */
static int see_off(struct vk_run *run)
{
	int gone = 0;

	for (uint32_t i = 0; run->leaving && i < VK_APPS_MAX; i++) {
		struct vk_run_slot *slot = &run->slots[i];
		struct vk_order order = { .kind = VK_ORDER_DETACH,
					  .slot = i,
					  .generation = slot->generation };

		if (!slot->leaving_ns ||
		    (slot->attached && run->now_ns < slot->leaving_ns && !vk_send_drained(run, i)))
			continue;
		run->leaving--;
		slot->leaving_ns = 0;
		vk_send_give_up(run, i);
		vk_slots_detach(run, i);
		send(run->boot->control_fd, &order, sizeof order, MSG_DONTWAIT | MSG_NOSIGNAL);
		gone++;
	}
	return gone;
}

/* A turn that had something to do ends when the next one begins. */
static void time_turn(struct vk_run *run, uint64_t took_ns)
{
	run->turn_sum_ns += took_ns;
	run->turn_count++;
	if (took_ns > run->turn_max_ns)
		run->turn_max_ns = took_ns;
}

int vk_engine_turn(struct vk_run *run, uint64_t now_ns, uint64_t real_ns, uint32_t *kept)
{
	uint64_t sent;
	int received, more, gone;

	if (run->turn_busy)
		time_turn(run, now_ns - run->now_ns);
	run->now_ns = now_ns;
	run->real_ns = real_ns;
	if (run->now_ns >= run->tick_ns)
		tick(run);
	more = vk_peers_refresh(run);
	received = vk_intake_all(run);
	if (received < 0)
		return received;
	vk_session_expire(run); /* behind receiving: what is waited for may have been there */
	if (received)
		vk_slots_flush(run); /* applications may begin while we send */
	sent = vk_send_all(run);
	*kept = vk_send_flush(run);
	vk_slots_flush(run);
	gone = see_off(run);
	run->counters->gauges[VK_LOOPS]++;
	run->turn_busy = received || sent || more || gone; /* replies that are left cannot go now */
	return run->turn_busy;
}

uint64_t vk_engine_deadline(const struct vk_run *run, uint32_t kept)
{
	uint64_t deadline_ns = run->tick_ns, timer_ns = vk_timers_next(&run->timers);

	if (timer_ns < deadline_ns)
		deadline_ns = timer_ns;
	if ((kept || run->path_full) && run->now_ns + VK_KEPT_NS < deadline_ns)
		deadline_ns = run->now_ns + VK_KEPT_NS;
	if (run->due_ns != UINT64_MAX) {
		uint64_t from_ns = run->due_ns > run->now_ns ? run->due_ns : run->now_ns;

		if (from_ns + VK_RATE_SLACK_NS < deadline_ns)
			deadline_ns = from_ns + VK_RATE_SLACK_NS;
	}
	return deadline_ns;
}

int vk_engine_detach(struct vk_run *run, uint32_t number, uint32_t generation)
{
	struct vk_run_slot *slot = &run->slots[number];

	if (!slot->attached || slot->generation != generation)
		return -ESTALE;
	slot->leaving_ns = run->now_ns + LEAVE_NS;
	run->leaving++;
	return 0;
}

void vk_engine_ask(struct vk_run *run, uint32_t peer)
{
	struct vk_session *session = peer < run->peer_count ? vk_session_of(run, peer) : NULL;

	if (session)
		vk_probe_ask(run, session);
}

uint32_t vk_engine_leave(struct vk_run *run, uint64_t now_ns)
{
	uint32_t kept;

	run->now_ns = now_ns;
	vk_intake_rest(run);
	run->path_full = 0;
	vk_send_replies(run);
	vk_session_end_turn(run);
	kept = vk_send_flush(run);
	vk_slots_flush(run);
	return kept + run->reply_count;
}

void vk_engine_free(struct vk_run *run)
{
	for (uint32_t i = 0; i < run->peer_count; i++) {
		run->datagram.data = NULL;
		vk_session_forget(run, i);
	}
	for (uint32_t i = 0; i < VK_APPS_MAX * VK_CLASS_COUNT; i++) {
		vk_lanes_free(run, i / VK_CLASS_COUNT, i % VK_CLASS_COUNT);
		vk_ledger_free(&run->slots[i / VK_CLASS_COUNT].ledgers[i % VK_CLASS_COUNT]);
	}
	vk_shards_free(&run->shards);
	vk_timers_free(&run->timers);
	free(run->lingering.rows);
	run->lingering.rows = NULL;
	vk_pages_unmap(run->flows, VK_FLOWS_MAX * sizeof *run->flows);
	run->flows = NULL;
	vk_peers_free(run);
	vk_reassembly_free(run->reassembly);
	run->reassembly = NULL;
}
