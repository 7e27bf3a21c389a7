/* SPDX-License-Identifier: MIT */
#include "vk_peers.h"

#include "vk_content.h"
#include "vk_fit.h"
#include "vk_flows.h"
#include "vk_pages.h"
#include "vk_signals.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum {
	SEQLOCK_TRIES = 64,
	EAGER_MAX = 1024, /* peers whose sessions are at hand before they are used */
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

static const size_t peers_size = VK_PEERS_MAX * sizeof(struct vk_peer);
static const size_t pools_size = VK_PEERS_MAX * sizeof(struct vk_pool);
static const size_t buckets_size = VK_PEER_BUCKETS * sizeof(uint32_t);

int vk_peers_open(struct vk_run *run)
{
	run->peers = vk_pages_map(peers_size);
	run->pools = vk_pages_map(pools_size);
	run->peer_buckets = vk_pages_map(buckets_size);
	return run->peers && run->pools && run->peer_buckets ? 0 : -ENOMEM;
}

void vk_peers_free(struct vk_run *run)
{
	vk_pages_unmap(run->peers, peers_size);
	vk_pages_unmap(run->pools, pools_size);
	vk_pages_unmap(run->peer_buckets, buckets_size);
	run->peers = NULL;
	run->pools = NULL;
	run->peer_buckets = NULL;
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
	run->peer_buckets[at] = peer + 1;
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
	if (session)
		vk_signals_end(run, peer);
	vk_session_forget(run, peer);
	if (run->peer_count > EAGER_MAX && !run->work->packets[peer].streams)
		return; /* it costs nothing before its first frame */
	session = vk_session_of(run, peer); /* now: nobody else asks for what was under way */
	if (!session)
		return;
	vk_content_resend_peer(run, session);
	vk_flows_retell(run, peer);
}

/* Streams belong to one peer: those of a row that names another one are gone. */
static void adopt_numbers(struct vk_run *run, uint32_t peer)
{
	struct vk_packet *packet = &run->work->packets[peer];
	uint32_t code = run->peers[peer].end_code;

	if (packet->peer_generation == run->peers[peer].generation)
		return;
	vk_flows_close_peer(run, peer, code ? code : VK_CODE_NO_PEER);
	/* Numbers go on for ever: a nonce is made of them. */
	memset(packet->rx_packets, 0, sizeof packet->rx_packets);
	packet->heard_ns = packet->rtt_ns = 0;
	packet->flying = packet->streams = 0;
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

static int is_at(const struct vk_peer *peer, uint32_t family, const uint8_t address[16])
{
	return peer->state == VK_ROW_LIVE && peer->family == family &&
	       !memcmp(peer->address, address, 16);
}

/* Takes a row in; *moved when the index has an entry for it that is no longer true. Returns 0, or
 * -EAGAIN when it is being written. */
static int take_row(struct vk_run *run, uint32_t number, int *moved)
{
	struct vk_peer *peer = &run->peers[number];
	uint8_t state = peer->state, family = peer->family, address[16];
	int error;

	memcpy(address, peer->address, sizeof address);
	error = vk_seqlock_copy(peer, &run->state->peers[number], sizeof *peer);
	clamp_peer(run, peer);
	adopt_session(run, number);
	if (state == VK_ROW_LIVE && !is_at(peer, family, address))
		*moved = 1;
	else if (state != VK_ROW_LIVE && peer->state == VK_ROW_LIVE)
		index_peer(run, number);
	if (peer->state == VK_ROW_LIVE)
		adopt_numbers(run, number);
	return error;
}

static void index_all(struct vk_run *run)
{
	memset(run->peer_buckets, 0, buckets_size);
	run->last_peer = 0;
	for (uint32_t i = 0; i < run->peer_count; i++)
		if (run->peers[i].state == VK_ROW_LIVE)
			index_peer(run, i);
}

/* Takes in the rows that changed since an epoch; 0 when that is not known of all. */
static int take_news(struct vk_run *run, uint32_t epoch, int *error, int *moved)
{
	if (epoch - run->peer_epoch > VK_PEER_NEWS / 2) /* the daemon goes on writing */
		return 0;
	for (uint32_t each = run->peer_epoch; each++ != epoch;) {
		uint64_t news = VK_LOAD_RELAXED(&run->state->peer_news[each % VK_PEER_NEWS]);
		uint32_t peer = (uint32_t)news;

		if (news >> 32 != each || peer >= run->peer_count)
			return 0;
		*error |= take_row(run, peer, moved);
	}
	return 1;
}

void vk_peers_refresh(struct vk_run *run, int force)
{
	uint32_t epoch = VK_LOAD_ACQUIRE(&run->state->peer_epoch);
	uint32_t count = VK_LOAD_RELAXED(&run->state->peer_count);
	int error = 0, moved = 0;

	if (epoch == run->peer_epoch && !force)
		return;
	run->peer_count = count < VK_PEERS_MAX ? count : VK_PEERS_MAX;
	run->counters->peer_count = run->peer_count;
	if (force || !take_news(run, epoch, &error, &moved))
		for (uint32_t i = 0; i < run->peer_count; i++)
			error |= take_row(run, i, &moved);
	if (moved)
		index_all(run);
	run->peer_epoch = error ? epoch - VK_PEER_NEWS : epoch; /* look at all again next turn */
}

int vk_peers_find(struct vk_run *run, uint32_t family, const uint8_t address[16])
{
	uint32_t at;

	if (is_at(&run->peers[run->last_peer], family, address))
		return (int)run->last_peer;
	at = address_hash(family, address);
	for (; run->peer_buckets[at]; at = (at + 1) % VK_PEER_BUCKETS) {
		uint32_t peer = run->peer_buckets[at] - 1u;

		if (!is_at(&run->peers[peer], family, address))
			continue;
		run->last_peer = peer;
		return (int)peer;
	}
	return -1;
}
