/* SPDX-License-Identifier: MIT */
#include "vk_peers.h"

#include "vk_content.h"
#include "vk_fit.h"
#include "vk_flows.h"

#include <assert.h>
#include <string.h>

enum {
	SEQLOCK_TRIES = 64,
	PAYLOAD_MIN = 512, /* bytes: every IP path carries that much */
	IP4_UDP_SIZE = 28, /* headers, bytes */
	IP6_UDP_SIZE = 48,
};

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

/* A session ends when its peer is gone, has left, or shakes hands anew. What it carried goes on
 * over the next one. */
static void adopt_session(struct vk_run *run, uint32_t peer)
{
	const struct vk_peer *row = &run->peers[peer];
	struct vk_session *session = run->sessions[peer];

	if (session && row->state == VK_ROW_LIVE && row->joined &&
	    row->session_local == session->id) {
		vk_fit_bound(run, session);
		return;
	}
	vk_session_forget(run, peer);
	session = vk_session_of(run, peer); /* now: nobody else asks for what was under way */
	if (!session)
		return;
	vk_content_resend_peer(run, session);
	vk_flows_retell(run, peer);
}

/* Packet numbers and streams belong to one peer: a row that names another one starts anew. */
static void adopt_numbers(struct vk_run *run, uint32_t peer)
{
	struct vk_packet *packet = &run->work->packets[peer];
	uint32_t code = run->peers[peer].end_code;
	uint64_t next[4], seen[4];

	if (packet->peer_generation == run->peers[peer].generation)
		return;
	memcpy(next, packet->tx_number, sizeof next);
	memcpy(seen, packet->rx_number, sizeof seen);
	vk_flows_close_peer(run, peer, code ? code : VK_CODE_NO_PEER);
	/* Numbers go on for ever: a nonce is made of them. */
	*packet = (struct vk_packet){ .rx_session = packet->rx_session };
	memcpy(packet->tx_number, next, sizeof next);
	memcpy(packet->rx_number, seen, sizeof seen);
	packet->peer_generation = run->peers[peer].generation;
}

/* Bytes of a UDP payload that the port can send whole. */
static uint32_t payload_limit(const struct vk_port *port, uint32_t family)
{
	uint32_t limit = port->tx_path == VK_PATH_XDP ? VK_XDP_PAYLOAD_MAX : VK_UDP_PAYLOAD_MAX;
	uint32_t heads = family == 6 ? IP6_UDP_SIZE : IP4_UDP_SIZE;

	if (port->mtu > PAYLOAD_MIN + heads && port->mtu - heads < limit)
		limit = port->mtu - heads;
	return limit;
}

static void clamp_peer(struct vk_run *run, struct vk_peer *peer)
{
	uint32_t limit;

	if (peer->port_index >= run->boot->port_count) {
		peer->port_index = 0;
		peer->state = VK_ROW_FREE;
	}
	limit = payload_limit(&run->boot->ports[peer->port_index], peer->family);
	if (peer->payload_max < PAYLOAD_MIN)
		peer->payload_max = PAYLOAD_MIN;
	if (peer->payload_max > limit)
		peer->payload_max = (uint16_t)limit;
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
		adopt_session(run, i);
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
