/* SPDX-License-Identifier: MIT */
/* The loops of the receive benchmark: the sender, the smallest possible receiver, and ours. */
#define _GNU_SOURCE
#include "vk_path.h"
#include "vk_ring.h"
#include "vk_umem.h"

#include <linux/bpf.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <linux/if_xdp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
	LIVE_REPEAT = 1 << 30, /* packets of one syscall: it lasts until the sender is killed */
	LIVE_BATCH = 64,
	DROP_BATCH = 64,
	RING_CAPACITY = 1048576, /* bytes */
	LOST_NS = 100000000, /* a packet that is not back by then goes out again */
};

/* What a receiver has seen. */
struct receive_result {
	uint64_t packets;
	uint64_t bytes; /* of payload that was copied */
	uint64_t elapsed_ns;
	uint64_t ready; /* 1 once it receives */
};

int receive_send(int program, uint8_t *packet, uint32_t size, int cpu);
int receive_drop(struct vk_port *port, uint64_t duration_ns, int cpu,
		 struct receive_result *result);
int receive_transmit(struct vk_port *port, const uint8_t *packet, uint32_t size,
		     uint64_t duration_ns, int cpu, struct receive_result *result);
int receive_echo(struct vk_port *port, int cpu, struct receive_result *result);
int receive_ping(struct vk_port *port, const uint8_t *packet, uint32_t size, uint64_t duration_ns,
		 int cpu, struct receive_result *result, uint64_t *times, uint64_t capacity);
int receive_path(struct vk_port *port, struct vk_port_state *state, uint64_t duration_ns, int cpu,
		 struct receive_result *result);

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* pin takes a processor for itself, as far as it may: what else runs on the machine is not to be
 * measured. */
static void pin(int cpu)
{
	const struct sched_param first = { .sched_priority = 1 };
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof set, &set);
	sched_setscheduler(0, SCHED_FIFO, &first);
}

/* Sends live frames until it is killed. */
int receive_send(int program, uint8_t *packet, uint32_t size, int cpu)
{
	struct xdp_md context = { .data_end = size };
	union bpf_attr attr = {
		.test = {
			.prog_fd = (uint32_t)program,
			.data_in = (uintptr_t)packet,
			.data_size_in = size,
			.ctx_in = (uintptr_t)&context,
			.ctx_size_in = sizeof context,
			.repeat = LIVE_REPEAT,
			.flags = BPF_F_TEST_XDP_LIVE_FRAMES,
			.batch_size = LIVE_BATCH,
		},
	};

	pin(cpu);
	while (!syscall(SYS_bpf, BPF_PROG_TEST_RUN, &attr, sizeof attr))
		;
	return 1;
}

/* The baseline: descriptors go back to FILL as they come; nobody looks at a packet. */
int receive_drop(struct vk_port *port, uint64_t duration_ns, int cpu, struct receive_result *result)
{
	const struct vk_xsk_ring *rx = &port->xsks[VK_CLASS_CONTROL].rx, *fill = &port->umem.fill;
	uint32_t consumer = *rx->consumer, producer = *fill->producer;
	uint64_t mask = ~(uint64_t)(port->umem.chunk_size - 1), start = 0, now = 0;

	pin(cpu);
	VK_STORE_RELEASE(&result->ready, 1);
	for (uint32_t turn = 0;; turn++) {
		uint32_t ready = VK_LOAD_ACQUIRE(rx->producer) - consumer;

		if (ready && !start)
			start = now_ns();
		if (turn % 64 == 0 && start && (now = now_ns()) - start >= duration_ns)
			break;
		if (ready > DROP_BATCH)
			ready = DROP_BATCH;
		if (!ready)
			continue;
		for (uint32_t i = 0; i < ready; i++)
			*vk_umem_address(fill, producer++) =
				vk_umem_descriptor(rx, consumer++)->addr & mask;
		VK_STORE_RELEASE(rx->consumer, consumer);
		VK_STORE_RELEASE(fill->producer, producer);
		result->packets += ready;
	}
	result->elapsed_ns = now - start;
	return 0;
}

/* The most that a socket sends: each frame holds the packet and goes out again when it is back. */
int receive_transmit(struct vk_port *port, const uint8_t *packet, uint32_t size,
		     uint64_t duration_ns, int cpu, struct receive_result *result)
{
	const struct vk_xsk *xsk = &port->xsks[VK_CLASS_CONTROL];
	const struct vk_xsk_ring *tx = &xsk->tx, *back = &port->umem.completion;
	uint32_t producer = *tx->producer, consumer = *back->consumer;
	uint64_t start, now;

	pin(cpu);
	for (uint32_t i = 0; i < port->umem.tx_frames; i++, producer++) {
		uint64_t address = (uint64_t)(port->umem.rx_frames + i) * port->umem.chunk_size;

		memcpy(port->umem.area + address, packet, size);
		*vk_umem_descriptor(tx, producer) = (struct xdp_desc){ address, size, 0 };
	}
	VK_STORE_RELEASE(tx->producer, producer);
	start = now_ns();
	while ((now = now_ns()) - start < duration_ns) {
		uint32_t ready;

		sendto(xsk->fd, NULL, 0, MSG_DONTWAIT, NULL, 0);
		ready = VK_LOAD_ACQUIRE(back->producer) - consumer;
		for (uint32_t i = 0; i < ready; i++, producer++, consumer++)
			*vk_umem_descriptor(tx, producer) =
				(struct xdp_desc){ *vk_umem_address(back, consumer), size, 0 };
		VK_STORE_RELEASE(back->consumer, consumer);
		VK_STORE_RELEASE(tx->producer, producer);
		result->packets += ready;
	}
	result->elapsed_ns = now - start;
	return 0;
}

/* The smallest echo: frames go out again from where they arrived, until it is killed. */
int receive_echo(struct vk_port *port, int cpu, struct receive_result *result)
{
	const struct vk_xsk *xsk = &port->xsks[VK_CLASS_CONTROL];
	const struct vk_xsk_ring *rx = &xsk->rx, *tx = &xsk->tx;
	const struct vk_xsk_ring *back = &port->umem.completion, *fill = &port->umem.fill;
	uint64_t mask = ~(uint64_t)(port->umem.chunk_size - 1);
	uint32_t came = *rx->consumer, out = *tx->producer, done = *back->consumer;
	uint32_t empty = *fill->producer;

	pin(cpu);
	VK_STORE_RELEASE(&result->ready, 1);
	for (;;) {
		uint32_t ready = vk_umem_ready(rx);

		if (!ready)
			continue;
		for (uint32_t i = 0; i < ready; i++)
			*vk_umem_descriptor(tx, out++) = *vk_umem_descriptor(rx, came++);
		VK_STORE_RELEASE(rx->consumer, came);
		VK_STORE_RELEASE(tx->producer, out);
		sendto(xsk->fd, NULL, 0, MSG_DONTWAIT, NULL, 0);
		ready = vk_umem_ready(back);
		for (uint32_t i = 0; i < ready; i++)
			*vk_umem_address(fill, empty++) = *vk_umem_address(back, done++) & mask;
		VK_STORE_RELEASE(back->consumer, done);
		VK_STORE_RELEASE(fill->producer, empty);
	}
}

/* Takes what has arrived; returns whether one was of that size: the kernel sends packets too. */
static bool take(const struct vk_port *port, uint32_t size)
{
	const struct vk_xsk_ring *rx = &port->xsks[VK_CLASS_CONTROL].rx, *fill = &port->umem.fill;
	uint64_t mask = ~(uint64_t)(port->umem.chunk_size - 1);
	uint32_t ready = vk_umem_ready(rx), consumer = *rx->consumer, producer = *fill->producer;
	bool found = false;

	for (uint32_t i = 0; i < ready; i++) {
		const struct xdp_desc *each = vk_umem_descriptor(rx, consumer++);

		found |= each->len == size;
		*vk_umem_address(fill, producer++) = each->addr & mask;
	}
	VK_STORE_RELEASE(rx->consumer, consumer);
	VK_STORE_RELEASE(fill->producer, producer);
	return found;
}

/* Round trips to an echo, one packet at a time. */
int receive_ping(struct vk_port *port, const uint8_t *packet, uint32_t size, uint64_t duration_ns,
		 int cpu, struct receive_result *result, uint64_t *times, uint64_t capacity)
{
	const struct vk_xsk *xsk = &port->xsks[VK_CLASS_CONTROL];
	const struct vk_xsk_ring *tx = &xsk->tx, *back = &port->umem.completion;
	uint64_t address = (uint64_t)port->umem.rx_frames * port->umem.chunk_size;
	uint64_t start = now_ns(), sent = start, now = start;
	uint32_t producer = *tx->producer;

	pin(cpu);
	memcpy(port->umem.area + address, packet, size);
	for (; now - start < duration_ns && result->packets < capacity; sent = now_ns()) {
		*vk_umem_descriptor(tx, producer++) = (struct xdp_desc){ address, size, 0 };
		VK_STORE_RELEASE(tx->producer, producer);
		sendto(xsk->fd, NULL, 0, MSG_DONTWAIT, NULL, 0);
		while (!take(port, size) && now_ns() - sent < LOST_NS)
			;
		now = now_ns();
		VK_STORE_RELEASE(back->consumer, VK_LOAD_ACQUIRE(back->producer));
		if (now - sent < LOST_NS)
			times[result->packets++] = now - sent;
	}
	result->elapsed_ns = now - start;
	return 0;
}

/* An application's ring whose consumer is always done: the copy is real, the reader is not. */
static int make_ring(struct vk_tx *tx, struct vk_region *regions)
{
	memset(regions, 0, 2 * sizeof *regions);
	*tx = (struct vk_tx){
		.self = &regions[0],
		.peer = &regions[1],
		.data = aligned_alloc(VK_SHM_PAGE, (size_t)2 * RING_CAPACITY),
		.capacity = RING_CAPACITY,
	};
	if (tx->data)
		memset(tx->data, 0, (size_t)2 * RING_CAPACITY);
	return tx->data ? 0 : -1;
}

static void deliver(struct vk_tx *tx, const struct vk_rx_frame *frames, int count,
		    struct receive_result *result)
{
	for (int i = 0; i < count; i++) {
		uint32_t size = frames[i].size - VK_HEADER_SIZE;
		uint8_t *body = vk_tx_reserve(tx, size);

		if (!body)
			continue;
		memcpy(body, frames[i].data + VK_HEADER_SIZE, size);
		vk_tx_commit(tx, size, VK_RECORD_RAW);
		result->bytes += size;
		result->packets++;
	}
	vk_tx_publish(tx);
}

/* Ours: all classes by priority, each frame located and its payload copied into a ring. */
int receive_path(struct vk_port *port, struct vk_port_state *state, uint64_t duration_ns, int cpu,
		 struct receive_result *result)
{
	struct vk_rx_frame frames[VK_RX_BATCH];
	struct vk_region regions[2];
	uint32_t recovered;
	struct vk_path *path = vk_path_xdp_open(port, state, &recovered);
	uint64_t start = 0, now = 0;
	struct vk_tx tx;

	if (!path || make_ring(&tx, regions))
		return 1;
	pin(cpu);
	VK_STORE_RELEASE(&result->ready, 1);
	for (uint32_t turn = 0;; turn++) {
		if (turn % 16 == 0 && start && (now = now_ns()) - start >= duration_ns)
			break;
		for (uint32_t class = 0; class < VK_CLASS_COUNT; class ++) {
			int count = path->ops->rx(path, class, frames, VK_RX_BATCH);

			if (count <= 0)
				continue;
			if (!start)
				start = now_ns();
			deliver(&tx, frames, count, result);
			path->ops->rx_done(path, class);
			regions[1].head[0] = tx.tail; /* the reader is done at once */
		}
	}
	result->elapsed_ns = now - start;
	free(tx.data);
	path->ops->close(path);
	return 0;
}
