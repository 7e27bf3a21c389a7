/* SPDX-License-Identifier: MIT */
#ifndef VK_PATH_SIM_H
#define VK_PATH_SIM_H
/* vk_path_sim.h: a path (vk_path.h) whose kernel is a simulation: class sockets with bounded queues
 * that outlive the worker, and a sender that hands datagrams over. What the kernel's program
 * decides is decided already: a packet lies in the socket of its sender's class.
 */
#include "vk_path.h"

enum vk_path_sim_const {
	VK_SIM_INBOX = 32, /* datagrams a path takes from a socket at once, as recvmmsg does */
	VK_SIM_KEPT_MAX = 256, /* committed and not flushed */
};

/* A datagram, from tx_reserve of one node to rx_done of another. */
struct vk_sim_packet {
	struct vk_sim_packet *next; /* in a free list or a socket */
	uint64_t at_ns; /* arrival */
	uint64_t order; /* packets of one time arrive in the order they were sent */
	uint32_t size; /* bytes of UDP payload */
	uint16_t class;
	uint16_t source_port;
	uint8_t from; /* node */
	uint8_t to;
	uint8_t marked; /* CE */
	uint8_t corrupt;
	uint8_t source[16]; /* IPv4 in the first four bytes */
	uint8_t data[] __attribute__((aligned(8)));
};

/* Packets of a simulation that are free, all of one size. */
struct vk_sim_pool {
	struct vk_sim_packet *free;
	uint32_t room; /* bytes of data */
	uint64_t taken; /* packets somewhere else */
};

struct vk_sim_socket {
	struct vk_sim_packet *first;
	struct vk_sim_packet **last;
	uint32_t count;
	uint32_t dropped; /* the queue was full */
};

/* The kernel of one node, as far as a worker sees it. */
struct vk_sim_kernel {
	struct vk_sim_pool *pool;
	struct vk_sim_socket sockets[VK_CLASS_COUNT];
	uint32_t socket_frames; /* that a socket holds */
	/* ready says whether the interface takes a datagram to a peer now, transmit takes it. */
	int (*ready)(void *context, const struct vk_peer *peer);
	void (*transmit)(void *context, const struct vk_peer *peer, struct vk_sim_packet *packet);
	void *context;
	uint64_t kept_bytes; /* committed and not flushed */
	uint64_t now_ns; /* time of the simulation: a path's clock */
	uint64_t moved; /* datagrams that workers took or sent */
	uint32_t die_after; /* calls of a path until `die`, which does not return; 0 = none */
	void (*die)(void *context);
};

/* vk_sim_take returns a packet with room for pool->room bytes; NULL without memory. */
struct vk_sim_packet *vk_sim_take(struct vk_sim_pool *pool);

/* vk_sim_give gives one back. */
void vk_sim_give(struct vk_sim_pool *pool, struct vk_sim_packet *packet);

/* vk_sim_pool_free gives the memory of all free packets back. */
void vk_sim_pool_free(struct vk_sim_pool *pool);

/* vk_sim_deliver puts a packet into the socket of its class, or drops it: 0. */
int vk_sim_deliver(struct vk_sim_kernel *kernel, struct vk_sim_packet *packet);

/* vk_sim_empty drops everything that lies in a kernel's sockets. */
void vk_sim_empty(struct vk_sim_kernel *kernel);

/* vk_path_sim_open returns a path over a kernel, which outlives it; NULL without memory. What the
 * path took from sockets and not handed out, and what was not flushed, dies with it. */
struct vk_path *vk_path_sim_open(struct vk_sim_kernel *kernel, struct vk_port *port,
				 struct vk_port_state *state);
#endif
