/* SPDX-License-Identifier: MIT */
#include "vk_congestion.h"

#include "vk_controller.h"

#include <assert.h>
#include <string.h>

enum { NS_PER_MS = 1000000 };

static const struct vk_controller_ops *const all_ops[VK_CONTROLLER_COUNT] = {
	[VK_CONTROLLER_FIXED] = &vk_fixed_ops,
	[VK_CONTROLLER_DELAY] = &vk_delay_ops,
	[VK_CONTROLLER_CUBIC] = &vk_cubic_ops,
};

static const struct vk_controller_ops *ops_of(const struct vk_congestion *congestion)
{
	assert(congestion->kind < VK_CONTROLLER_COUNT);
	return all_ops[congestion->kind];
}

static void clamp(struct vk_congestion *congestion)
{
	congestion->window = vk_max(congestion->window, congestion->window_min);
	congestion->window = vk_min(congestion->window, congestion->window_max);
}

/* RFC 9002, 7.2: "Endpoints SHOULD use an initial congestion window of ten times the maximum
 * datagram size (max_datagram_size), while limiting the window to the larger of 14,720 bytes or
 * twice the maximum datagram size." */
static uint64_t initial_window(uint64_t datagram_size)
{
	return vk_min(VK_CONGESTION_INITIAL_DATAGRAMS * datagram_size,
		      vk_max(VK_CONGESTION_INITIAL_BYTES, 2 * datagram_size));
}

static uint32_t datagram_clamped(uint32_t size)
{
	return (uint32_t)vk_min(vk_max(size, VK_CONGESTION_DATAGRAM_MIN),
				VK_CONGESTION_DATAGRAM_MAX);
}

void vk_congestion_init(struct vk_congestion *congestion, enum vk_controller kind,
			uint32_t datagram_size, uint64_t now_ns)
{
	memset(congestion, 0, sizeof *congestion);
	congestion->kind = kind;
	congestion->datagram_size = datagram_clamped(datagram_size);
	vk_congestion_bounds(congestion, 0, VK_CONGESTION_WINDOW_MAX);
	congestion->window = initial_window(congestion->datagram_size);
	congestion->ssthresh = UINT64_MAX;
	congestion->target_floor_ns = VK_DELAY_TARGET_FLOOR_NS;
	congestion->round.start_ns = now_ns;
	congestion->round.rtt_ns = congestion->round.last_rtt_ns = UINT64_MAX;
	congestion->base_ns[0] = congestion->base_ns[1] = UINT64_MAX;
	congestion->spell_ns = now_ns;
	ops_of(congestion)->enter(congestion, now_ns);
	clamp(congestion);
}

void vk_congestion_bounds(struct vk_congestion *congestion, uint64_t window_min,
			  uint64_t window_max)
{
	uint64_t least = VK_CONGESTION_MIN_DATAGRAMS * (uint64_t)congestion->datagram_size;

	congestion->window_min = vk_min(vk_max(window_min, least), VK_CONGESTION_WINDOW_MAX);
	congestion->window_max = vk_min(window_max, VK_CONGESTION_WINDOW_MAX);
	congestion->window_max = vk_max(congestion->window_max, congestion->window_min);
	clamp(congestion);
}

void vk_congestion_datagram(struct vk_congestion *congestion, uint32_t datagram_size)
{
	uint64_t least = VK_CONGESTION_MIN_DATAGRAMS * (uint64_t)congestion->datagram_size;
	/* A window_min that was only the least one follows; a configured one stays. */
	uint64_t window_min = congestion->window_min == least ? 0 : congestion->window_min;
	/* RFC 9002, 7.2: "If the maximum datagram size changes during the connection, the initial
	 * congestion window SHOULD be recalculated with the new size." */
	int initial = congestion->window == initial_window(congestion->datagram_size) &&
		      congestion->ssthresh == UINT64_MAX;

	congestion->datagram_size = datagram_clamped(datagram_size);
	if (initial)
		congestion->window = initial_window(congestion->datagram_size);
	vk_congestion_bounds(congestion, window_min, congestion->window_max);
}

uint64_t vk_congestion_base(const struct vk_congestion *congestion)
{
	return vk_min(congestion->base_ns[0], congestion->base_ns[1]);
}

uint64_t vk_congestion_rate(const struct vk_congestion *congestion)
{
	return vk_max(congestion->rate[0], congestion->rate[1]);
}

/* Of rounds and not of acknowledgements: those that waited longest come in a heap, and seem few.
 * The longest and not the mean: what the link lacks, it lacks in the rounds that are late. */
static void note_late(struct vk_congestion *congestion, const struct vk_congestion_ack *ack)
{
	congestion->late_round_ns = vk_max(congestion->late_round_ns, ack->late_ns);
	if (!congestion->round.ended)
		return;
	congestion->late_ns -= congestion->late_ns / VK_CONGESTION_LATE_ROUNDS;
	congestion->late_ns = vk_max(congestion->late_ns, congestion->late_round_ns);
	congestion->late_round_ns = 0;
}

/* A round is one flight: what is sent while it lasts is acknowledged in the next. Told by time and
 * not by number, because three packet-number spaces share a path. */
static void note_round(struct vk_congestion *congestion, const struct vk_congestion_ack *ack)
{
	struct vk_round *round = &congestion->round;

	round->ended = ack->sent_ns >= round->start_ns;
	if (round->ended) {
		round->start_ns = ack->now_ns;
		round->last_rtt_ns = round->rtt_ns;
		round->rtt_ns = UINT64_MAX;
		round->samples = 0;
		round->count++;
	}
	if (ack->rtt_ns) {
		round->rtt_ns = vk_min(round->rtt_ns, ack->rtt_ns);
		round->samples += round->samples < UINT32_MAX;
	}
}

static void note_base(struct vk_congestion *congestion, const struct vk_congestion_ack *ack)
{
	if (!ack->rtt_ns)
		return;
	if (ack->now_ns - congestion->spell_ns >= (uint64_t)VK_CONGESTION_SPELL_MS * NS_PER_MS) {
		congestion->spell_ns = ack->now_ns;
		congestion->base_ns[1] = congestion->base_ns[0];
		congestion->base_ns[0] = ack->rtt_ns;
	}
	congestion->base_ns[0] = vk_min(congestion->base_ns[0], ack->rtt_ns);
}

/* A sender with little to say does not show what the path carries, unless it carries more than was
 * known (draft-cheng-iccrg-delivery-rate-estimation, 3.3, as BBR uses it). */
static void note_rate(struct vk_congestion *congestion, const struct vk_congestion_ack *ack)
{
	if (!ack->rate || (ack->app_limited && ack->rate <= vk_congestion_rate(congestion)))
		return;
	if (congestion->round.count - congestion->rate_rounds >= VK_CONGESTION_RATE_ROUNDS) {
		congestion->rate_rounds = congestion->round.count;
		congestion->rate[1] = congestion->rate[0];
		congestion->rate[0] = 0;
	}
	congestion->rate[0] = vk_max(congestion->rate[0], ack->rate);
}

void vk_congestion_sent(struct vk_congestion *congestion, uint64_t bytes, uint64_t in_flight,
			uint64_t now_ns)
{
	const struct vk_controller_ops *ops = ops_of(congestion);

	if (ops->sent)
		ops->sent(congestion, bytes, in_flight, now_ns);
}

void vk_congestion_acked(struct vk_congestion *congestion, const struct vk_congestion_ack *ack)
{
	note_round(congestion, ack);
	note_late(congestion, ack);
	note_base(congestion, ack);
	note_rate(congestion, ack);
	ops_of(congestion)->acked(congestion, ack);
	clamp(congestion);
	if (ack->rtt_smoothed_ns)
		congestion->pacing_rate =
			vk_max(1, ops_of(congestion)->pace(congestion, ack->rtt_smoothed_ns));
}

/* RFC 9002, 7.3.2: a recovery period begins with a loss or mark of a packet sent after the last
 * one began; whatever else of that flight is lost belongs to it. Every caller of it may be the
 * first, so time 0 counts as before. */
static int begins_recovery(struct vk_congestion *congestion, uint64_t sent_ns, uint64_t now_ns)
{
	if (congestion->recovery_start_ns && sent_ns <= congestion->recovery_start_ns)
		return 0;
	congestion->recovery_start_ns = vk_max(now_ns, 1);
	return 1;
}

static void save(struct vk_congestion *congestion)
{
	congestion->saved_state = congestion->state;
	congestion->saved_window = congestion->window;
	congestion->saved_ssthresh = congestion->ssthresh;
	congestion->saved_recovery_ns = congestion->recovery_start_ns;
}

void vk_congestion_lost(struct vk_congestion *congestion, uint64_t bytes, uint64_t newest_sent_ns,
			int persistent, uint64_t now_ns)
{
	const struct vk_controller_ops *ops = ops_of(congestion);
	int fresh = !congestion->recovery_start_ns ||
		    newest_sent_ns > congestion->recovery_start_ns;

	if (fresh)
		save(congestion);
	begins_recovery(congestion, newest_sent_ns, now_ns);
	ops->lost(congestion, bytes, VK_LOSS_PACKETS, fresh, now_ns);
	if (persistent) {
		ops->lost(congestion, 0, VK_LOSS_PERSISTENT, 1, now_ns);
		/* RFC 9002, 7.6.2 and appendix B.8: "congestion_recovery_start_time = 0". */
		congestion->recovery_start_ns = 0;
		congestion->saved_window = 0;
	}
	clamp(congestion);
}

void vk_congestion_ce(struct vk_congestion *congestion, uint64_t newest_sent_ns, uint64_t now_ns)
{
	if (!begins_recovery(congestion, newest_sent_ns, now_ns))
		return;
	congestion->saved_window = 0;
	ops_of(congestion)->lost(congestion, 0, VK_LOSS_MARK, 1, now_ns);
	clamp(congestion);
}

void vk_congestion_spurious(struct vk_congestion *congestion, uint64_t now_ns)
{
	(void)now_ns;
	/* RFC 9438, 4.9.2: "if the current cwnd is lower than cwnd_prior"; if it is not, "CUBIC
	 * SHOULD continue to use the current and the most recent values of these variables." */
	if (congestion->window >= congestion->saved_window) {
		congestion->saved_window = 0;
		return;
	}
	congestion->window = congestion->saved_window;
	congestion->ssthresh = congestion->saved_ssthresh;
	congestion->recovery_start_ns = congestion->saved_recovery_ns;
	congestion->state = congestion->saved_state;
	congestion->saved_window = 0;
	clamp(congestion);
}

void vk_congestion_switch(struct vk_congestion *congestion, enum vk_controller kind,
			  uint64_t now_ns)
{
	assert(kind < VK_CONTROLLER_COUNT);
	if (congestion->kind == (uint32_t)kind)
		return;
	/* Somebody chose a fixed window; the path has agreed to nothing beyond it. */
	if (congestion->kind == VK_CONTROLLER_FIXED && congestion->round.count)
		congestion->ssthresh = congestion->window;
	congestion->kind = kind;
	congestion->saved_window = 0;
	memset(&congestion->state, 0, sizeof congestion->state);
	ops_of(congestion)->enter(congestion, now_ns);
	clamp(congestion);
}
