/* SPDX-License-Identifier: MIT */
#include "vk_peers.h"

#include <assert.h>
#include <string.h>

enum { SEQLOCK_TRIES = 64 };

int vk_seqlock_copy(void *to, const void *row, size_t size)
{
	const uint32_t *sequence = row;

	for (int i = 0; i < SEQLOCK_TRIES; i++) {
		uint32_t before = VK_LOAD_ACQUIRE(sequence);
		uint8_t copy[512];

		assert(size <= sizeof copy);
		memcpy(copy, row, size);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (!(before & 1) && VK_LOAD_RELAXED(sequence) == before) {
			memcpy(to, copy, size);
			return 0;
		}
	}
	return -EAGAIN;
}

static uint32_t address_hash(uint32_t family, const uint8_t address[16])
{
	uint64_t a, b;

	memcpy(&a, address, 8);
	memcpy(&b, address + 8, 8);
	a = (a ^ (b + family)) * 0x9e3779b97f4a7c15u; /* Fibonacci hashing */
	return (uint32_t)(a >> 32) % VK_PEER_BUCKETS;
}

static void index_peer(struct vk_run *run, uint32_t peer)
{
	uint32_t at = address_hash(run->peers[peer].family, run->peers[peer].address);

	while (run->peer_buckets[at])
		at = (at + 1) % VK_PEER_BUCKETS;
	run->peer_buckets[at] = (uint16_t)(peer + 1);
}

/* Packet numbers belong to one peer: a row that names another one starts anew. */
static void adopt_numbers(struct vk_run *run, uint32_t peer)
{
	struct vk_packet *packet = &run->work->packets[peer];

	if (packet->peer_generation == run->peers[peer].generation)
		return;
	memset(packet, 0, sizeof *packet);
	packet->peer_generation = run->peers[peer].generation;
}

static void clamp_peer(struct vk_run *run, struct vk_peer *peer)
{
	if (peer->port_index >= run->boot->port_count)
		peer->state = VK_ROW_FREE;
	if (peer->payload_max < 512)
		peer->payload_max = 512;
	if (peer->payload_max > VK_CHUNK_SIZE - 128)
		peer->payload_max = VK_CHUNK_SIZE - 128;
}

void vk_peers_refresh(struct vk_run *run, int force)
{
	uint32_t epoch = VK_LOAD_ACQUIRE(&run->state->peer_epoch);

	if (epoch == run->peer_epoch && !force)
		return;
	run->peer_epoch = epoch;
	run->last_peer = 0;
	memset(run->peer_buckets, 0, sizeof run->peer_buckets);
	for (uint32_t i = 0; i < VK_PEERS_MAX; i++) {
		struct vk_peer *peer = &run->peers[i];

		if (vk_seqlock_copy(peer, &run->state->peers[i], sizeof *peer))
			run->peer_epoch = epoch - 1; /* look again next turn */
		clamp_peer(run, peer);
		if (peer->state != VK_ROW_LIVE)
			continue;
		index_peer(run, i);
		adopt_numbers(run, i);
	}
}

static int same_peer(const struct vk_peer *peer, uint32_t family, const uint8_t address[16])
{
	return peer->state == VK_ROW_LIVE && peer->family == family &&
	       !memcmp(peer->address, address, 16);
}

int vk_peers_find(struct vk_run *run, uint32_t family, const uint8_t address[16])
{
	uint32_t at;

	if (same_peer(&run->peers[run->last_peer], family, address))
		return (int)run->last_peer;
	at = address_hash(family, address);
	for (; run->peer_buckets[at]; at = (at + 1) % VK_PEER_BUCKETS) {
		uint32_t peer = run->peer_buckets[at] - 1u;

		if (!same_peer(&run->peers[peer], family, address))
			continue;
		run->last_peer = peer;
		return (int)peer;
	}
	return -1;
}
