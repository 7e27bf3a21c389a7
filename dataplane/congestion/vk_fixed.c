/* SPDX-License-Identifier: MIT */
/* The controller that was told what to do. It believes neither loss nor delay, only persistent
 * congestion (RFC 9002, 7.6): then it halves, and comes back over sixteen rounds, so that it cannot
 * melt a path for ever.
 *
 * Told nothing, it keeps twice the bandwidth-delay product in flight and sends as fast as packets
 * were delivered, a quarter faster in one round of eight to see whether more would be. Without that
 * a window of two products would lose half of what it sends where buffers are short. The product
 * is of the best that was ever seen: a window that followed the delivery rate down would lower it,
 * once the RTT is more than twice the smallest, until nothing is left of both.
 */
#include "vk_controller.h"

enum {
	PACING_PERCENT = 100, /* of window / RTT, when the window was configured */
	PRODUCTS = 2, /* bandwidth-delay products in the window */
	RETURN_STEP = VK_FIXED_SCALE / 16, /* a round */
	PROBE_ROUNDS = 8, /* as BBR (draft-cardwell-iccrg-bbr-congestion-control-00, 4.3.4) */
	PROBE_PERCENT = 125,
	START_PERCENT = 200,
	START_ROUNDS = 3, /* without growth: the path is full (the same, 4.3.2.2) */
	START_GROWTH_PERCENT = 125,
	NS_PER_S = 1000000000,
	US_PER_S = 1000000,
};

/* Whether the delivery rate still grows as it does when the path is not full yet. */
static int starting(const struct vk_congestion *congestion)
{
	return congestion->state.fixed.level_rounds < START_ROUNDS;
}

static uint64_t whole_window(const struct vk_congestion *congestion)
{
	const struct vk_fixed *fixed = &congestion->state.fixed;
	uint64_t rate = fixed->rate, least, product;

	if (congestion->fixed_window)
		return vk_min(congestion->fixed_window, VK_CONGESTION_WINDOW_MAX);
	if (!rate || !fixed->rtt_ns || starting(congestion))
		least = VK_FIXED_WINDOW_MIN;
	else
		least = vk_min(VK_FIXED_WINDOW_MIN,
			       vk_scale(rate, VK_FIXED_WINDOW_MIN_US, US_PER_S));
	product = vk_min(vk_scale(rate, fixed->rtt_ns, NS_PER_S), VK_CONGESTION_WINDOW_MAX);
	return vk_max(least, PRODUCTS * product);
}

static void apply(struct vk_congestion *congestion)
{
	congestion->window =
		whole_window(congestion) * congestion->state.fixed.scale / VK_FIXED_SCALE;
}

static void enter(struct vk_congestion *congestion, uint64_t now_ns)
{
	uint64_t base_ns = vk_congestion_base(congestion);

	(void)now_ns;
	congestion->state.fixed.scale = VK_FIXED_SCALE;
	congestion->state.fixed.rtt_ns = base_ns == UINT64_MAX ? 0 : base_ns;
	congestion->state.fixed.rate = vk_congestion_rate(congestion);
	apply(congestion);
}

static void end_of_round(struct vk_congestion *congestion, int app_limited)
{
	struct vk_fixed *fixed = &congestion->state.fixed;
	uint64_t rate = vk_congestion_rate(congestion);

	fixed->scale = (uint32_t)vk_min(fixed->scale + RETURN_STEP, VK_FIXED_SCALE);
	if (rate > vk_scale(fixed->start_rate, START_GROWTH_PERCENT, 100)) {
		fixed->start_rate = rate;
		fixed->level_rounds = 0;
	} else if (!app_limited && fixed->level_rounds < START_ROUNDS) {
		fixed->level_rounds++;
	}
}

static void acked(struct vk_congestion *congestion, const struct vk_congestion_ack *ack)
{
	struct vk_fixed *fixed = &congestion->state.fixed;

	/* The base RTT of the others is forgotten after a while, but this window keeps a queue:
	 * it would be taken for the path, and the window would grow with it. */
	if (ack->rtt_ns && (!fixed->rtt_ns || ack->rtt_ns < fixed->rtt_ns))
		fixed->rtt_ns = ack->rtt_ns;
	fixed->rate = vk_max(fixed->rate, ack->rate);
	if (congestion->round.ended)
		end_of_round(congestion, ack->app_limited);
	apply(congestion);
}

static void lost(struct vk_congestion *congestion, uint64_t bytes, enum vk_loss loss, int fresh,
		 uint64_t now_ns)
{
	uint64_t before = congestion->window;

	(void)bytes, (void)fresh, (void)now_ns;
	if (loss != VK_LOSS_PERSISTENT)
		return;
	congestion->state.fixed.scale = (uint32_t)vk_max(congestion->state.fixed.scale / 2, 1);
	apply(congestion);
	/* A larger window that was configured meanwhile waits for an ACK. */
	congestion->window = vk_min(congestion->window, before);
}

static uint64_t pace(const struct vk_congestion *congestion, uint64_t rtt_ns)
{
	const struct vk_fixed *fixed = &congestion->state.fixed;
	uint64_t rate = congestion->fixed_rate, percent = PACING_PERCENT;

	if (!rate && !congestion->fixed_window)
		rate = vk_congestion_rate(congestion);
	if (!rate)
		return vk_congestion_pace(congestion, PACING_PERCENT, rtt_ns);
	if (!congestion->fixed_rate) {
		percent = congestion->round.count % PROBE_ROUNDS ? PACING_PERCENT : PROBE_PERCENT;
		percent = starting(congestion) ? START_PERCENT : percent;
	}
	return vk_scale(vk_scale(rate, percent, 100), fixed->scale, VK_FIXED_SCALE);
}

const struct vk_controller_ops vk_fixed_ops = {
	.enter = enter,
	.acked = acked,
	.lost = lost,
	.pace = pace,
};
