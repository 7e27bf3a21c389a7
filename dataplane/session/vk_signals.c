/* SPDX-License-Identifier: MIT */
#include "vk_signals.h"

#include "vk_fit.h"
#include "vk_idle.h"
#include "vk_peers.h"
#include "vk_row.h"

#include <string.h>

enum {
	ACK_DELAY_US_MIN = 10,
	ACK_DELAY_US_MAX = 100000,
	RATE_MIN = 1000, /* bytes/s */
	SESSIONS_A_TICK = 4096, /* about 2 ms */
};

static uint64_t clamp(uint64_t value, uint64_t low, uint64_t high)
{
	return value < low ? low : value > high ? high : value;
}

/* What is in force: the session's own, or the worker's. */
static void apply(struct vk_run *run, struct vk_session *session, const struct vk_tuning *tuning)
{
	struct vk_congestion *congestion = &session->recovery.congestion;
	uint32_t controller = run->params.controller;

	if (tuning->controller)
		controller = (uint32_t)clamp(tuning->controller - 1, 0, VK_CONTROLLER_COUNT - 1);
	if (congestion->kind != controller)
		vk_congestion_switch(congestion, (enum vk_controller)controller, run->now_ns);
	vk_congestion_bounds(congestion, tuning->window_min,
			     tuning->window_max ? tuning->window_max : VK_CONGESTION_WINDOW_MAX);
	congestion->fixed_rate = tuning->rate && tuning->rate < RATE_MIN ? RATE_MIN : tuning->rate;
	session->ack_delay_ns =
		1000 * clamp(tuning->ack_delay_us ? tuning->ack_delay_us : run->params.ack_delay_us,
			     ACK_DELAY_US_MIN, ACK_DELAY_US_MAX);
	session->aggregate = tuning->aggregate ? tuning->aggregate == 1 : run->params.aggregate;
	session->stream_min = tuning->stream_min;
	session->stream_max = tuning->stream_max && tuning->stream_max < VK_WINDOW_START ?
				      VK_WINDOW_START :
				      tuning->stream_max;
	session->recovery.unpaced = tuning->pacing == 2;
	vk_recovery_pace(&session->recovery, run->now_ns);
	session->mtu_max = tuning->mtu && tuning->mtu < VK_MTU_BASE_SIZE ? VK_MTU_BASE_SIZE :
									   tuning->mtu;
	if (session->mtu.size)
		vk_fit_bound(run, session);
	session->tuning = tuning->version;
}

static void read_tuning(struct vk_run *run, struct vk_session *session, int leased)
{
	struct vk_tuning tuning = { 0 };

	if (leased && vk_seqlock_copy(&tuning, &run->state->tunings[session->peer], sizeof tuning))
		return; /* being written: the next tick sees it */
	apply(run, session, &tuning);
}

void vk_signals_begin(struct vk_run *run, struct vk_session *session)
{
	const struct vk_tuning nothing = { 0 };

	apply(run, session, &nothing);
	session->began_ns = session->looked_ns = run->now_ns;
}

void vk_signals_limited(struct vk_run *run, struct vk_session *session)
{
	uint64_t passed_ns = run->now_ns - session->looked_ns;

	if (session->window_limited)
		session->window_limited_ns += passed_ns;
	if (session->credit_limited)
		session->credit_limited_ns += passed_ns;
	session->looked_ns = run->now_ns;
	session->window_limited = session->waiting;
	session->credit_limited = session->creditless;
}

/* Readers of the row try again while its sequence is odd. */
static void publish(struct vk_signals *row, const struct vk_signals *now)
{
	vk_row_begin(&row->sequence);
	memcpy((uint8_t *)row + sizeof row->sequence, (const uint8_t *)now + sizeof row->sequence,
	       sizeof *row - sizeof row->sequence);
	vk_row_end(&row->sequence);
}

static void write_signals(struct vk_run *run, const struct vk_session *session)
{
	const struct vk_recovery *recovery = &session->recovery;
	const struct vk_peer *peer = &run->peers[session->peer];
	struct vk_signals *row = &run->counters->signals[session->peer];
	struct vk_signals now = {
		.held_bytes = run->pools[session->peer].held,
		.live = 1,
		.tuning = session->tuning,
		.controller = recovery->congestion.kind,
		.family = peer->family,
		.rtt_min_ns = recovery->rtt.min_ns,
		.rtt_ns = recovery->rtt.smoothed_ns,
		.rtt_variance_ns = recovery->rtt.variance_ns,
		.delivery_rate = vk_congestion_rate(&recovery->congestion),
		.pacing_rate = recovery->congestion.pacing_rate,
		.window = recovery->congestion.window,
		.in_flight = recovery->in_flight + recovery->critical,
		.sent = recovery->count.sent,
		.acked = recovery->count.acked,
		.lost = recovery->count.lost,
		.lost_bytes = recovery->count.lost_bytes,
		.spurious = recovery->count.spurious,
		.timeouts = recovery->count.timeouts,
		.marked = recovery->count.marked,
		.window_limited_ns = session->window_limited_ns,
		.credit_limited_ns = session->credit_limited_ns,
		.alive_ns = run->now_ns - session->began_ns,
		.heard_ns = run->work->packets[session->peer].heard_ns,
		.reordering = recovery->threshold,
		.payload_max = session->mtu.size,
		.cipher = (uint8_t)session->keyring.cipher,
		.epoch_seal = (uint8_t)session->keyring.sealing,
		.epoch_open = (uint8_t)session->keyring.opening,
		.rotations = session->keyring.rotations,
	};

	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++)
		now.resend += vk_resend_count(&session->resend[c]);
	memcpy(now.address, peer->address, sizeof now.address);
	publish(row, &now);
}

void vk_signals_end(struct vk_run *run, uint32_t peer)
{
	const struct vk_signals none = { 0 };

	publish(&run->counters->signals[peer], &none);
}

void vk_signals_tick(struct vk_run *run, int leased)
{
	uint32_t left = run->active_count < SESSIONS_A_TICK ? run->active_count : SESSIONS_A_TICK;

	for (; left; left--) {
		struct vk_session *session;

		if (run->signals_next >= run->active_count)
			run->signals_next = 0;
		session = run->sessions[run->active[run->signals_next]];
		if (vk_idle_end(run, session))
			continue; /* another one has its place */
		read_tuning(run, session, leased);
		write_signals(run, session);
		run->signals_next++;
	}
}
