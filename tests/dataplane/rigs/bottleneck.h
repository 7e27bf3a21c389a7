/* SPDX-License-Identifier: MIT */
#ifndef BOTTLENECK_H
#define BOTTLENECK_H
/* bottleneck.h: senders with endless data share one link with a drop-tail queue. Deterministic:
 * what happens follows from the numbers below. Loss is detected by the packet threshold of three
 * (RFC 9002, 6.1.1) alone, so that what is seen is the controllers' doing.
 */
#include "vk_congestion.h"
#include "vk_cubic.h"
#include "vk_hystart.h"
#include "vk_pacer.h"

enum bottleneck_const {
	BOTTLENECK_FLOWS_MAX = 16,
	BOTTLENECK_TEXTBOOK = 100, /* a controller: CUBIC in doubles, written from RFC 9438 alone */
	BOTTLENECK_RING = 1 << 17, /* packets of a flow that may be in flight */
};

struct bottleneck_flow {
	uint32_t controller; /* enum vk_controller or BOTTLENECK_TEXTBOOK */
	uint32_t switch_to; /* another, at switch_ns */
	uint64_t switch_ns; /* 0 = never */
	uint64_t start_ns;
	uint64_t stop_ns; /* 0 = at the end */
	/* Results, of the time from measure_ns on. */
	uint64_t delivered; /* bytes */
	uint64_t lost; /* packets */
	uint64_t sent; /* packets */
	uint64_t srtt_sum; /* ns * bytes acknowledged */
	uint64_t srtt_max; /* ns */
	uint64_t window_min; /* bytes */
	uint64_t window_max;
	uint64_t base_ns; /* what the controller takes for it in the end */
	uint64_t acks; /* of the whole run */
};

struct bottleneck {
	uint64_t rate; /* bytes/s of the link */
	uint64_t rtt_ns; /* without queue */
	uint64_t rtt_later_ns; /* from later_ns on; 0 = does not change */
	uint64_t later_ns;
	uint64_t jitter_ns; /* added to the way back: uniform from 0, keeping the order */
	uint64_t buffer; /* bytes */
	uint64_t mark_above; /* bytes in the queue; 0 = no ECN */
	uint64_t loss_ppm; /* random */
	uint64_t seed;
	uint64_t measure_ns;
	uint64_t end_ns;
	uint64_t ack_delay_ns; /* the receiver's greatest */
	uint32_t ack_every; /* packets */
	uint32_t datagram_size; /* bytes */
	uint32_t flow_count;
	uint32_t pad;
	struct bottleneck_flow flows[BOTTLENECK_FLOWS_MAX];
};

/* bottleneck_run lets it happen and fills the results in; -1 = no memory. */
int bottleneck_run(struct bottleneck *it);

/* bottleneck_cost returns the mean time of one ACK in a controller, in ns of the real clock, over
 * count ACKs with a loss every 1000. */
double bottleneck_cost(uint32_t controller, uint32_t count);
#endif
