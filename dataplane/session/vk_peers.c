/* SPDX-License-Identifier: MIT */
#include "vk_peers.h"

#include "vk_content.h"
#include "vk_fit.h"
#include "vk_flows.h"
#include "vk_pages.h"
#include "vk_rekey.h"
#include "vk_signals.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum {
	SEQLOCK_TRIES = 64,
	AHEAD = 8, /* news whose rows are fetched early */
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

int vk_peers_open(struct vk_run *run)
{
	run->peers = vk_pages_map(peers_size);
	run->pools = vk_pages_map(pools_size);
	return run->peers && run->pools ? 0 : -ENOMEM;
}

void vk_peers_free(struct vk_run *run)
{
	vk_pages_unmap(run->peers, peers_size);
	vk_pages_unmap(run->pools, pools_size);
	vk_peer_index_free(&run->peer_index);
	run->peers = NULL;
	run->pools = NULL;
}

/* A session ends when its peer is gone or has left, and when it shakes hands anew without going on
 * with it. What it carried goes on over the next one. */
static void adopt_session(struct vk_run *run, uint32_t peer, const struct vk_peer *was)
{
	struct vk_session *session = run->sessions[peer];

	if (vk_rekey_row(run, peer, was)) {
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

/* Takes a row in. One that is being written is left as it was: news of it follow. */
static void take_row(struct vk_run *run, uint32_t number)
{
	struct vk_peer *peer = &run->peers[number], was = *peer;
	int is_live;

	vk_seqlock_copy(peer, &run->state->peers[number], sizeof *peer);
	clamp_peer(run, peer);
	adopt_session(run, number, &was);
	is_live = peer->state == VK_ROW_LIVE;
	if (was.state == VK_ROW_LIVE && (!is_live || was.family != peer->family ||
					 memcmp(was.address, peer->address, sizeof was.address)))
		vk_peer_index_drop(&run->peer_index, number, was.family, was.address);
	if (run->sessions[number])
		run->sessions[number]->udp_port = peer->udp_port;
	if (!is_live)
		return;
	if (vk_peer_index_put(&run->peer_index, number, peer->family, peer->address))
		run->peers_left = run->peer_count; /* no memory: all are looked at again */
	adopt_numbers(run, number);
}

static uint32_t news_of(const struct vk_run *run, uint32_t epoch)
{
	uint64_t news = VK_LOAD_RELAXED(&run->state->peer_news[epoch % VK_PEER_NEWS]);

	return news >> 32 == epoch ? (uint32_t)news : UINT32_MAX;
}

static void prefetch_row(const struct vk_run *run, uint32_t peer)
{
	const uint8_t *row = (const uint8_t *)&run->state->peers[peer];
	const uint8_t *own = (const uint8_t *)&run->peers[peer];

	for (uint32_t at = 0; at < sizeof(struct vk_peer); at += VK_LINE) {
		__builtin_prefetch(row + at);
		__builtin_prefetch(own + at, 1);
	}
	__builtin_prefetch(&run->work->packets[peer].peer_generation, 1);
	__builtin_prefetch(&run->sessions[peer]);
}

/* Takes in rows that changed, up to an epoch; 0 when it is not known of all which they are. */
static int take_news(struct vk_run *run, uint32_t epoch)
{
	if (epoch - run->peer_epoch > VK_PEER_NEWS / 2) /* the daemon goes on writing */
		return 0;
	for (uint32_t i = 0; i < VK_PEERS_A_TURN && run->peer_epoch != epoch; i++) {
		uint32_t peer = news_of(run, run->peer_epoch + 1);
		uint32_t later = news_of(run, run->peer_epoch + 1 + AHEAD);

		if (peer >= run->peer_count)
			return 0;
		if (later < run->peer_count)
			prefetch_row(run, later);
		take_row(run, peer);
		run->peer_epoch++;
	}
	return 1;
}

static void count_rows(struct vk_run *run)
{
	uint32_t count = VK_LOAD_RELAXED(&run->state->peer_count);

	run->peer_count = count < VK_PEERS_MAX ? count : VK_PEERS_MAX;
	run->counters->peer_count = run->peer_count;
}

/* Looks at rows in turn, whatever is known of them. */
static void take_some(struct vk_run *run, uint32_t most)
{
	for (; most && run->peers_left; most--) {
		if (run->peers_next >= run->peer_count)
			run->peers_next = 0;
		run->peers_left--;
		take_row(run, run->peers_next++);
	}
}

void vk_peers_load(struct vk_run *run)
{
	run->peer_epoch = VK_LOAD_ACQUIRE(&run->state->peer_epoch);
	count_rows(run);
	/* Else it grows with every peer. */
	vk_peer_index_room(&run->peer_index, run->peer_count);
	run->peers_left = run->peer_count;
	take_some(run, run->peer_count);
}

int vk_peers_refresh(struct vk_run *run)
{
	uint32_t epoch = VK_LOAD_ACQUIRE(&run->state->peer_epoch);

	if (epoch == run->peer_epoch && !run->peers_left)
		return 0;
	count_rows(run);
	if (!take_news(run, epoch)) {
		run->peer_epoch = epoch;
		run->peers_left = run->peer_count;
	}
	take_some(run, VK_PEERS_A_TURN);
	return epoch != run->peer_epoch || run->peers_left;
}

int vk_peers_find(const struct vk_run *run, uint32_t family, const uint8_t address[16])
{
	return (int)vk_peer_index_at(&run->peer_index, vk_peer_hash(family, address), family,
				     address);
}

int vk_peers_of_session(const struct vk_run *run, uint32_t id)
{
	uint32_t seat = vk_seat_of(run->state->seat_keys, id);
	const struct vk_peer *row = &run->peers[seat];

	return seat < run->peer_count && row->state == VK_ROW_LIVE && row->joined &&
			       row->session_local == id ?
		       (int)seat :
		       -1;
}

/* Whose frame it may be, by the id of a SESSION where workers put it. That it is one is looked at
 * later: the source says whether it is that peer's. */
static uint32_t seat_of(const uint32_t keys[VK_SEAT_KEYS], const struct vk_rx_frame *frame)
{
	const uint8_t *ext = frame->data + VK_HEADER_SIZE;

	if (frame->size < VK_HEADER_SIZE + sizeof(struct vk_ext_session) ||
	    ext[0] != VK_EXT_SESSION)
		return VK_PEER_NOBODY;
	return vk_seat_of(keys, vk_get32(ext + offsetof(struct vk_ext_session, session)));
}

void vk_peers_find_batch(const struct vk_run *run, const struct vk_rx_frame *frames, uint32_t count,
			 uint32_t *peers)
{
	const struct vk_peer_index *index = &run->peer_index;
	uint32_t hashes[VK_RX_BATCH], keys[VK_SEAT_KEYS], left = 0;

	memcpy(keys, run->state->seat_keys, sizeof keys);
	for (uint32_t i = 0; i < count; i++) {
		peers[i] = seat_of(keys, &frames[i]);
		vk_peer_index_prefetch_seat(index, peers[i], frames[i].family);
	}
	for (uint32_t i = 0; i < count; i++) {
		if (vk_peer_index_sits(index, peers[i], frames[i].family, frames[i].source))
			continue;
		peers[i] = VK_PEER_NOBODY;
		hashes[i] = vk_peer_hash(frames[i].family, frames[i].source);
		vk_peer_index_prefetch(index, hashes[i]);
		left++;
	}
	for (uint32_t i = 0; left && i < count; i++) {
		if (peers[i] != VK_PEER_NOBODY)
			continue;
		peers[i] = vk_peer_index_at(index, hashes[i], frames[i].family, frames[i].source);
		left--;
	}
}

void vk_peers_prefetch(const struct vk_run *run, const uint32_t *peers, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		const struct vk_packet *packet;

		if (peers[i] == VK_PEER_NOBODY)
			continue;
		packet = &run->work->packets[peers[i]];
		__builtin_prefetch(&run->sessions[peers[i]]);
		__builtin_prefetch(&packet->rx_number, 1);
		__builtin_prefetch(&packet->heard_ns, 1);
	}
}
