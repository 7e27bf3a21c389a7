/* SPDX-License-Identifier: MIT */
#ifndef VK_RTT_H
#define VK_RTT_H
/* vk_rtt.h: how long a packet and its acknowledgement take (RFC 9002, 5). Nanoseconds. */
#include <stdint.h>

enum vk_rtt_const {
	VK_RTT_INITIAL_NS = 25000000, /* RFC 9002, 6.2.2 recommends 333 ms for the Internet; nodes
					  * are nearer, and a probe too early costs a packet */
};

struct vk_rtt {
	uint64_t latest_ns; /* 0 = no sample yet */
	uint64_t smoothed_ns;
	uint64_t variance_ns;
	uint64_t min_ns;
};

/* vk_rtt_init starts without a sample. */
static inline void vk_rtt_init(struct vk_rtt *rtt)
{
	*rtt = (struct vk_rtt){ .smoothed_ns = VK_RTT_INITIAL_NS,
				.variance_ns = VK_RTT_INITIAL_NS / 2 };
}

/* vk_rtt_sample takes one; delay_ns is what the peer held the acknowledgement back, at most its
 * announced maximum. */
static inline void vk_rtt_sample(struct vk_rtt *rtt, uint64_t sample_ns, uint64_t delay_ns)
{
	uint64_t off_ns;

	if (!rtt->latest_ns) {
		/* RFC 9002, 5.3: "On the first RTT sample after initialization, smoothed_rtt and
		 * rttvar are set as follows" */
		rtt->min_ns = rtt->smoothed_ns = sample_ns;
		rtt->variance_ns = sample_ns / 2;
		rtt->latest_ns = sample_ns;
		return;
	}
	rtt->latest_ns = sample_ns;
	/* RFC 9002, 5.2: "min_rtt MUST be set to the latest_rtt on the first RTT sample; min_rtt
	 * MUST be set to the lesser of min_rtt and latest_rtt on all other samples." */
	if (sample_ns < rtt->min_ns)
		rtt->min_ns = sample_ns;
	/* RFC 9002, 5.3: the delay "MUST NOT" be subtracted "if the resulting value is smaller
	 * than the min_rtt". */
	if (sample_ns >= rtt->min_ns + delay_ns)
		sample_ns -= delay_ns;
	off_ns = rtt->smoothed_ns > sample_ns ? rtt->smoothed_ns - sample_ns :
						sample_ns - rtt->smoothed_ns;
	rtt->variance_ns = (3 * rtt->variance_ns + off_ns) / 4;
	rtt->smoothed_ns = (7 * rtt->smoothed_ns + sample_ns) / 8;
}
#endif
