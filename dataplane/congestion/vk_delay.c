/* SPDX-License-Identifier: MIT */
/* The controller that keeps queues short. A round at a time it compares the smallest RTT of the
 * round with the smallest of the last seconds; the difference is the queue.
 *
 *   below the target   the window grows by 1 + n^2/4 datagrams, where n counts the rounds since
 *                      the last decrease; by a quarter of that once there is a queue
 *   above it           the window shrinks to a little less than the path holds, so that the queue
 *                      is gone for a moment
 *
 * The target is a quarter of the base RTT, but what is shorter than 100 us is not told from the
 * hosts' own delay. It is half as much again for the smallest windows and half for the largest
 * (flow-based scaling of Swift, SIGCOMM 2020), so that a flow that takes the path for shorter than
 * it is, and would yield first, does not end up with nothing. The queue of a long buffer stays near
 * a quarter, and the link is busy all the time.
 *
 * A host that is late lets its link run empty, unless a queue lasts until it comes: for so long as
 * acknowledgements wait for it, by the kernel's stamps, at the worst of the last dozens of rounds,
 * the queue may be longer, but not by more than a third of the base RTT.
 *
 * Why flows become equal: those at one bottleneck cross their targets in the same round, shrink by
 * the same factor, and grow by the same number of datagrams, for n is the same too. Each cycle of
 * ten or twenty rounds takes a fifth off their difference. Why one that comes late sees the same
 * base RTT: each cycle empties the queue (Copa, NSDI 2018, needs that as well). Where that is not
 * enough, because they are many or one began in a queue, they halve their windows for a round when
 * the base RTT was not seen for a while, and every few hundred rounds.
 *
 * A path that becomes longer looks like a queue that does not go away, until the base RTT is
 * forgotten after 5 to 10 s. To take a delay for the path earlier was tried: flows then took each
 * other's queue for it, and filled every buffer.
 *
 * Loss is believed when more than one packet of twelve is lost, or together with a queue: then the
 * buffer is shorter than the target.
 */
#include "vk_controller.h"

enum {
	TARGET_DIVISOR = 4, /* of the base RTT */
	LATE_DIVISOR = 3, /* of it as well: the most that a late host adds to the target */
	/* In 32nds of the target: 48 at the least window, 2 less for each doubling, 16 at least. */
	SCALE_ONE = 32,
	SCALE_MOST = 48,
	SCALE_STEP = 2,
	SCALE_LEAST = 16,
	GROWTH_DIVISOR = 4, /* n^2 / 4 datagrams */
	GROWTH_WINDOW_DIVISOR = 8, /* and not more than this part of the window in a round */
	GROWTH_QUEUE_DIVISOR = 4, /* of that, once a quarter of the target is a queue */
	QUEUE_DIVISOR = 4,
	MIN_DATAGRAMS = 4, /* below, most rounds would wait for a delayed ACK */
	/* What remains after a decrease: base / RTT, less a little so that the queue is empty,
	 * and at least a third, as one round may have been slow for a reason of its own. */
	DRAIN_NUMERATOR = 31,
	DRAIN_DENOMINATOR = 32,
	LEAST_DIVISOR = 3,
	SETTLE_ROUNDS = 1, /* what is acknowledged in the next round was sent before the decrease */
	DRAIN_AFTER_MS = 5000, /* without an RTT near the base */
	/* ... and this often anyway, at the cost of a round with half a window. */
	DRAIN_ROUNDS = 256,
	DRAIN_EVERY_MS = 2000,
	LOSS_DIVISOR = 12,
	LOSS_QUEUE_DIVISOR = 64, /* when there is a queue */
	LOSS_DATAGRAMS = 6, /* fewer are bad luck */
	LOSS_WEIGHED_DATAGRAMS = 64, /* the share means nothing on fewer, but so many lost do */
	LOSS_MANY_DATAGRAMS = 16,
	LOSS_REMAINS_PERCENT = 80,
	MARK_REMAINS_PERCENT = 85, /* RFC 8511, 3.1 */
	START_SAMPLES = 8, /* RTTs that tell of a queue in slow start (RFC 9406, N_RTT_SAMPLE) */
	PACING_PERCENT = 125,
	PACING_START_PERCENT = 200,
	NS_PER_MS = 1000000,
};

/* The binary logarithm of value in 1024ths; linear between powers of two is enough for flows to
 * agree. */
static uint64_t logarithm(uint64_t value)
{
	uint32_t whole = 63 - (uint32_t)__builtin_clzll(value | 1);

	return whole * 1024 + ((value - (1ull << whole)) * 1024 >> whole);
}

/* How late this host is with what it sends: for so long a queue has to keep the link busy. */
static uint64_t late_ns(const struct vk_congestion *congestion)
{
	return vk_min(congestion->late_ns, vk_congestion_base(congestion) / LATE_DIVISOR);
}

/* The queueing delay that is allowed. */
static uint64_t target_ns(const struct vk_congestion *congestion)
{
	uint64_t base_ns = vk_congestion_base(congestion);
	uint64_t least = MIN_DATAGRAMS * (uint64_t)congestion->datagram_size;
	uint64_t doublings = logarithm(vk_max(congestion->window * 1024 / least, 1024)) - 10 * 1024;
	uint64_t scale = SCALE_MOST * 1024 -
			 vk_min(doublings * SCALE_STEP, (SCALE_MOST - SCALE_LEAST) * 1024);
	uint64_t target = vk_max(base_ns / TARGET_DIVISOR, congestion->target_floor_ns);

	return vk_scale(target, scale, SCALE_ONE * 1024) + late_ns(congestion);
}

/* Whether so long an RTT is that of a queue, be it a short one. */
static int queues(const struct vk_congestion *congestion, uint64_t rtt_ns)
{
	return rtt_ns > vk_congestion_base(congestion) + target_ns(congestion) / QUEUE_DIVISOR;
}

/* What the path holds without a queue, and a little less. */
static uint64_t delivered_window(const struct vk_congestion *congestion)
{
	uint64_t product = vk_scale(vk_congestion_rate(congestion), vk_congestion_base(congestion),
				    1000000000);

	return vk_min(product, VK_CONGESTION_WINDOW_MAX) * DRAIN_NUMERATOR / DRAIN_DENOMINATOR;
}

static void enter(struct vk_congestion *congestion, uint64_t now_ns)
{
	struct vk_delay *delay = &congestion->state.delay;

	delay->base_seen_ns = now_ns;
	delay->mode = VK_DELAY_AVOID;
	delay->before = congestion->window;
	delay->drain_round = congestion->round.count;
	delay->drain_ns = now_ns;
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
	delay->before = congestion->window;
	congestion->ssthresh = vk_min(congestion->ssthresh, congestion->window);
	if (!delay->decreases)
		delay->peak = peak;
	delay->decreases++;
	delay->steps = 0;
	delay->settle = SETTLE_ROUNDS;
}

/* To what the path holds without a queue, and a little less; what waits for this host is none. */
static void shrink(struct vk_congestion *congestion, uint64_t rtt_ns)
{
	uint64_t base_ns = vk_congestion_base(congestion) + late_ns(congestion);
	uint64_t window = congestion->window, to;

	to = vk_scale(vk_min(congestion->state.delay.before, window), base_ns,
		      vk_max(rtt_ns, base_ns));
	to = to * DRAIN_NUMERATOR / DRAIN_DENOMINATOR;
	decrease(congestion, vk_max(to, window / LEAST_DIVISOR));
}

/* The first queue after slow start: the path holds about half of what is in flight. What it
 * delivers when it is full shows in the next rounds. */
static void leave_start(struct vk_congestion *congestion)
{
	decrease(congestion, congestion->window / 2);
	congestion->state.delay.mode = VK_DELAY_ADJUST;
	congestion->state.delay.settle = SETTLE_ROUNDS + 1;
}

/* The smallest of eight RTTs in a row, when the last of them came; else 0. That of a round would be
 * its first, while the queue grows from then on. */
static uint64_t smallest_of_eight(struct vk_delay *delay, uint64_t rtt_ns)
{
	if (!rtt_ns)
		return 0;
	if (!delay->samples || rtt_ns < delay->sample_ns)
		delay->sample_ns = rtt_ns;
	delay->samples = (delay->samples + 1) % START_SAMPLES;
	return delay->samples ? 0 : delay->sample_ns;
}

static void start_slowly(struct vk_congestion *congestion, const struct vk_congestion_ack *ack)
{
	struct vk_delay *delay = &congestion->state.delay;
	const struct vk_round *round = &congestion->round;
	uint64_t rtt_ns = smallest_of_eight(delay, ack->rtt_ns);

	if (!rtt_ns && round->ended && round->last_rtt_ns != UINT64_MAX)
		rtt_ns = round->last_rtt_ns;
	if (rtt_ns > vk_congestion_base(congestion) + target_ns(congestion) / 2) {
		leave_start(congestion);
		return;
	}
	if (vk_congestion_limited(congestion, ack))
		congestion->window = vk_min(congestion->window + ack->bytes, congestion->ssthresh);
	delay->before = congestion->window;
}

static void grow(struct vk_congestion *congestion, uint64_t rtt_ns)
{
	struct vk_delay *delay = &congestion->state.delay;
	uint64_t size = congestion->datagram_size, n = delay->steps;
	uint64_t step = size + n * n * size / GROWTH_DIVISOR;

	if (queues(congestion, rtt_ns))
		step /= GROWTH_QUEUE_DIVISOR;

	delay->decreases = 0;
	delay->before = congestion->window;
	if (delay->steps < UINT16_MAX)
		delay->steps++;
	congestion->window +=
		vk_min(step, vk_max(congestion->window / GROWTH_WINDOW_DIVISOR, size));
}

/* Many flows: let all of them see the path without a queue. And a flow that has never seen it
 * takes a queue for the path, finds nothing wrong, and leaves the others next to nothing: so all
 * look now and then, whatever they know. */
static int drain_due(struct vk_congestion *congestion, uint64_t rtt_ns, uint64_t now_ns)
{
	struct vk_delay *delay = &congestion->state.delay;

	if (!queues(congestion, rtt_ns))
		delay->base_seen_ns = now_ns;
	return (congestion->round.count - delay->drain_round >= DRAIN_ROUNDS &&
		now_ns - delay->drain_ns >= (uint64_t)DRAIN_EVERY_MS * NS_PER_MS) ||
	       now_ns - delay->base_seen_ns >= (uint64_t)DRAIN_AFTER_MS * NS_PER_MS;
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
	if (delay->mode == VK_DELAY_ADJUST) {
		delay->mode = VK_DELAY_AVOID;
		if (!queues(congestion, rtt_ns))
			congestion->window =
				vk_max(congestion->window,
				       vk_min(delivered_window(congestion), delay->peak));
	}
	if (delay->mode == VK_DELAY_DRAIN) {
		/* If it was to be seen it was; back to where the path is just full. */
		delay->mode = VK_DELAY_AVOID;
		delay->base_seen_ns = ack->now_ns;
		delay->decreases = 0;
		congestion->window = delay->before = at_least(congestion, delay->peak);
		delay->settle = SETTLE_ROUNDS;
		return;
	}
	if (drain_due(congestion, rtt_ns, ack->now_ns)) {
		delay->drain_round = congestion->round.count;
		delay->drain_ns = ack->now_ns;
		shrink(congestion, rtt_ns);
		delay->peak = congestion->window;
		decrease(congestion, congestion->window / 2);
		delay->mode = VK_DELAY_DRAIN;
		return;
	}
	if (rtt_ns <= vk_congestion_base(congestion) + target_ns(congestion)) {
		if (vk_congestion_limited(congestion, ack))
			grow(congestion, rtt_ns);
		return;
	}
	shrink(congestion, rtt_ns);
}

/* Whether the losses since the last time are a sign. Looks once a round at most, and over packets
 * enough that the share means something. */
static int weigh_losses(struct vk_congestion *congestion)
{
	struct vk_delay *delay = &congestion->state.delay;
	uint64_t size = congestion->datagram_size, lost = delay->lost, all = delay->acked + lost;
	uint64_t rtt_ns = congestion->round.last_rtt_ns;
	int queue = rtt_ns != UINT64_MAX && queues(congestion, rtt_ns);

	if (!delay->settle && all < LOSS_WEIGHED_DATAGRAMS * size &&
	    lost < LOSS_MANY_DATAGRAMS * size)
		return 0;
	delay->acked = delay->lost = 0;
	/* While the last decrease settles, they are of packets sent before it. */
	if (delay->settle || lost < LOSS_DATAGRAMS * size)
		return 0;
	return lost > all / LOSS_DIVISOR || (queue && lost > all / LOSS_QUEUE_DIVISOR);
}

/* To losses or marks. What was delivered fits through a short buffer; if it was no more than that,
 * the path has become worse. */
static void yield(struct vk_congestion *congestion, uint32_t remains_percent)
{
	uint64_t window = congestion->window, to = delivered_window(congestion);

	if (!to || to >= window)
		to = window * remains_percent / 100;
	decrease(congestion, vk_max(to, window / 2));
	congestion->state.delay.decreases = 0; /* not a delay that does not end */
}

static void acked(struct vk_congestion *congestion, const struct vk_congestion_ack *ack)
{
	if (vk_congestion_base(congestion) == UINT64_MAX)
		return;
	congestion->state.delay.acked += ack->bytes;
	if (congestion->round.ended && weigh_losses(congestion))
		yield(congestion, LOSS_REMAINS_PERCENT);
	else if (congestion->window < congestion->ssthresh)
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
		yield(congestion, MARK_REMAINS_PERCENT);
	} else if (base_ns != UINT64_MAX && rtt_ns != UINT64_MAX &&
		   rtt_ns > base_ns + target_ns(congestion) / 2) {
		shrink(congestion, rtt_ns);
	} else {
		return;
	}
	/* Within a round: the next one still tells of the time before. */
	delay->settle = SETTLE_ROUNDS + 1;
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
