/* SPDX-License-Identifier: MIT */
#include "vk_shares.h"

enum {
	FLOORS = 256, /* what an application has in any case is at most such a part of all */
	PLENTY = 8, /* while no more than such a part is in use, everybody has enough */
};

/* What is an application's in any case. */
static struct vk_share floor_of(const struct vk_shares *shares)
{
	uint64_t part = shares->most.bytes / FLOORS;

	return (struct vk_share){ part < VK_SHARE_BYTES ? part : VK_SHARE_BYTES,
				  VK_SHARE_PARTIALS };
}

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static void add(struct vk_share *to, uint64_t bytes, uint64_t count)
{
	to->bytes += bytes;
	to->count += count;
}

void vk_shares_limit(struct vk_shares *shares, uint64_t bytes)
{
	struct vk_share floor;

	shares->most = (struct vk_share){ bytes, VK_PARTIALS_MAX };
	floor = floor_of(shares);
	shares->beyond = shares->logs;
	for (uint32_t i = 0; i < VK_APPS_MAX; i++)
		add(&shares->beyond, less(shares->apps[i].bytes, floor.bytes),
		    less(shares->apps[i].count, floor.count));
}

/* Enters a change of what a party has. */
static void change(struct vk_shares *shares, const struct vk_party *party, uint64_t bytes,
		   uint64_t count)
{
	struct vk_share floor = floor_of(shares), *own = &shares->apps[party->app];

	add(&shares->all, bytes, count);
	if (!party->kept) {
		add(&shares->logs, bytes, count);
		add(&shares->beyond, bytes, count);
		return;
	}
	add(&shares->beyond, -less(own->bytes, floor.bytes), -less(own->count, floor.count));
	add(own, bytes, count);
	add(&shares->beyond, less(own->bytes, floor.bytes), less(own->count, floor.count));
}

void vk_shares_take(struct vk_shares *shares, uint32_t partial, const struct vk_party *party,
		    uint32_t bytes)
{
	shares->holdings[partial] = (struct vk_holding){ *party, bytes };
	change(shares, party, bytes, 1);
}

void vk_shares_give(struct vk_shares *shares, uint32_t partial)
{
	struct vk_holding *holding = &shares->holdings[partial];

	change(shares, &holding->party, -(uint64_t)holding->bytes, -(uint64_t)1);
	holding->bytes = 0;
}

/* What a peer has, and what a party has of that. */
static void sum(const struct vk_shares *shares, const struct vk_party *party, struct vk_share *peer,
		struct vk_share *own)
{
	*peer = *own = (struct vk_share){ 0 };
	for (uint32_t i = 0; i < VK_PARTIALS_MAX; i++) {
		const struct vk_holding *holding = &shares->holdings[i];

		if (!holding->bytes || holding->party.peer != party->peer)
			continue;
		add(peer, holding->bytes, 1);
		if (holding->party.app == party->app && holding->party.class == party->class)
			add(own, holding->bytes, 1);
	}
}

/* Whether `want` more of one kind leaves enough of it to others: when the party has it, neither its
 * peer nor its application has more than is left, and they may have twice what the party has. */
static int leaves(uint64_t most, uint64_t beyond, uint64_t app, uint64_t peer, uint64_t own,
		  uint64_t want)
{
	uint64_t larger = app > peer ? app : peer;

	return beyond + larger + 2 * own + 4 * want <= most;
}

int vk_shares_may(const struct vk_shares *shares, const struct vk_party *party, uint32_t bytes)
{
	struct vk_share floor = floor_of(shares), rest = shares->most, peer, own;
	const struct vk_share *app = &shares->apps[party->app];

	if (PLENTY * (shares->all.bytes + bytes) <= shares->most.bytes &&
	    PLENTY * (shares->all.count + 1) <= shares->most.count)
		return 1;
	if (party->kept && app->bytes + bytes <= floor.bytes && app->count < floor.count)
		return 1;
	add(&rest, -(VK_APPS_MAX * floor.bytes), -(VK_APPS_MAX * floor.count));
	if (!party->kept)
		rest = (struct vk_share){ rest.bytes / 2, rest.count / 2 };
	if (shares->beyond.bytes + bytes > rest.bytes || shares->beyond.count + 1 > rest.count)
		return 0;
	sum(shares, party, &peer, &own);
	return !own.count ||
	       (leaves(rest.bytes, shares->beyond.bytes, app->bytes, peer.bytes, own.bytes,
		       bytes) &&
		leaves(rest.count, shares->beyond.count, app->count, peer.count, own.count, 1));
}
