/* SPDX-License-Identifier: MIT */
#ifndef VK_CUBIC_H
#define VK_CUBIC_H
/* vk_cubic.h: the two functions of time in CUBIC (RFC 9438, 4.2), in integers. */
#include "vk_congestion.h"

enum vk_cubic_const {
	/* RFC 9438, 4.6 and 5: C = 0.4, beta_cubic = 0.7, alpha_cubic = 3 (1 - b) / (1 + b) */
	VK_CUBIC_C_TENTHS = 4,
	VK_CUBIC_BETA_PERCENT = 70,
	VK_CUBIC_ALPHA_NUMERATOR = 9,
	VK_CUBIC_ALPHA_DENOMINATOR = 17,
	VK_CUBIC_BETA_ECN_PERCENT = 85, /* RFC 8511, 3.1: a mark comes from a short queue */
	VK_CUBIC_TIME_MAX_S = 1000, /* from the plateau; the curve is at its bounds long before */
};

/* vk_cubic_k_ns returns K, the time to grow by so many bytes: cbrt(bytes / datagram_size / C)
 * seconds (equation 2), at most VK_CUBIC_TIME_MAX_S. */
uint64_t vk_cubic_k_ns(uint64_t bytes, uint32_t datagram_size);

/* vk_cubic_window returns W_cubic(t) = C (t - K)^3 + W_max in bytes (equation 1), within 0 and
 * VK_CONGESTION_WINDOW_MAX. */
uint64_t vk_cubic_window(uint64_t t_ns, uint64_t k_ns, uint64_t w_max, uint32_t datagram_size);
#endif
