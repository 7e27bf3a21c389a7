/* SPDX-License-Identifier: MIT */
#ifndef VK_LINK_H
#define VK_LINK_H
/* vk_link.h: what one direction of a network does to packets: rate, buffer, delay, loss, order.
 * Sans-IO: vk_link_send says when a packet arrives, and the caller carries it. All chances are
 * drawn from the link's own generator, so links do not disturb each other.
 *
 *   policed? -> lost? -> too large? -> queue full? -> [ queue | rate ] -> delay, jitter -> arrival
 */
#include "vk_random.h"

struct vk_link_config {
	uint64_t rate_bps; /* bits per second; 0 = at once */
	uint64_t delay_ns;
	uint64_t jitter_ns; /* up to so much more, in order */
	uint64_t buffer_bytes; /* what waits for the rate; more is dropped. 0 = no limit */
	uint64_t mark_bytes; /* CE from so much waiting on; 0 = never */
	uint64_t policer_bps; /* token bucket: over it packets are dropped; 0 = none */
	uint64_t policer_bytes; /* its depth */
	uint32_t loss_ppb; /* in the good state */
	uint32_t bad_enter_ppb; /* Gilbert-Elliott, drawn once a packet */
	uint32_t bad_leave_ppb;
	uint32_t bad_loss_ppb; /* in the bad state */
	uint32_t reorder_ppb; /* held back by reorder_ns */
	uint32_t duplicate_ppb;
	uint32_t corrupt_ppb;
	uint32_t mtu; /* bytes of an IP packet; larger ones are dropped. 0 = any */
	uint64_t reorder_ns;
	uint32_t overhead; /* bytes a datagram takes of the rate besides its UDP payload */
	uint32_t down; /* 1: nothing comes through */
};

struct vk_link_count {
	uint64_t packets; /* offered */
	uint64_t bytes; /* of UDP payload, offered */
	uint64_t arrived; /* copies */
	uint64_t lost;
	uint64_t policed;
	uint64_t overflowed; /* the buffer was full */
	uint64_t oversized;
	uint64_t duplicated;
	uint64_t reordered;
	uint64_t corrupted;
	uint64_t marked;
};

struct vk_link {
	struct vk_link_config config;
	struct vk_link_count count;
	struct vk_random random;
	uint64_t free_ps; /* when the last packet has left, in picoseconds */
	uint64_t last_ns; /* arrival of the last one that kept its order */
	uint64_t policer_ns; /* when the policer's bucket is full again */
	uint64_t byte_cost; /* of the rate: picoseconds, fixed point 2^-VK_LINK_COST_SHIFT */
	uint64_t policer_cost;
	uint32_t bad; /* in the bad state */
};

/* What becomes of a packet. */
struct vk_fate {
	uint64_t arrive_ns[2];
	uint32_t copies; /* 0 = dropped, 2 = duplicated */
	uint8_t corrupt;
	uint8_t marked; /* CE */
};

enum vk_link_const {
	VK_LINK_OVERHEAD = 66, /* Ethernet with its gap and preamble (38) + IPv4 + UDP, bytes */
	VK_LINK_COST_SHIFT = 16, /* of byte_cost */
	VK_LINK_IP4_UDP = 28, /* bytes; what mtu counts besides the payload */
};

/* vk_link_init makes a link, idle, with a generator of its own. */
void vk_link_init(struct vk_link *link, const struct vk_link_config *config, uint64_t seed);

/* vk_link_configure changes a link; what is under way keeps its arrival. */
void vk_link_configure(struct vk_link *link, const struct vk_link_config *config);

/* vk_link_send offers a datagram of size bytes of UDP payload at now_ns, never less than before. */
struct vk_fate vk_link_send(struct vk_link *link, uint32_t size, uint64_t now_ns);

/* vk_link_waiting_ns returns how long what waits for the rate will take. */
uint64_t vk_link_waiting_ns(const struct vk_link *link, uint64_t now_ns);
#endif
