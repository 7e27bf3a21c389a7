/* SPDX-License-Identifier: MIT */
/* The rig of worker_rig.h: the worker's own code, stepped, over a wire in memory. */
#define _GNU_SOURCE
#include "worker_rig.h"

#include "vk_row.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct rig_node rig_nodes[RIG_NODES];
struct rig_net rig_net;
uint64_t rig_now_ns = 1000000000000;
struct rig_frame rig_log[RIG_WIRE_MAX];
uint32_t rig_log_count;

static int rig_clock(clockid_t clock, struct timespec *now)
{
	(void)clock;
	now->tv_sec = (time_t)(rig_now_ns / 1000000000);
	now->tv_nsec = (long)(rig_now_ns % 1000000000);
	return 0;
}

#define clock_gettime rig_clock
#include "vk_worker.c"

/* What lies in a node's socket of a class. */
struct queue {
	struct vk_rx_frame frames[RIG_WIRE_MAX];
	uint32_t count;
};

enum { INBOX_MAX = 48 };

/* Frames that a path has taken from its socket and not handed out. */
struct inbox {
	struct vk_rx_frame frames[INBOX_MAX];
	uint32_t count;
	uint32_t next;
};

struct loop {
	struct vk_path path;
	struct inbox inboxes[VK_CLASS_COUNT];
	uint32_t node;
	uint8_t *reserved;
	uint32_t reserved_size;
	uint32_t class;
	struct rig_frame kept[256];
	uint32_t kept_count;
	uint8_t *held[VK_RX_BATCH];
	int held_count;
};

static struct queue queues[RIG_NODES][VK_CLASS_COUNT];
static uint64_t random_state = 1;

void rig_seed(uint64_t seed)
{
	random_state = seed * 2 + 1;
}

uint32_t rig_random(void)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u; /* PCG's */
	return (uint32_t)(random_state >> 33);
}

static int chance(uint32_t thousandths)
{
	return rig_random() % 1000 < thousandths;
}

static void address_of(uint32_t node, uint8_t address[16])
{
	memset(address, 0, 16);
	address[0] = 10;
	address[3] = (uint8_t)(node + 1);
}

static uint8_t *copy_of(const uint8_t *data, uint32_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	if (size)
		memcpy(copy, data, size);
	return copy;
}

void rig_inject(uint32_t node, uint32_t class, const uint8_t *data, uint32_t size, uint32_t family,
		const uint8_t source[16])
{
	struct queue *queue = &queues[node][class];
	struct vk_rx_frame *frame = &queue->frames[queue->count];

	if (queue->count == RIG_WIRE_MAX)
		return;
	*frame = (struct vk_rx_frame){
		.data = copy_of(data, size),
		.size = size,
		.family = family,
		.source_port = VK_PORT,
		.class = (uint16_t)class,
	};
	memcpy(frame->source, source, 16);
	queue->count++;
}

static void transmit(struct rig_frame *frame)
{
	uint8_t source[16];

	address_of(frame->from, source);
	frame->fate = chance(rig_net.loss) ? 0 : chance(rig_net.twice) ? 2 : 1;
	for (uint32_t i = 0; i < frame->fate; i++)
		rig_inject(!frame->from, frame->class, frame->data, frame->size, 4, source);
	if (rig_log_count < RIG_WIRE_MAX)
		rig_log[rig_log_count++] = *frame;
	else
		free(frame->data);
}

/* Takes a few frames from the socket into the path, as recvmmsg takes super-packets. */
static void fill_inbox(struct inbox *inbox, struct queue *queue)
{
	while (inbox->count < INBOX_MAX && queue->count) {
		uint32_t at = 0;

		if (queue->count > 1 && chance(rig_net.reorder))
			at = rig_random() % (queue->count < 8 ? queue->count : 8);
		inbox->frames[inbox->count++] = queue->frames[at];
		memmove(&queue->frames[at], &queue->frames[at + 1],
			(--queue->count - at) * sizeof queue->frames[0]);
	}
}

static int loop_rx(struct vk_path *path, uint32_t class, struct vk_rx_frame *frames, int max)
{
	struct loop *loop = (struct loop *)path;
	struct inbox *inbox = &loop->inboxes[class];

	if (inbox->next == inbox->count) {
		inbox->next = inbox->count = 0;
		if (!path->draining)
			fill_inbox(inbox, &queues[loop->node][class]);
	}
	for (loop->held_count = 0; loop->held_count < max && inbox->next < inbox->count;
	     loop->held_count++) {
		frames[loop->held_count] = inbox->frames[inbox->next++];
		loop->held[loop->held_count] = (uint8_t *)(uintptr_t)frames[loop->held_count].data;
	}
	return loop->held_count;
}

static void loop_rx_done(struct vk_path *path, uint32_t class)
{
	struct loop *loop = (struct loop *)path;

	(void)class;
	while (loop->held_count)
		free(loop->held[--loop->held_count]);
}

static uint8_t *loop_tx_reserve(struct vk_path *path, const struct vk_peer *peer, uint32_t class)
{
	struct loop *loop = (struct loop *)path;

	if (rig_net.room && queues[!loop->node][class].count + loop->kept_count >= rig_net.room)
		return NULL;
	if (loop->kept_count == sizeof loop->kept / sizeof loop->kept[0])
		path->ops->tx_flush(path);
	free(loop->reserved);
	loop->reserved = malloc(peer->payload_max);
	loop->reserved_size = peer->payload_max;
	loop->class = class;
	return loop->reserved;
}

static void loop_tx_commit(struct vk_path *path, uint32_t size, int paddable)
{
	struct loop *loop = (struct loop *)path;
	uint32_t more = paddable && chance(rig_net.pad) ? rig_random() % 200 : 0;

	if (size > loop->reserved_size)
		abort();
	if (size + more > loop->reserved_size)
		more = loop->reserved_size - size;
	memset(loop->reserved + size, 0, more);
	if (more)
		vk_put32(loop->reserved + offsetof(struct vk_header, length),
			 vk_get32(loop->reserved + offsetof(struct vk_header, length)) + more);
	loop->kept[loop->kept_count++] = (struct rig_frame){
		.data = copy_of(loop->reserved, size + more),
		.size = size + more,
		.class = (uint8_t)loop->class,
		.from = (uint8_t)loop->node,
	};
	free(loop->reserved);
	loop->reserved = NULL;
}

static int loop_tx_flush(struct vk_path *path)
{
	struct loop *loop = (struct loop *)path;

	for (uint32_t i = 0; i < loop->kept_count; i++)
		transmit(&loop->kept[i]);
	loop->kept_count = 0;
	return 0;
}

static int loop_fds(struct vk_path *path, int *fds, int max)
{
	(void)path;
	(void)fds;
	(void)max;
	return 0;
}

static void loop_close(struct vk_path *path)
{
	struct loop *loop = (struct loop *)path;

	free(loop->reserved);
	for (uint32_t i = 0; i < loop->kept_count; i++)
		free(loop->kept[i].data);
	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++) {
		struct inbox *inbox = &loop->inboxes[c];

		while (inbox->next < inbox->count)
			free((uint8_t *)(uintptr_t)inbox->frames[inbox->next++].data);
	}
	free(loop);
}

static const struct vk_path_ops loop_ops = {
	.name = "loop",
	.rx = loop_rx,
	.rx_done = loop_rx_done,
	.tx_reserve = loop_tx_reserve,
	.tx_commit = loop_tx_commit,
	.tx_flush = loop_tx_flush,
	.fds = loop_fds,
	.close = loop_close,
};

struct vk_path *vk_path_udp_open(struct vk_port *port, struct vk_port_state *state)
{
	struct loop *loop = calloc(1, sizeof *loop);

	if (!loop)
		abort();
	loop->path = (struct vk_path){ .ops = &loop_ops, .port = port, .state = state };
	loop->node = port->ifindex;
	return &loop->path;
}

struct vk_path *vk_path_xdp_open(struct vk_port *port, struct vk_port_state *state,
				 uint32_t *recovered)
{
	*recovered = 0;
	return vk_path_udp_open(port, state);
}

static void pair(int *ours, int *theirs)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		abort();
	*ours = ends[0];
	*theirs = ends[1];
}

void rig_open(uint32_t number)
{
	struct rig_node *node = &rig_nodes[number];
	struct vk_peer *peer;

	node->boot = calloc(1, sizeof *node->boot);
	node->state = calloc(1, sizeof *node->state);
	node->boot->state = node->state;
	node->boot->work = calloc(1, sizeof *node->boot->work);
	node->boot->counters = calloc(1, sizeof *node->boot->counters);
	node->boot->cpu = -1;
	node->boot->port_count = 1;
	node->boot->ports[0] = (struct vk_port){
		.ifindex = number, .rx_path = VK_PATH_UDP, .tx_path = VK_PATH_UDP, .mtu = 1500
	};
	pair(&node->broker, &node->boot->control_fd);
	pair(&node->python, &node->boot->python_fd);
	for (uint32_t i = 0; i < RIG_APPS; i++) {
		node->boot->slots[i].map_size = 64 << 20;
		node->boot->slots[i].region_d = vk_channel_reserve(64 << 20);
		node->boot->slots[i].region_a = vk_channel_reserve(64 << 20);
	}
	node->state->daemon_heartbeat_ns = rig_now_ns;
	node->state->params = *vk_engine_params();
	peer = &node->state->peers[0];
	peer->state = VK_ROW_LIVE;
	peer->family = 4;
	peer->generation = 1;
	peer->payload_max = 1472;
	peer->joined = 1;
	address_of(!number, peer->address);
	vk_peer_news(node->state, 0);
}

void rig_start(uint32_t number, int recover)
{
	struct rig_node *node = &rig_nodes[number];

	node->boot->recover = (uint32_t)recover;
	node->run = calloc(1, sizeof *node->run);
	if (!node->run || start(node->run, node->boot))
		abort();
}

static void forget(struct rig_node *node)
{
	close_paths(node->run);
	vk_engine_free(node->run);
	free(node->run);
	node->run = NULL;
}

void rig_kill(uint32_t number)
{
	forget(&rig_nodes[number]);
}

void rig_stop(uint32_t number)
{
	struct vk_order order = { .kind = VK_ORDER_STOP };
	struct rig_node *node = &rig_nodes[number];

	if (send(node->broker, &order, sizeof order, 0) != sizeof order || obey(node->run) ||
	    !node->run->stopping)
		abort();
	leave(node->run);
	forget(node);
}

int rig_turn(uint32_t number)
{
	struct rig_node *node = &rig_nodes[number];
	uint32_t kept;

	node->state->daemon_heartbeat_ns = rig_now_ns;
	return turn(node->run, &kept);
}

static int give(struct rig_node *node, const struct vk_order *order, const int *fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(4 * sizeof(int))];
	} control = { 0 };
	struct iovec part = { .iov_base = (void *)(uintptr_t)order, .iov_len = sizeof *order };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	struct vk_order answer;

	if (fds) {
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof control.bytes;
		control.align = (struct cmsghdr){ .cmsg_len = CMSG_LEN(4 * sizeof(int)),
						  .cmsg_level = SOL_SOCKET,
						  .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(&control.align), fds, 4 * sizeof *fds);
	}
	if (sendmsg(node->broker, &message, 0) < 0 || obey(node->run))
		abort();
	if (order->kind == VK_ORDER_DETACH && node->run->slots[order->slot].leaving_ns) {
		uint32_t kept;

		while (node->run->slots[order->slot].leaving_ns) {
			for (int i = 0; i < RIG_NODES; i++)
				if (rig_nodes[i].run)
					turn(rig_nodes[i].run, &kept);
			rig_now_ns += 10000000;
		}
	}
	do {
		if (recv(node->broker, &answer, sizeof answer, MSG_DONTWAIT) != sizeof answer)
			abort();
	} while (answer.kind != order->kind);
	return answer.result;
}

int rig_attach(uint32_t number, uint32_t slot, uint32_t ring_size, const struct vk_app *row)
{
	struct rig_node *node = &rig_nodes[number];
	struct rig_app *app = &node->apps[slot];
	struct vk_order order = { .kind = VK_ORDER_ATTACH, .slot = slot };
	int fds[4], bell[2], result;

	order.generation = ++app->generation;
	app->capacity[VK_CLASS_CONTROL] = VK_CONTROL_RING;
	for (uint32_t c = VK_CLASS_CRITICAL; c < VK_CLASS_COUNT; c++)
		app->capacity[c] = row->class_mask & 1u << c ? ring_size : 0;
	node->state->apps[slot] = *row;
	node->state->apps[slot].sequence = 2 * app->generation;
	node->state->apps[slot].generation = app->generation;
	node->state->reach[slot].peers[0] = UINT8_MAX;
	for (int i = 0; i < 2; i++)
		fds[i] = vk_channel_create(app->capacity, VK_CLASS_COUNT, app->generation);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, bell))
		abort();
	fds[2] = bell[0];
	fds[3] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	app->self = vk_channel_map(fds[1], app->capacity, 1, NULL);
	app->peer = vk_channel_map(fds[0], app->capacity, 0, NULL);
	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++) {
		if (app->capacity[c] &&
		    (vk_tx_open(&app->tx[c], app->self, app->peer, app->capacity, c) ||
		     vk_rx_open(&app->rx[c], app->self, app->peer, app->capacity, c)))
			abort();
	}
	result = give(node, &order, fds);
	for (int i = 0; i < 4; i++)
		close(fds[i]);
	if (app->generation > 1)
		close(app->bell);
	app->bell = bell[1];
	node->boot->slots[slot].attached = result == 0;
	return result;
}

int rig_detach(uint32_t number, uint32_t slot)
{
	struct rig_node *node = &rig_nodes[number];
	struct vk_order order = { .kind = VK_ORDER_DETACH,
				  .slot = slot,
				  .generation = node->apps[slot].generation };

	node->boot->slots[slot].attached = 0;
	return give(node, &order, NULL);
}

void rig_unmap(uint32_t number, uint32_t slot)
{
	struct rig_app *app = &rig_nodes[number].apps[slot];

	vk_channel_unmap(app->self, app->capacity, 0);
	vk_channel_unmap((struct vk_region *)(uintptr_t)app->peer, app->capacity, 0);
}

void rig_service(uint32_t number, uint32_t slot, const char *name)
{
	struct rig_node *node = &rig_nodes[number];
	struct vk_service *service = node->state->services;

	while (service->state)
		service++;
	service->app = (uint16_t)slot;
	service->app_generation = node->apps[slot].generation;
	service->name_size = (uint8_t)strlen(name);
	memcpy(service->name, name, service->name_size);
	service->state = VK_ROW_LIVE;
}

uint32_t rig_news(uint32_t number, uint32_t *slot)
{
	struct vk_order order;

	if (recv(rig_nodes[number].broker, &order, sizeof order, MSG_DONTWAIT) != sizeof order)
		return 0;
	*slot = order.slot;
	return order.kind;
}
