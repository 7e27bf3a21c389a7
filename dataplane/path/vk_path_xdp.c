/* SPDX-License-Identifier: MIT */
/* The receiving half of the AF_XDP path, and its opening. Crash safety: a batch is processed in
 * place, then moved from its RX ring to FILL under an intent (vk_port_state) that tells the next
 * worker how far the move got. */
#define _GNU_SOURCE
#include "vk_path_xdp.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
	PREFETCH = 4, /* frames ahead */
	IDLE_REGAIN = 16, /* empty receives before the first look at a class's credit, then 2x */
	REGAIN_NS = 1000000, /* at least between two looks */
	IDLE_PROBE = 4096, /* empty receives between looks at the port's health */
	RECOVER_NS = 100000000, /* bound of the wait for a dead worker's frames */
	RECOVER_STEP_NS = 200000,
};

/* regain gives back the credit that failed redirects have spent, when an empty ring's class has
 * less than half of its credit left. */
static void regain(const struct vk_port *port, uint32_t class)
{
	struct vk_lane *lane = &port->lanes[class];
	uint64_t half = port->xsks[class].rx.size / 2;
	uint64_t used = VK_LOAD_RELAXED(&lane->used);

	if ((int64_t)(used + half - lane->granted) <= 0)
		return;
	vk_xsk_grant(port);
	/* A failure that the kernel does not count; packets on their way make this too generous
	 * by a NAPI batch at most. */
	if ((int64_t)(used + half - lane->granted) > 0)
		VK_STORE_RELEASE(&lane->granted, used + 2 * half);
}

/* regain_due says whether the last look at a class's credit is old enough for another one. */
static int regain_due(struct vk_xdp_receive *receive)
{
	uint64_t now_ns = vk_path_clock();

	if (now_ns - receive->looked_ns < REGAIN_NS)
		return 0;
	receive->looked_ns = now_ns;
	return 1;
}

/* idle is what an empty receive does now and then: wake a driver that waits for FILL, regain
 * credit, find out whether the port is gone. */
static int idle(struct vk_xdp_path *self, uint32_t class)
{
	const struct vk_port *port = self->path.port;
	int fd = port->xsks[class].fd;
	uint32_t times;

	if (port->xdp_mode == VK_XDP_ZERO_COPY && vk_umem_wakeup(&port->umem.fill)) {
		self->path.syscalls_rx++;
		recvfrom(fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
	}
	times = ++self->receive[class].idle;
	/* Ever more rarely: the look takes a line away from the program's processor, which wants it
	 * for the next packet. A worker that waits for each burst would look all the time. */
	if (port->lanes && times >= IDLE_REGAIN && !(times & (times - 1)) &&
	    regain_due(&self->receive[class]))
		regain(port, class);
	if (class != VK_CLASS_CONTROL || times % IDLE_PROBE)
		return 0;
	self->path.syscalls_rx++;
	if (recvfrom(fd, NULL, 0, MSG_DONTWAIT, NULL, NULL) < 0 && errno == ENXIO) {
		self->path.error = ENXIO;
		return -ENXIO;
	}
	return 0;
}

static void xdp_rx_done(struct vk_path *path, uint32_t class);

/* prefetch brings headers close, and the rest of a packet for its one copy only: another processor
 * wrote it, and one packet after the other would wait for its lines. That processor writes whole
 * lines into the frame next time, and is much faster when we have not kept the old ones. */
static void prefetch(const struct vk_port *port, uint32_t class, uint32_t index)
{
	const struct xdp_desc *next = vk_umem_descriptor(&port->xsks[class].rx, index);
	const uint8_t *start = port->umem.area + next->addr - sizeof(struct vk_meta);

	__builtin_prefetch(start);
	__builtin_prefetch(start + VK_LINE);
	for (uint32_t at = 2 * VK_LINE; at < next->len + sizeof(struct vk_meta); at += VK_LINE)
		__builtin_prefetch(start + at, 0, 0);
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
	struct vk_xdp_path *self = vk_xdp(path);
	const struct vk_port *port = path->port;
	const struct vk_xsk_ring *ring = &port->xsks[class].rx;
	struct vk_xdp_receive *receive = &self->receive[class];
	uint32_t ready, count = 0;

	if (!ring->size || max <= 0 || path->draining)
		return 0;
	assert(!receive->held);
	/* Acquire pairs with the kernel's release in xsk_flush. */
	ready = __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE) - receive->consumer;
	if (!ready)
		return idle(self, class);
	path->taken_ns = vk_path_clock();
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
	struct vk_xdp_receive *receive = &vk_xdp(path)->receive[class];
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
	if (port->lanes)
		VK_STORE_RELEASE(&port->lanes[class].granted, port->lanes[class].granted + count);
}

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
	struct vk_xdp_path *self = vk_xdp(path);

	if (path->port->umem.tx_frames)
		vk_xdp_tx_flush(path);
	free(self->free);
	free(self->frame_class);
	free(self);
}

static const struct vk_path_ops xdp_ops = {
	.name = "xdp",
	.rx = xdp_rx,
	.rx_done = xdp_rx_done,
	.tx_reserve = vk_xdp_tx_reserve,
	.tx_commit = vk_xdp_tx_commit,
	.tx_flush = vk_xdp_tx_flush,
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
static uint32_t recover_send(struct vk_xdp_path *self)
{
	struct vk_port *port = self->path.port;
	const struct vk_xsk_ring *ring = &port->xsks[VK_CLASS_CONTROL].tx;
	const struct timespec step = { .tv_nsec = RECOVER_STEP_NS };
	uint32_t left;

	if (!port->umem.tx_frames)
		return 0;
	self->recovering = 1;
	self->producer = *ring->producer;
	left = vk_xdp_outstanding(port);
	for (int tries = 0; vk_xdp_reclaim_all(self) && tries < RECOVER_NS / RECOVER_STEP_NS;
	     tries++)
		nanosleep(&step, NULL);
	self->consumer = *ring->consumer;
	return self->producer ? port->umem.tx_frames - left : 0;
}

struct vk_path *vk_path_xdp_open(struct vk_port *port, struct vk_port_state *state,
				 uint32_t *recovered)
{
	struct vk_xdp_path *self;

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
	self->reserved = VK_XDP_NO_FRAME;
	*recovered = finish_move(port, state);
	vk_xsk_grant(port);
	for (int class = 0; class < VK_CLASS_COUNT; class ++)
		if (port->xsks[class].rx.size)
			self->receive[class].consumer = *port->xsks[class].rx.consumer;
	*recovered += recover_send(self);
	return &self->path;
}
