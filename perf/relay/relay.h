/* SPDX-License-Identifier: MIT */
#ifndef VK_RELAY_H
#define VK_RELAY_H
/* relay.h: the memory by which the relay is steered and watched while it runs. Python reads this
 * header too. The conditions of a direction are those of the simulator: vk_link.h.
 */
#include "vk_link.h"

enum vk_relay_const {
	VK_RELAY_DIRECTIONS = 2, /* 0: from A to B, 1: from B to A */
	VK_RELAY_LATE_NS = 100000, /* a frame sent so long after it was due counts as late */
};

/* What a direction does to frames besides its conditions; all but `late` should stay 0. */
struct vk_relay_count {
	uint64_t sent;
	uint64_t late;
	uint64_t late_ns_max;
	uint64_t late_ns_sum; /* over all frames handed to the other interface */
	uint64_t ring_full; /* the kernel found no room for a frame */
	uint64_t refused; /* the other interface did not take it */
	uint64_t truncated; /* larger than the interface's MTU: segmentation offload is on */
	uint64_t unsummed; /* its checksum was left to the device: checksum offload is on */
	uint64_t memory; /* more under way than the relay holds */
};

struct vk_relay_shared {
	/* By Python: version is odd while it writes, and config belongs to it when it is even. */
	uint32_t version;
	uint32_t stop;
	struct vk_link_config config[VK_RELAY_DIRECTIONS];
	/* By the relay. */
	uint32_t applied; /* the version in force; 0 = it does not run yet */
	uint32_t turns; /* how often it has looked for frames; wraps */
	struct vk_link_count link[VK_RELAY_DIRECTIONS];
	struct vk_relay_count own[VK_RELAY_DIRECTIONS];
};
#endif
