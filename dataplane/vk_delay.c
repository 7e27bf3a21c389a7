/* SPDX-License-Identifier: MIT */
/* The controller that keeps queues short. A round at a time it compares the smallest RTT of the
 * round with the smallest of the last seconds; the difference is the queue.
 *
 *   below the target   the window grows by 1 + n^2/4 datagrams, where n counts the rounds since
 *                      the last decrease
 *   above it           the window shrinks to a little less than the path holds, so that the queue
 *                      is gone for a moment
 *
 * The target is a quarter of the base RTT (Swift: "Delay is Simple and Effective", SIGCOMM 2020),
 * but what is shorter than 100 us is not told from the hosts' own delay. So the queue of a
 * long buffer stays near a quarter and a link is busy all the time.
 *
 * Why flows become equal: those at one bottleneck cross their targets in the same round, shrink by
 * the same factor, and grow by the same number of datagrams, for n is the same too. Each cycle of
 * ten or twenty rounds takes a fifth off their difference. Why one that comes late sees the same
 * base RTT: each cycle empties the queue (Copa, NSDI 2018, needs that as well). Where flows are
 * so many that it never is empty, all of them drain it when the base RTT was not seen for a while.
 *
 * Loss is believed when more than one packet of sixteen is lost, or together with a queue.
 */
#include "vk_controller.h"

enum {
	TARGET_DIVISOR = 4, /* of the base RTT */
	GROWTH_DIVISOR = 4, /* n^2 / 4 datagrams */
	GROWTH_WINDOW_DIVISOR = 8, /* and not more than this part of the window in a round */
	MIN_DATAGRAMS = 4, /* below, most rounds would wait for a delayed ACK */
	/* What remains after a decrease: base / RTT, less a sixteenth so that the queue is empty,
	 * and at least a third, as one round may have been slow for a reason of its own. */
	DRAIN_NUMERATOR = 15,
	DRAIN_DENOMINATOR = 16,
	LEAST_DIVISOR = 3,
	SETTLE_ROUNDS = 1, /* what is acknowledged in the next round was sent before the decrease */
	/* After so many decreases, to a quarter of what it was, our packets are not the queue. */
	STALE_DECREASES = 4,
	STALE_DIVISOR = 4,
	DRAIN_AFTER_MS = 5000, /* without an RTT near the base */
	LOSS_DIVISOR = 16,
	LOSS_DATAGRAMS = 3, /* that few are bad luck */
	LOSS_WEIGHED_DATAGRAMS = 32, /* not on fewer than this many */
	LOSS_REMAINS_PERCENT = 80,
	MARK_REMAINS_PERCENT = 85, /* RFC 8511, 3.1 */
	START_SAMPLES = 8, /* RTTs that tell of a queue in slow start (RFC 9406, N_RTT_SAMPLE) */
	PACING_PERCENT = 125,
	PACING_START_PERCENT = 200,
	NS_PER_MS = 1000000,
};

/* The path's base RTT, or the shortest queue that counts, if that is less known. */
static uint64_t target_ns(const struct vk_congestion *congestion)
{
	return vk_max(vk_congestion_base(congestion) / TARGET_DIVISOR, congestion->target_floor_ns);
}

static void enter(struct vk_congestion *congestion, uint64_t now_ns)
{
	struct vk_delay *delay = &congestion->state.delay;

	delay->base_seen_ns = now_ns;
	delay->mode = VK_DELAY_AVOID;
}

static uint64_t at_least(const struct vk_congestion *congestion, uint64_t window)
{
	return vk_max(window, MIN_DATAGRAMS * (uint64_t)congestion->datagram_size);
}

static void decrease(struct vk_congestion *congestion, uint64_t window)
{
	struct vk_delay *delay = &congestion->state.delay;
	uint64_t peak = congestion->window;

	congestion->window = vk_min(peak, at_least(congestion, window));
	congestion->ssthresh = vk_min(congestion->ssthresh, congestion->window);
	if (!delay->decreases)
		delay->peak = peak;
	delay->decreases++;
	delay->steps = 0;
	delay->settle = SETTLE_ROUNDS;
}

/* To what the path holds without a queue, and a little less. */
static void shrink(struct vk_congestion *congestion, uint64_t rtt_ns)
{
	uint64_t base_ns = vk_congestion_base(congestion), window = congestion->window, to;

	to = vk_scale(window, base_ns, vk_max(rtt_ns, base_ns));
	to = to * DRAIN_NUMERATOR / DRAIN_DENOMINATOR;
	decrease(congestion, vk_max(to, window / LEAST_DIVISOR));
}

/* The first queue after slow start. Meanwhile the window has doubled once more, so what the path
 * delivered says more than the RTT. */
static void leave_start(struct vk_congestion *congestion)
{
	uint64_t window = congestion->window;
	uint64_t product = vk_scale(vk_congestion_rate(congestion), vk_congestion_base(congestion),
				    1000000000);

	decrease(congestion, vk_max(product, window / 4));
}

static void start_slowly(struct vk_congestion *congestion, const struct vk_congestion_ack *ack)
{
	const struct vk_round *round = &congestion->round;
	uint64_t base_ns = vk_congestion_base(congestion);
	uint64_t rtt_ns = round->samples >= START_SAMPLES ? round->rtt_ns : 0;

	if (round->ended && round->last_rtt_ns != UINT64_MAX)
		rtt_ns = round->last_rtt_ns;
	if (rtt_ns > base_ns + target_ns(congestion) / 2) {
		leave_start(congestion);
		return;
	}
	if (vk_congestion_limited(congestion, ack))
		congestion->window = vk_min(congestion->window + ack->bytes, congestion->ssthresh);
}

/* Our own window does not explain the delay: the path has changed, or it is somebody else's
 * queue, and then it is part of the path. */
static void believe(struct vk_congestion *congestion, uint64_t rtt_ns)
{
	struct vk_delay *delay = &congestion->state.delay;

	congestion->base_ns[0] = congestion->base_ns[1] = rtt_ns;
	congestion->spell_ns = delay->base_seen_ns = congestion->round.start_ns;
	delay->decreases = 0;
}

static void grow(struct vk_congestion *congestion)
{
	struct vk_delay *delay = &congestion->state.delay;
	uint64_t size = congestion->datagram_size, n = delay->steps;
	uint64_t step = size + n * n * size / GROWTH_DIVISOR;

	delay->decreases = 0;
	if (delay->steps < UINT16_MAX)
		delay->steps++;
	congestion->window +=
		vk_min(step, vk_max(congestion->window / GROWTH_WINDOW_DIVISOR, size));
}

/* Many flows: let all of them see the path without a queue. */
static int drain_due(struct vk_congestion *congestion, uint64_t rtt_ns, uint64_t now_ns)
{
	struct vk_delay *delay = &congestion->state.delay;

	if (rtt_ns <= vk_congestion_base(congestion) + target_ns(congestion) / 4)
		delay->base_seen_ns = now_ns;
	return now_ns - delay->base_seen_ns >= (uint64_t)DRAIN_AFTER_MS * NS_PER_MS;
}

static void end_of_round(struct vk_congestion *congestion, const struct vk_congestion_ack *ack)
{
	struct vk_delay *delay = &congestion->state.delay;
	uint64_t rtt_ns = congestion->round.last_rtt_ns;

	if (rtt_ns == UINT64_MAX)
		return;
	if (delay->settle) {
		delay->settle--;
		return;
	}
	if (delay->mode == VK_DELAY_DRAIN) {
		/* If it was to be seen it was; back to where the path is just full. */
		delay->mode = VK_DELAY_AVOID;
		delay->base_seen_ns = ack->now_ns;
		delay->decreases = 0;
		congestion->window = at_least(congestion, delay->peak);
		delay->settle = SETTLE_ROUNDS;
		return;
	}
	if (drain_due(congestion, rtt_ns, ack->now_ns)) {
		shrink(congestion, rtt_ns);
		delay->peak = congestion->window;
		decrease(congestion, congestion->window / 2);
		delay->mode = VK_DELAY_DRAIN;
		return;
	}
	if (rtt_ns <= vk_congestion_base(congestion) + target_ns(congestion)) {
		if (vk_congestion_limited(congestion, ack))
			grow(congestion);
		return;
	}
	if (delay->decreases >= STALE_DECREASES &&
	    congestion->window <= delay->peak / STALE_DIVISOR)
		believe(congestion, rtt_ns);
	else
		shrink(congestion, rtt_ns);
}

/* Once a round at least, over packets enough that the share means something. */
static void weigh_losses(struct vk_congestion *congestion)
{
	struct vk_delay *delay = &congestion->state.delay;
	uint64_t size = congestion->datagram_size, all = delay->acked + delay->lost;
	uint64_t window = congestion->window, remains;

	if (all < LOSS_WEIGHED_DATAGRAMS * size && delay->lost < LOSS_DATAGRAMS * size)
		return;
	if (delay->lost >= LOSS_DATAGRAMS * size && delay->lost > all / LOSS_DIVISOR &&
	    !delay->settle) {
		remains = 100 - vk_min(delay->lost * 100 / all, 50);
		decrease(congestion, window * vk_min(remains, LOSS_REMAINS_PERCENT) / 100);
		delay->decreases = 0; /* that a loss did not end the delay says nothing of it */
	}
	delay->acked = delay->lost = 0;
}

static void acked(struct vk_congestion *congestion, const struct vk_congestion_ack *ack)
{
	struct vk_delay *delay = &congestion->state.delay;

	if (vk_congestion_base(congestion) == UINT64_MAX)
		return;
	delay->acked += ack->bytes;
	if (congestion->round.ended)
		weigh_losses(congestion);
	if (congestion->window < congestion->ssthresh)
		start_slowly(congestion, ack);
	else if (congestion->round.ended)
		end_of_round(congestion, ack);
}

static void lost(struct vk_congestion *congestion, uint64_t bytes, enum vk_loss loss, int fresh,
		 uint64_t now_ns)
{
	struct vk_delay *delay = &congestion->state.delay;
	uint64_t base_ns = vk_congestion_base(congestion), window = congestion->window;
	uint64_t rtt_ns = vk_min(congestion->round.rtt_ns, congestion->round.last_rtt_ns);

	(void)now_ns;
	if (loss == VK_LOSS_PERSISTENT) {
		congestion->ssthresh = vk_max(window / 2, congestion->window_min);
		congestion->window = congestion->window_min;
		delay->steps = delay->settle = delay->decreases = 0;
		delay->acked = delay->lost = 0;
		delay->mode = VK_DELAY_AVOID;
		return;
	}
	delay->lost += bytes;
	if (!fresh || delay->settle)
		return;
	if (loss == VK_LOSS_MARK) {
		decrease(congestion, window * MARK_REMAINS_PERCENT / 100);
		delay->decreases = 0;
	} else if (base_ns != UINT64_MAX && rtt_ns != UINT64_MAX &&
		   rtt_ns > base_ns + target_ns(congestion) / 2) {
		shrink(congestion, rtt_ns);
	}
}

static uint64_t pace(const struct vk_congestion *congestion, uint64_t rtt_ns)
{
	int starting = congestion->window < congestion->ssthresh;

	return vk_congestion_pace(congestion, starting ? PACING_START_PERCENT : PACING_PERCENT,
				  rtt_ns);
}

const struct vk_controller_ops vk_delay_ops = {
	.enter = enter,
	.acked = acked,
	.lost = lost,
	.pace = pace,
};
