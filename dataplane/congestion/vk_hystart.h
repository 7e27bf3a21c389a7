/* SPDX-License-Identifier: MIT */
#ifndef VK_HYSTART_H
#define VK_HYSTART_H
/* vk_hystart.h: HyStart++ (RFC 9406) leaves slow start when the RTT grows, before packets are
 * lost. Its rounds are those of vk_congestion.
 */
#include "vk_congestion.h"

enum vk_hystart_const {
	/* RFC 9406, 4.3 */
	VK_HYSTART_MIN_RTT_THRESH_US = 4000,
	VK_HYSTART_MAX_RTT_THRESH_US = 16000,
	VK_HYSTART_MIN_RTT_DIVISOR = 8,
	VK_HYSTART_RTT_SAMPLES = 8,
	VK_HYSTART_CSS_GROWTH_DIVISOR = 4,
	VK_HYSTART_CSS_ROUNDS = 5,
	/* On paths shorter than 4 ms the threshold is their base RTT, but what a busy host adds
	 * (the same 100 us as VK_DELAY_TARGET_FLOOR_NS) is no queue. */
	VK_HYSTART_NOISE_US = 100,
};

/* vk_hystart_init begins slow start. */
void vk_hystart_init(struct vk_hystart *hystart);

/* vk_hystart_acked looks at the round so far, after an ACK in slow start, and returns by what the
 * growth is divided: 1 in slow start, VK_HYSTART_CSS_GROWTH_DIVISOR in conservative slow start, 0
 * when congestion avoidance is due. base_ns is the path's RTT without queues. */
uint32_t vk_hystart_acked(struct vk_hystart *hystart, const struct vk_round *round,
			  uint64_t base_ns);

/* vk_hystart_threshold_ns returns by how much the RTT of a round must exceed that of the last. */
uint64_t vk_hystart_threshold_ns(uint64_t last_rtt_ns, uint64_t base_ns);
#endif
