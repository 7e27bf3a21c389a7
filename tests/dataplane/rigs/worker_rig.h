/* SPDX-License-Identifier: MIT */
#ifndef WORKER_RIG_H
#define WORKER_RIG_H
/* worker_rig.h: two workers in one process, joined by a wire in memory, with a clock that stands
 * still. Nothing happens but what a test asks for, so every run is the same. */
#include "vk_run.h"

enum rig_const {
	RIG_NODES = 2,
	RIG_APPS = 16, /* of a node */
	RIG_WIRE_MAX = 1 << 16, /* frames under way and in the log */
};

/* What the wire does to frames, in thousandths. */
struct rig_net {
	uint32_t loss;
	uint32_t twice;
	uint32_t reorder;
	uint32_t pad; /* zero bytes behind an AGG frame, as UDP_SEGMENT needs them */
	uint32_t room; /* frames under way at once to a node and class; 0 = any */
};

struct rig_frame {
	uint8_t *data; /* allocated as large as the frame is: a sanitizer sees every step beside */
	uint32_t size;
	uint8_t class;
	uint8_t from;
	uint8_t fate; /* times it was put on the wire: 0 = lost */
};

/* The application's side of a slot. */
struct rig_app {
	uint32_t capacity[VK_RINGS_MAX];
	struct vk_region *self; /* region A */
	const struct vk_region *peer; /* region D */
	struct vk_tx tx[VK_CLASS_COUNT];
	struct vk_rx rx[VK_CLASS_COUNT];
	uint32_t generation;
	int bell; /* that the worker rings: its other end, which nobody waits at */
};

struct rig_node {
	struct vk_boot *boot;
	struct vk_state *state;
	struct vk_run *run; /* NULL = no worker */
	struct rig_app apps[RIG_APPS];
	int broker; /* our end of control_fd */
	int python; /* our end of python_fd */
};

extern struct rig_node rig_nodes[RIG_NODES];
extern struct rig_net rig_net;
extern uint64_t rig_now_ns;
extern struct rig_frame rig_log[RIG_WIRE_MAX];
extern uint32_t rig_log_count;

/* rig_random returns the next of a fixed sequence. */
uint32_t rig_random(void);

/* rig_seed begins another sequence. */
void rig_seed(uint64_t seed);

/* rig_inject puts a frame of any content into a node's socket of a class. */
void rig_inject(uint32_t node, uint32_t class, const uint8_t *data, uint32_t size, uint32_t family,
		const uint8_t source[16]);

/* rig_open makes node's memory and sockets; its worker is not running yet. */
void rig_open(uint32_t node);

/* rig_start starts a worker; recover: the last one died. */
void rig_start(uint32_t node, int recover);

/* rig_kill forgets a worker as kill -9 would. */
void rig_kill(uint32_t node);

/* rig_stop lets it leave at a clean boundary. */
void rig_stop(uint32_t node);

/* rig_turn takes a turn; returns as the worker's turn does. */
int rig_turn(uint32_t node);

/* rig_attach gives a node an application; returns the worker's answer. */
int rig_attach(uint32_t node, uint32_t slot, uint32_t ring_size, const struct vk_app *row);

/* rig_detach orders the worker to forget one; returns its answer. */
int rig_detach(uint32_t node, uint32_t slot);

/* rig_unmap takes away what a gone application had mapped. */
void rig_unmap(uint32_t node, uint32_t slot);

/* rig_service registers a name. */
void rig_service(uint32_t node, uint32_t slot, const char *name);

/* rig_news returns the next order that the worker sent on its own, 0 if there is none. */
uint32_t rig_news(uint32_t node, uint32_t *slot);
#endif
