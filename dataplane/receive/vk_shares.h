/* SPDX-License-Identifier: MIT */
#ifndef VK_SHARES_H
#define VK_SHARES_H
/* vk_shares.h: whose the partial messages of a node are, and whether one may have another. What
 * waits for its rest may wait as long as its sender or its reader likes: so nobody takes more than
 * it leaves, and who stands still stops itself.
 *
 *   application    its streams always have VK_SHARE_PARTIALS and VK_SHARE_BYTES, which nobody else
 *                  gets; of the rest, as much as it leaves
 *   peer           as much of the rest as it leaves
 *   party          the streams of one class between the two: half of what both could have yet
 *   logs           all of that of one half of the rest, and nothing of what is kept for anybody
 *
 * A party that has nothing may always have one while there is room at all. Sans-IO.
 */
#include "vk_shm.h"

enum vk_shares_const {
	VK_SHARE_PARTIALS = 4,
	VK_SHARE_BYTES = 65536, /* or 1/256 of all when that is less */
};

/* Who a partial message is from and for. */
struct vk_party {
	uint32_t peer;
	uint16_t app;
	uint8_t class;
	uint8_t kept; /* it waits for its rest as long as it takes */
};

/* Partial messages, and the bytes that they have when they are whole. */
struct vk_share {
	uint64_t bytes;
	uint64_t count;
};

/* The party of each partial, while it holds bytes. */
struct vk_holding {
	struct vk_party party;
	uint32_t bytes; /* 0 = none */
};

struct vk_shares {
	struct vk_share most; /* that all may have */
	struct vk_share all; /* that they have */
	struct vk_share
		beyond; /* of these, what is beyond that which is an application's in any case */
	struct vk_share logs;
	struct vk_share apps[VK_APPS_MAX]; /* without logs */
	struct vk_holding holdings[VK_PARTIALS_MAX];
};

/* vk_shares_limit says how many bytes there are for all. */
void vk_shares_limit(struct vk_shares *shares, uint64_t bytes);

/* vk_shares_may says whether a party may have another partial of so many bytes. */
int vk_shares_may(const struct vk_shares *shares, const struct vk_party *party, uint32_t bytes);

/* vk_shares_take gives a partial to a party; vk_shares_give takes it back. */
void vk_shares_take(struct vk_shares *shares, uint32_t partial, const struct vk_party *party,
		    uint32_t bytes);
void vk_shares_give(struct vk_shares *shares, uint32_t partial);
#endif
