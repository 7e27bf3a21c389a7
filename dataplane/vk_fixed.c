/* SPDX-License-Identifier: MIT */
/* The controller that was told what to do. It believes neither loss nor delay, only persistent
 * congestion (RFC 9002, 7.6): then it halves, and comes back over sixteen rounds, so that it cannot
 * melt a path for ever. */
#include "vk_controller.h"

enum {
	PACING_PERCENT = 100, /* the window is twice what the path needs: no more gain */
	PRODUCTS = 2, /* bandwidth-delay products in the window */
	RETURN_STEP = VK_FIXED_SCALE / 16, /* a round */
};

static uint64_t whole_window(const struct vk_congestion *congestion)
{
	uint64_t base_ns = vk_congestion_base(congestion), product;

	if (congestion->fixed_window)
		return vk_min(congestion->fixed_window, VK_CONGESTION_WINDOW_MAX);
	if (base_ns == UINT64_MAX)
		return VK_FIXED_WINDOW_MIN;
	product = vk_scale(vk_congestion_rate(congestion), base_ns, 1000000000);
	return vk_max(VK_FIXED_WINDOW_MIN, PRODUCTS * vk_min(product, VK_CONGESTION_WINDOW_MAX));
}

static void apply(struct vk_congestion *congestion)
{
	congestion->window =
		whole_window(congestion) * congestion->state.fixed.scale / VK_FIXED_SCALE;
}

static void enter(struct vk_congestion *congestion, uint64_t now_ns)
{
	(void)now_ns;
	congestion->state.fixed.scale = VK_FIXED_SCALE;
	apply(congestion);
}

static void acked(struct vk_congestion *congestion, const struct vk_congestion_ack *ack)
{
	struct vk_fixed *fixed = &congestion->state.fixed;

	(void)ack;
	if (congestion->round.ended)
		fixed->scale = (uint32_t)vk_min(fixed->scale + RETURN_STEP, VK_FIXED_SCALE);
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

static uint32_t pacing_gain(const struct vk_congestion *congestion)
{
	(void)congestion;
	return PACING_PERCENT;
}

const struct vk_controller_ops vk_fixed_ops = {
	.enter = enter,
	.acked = acked,
	.lost = lost,
	.pacing_gain = pacing_gain,
};
