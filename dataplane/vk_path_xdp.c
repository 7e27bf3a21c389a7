/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
/* The AF_XDP path. Crash safety of receive: a batch is processed in place, then moved from its RX
 * ring to FILL under an intent (vk_port_state) that tells the next worker how far the move got.
 * Of send: a TX frame is free when it is in no ring and not in the kernel; the next worker knows
 * that once every published descriptor has come back as a completion. */
#include "vk_packet.h"
#include "vk_ring.h"
#include "vk_umem.h"
#include "vk_xsk.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
	HEADS = 64, /* peers whose headers are kept ready; more share slots */
	PREFETCH = 4, /* frames ahead */
	IDLE_REGAIN = 16, /* empty receives between looks at a class's credit */
	IDLE_PROBE = 4096, /* empty receives between looks at the port's health */
	STALLS_MAX = 4, /* kicks without progress before a flush gives up */
	NO_FRAME = UINT32_MAX,
	RECOVER_NS = 100000000, /* bound of the wait for a dead worker's frames */
	RECOVER_STEP_NS = 200000,
};

struct receive {
	uint32_t consumer;
	uint32_t held; /* frames between rx and rx_done */
	uint32_t idle; /* empty receives */
};

struct head {
	struct vk_peer peer; /* the part that headers are made of */
	struct vk_packet_head head;
};

struct xdp_path {
	struct vk_path path; /* first: the ops get this */
	struct receive receive[VK_CLASS_COUNT];
	uint32_t *free; /* stack of TX frames */
	uint32_t free_count;
	uint8_t *frame_class; /* by TX frame: whose loss it is */
	uint32_t producer; /* TX descriptors written; published by flush */
	uint32_t dropped; /* descriptors lost at TX's head, whose consumer is not published yet */
	uint32_t consumer; /* of TX, as seen last */
	uint32_t lost_ahead; /* lost descriptors that `consumer` has not passed yet */
	uint32_t reserved; /* TX frame number or NO_FRAME */
	uint32_t class; /* of the reservation */
	int refused; /* errno that makes the reservation a loss */
	int recovering; /* frames of a dead worker are still in the kernel */
	const struct vk_packet_head *head;
	struct head heads[HEADS];
	_Alignas(8) uint8_t scratch[65536]; /* for datagrams that will be lost */
};

static struct xdp_path *xdp(struct vk_path *path)
{
	return (struct xdp_path *)path;
}

/* ---- Receive ---- */

/* regain gives back the credit that failed redirects have spent, when an empty ring's class has
 * less than half of its credit left. */
static void regain(const struct vk_port *port, uint32_t class)
{
	struct vk_credit *credit = &port->credits[class];
	uint64_t half = port->xsks[class].rx.size / 2;
	uint64_t used = VK_LOAD_RELAXED(&credit->used);

	if ((int64_t)(used + half - credit->granted) <= 0)
		return;
	vk_xsk_grant(port);
	/* A failure that the kernel does not count; packets on their way make this too generous
	 * by a NAPI batch at most. */
	if ((int64_t)(used + half - credit->granted) > 0)
		VK_STORE_RELEASE(&credit->granted, used + 2 * half);
}

/* idle is what an empty receive does now and then: wake a driver that waits for FILL, regain
 * credit, find out whether the port is gone. */
static int idle(struct xdp_path *self, uint32_t class)
{
	const struct vk_port *port = self->path.port;
	int fd = port->xsks[class].fd;

	if (port->xdp_mode == VK_XDP_ZERO_COPY && vk_umem_wakeup(&port->umem.fill)) {
		self->path.syscalls_rx++;
		recvfrom(fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
	}
	self->receive[class].idle++;
	if (port->credits && self->receive[class].idle % IDLE_REGAIN == 0)
		regain(port, class);
	if (class != VK_CLASS_CONTROL || self->receive[class].idle % IDLE_PROBE)
		return 0;
	self->path.syscalls_rx++;
	if (recvfrom(fd, NULL, 0, MSG_DONTWAIT, NULL, NULL) < 0 && errno == ENXIO) {
		self->path.error = ENXIO;
		return -ENXIO;
	}
	return 0;
}

static void xdp_rx_done(struct vk_path *path, uint32_t class);

static void prefetch(const struct vk_port *port, uint32_t class, uint32_t index)
{
	const struct xdp_desc *next = vk_umem_descriptor(&port->xsks[class].rx, index);
	const uint8_t *packet = port->umem.area + next->addr;

	__builtin_prefetch(packet - sizeof(struct vk_meta));
	__builtin_prefetch(packet);
}

static int locate(const struct vk_port *port, const struct xdp_desc *descriptor,
		  struct vk_rx_frame *frame)
{
	const uint8_t *packet = port->umem.area + descriptor->addr;
	uint32_t room = (uint32_t)descriptor->addr & (port->umem.chunk_size - 1);
	struct vk_meta meta;

	if (room < sizeof meta)
		return vk_packet_locate(packet, descriptor->len, NULL, port->udp_port, frame);
	memcpy(&meta, packet - sizeof meta, sizeof meta);
	return vk_packet_locate(packet, descriptor->len, &meta, port->udp_port, frame);
}

static int xdp_rx(struct vk_path *path, uint32_t class, struct vk_rx_frame *frames, int max)
{
	struct xdp_path *self = xdp(path);
	const struct vk_port *port = path->port;
	const struct vk_xsk_ring *ring = &port->xsks[class].rx;
	struct receive *receive = &self->receive[class];
	uint32_t ready, count = 0;

	if (!ring->size || max <= 0)
		return 0;
	assert(!receive->held);
	/* Acquire pairs with the kernel's release in xsk_flush. */
	ready = __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE) - receive->consumer;
	if (!ready)
		return idle(self, class);
	if (ready > (uint32_t)max)
		ready = (uint32_t)max;
	for (uint32_t i = 0; i < PREFETCH && i < ready; i++)
		prefetch(port, class, receive->consumer + i);
	for (uint32_t i = 0; i < ready; i++) {
		struct vk_rx_frame *frame = &frames[count];

		if (i + PREFETCH < ready)
			prefetch(port, class, receive->consumer + i + PREFETCH);
		if (locate(port, vk_umem_descriptor(ring, receive->consumer + i), frame)) {
			path->invalid[class]++;
			continue;
		}
		frame->class = (uint16_t)class;
		count++;
	}
	receive->held = ready;
	receive->idle = 0;
	if (!count)
		xdp_rx_done(path, class);
	return (int)count;
}

static void xdp_rx_done(struct vk_path *path, uint32_t class)
{
	const struct vk_port *port = path->port;
	const struct vk_xsk_ring *ring = &port->xsks[class].rx, *fill = &port->umem.fill;
	struct vk_port_state *state = path->state;
	struct receive *receive = &xdp(path)->receive[class];
	uint64_t chunk_mask = ~(uint64_t)(port->umem.chunk_size - 1);
	uint32_t producer = *fill->producer, count = receive->held;

	if (!count)
		return;
	state->intent_fill = producer + count;
	state->intent_rx = receive->consumer + count;
	VK_STORE_RELEASE(&state->intent, class + 1);
	/* Nothing below may move above: a crash must find the intent. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	for (uint32_t i = 0; i < count; i++)
		*vk_umem_address(fill, producer + i) =
			vk_umem_descriptor(ring, receive->consumer + i)->addr & chunk_mask;
	VK_STORE_RELEASE(fill->producer, producer + count);
	receive->consumer += count;
	receive->held = 0;
	VK_STORE_RELEASE(ring->consumer, receive->consumer);
	VK_STORE_RELEASE(&state->intent, 0);
	if (port->credits)
		VK_STORE_RELEASE(&port->credits[class].granted,
				 port->credits[class].granted + count);
}

/* ---- Send ---- */

/* reclaim takes completed frames back. */
static void reclaim(struct xdp_path *self)
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

/* outstanding returns the published descriptors that are not completed yet. */
static uint32_t outstanding(const struct vk_port *port)
{
	struct vk_xsk_statistics statistics;
	uint32_t invalid = 0;

	if (!vk_xsk_statistics(port, &statistics))
		invalid = (uint32_t)statistics.tx_invalid;
	return *port->xsks[VK_CLASS_CONTROL].tx.producer - *port->umem.completion.consumer -
	       invalid;
}

/* recover makes all TX frames free once the kernel has completed all of a dead worker's. */
static int recover(struct xdp_path *self)
{
	struct vk_port *port = self->path.port;
	const struct vk_xsk_ring *ring = &port->umem.completion;
	uint32_t left = outstanding(port);

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
static void lose_head(struct xdp_path *self)
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
static uint32_t take_consumer(struct xdp_path *self)
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
static uint32_t kick(struct xdp_path *self)
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

static int xdp_tx_flush(struct vk_path *path)
{
	struct xdp_path *self = xdp(path);
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
static const struct vk_packet_head *head_of(struct xdp_path *self, const struct vk_peer *peer)
{
	struct head *head;
	uint32_t hash;

	memcpy(&hash, peer->address + (peer->family == 6 ? 12 : 0), sizeof hash);
	hash = (hash ^ peer->udp_port) * 2654435761U;
	head = &self->heads[hash >> 26];
	_Static_assert(HEADS == 64, "the hash has six bits");
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

static uint8_t *xdp_tx_reserve(struct vk_path *path, const struct vk_peer *peer, uint32_t class)
{
	struct xdp_path *self = xdp(path);
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
	if (self->reserved == NO_FRAME) {
		if (!self->free_count)
			reclaim(self);
		if (!self->free_count && self->recovering)
			recover(self);
		if (!self->free_count)
			xdp_tx_flush(path);
		if (!self->free_count)
			return NULL;
		self->reserved = self->free[--self->free_count];
	}
	self->head = head_of(self, peer);
	return umem->area + (uint64_t)self->reserved * umem->chunk_size + VK_HEAD_ROOM;
}

static void xdp_tx_commit(struct vk_path *path, uint32_t size, int paddable)
{
	struct xdp_path *self = xdp(path);
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
	assert(self->reserved != NO_FRAME && size <= VK_XDP_PAYLOAD_MAX);
	head_size = vk_packet_head_write(self->head, umem->area + at, size);
	self->frame_class[self->reserved - umem->rx_frames] = (uint8_t)self->class;
	/* TX has an entry for every TX frame: it is never full here. */
	*vk_umem_descriptor(ring, self->producer++) = (struct xdp_desc){
		.addr = at - head_size,
		.len = head_size + size,
	};
	self->reserved = NO_FRAME;
}

/* ---- The path ---- */

static int xdp_fds(struct vk_path *path, int *fds, int max)
{
	int count = 0;

	for (int class = 0; class < VK_CLASS_COUNT && count < max; class ++)
		if (path->port->xsks[class].fd >= 0 && path->port->xsks[class].rx.size)
			fds[count++] = path->port->xsks[class].fd;
	return count;
}

static void xdp_close(struct vk_path *path)
{
	struct xdp_path *self = xdp(path);

	if (path->port->umem.tx_frames)
		xdp_tx_flush(path);
	free(self->free);
	free(self->frame_class);
	free(self);
}

static const struct vk_path_ops xdp_ops = {
	.name = "xdp",
	.rx = xdp_rx,
	.rx_done = xdp_rx_done,
	.tx_reserve = xdp_tx_reserve,
	.tx_commit = xdp_tx_commit,
	.tx_flush = xdp_tx_flush,
	.fds = xdp_fds,
	.close = xdp_close,
};

/* finish_move ends the move of a batch that a dead worker began: when FILL was published, RX
 * follows; when not, nothing has happened. */
static uint32_t finish_move(const struct vk_port *port, struct vk_port_state *state)
{
	uint32_t class = state->intent - 1, count = 0;

	if (state->intent && class < VK_CLASS_COUNT && port->xsks[class].rx.size) {
		const struct vk_xsk_ring *ring = &port->xsks[class].rx;

		count = state->intent_rx - *ring->consumer;
		if (*port->umem.fill.producer == state->intent_fill)
			VK_STORE_RELEASE(ring->consumer, state->intent_rx);
	}
	VK_STORE_RELEASE(&state->intent, 0);
	return count;
}

/* recover_send gives TX frames their owner back, within RECOVER_NS; later, if need be, on
 * reservation. Returns how many frames only the dead worker knew of. */
static uint32_t recover_send(struct xdp_path *self)
{
	struct vk_port *port = self->path.port;
	const struct vk_xsk_ring *ring = &port->xsks[VK_CLASS_CONTROL].tx;
	const struct timespec step = { .tv_nsec = RECOVER_STEP_NS };
	uint32_t left;

	if (!port->umem.tx_frames)
		return 0;
	self->recovering = 1;
	self->producer = *ring->producer;
	left = outstanding(port);
	for (int tries = 0; recover(self) && tries < RECOVER_NS / RECOVER_STEP_NS; tries++)
		nanosleep(&step, NULL);
	self->consumer = *ring->consumer;
	return self->producer ? port->umem.tx_frames - left : 0;
}

struct vk_path *vk_path_xdp_open(struct vk_port *port, struct vk_port_state *state,
				 uint32_t *recovered)
{
	struct xdp_path *self;

	if (!port->umem.area) {
		errno = ENODEV;
		return NULL;
	}
	self = calloc(1, sizeof *self);
	if (!self)
		return NULL;
	self->free = calloc(port->umem.tx_frames + 1, sizeof *self->free);
	self->frame_class = calloc(port->umem.tx_frames + 1, 1);
	if (!self->free || !self->frame_class) {
		free(self->free);
		free(self->frame_class);
		free(self);
		errno = ENOMEM;
		return NULL;
	}
	self->path = (struct vk_path){ .ops = &xdp_ops, .port = port, .state = state };
	self->reserved = NO_FRAME;
	*recovered = finish_move(port, state);
	vk_xsk_grant(port);
	for (int class = 0; class < VK_CLASS_COUNT; class ++)
		if (port->xsks[class].rx.size)
			self->receive[class].consumer = *port->xsks[class].rx.consumer;
	*recovered += recover_send(self);
	return &self->path;
}

/* ---- Census ---- */

struct walk {
	const struct vk_umem *umem;
	uint8_t *seen;
	uint32_t twice;
	uint32_t tx_seen;
};

static void see(struct walk *walk, uint64_t address)
{
	uint64_t frame = address / walk->umem->chunk_size;

	if (frame >= (uint64_t)walk->umem->rx_frames + walk->umem->tx_frames || walk->seen[frame])
		walk->twice++;
	else
		walk->seen[frame] = 1;
	walk->tx_seen += frame >= walk->umem->rx_frames;
}

static uint32_t see_ring(struct walk *walk, const struct vk_xsk_ring *ring, int descriptors)
{
	uint32_t ready = vk_umem_ready(ring);

	for (uint32_t i = 0; i < ready; i++) {
		uint32_t index = *ring->consumer + i;

		see(walk, descriptors ? vk_umem_descriptor(ring, index)->addr :
					*vk_umem_address(ring, index));
	}
	return ready;
}

/* see_private counts what only the worker knows: free frames, and frames in its hands. */
static void see_private(struct walk *walk, const struct xdp_path *self, struct vk_census *census)
{
	const struct vk_xsk_ring *ring = &self->path.port->xsks[VK_CLASS_CONTROL].tx;

	for (uint32_t i = 0; i < self->free_count; i++)
		see(walk, (uint64_t)self->free[i] * walk->umem->chunk_size);
	census->free = self->free_count;
	for (int class = 0; class < VK_CLASS_COUNT; class ++) {
		census->rx[class] -= self->receive[class].held;
		census->held += self->receive[class].held;
	}
	if (self->reserved != NO_FRAME) {
		see(walk, (uint64_t)self->reserved * walk->umem->chunk_size);
		census->held++;
	}
	for (uint32_t i = ring->size ? *ring->producer : self->producer; i != self->producer; i++) {
		see(walk, vk_umem_descriptor(ring, i)->addr);
		census->held++;
	}
}

void vk_path_xdp_census(const struct vk_port *port, const struct vk_path *path,
			struct vk_census *census)
{
	struct walk walk = { .umem = &port->umem };
	uint32_t total = port->umem.rx_frames + port->umem.tx_frames, rings = 0;

	memset(census, 0, sizeof *census);
	walk.seen = calloc(total + 1, 1);
	if (!walk.seen || !port->umem.area) {
		free(walk.seen);
		return;
	}
	census->fill = see_ring(&walk, &port->umem.fill, 0);
	for (int class = 0; class < VK_CLASS_COUNT; class ++) {
		census->rx[class] = see_ring(&walk, &port->xsks[class].rx, 1);
		rings += census->rx[class];
	}
	census->tx = see_ring(&walk, &port->xsks[VK_CLASS_CONTROL].tx, 1);
	census->completion = see_ring(&walk, &port->umem.completion, 0);
	census->kernel = port->umem.rx_frames - census->fill - rings;
	if (path) {
		see_private(&walk, (const struct xdp_path *)path, census);
		census->kernel += port->umem.tx_frames - walk.tx_seen;
	} else if (port->umem.tx_frames) {
		uint32_t sent = outstanding(port) - census->tx - census->completion;

		census->kernel += sent;
		census->free = port->umem.tx_frames - census->tx - census->completion - sent;
	}
	census->twice = walk.twice;
	free(walk.seen);
}
