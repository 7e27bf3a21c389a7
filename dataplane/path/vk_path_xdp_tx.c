/* SPDX-License-Identifier: MIT */
/* The sending half of the AF_XDP path. A TX frame is free when it is in no ring and not in the
 * kernel; the worker after a crash knows that once every published descriptor has come back as a
 * completion. */
#define _GNU_SOURCE
#include "vk_path_xdp.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum {
	STALLS_MAX = 4, /* kicks without progress before a flush gives up */
};

/* reclaim takes completed frames back. */
static void reclaim(struct vk_xdp_path *self)
{
	struct vk_port *port = self->path.port;
	const struct vk_xsk_ring *ring = &port->umem.completion;
	uint32_t consumer = *ring->consumer, ready = vk_umem_ready(ring);

	if (!ready)
		return;
	for (uint32_t i = 0; i < ready && !self->recovering; i++) {
		uint64_t address = *vk_umem_address(ring, consumer + i);
		uint32_t frame = (uint32_t)(address / port->umem.chunk_size);

		assert(frame - port->umem.rx_frames < port->umem.tx_frames);
		assert(self->free_count < port->umem.tx_frames);
		self->free[self->free_count++] = frame;
	}
	if (!self->recovering)
		VK_STORE_RELEASE(ring->consumer, consumer + ready);
}

uint32_t vk_xdp_outstanding(const struct vk_port *port)
{
	struct vk_xsk_statistics statistics;
	uint32_t invalid = 0;

	if (!vk_xsk_statistics(port, &statistics))
		invalid = (uint32_t)statistics.tx_invalid;
	return *port->xsks[VK_CLASS_CONTROL].tx.producer - *port->umem.completion.consumer -
	       invalid;
}

int vk_xdp_reclaim_all(struct vk_xdp_path *self)
{
	struct vk_port *port = self->path.port;
	const struct vk_xsk_ring *ring = &port->umem.completion;
	uint32_t left = vk_xdp_outstanding(port);

	if (vk_umem_ready(ring) != left) {
		self->path.syscalls_tx++;
		sendto(port->xsks[VK_CLASS_CONTROL].fd, NULL, 0, MSG_DONTWAIT, NULL, 0);
		if (vk_umem_ready(ring) != left)
			return -EAGAIN;
	}
	VK_STORE_RELEASE(ring->consumer, *ring->consumer + left);
	for (uint32_t i = port->umem.tx_frames; i > 0; i--)
		self->free[self->free_count++] = port->umem.rx_frames + i - 1;
	self->recovering = 0;
	return 0;
}

/* lose_head counts the descriptor that the kernel dropped on its last kick. */
static void lose_head(struct vk_xdp_path *self)
{
	struct vk_port *port = self->path.port;
	const struct vk_xsk_ring *ring = &port->xsks[VK_CLASS_CONTROL].tx;
	uint32_t consumer = __atomic_load_n(ring->consumer, __ATOMIC_ACQUIRE), index;
	uint64_t address;

	/* The kernel publishes its consumer only after a descriptor that was sent. */
	if (consumer != self->consumer)
		index = consumer - 1;
	else
		index = consumer + self->dropped++;
	self->lost_ahead++;
	address = vk_umem_descriptor(ring, index)->addr;
	self->path
		.lost[self->frame_class[address / port->umem.chunk_size - port->umem.rx_frames]]++;
	self->path.error = EBUSY;
}

/* take_consumer follows the kernel through TX and returns how many descriptors it has to take. */
static uint32_t take_consumer(struct vk_xdp_path *self)
{
	const struct vk_xsk_ring *ring = &self->path.port->xsks[VK_CLASS_CONTROL].tx;
	uint32_t consumer = __atomic_load_n(ring->consumer, __ATOMIC_ACQUIRE);

	if (consumer != self->consumer) {
		self->path.sent += consumer - self->consumer - self->lost_ahead;
		self->consumer = consumer;
		self->lost_ahead = 0;
		self->dropped = 0;
	}
	return self->producer - consumer - self->dropped;
}

/* kick has the kernel send; it takes 32 descriptors a call in copy mode. Bounded by stalls. */
static uint32_t kick(struct vk_xdp_path *self)
{
	struct vk_port *port = self->path.port;
	const struct vk_xsk *xsk = &port->xsks[VK_CLASS_CONTROL];
	uint32_t left = take_consumer(self), stalls = 0;
	uint32_t budget = 2 * port->umem.tx_frames;

	while (left && stalls < STALLS_MAX && budget--) {
		uint32_t before = left;

		/* A full ring is kicked unasked: some drivers forget to ask. */
		if (!vk_umem_wakeup(&xsk->tx) && left < xsk->tx.size)
			return 0; /* the driver is at work on them */
		self->path.syscalls_tx++;
		if (sendto(xsk->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0) {
			if (errno == EBUSY && port->xdp_mode != VK_XDP_ZERO_COPY) {
				lose_head(self);
			} else if (errno != EAGAIN && errno != ENOBUFS && errno != EBUSY) {
				self->path.error = errno;
				break;
			}
		}
		reclaim(self);
		left = take_consumer(self);
		stalls = left < before ? 0 : stalls + 1;
	}
	return left;
}

int vk_xdp_tx_flush(struct vk_path *path)
{
	struct vk_xdp_path *self = vk_xdp(path);
	const struct vk_xsk_ring *ring = &path->port->xsks[VK_CLASS_CONTROL].tx;
	uint32_t left;

	if (!ring->size)
		return 0;
	if (self->producer != *ring->producer)
		VK_STORE_RELEASE(ring->producer, self->producer);
	left = kick(self);
	reclaim(self);
	return (int)left;
}

/* head_of returns the header template of a peer, from the cache when nothing in it changed. */
static const struct vk_packet_head *head_of(struct vk_xdp_path *self, const struct vk_peer *peer)
{
	struct vk_xdp_head *head;
	uint32_t hash;

	memcpy(&hash, peer->address + (peer->family == 6 ? 12 : 0), sizeof hash);
	hash = (hash ^ peer->udp_port) * 2654435761U;
	head = &self->heads[hash >> 26];
	_Static_assert(VK_XDP_HEADS == 64, "the hash has six bits");
	if (head->peer.family == peer->family && head->peer.udp_port == peer->udp_port &&
	    !memcmp(head->peer.address, peer->address, sizeof peer->address) &&
	    !memcmp(head->peer.source, peer->source, sizeof peer->source) &&
	    !memcmp(head->peer.mac, peer->mac, sizeof peer->mac) &&
	    !memcmp(head->peer.source_mac, peer->source_mac, sizeof peer->source_mac))
		return &head->head;
	head->peer = *peer;
	vk_packet_head_init(&head->head, peer, self->path.port->udp_port);
	return &head->head;
}

uint8_t *vk_xdp_tx_reserve(struct vk_path *path, const struct vk_peer *peer, uint32_t class)
{
	struct vk_xdp_path *self = vk_xdp(path);
	struct vk_umem *umem = &path->port->umem;

	if (!umem->tx_frames)
		return NULL;
	self->class = class;
	self->refused = 0;
	if (!peer->resolved)
		self->refused = EHOSTUNREACH;
	else if (peer->payload_max > VK_XDP_PAYLOAD_MAX)
		self->refused = EMSGSIZE;
	if (self->refused)
		return self->scratch;
	if (self->reserved == VK_XDP_NO_FRAME) {
		if (!self->free_count)
			reclaim(self);
		if (!self->free_count && self->recovering)
			vk_xdp_reclaim_all(self);
		if (!self->free_count)
			vk_xdp_tx_flush(path);
		if (!self->free_count)
			return NULL;
		self->reserved = self->free[--self->free_count];
	}
	self->head = head_of(self, peer);
	return umem->area + (uint64_t)self->reserved * umem->chunk_size + VK_HEAD_ROOM;
}

void vk_xdp_tx_commit(struct vk_path *path, uint32_t size, int paddable)
{
	struct vk_xdp_path *self = vk_xdp(path);
	struct vk_umem *umem = &path->port->umem;
	const struct vk_xsk_ring *ring = &path->port->xsks[VK_CLASS_CONTROL].tx;
	uint64_t at = (uint64_t)self->reserved * umem->chunk_size + VK_HEAD_ROOM;
	uint32_t head_size;

	(void)paddable; /* every frame is a packet of its own */
	if (self->refused) {
		path->lost[self->class]++;
		path->error = self->refused;
		self->refused = 0;
		return;
	}
	assert(self->reserved != VK_XDP_NO_FRAME && size <= VK_XDP_PAYLOAD_MAX);
	head_size = vk_packet_head_write(self->head, path->port->ds_field[self->class],
					 umem->area + at, size);
	self->frame_class[self->reserved - umem->rx_frames] = (uint8_t)self->class;
	/* TX has an entry for every TX frame: it is never full here. */
	*vk_umem_descriptor(ring, self->producer++) = (struct xdp_desc){
		.addr = at - head_size,
		.len = head_size + size,
	};
	self->reserved = VK_XDP_NO_FRAME;
}
