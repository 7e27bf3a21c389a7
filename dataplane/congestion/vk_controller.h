/* SPDX-License-Identifier: MIT */
#ifndef VK_CONTROLLER_H
#define VK_CONTROLLER_H
/* vk_controller.h: what a congestion controller is to vk_congestion.c, and the arithmetic that
 * controllers share. Nobody else includes it.
 */
#include "vk_congestion.h"

enum vk_loss { VK_LOSS_PACKETS = 0, VK_LOSS_MARK = 1, VK_LOSS_PERSISTENT = 2 };

/* One controller. All may change window and ssthresh; bounds are applied behind them. */
struct vk_controller_ops {
	/* Takes over with the window as it is; state is zero. */
	void (*enter)(struct vk_congestion *congestion, uint64_t now_ns);
	void (*sent)(struct vk_congestion *congestion, uint64_t bytes, uint64_t in_flight,
		     uint64_t now_ns);
	void (*acked)(struct vk_congestion *congestion, const struct vk_congestion_ack *ack);
	/* fresh: this begins a recovery period (RFC 9002, 7.3.2), and what was is saved. */
	void (*lost)(struct vk_congestion *congestion, uint64_t bytes, enum vk_loss loss, int fresh,
		     uint64_t now_ns);
	/* The rate at which packets leave, bytes/s, when the smoothed RTT is known. */
	uint64_t (*pace)(const struct vk_congestion *congestion, uint64_t rtt_ns);
};

extern const struct vk_controller_ops vk_fixed_ops, vk_delay_ops, vk_cubic_ops;

#ifndef VK_CDEF
/* vk_min returns the smaller. */
static inline uint64_t vk_min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* vk_max returns the greater. */
static inline uint64_t vk_max(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* vk_scale returns value * numerator / denominator, UINT64_MAX if it is more than that;
 * denominator is not 0. */
static inline uint64_t vk_scale(uint64_t value, uint64_t numerator, uint64_t denominator)
{
	unsigned __int128 product = (unsigned __int128)value * numerator;

	if (!(product >> 64))
		return (uint64_t)product / denominator;
	product /= denominator;
	return product >> 64 ? UINT64_MAX : (uint64_t)product;
}

/* vk_congestion_pace returns percent of window / rtt_ns in bytes/s; neither is 0. */
static inline uint64_t vk_congestion_pace(const struct vk_congestion *congestion, uint64_t percent,
					  uint64_t rtt_ns)
{
	/* RFC 9002, 7.7: "rate = N * congestion_window / smoothed_rtt". 2^30 * 2^8 * 10^7 is
	 * below 2^62. */
	return congestion->window * percent * 10000000 / rtt_ns;
}

/* vk_congestion_limited says whether the window is what holds the sender back. */
static inline int vk_congestion_limited(const struct vk_congestion *congestion,
					const struct vk_congestion_ack *ack)
{
	/* RFC 9002, 7.8: "When bytes in flight is smaller than the congestion window and sending
	 * is not pacing limited, the congestion window is underutilized [...] the congestion
	 * window SHOULD NOT be increased in either slow start or congestion avoidance." */
	return !ack->app_limited ||
	       ack->in_flight + congestion->datagram_size >= congestion->window;
}
#endif
#endif
