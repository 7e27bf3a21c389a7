/* SPDX-License-Identifier: MIT */
#ifndef VK_LANES_H
#define VK_LANES_H
/* vk_lanes.h: the streams of one application and class that hold records and may send. A lane is
 * what goes to one peer: lanes take turns, so that a path which carries no more keeps nobody else
 * waiting.
 *
 * Within a lane streams take turns, too, but on data the one goes first that has the fewest bytes
 * left of its message, and nobody starves: a stream is worth what it has left, counted from when it
 * began to wait. Who comes VK_LANES_AGE_NS a byte later than a large message is behind it.
 */
#include "vk_heap.h"
#include "vk_shm.h"
#include "vk_wire.h"

struct vk_run;
struct vk_flow;

enum vk_lanes_const {
	VK_LANES_AGE_NS = 100, /* a byte: 64 KiB let what comes within 6.5 ms go before them */
	VK_LANES_LEFT_MAX = 262144, /* bytes that a message counts at most: 26 ms */
};

/* The streams to one peer. */
struct vk_peer_lane {
	struct vk_heap heap; /* of flow numbers */
	uint32_t next; /* peer + 1 of the lane behind it */
	uint32_t listed; /* or taken out by vk_lanes_next, and not returned */
};

struct vk_lanes {
	struct vk_peer_lane *rows; /* VK_PEERS_MAX, by peer; NULL = nothing ever waited */
	uint32_t first; /* peer + 1; 0 = nobody may send */
	uint32_t last;
};

/* vk_lanes_add lets a flow send that holds records; nothing if it is there already. */
void vk_lanes_add(struct vk_run *run, struct vk_flow *flow);

/* vk_lanes_next takes the first flow of the first lane out; *lane is where it was, out of the list
 * until vk_lanes_return. NULL = nobody may send. */
struct vk_flow *vk_lanes_next(struct vk_run *run, uint32_t slot, uint32_t class,
			      struct vk_peer_lane **lane);

/* vk_lanes_return puts a lane behind the others, if anybody waits in it. */
void vk_lanes_return(struct vk_lanes *lanes, struct vk_peer_lane *lane);

/* vk_lanes_free forgets all flows of an application's class, and gives the memory back. */
void vk_lanes_free(struct vk_run *run, uint32_t slot, uint32_t class);
#endif
