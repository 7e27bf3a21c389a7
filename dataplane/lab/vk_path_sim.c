/* SPDX-License-Identifier: MIT */
#include "vk_path_sim.h"

#include <stdlib.h>
#include <string.h>

struct inbox {
	struct vk_sim_packet *packets[VK_SIM_INBOX];
	uint32_t count;
	uint32_t next;
};

struct sim {
	struct vk_path path;
	struct vk_sim_kernel *kernel;
	struct inbox inboxes[VK_CLASS_COUNT];
	struct vk_sim_packet *held[VK_RX_BATCH]; /* between rx and rx_done */
	uint32_t held_count;
	struct vk_sim_packet *reserved;
	const struct vk_peer *peer; /* of the reservation */
	const uint8_t *body; /* its end is lent */
	uint32_t body_size;
	struct {
		const struct vk_peer *peer;
		struct vk_sim_packet *packet;
		const uint8_t *body;
		uint32_t body_size;
	} kept[VK_SIM_KEPT_MAX];
	uint32_t kept_count;
};

struct vk_sim_packet *vk_sim_take(struct vk_sim_pool *pool)
{
	struct vk_sim_packet *packet = pool->free;

	if (packet)
		pool->free = packet->next;
	else
		packet = malloc(sizeof *packet + pool->room);
	pool->taken += packet != NULL;
	return packet;
}

void vk_sim_give(struct vk_sim_pool *pool, struct vk_sim_packet *packet)
{
	packet->next = pool->free;
	pool->free = packet;
	pool->taken--;
}

void vk_sim_pool_free(struct vk_sim_pool *pool)
{
	while (pool->free) {
		struct vk_sim_packet *packet = pool->free;

		pool->free = packet->next;
		free(packet);
	}
}

int vk_sim_deliver(struct vk_sim_kernel *kernel, struct vk_sim_packet *packet)
{
	struct vk_sim_socket *socket = &kernel->sockets[packet->class];

	if (socket->count >= kernel->socket_frames) {
		socket->dropped++;
		vk_sim_give(kernel->pool, packet);
		return 0;
	}
	if (!socket->count++)
		socket->last = &socket->first;
	packet->next = NULL;
	*socket->last = packet;
	socket->last = &packet->next;
	return 1;
}

static struct vk_sim_packet *pop(struct vk_sim_socket *socket)
{
	struct vk_sim_packet *packet = socket->first;

	socket->first = packet->next;
	socket->count--;
	return packet;
}

void vk_sim_empty(struct vk_sim_kernel *kernel)
{
	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++) {
		while (kernel->sockets[c].count)
			vk_sim_give(kernel->pool, pop(&kernel->sockets[c]));
	}
}

static void describe(struct vk_rx_frame *frame, const struct vk_sim_packet *packet)
{
	*frame = (struct vk_rx_frame){
		.data = packet->data,
		.size = packet->size,
		.family = 4,
		.source_port = packet->source_port,
		.class = packet->class,
		.came_ns = packet->at_ns,
		.ce = packet->marked,
	};
	memcpy(frame->source, packet->source, sizeof frame->source);
}

/* A worker may be killed wherever it uses its path. */
static void die_here(struct vk_sim_kernel *kernel)
{
	if (kernel->die_after && !--kernel->die_after)
		kernel->die(kernel->context);
}

static int sim_rx(struct vk_path *path, uint32_t class, struct vk_rx_frame *frames, int max)
{
	struct sim *sim = (struct sim *)path;
	struct vk_sim_socket *socket = &sim->kernel->sockets[class];
	struct inbox *inbox = &sim->inboxes[class];
	uint32_t count = 0;

	die_here(sim->kernel);
	if (inbox->next == inbox->count) {
		inbox->next = inbox->count = 0;
		while (!path->draining && inbox->count < VK_SIM_INBOX && socket->count)
			inbox->packets[inbox->count++] = pop(socket);
		path->taken_ns = sim->kernel->now_ns;
	}
	while (count < (uint32_t)max && inbox->next < inbox->count) {
		struct vk_sim_packet *packet = inbox->packets[inbox->next++];

		sim->held[count] = packet;
		describe(&frames[count++], packet);
	}
	sim->held_count = count;
	sim->kernel->moved += count;
	return (int)count;
}

static void sim_rx_done(struct vk_path *path, uint32_t class)
{
	struct sim *sim = (struct sim *)path;

	(void)class;
	die_here(sim->kernel);
	while (sim->held_count)
		vk_sim_give(sim->kernel->pool, sim->held[--sim->held_count]);
}

static int sim_tx_flush(struct vk_path *path)
{
	struct sim *sim = (struct sim *)path;
	struct vk_sim_kernel *kernel = sim->kernel;

	uint32_t count = sim->kept_count;

	kernel->moved += count;
	kernel->kept_bytes = 0;
	sim->kept_count = 0;
	for (uint32_t i = 0; i < count; i++) {
		struct vk_sim_packet *packet = sim->kept[i].packet;

		if (sim->kept[i].body_size)
			memcpy(packet->data + packet->size - sim->kept[i].body_size,
			       sim->kept[i].body, sim->kept[i].body_size);
		kernel->transmit(kernel->context, sim->kept[i].peer, packet);
	}
	path->sent += count;
	die_here(kernel);
	return 0;
}

static uint8_t *sim_tx_reserve(struct vk_path *path, const struct vk_peer *peer, uint32_t class)
{
	struct sim *sim = (struct sim *)path;

	if (sim->kept_count == VK_SIM_KEPT_MAX)
		sim_tx_flush(path);
	die_here(sim->kernel);
	if (!sim->kernel->ready(sim->kernel->context, peer))
		return NULL;
	if (!sim->reserved)
		sim->reserved = vk_sim_take(sim->kernel->pool);
	if (!sim->reserved)
		return NULL;
	sim->reserved->class = (uint16_t)class;
	sim->peer = peer;
	sim->body_size = 0;
	return sim->reserved->data;
}

static void sim_tx_lend(struct vk_path *path, const uint8_t *body, uint32_t size)
{
	struct sim *sim = (struct sim *)path;

	sim->body = body;
	sim->body_size = size;
}

static void sim_tx_commit(struct vk_path *path, uint32_t size, int paddable)
{
	struct sim *sim = (struct sim *)path;

	(void)paddable;
	if (size > sim->kernel->pool->room)
		abort(); /* memory behind it is spoilt */
	sim->reserved->size = size;
	sim->kernel->kept_bytes += size;
	sim->kept[sim->kept_count].peer = sim->peer;
	sim->kept[sim->kept_count].body = sim->body;
	sim->kept[sim->kept_count].body_size = sim->body_size;
	sim->kept[sim->kept_count++].packet = sim->reserved;
	sim->reserved = NULL;
}

static uint32_t sim_tx_row(struct vk_path *path, const struct vk_peer *peer, uint32_t class,
			   uint32_t head, const uint8_t *body, uint32_t size, uint32_t count,
			   uint8_t **heads)
{
	struct sim *sim = (struct sim *)path;
	uint32_t taken = 0;

	for (count = count < VK_TX_ROW ? count : VK_TX_ROW; taken < count; taken++) {
		/* The heads are written behind this: none may leave before. */
		if (taken && sim->kept_count == VK_SIM_KEPT_MAX)
			break;
		heads[taken] = sim_tx_reserve(path, peer, class);
		if (!heads[taken])
			break;
		sim_tx_lend(path, body + (size_t)taken * size, size);
		sim_tx_commit(path, head + size, 0);
	}
	return taken;
}

static int sim_fds(struct vk_path *path, int *fds, int max)
{
	(void)path;
	(void)fds;
	(void)max;
	return 0;
}

static void sim_close(struct vk_path *path)
{
	struct sim *sim = (struct sim *)path;
	struct vk_sim_pool *pool = sim->kernel->pool;

	while (sim->held_count)
		vk_sim_give(pool, sim->held[--sim->held_count]);
	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++) {
		struct inbox *inbox = &sim->inboxes[c];

		while (inbox->next < inbox->count)
			vk_sim_give(pool, inbox->packets[inbox->next++]);
	}
	while (sim->kept_count)
		vk_sim_give(pool, sim->kept[--sim->kept_count].packet);
	sim->kernel->kept_bytes = 0;
	if (sim->reserved)
		vk_sim_give(pool, sim->reserved);
	free(sim);
}

static const struct vk_path_ops sim_ops = {
	.name = "sim",
	.rx = sim_rx,
	.rx_done = sim_rx_done,
	.tx_reserve = sim_tx_reserve,
	.tx_lend = sim_tx_lend,
	.tx_commit = sim_tx_commit,
	.tx_row = sim_tx_row,
	.tx_flush = sim_tx_flush,
	.fds = sim_fds,
	.close = sim_close,
};

struct vk_path *vk_path_sim_open(struct vk_sim_kernel *kernel, struct vk_port *port,
				 struct vk_port_state *state)
{
	struct sim *sim = calloc(1, sizeof *sim);

	if (!sim)
		return NULL;
	sim->path = (struct vk_path){ .ops = &sim_ops, .port = port, .state = state };
	sim->kernel = kernel;
	return &sim->path;
}
