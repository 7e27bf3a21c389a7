/* SPDX-License-Identifier: MIT */
#ifndef VK_PATH_XDP_H
#define VK_PATH_XDP_H
/* vk_path_xdp.h: the private state of an AF_XDP path, shared by its receiving half
 * (vk_path_xdp.c), its sending half (vk_path_xdp_tx.c) and the census (vk_path_census.c). */
#include "vk_packet.h"
#include "vk_ring.h"
#include "vk_umem.h"
#include "vk_xsk.h"

enum vk_xdp_const {
	VK_XDP_HEADS = 64, /* peers whose headers are kept ready; more share slots */
};

#define VK_XDP_NO_FRAME UINT32_MAX

/* Receive state of a class. */
struct vk_xdp_receive {
	uint32_t consumer;
	uint32_t held; /* frames between rx and rx_done */
	uint32_t idle; /* empty receives */
	uint64_t looked_ns; /* at the class's credit, to regain some */
};

/* A peer's headers, ready. */
struct vk_xdp_head {
	struct vk_peer peer; /* the part that headers are made of */
	struct vk_packet_head head;
};

struct vk_xdp_path {
	struct vk_path path; /* first: the ops get this */
	struct vk_xdp_receive receive[VK_CLASS_COUNT];
	uint32_t *free; /* stack of TX frames */
	uint32_t free_count;
	uint8_t *frame_class; /* by TX frame: whose loss it is */
	uint32_t producer; /* TX descriptors written; published by flush */
	uint32_t dropped; /* descriptors lost at TX's head, whose consumer is not published yet */
	uint32_t consumer; /* of TX, as seen last */
	uint32_t lost_ahead; /* lost descriptors that `consumer` has not passed yet */
	uint32_t reserved; /* TX frame number or VK_XDP_NO_FRAME */
	uint32_t class; /* of the reservation */
	int refused; /* errno that makes the reservation a loss */
	int recovering; /* frames of a dead worker are still in the kernel */
	const struct vk_packet_head *head;
	struct vk_xdp_head heads[VK_XDP_HEADS];
	_Alignas(8) uint8_t scratch[65536]; /* for datagrams that will be lost */
};

/* vk_xdp is the private state of a path that vk_path_xdp_open returned. */
static inline struct vk_xdp_path *vk_xdp(struct vk_path *path)
{
	return (struct vk_xdp_path *)path;
}

/* vk_xdp_tx_reserve, vk_xdp_tx_commit, vk_xdp_tx_flush are the path's tx_reserve, tx_commit and
 * tx_flush: see vk_path_ops. */
uint8_t *vk_xdp_tx_reserve(struct vk_path *path, const struct vk_peer *peer, uint32_t class);
void vk_xdp_tx_commit(struct vk_path *path, uint32_t size, int paddable);
int vk_xdp_tx_flush(struct vk_path *path);

/* vk_xdp_outstanding returns the published descriptors that are not completed yet. */
uint32_t vk_xdp_outstanding(const struct vk_port *port);

/* vk_xdp_reclaim_all makes all TX frames free if the kernel has completed every descriptor that a
 * dead worker published; else it kicks and returns -EAGAIN. Only while self->recovering. */
int vk_xdp_reclaim_all(struct vk_xdp_path *self);
#endif
