/* SPDX-License-Identifier: MIT */
#ifndef VK_PEERS_H
#define VK_PEERS_H
/* vk_peers.h: who a datagram is from. Rows are the daemon's (vk_state.peers, seqlocked); the
 * worker keeps private copies, made again when peer_epoch moves and says of which. However many
 * change at once, a turn takes VK_PEERS_A_TURN of them in.
 */
#include "vk_run.h"

enum vk_peers_const {
	VK_PEERS_A_TURN = 1024, /* rows: about 200 us */
};

/* vk_seqlock_copy copies a row that the daemon may be writing: the row begins with its sequence,
 * odd while it is written. Tries a bounded number of times; returns 0, or -EAGAIN and leaves *to
 * as it was. Acquire pairs with the writer's release. */
int vk_seqlock_copy(void *to, const void *row, size_t size);

/* vk_peers_open makes room for VK_PEERS_MAX peers, which is memory when they are there. Returns 0,
 * or -ENOMEM. */
int vk_peers_open(struct vk_run *run);

/* vk_peers_free gives it back. */
void vk_peers_free(struct vk_run *run);

/* vk_peers_load copies all peer rows, when a worker begins. */
void vk_peers_load(struct vk_run *run);

/* vk_peers_refresh copies rows that changed. Returns whether more are left for the next turn. */
int vk_peers_refresh(struct vk_run *run);

/* vk_peers_find returns the index of the live peer with that address, or -1. */
int vk_peers_find(const struct vk_run *run, uint32_t family, const uint8_t address[16]);

/* vk_peers_of_session returns the number of the live peer that has joined in a session, or -1. */
int vk_peers_of_session(const struct vk_run *run, uint32_t id);

/* vk_peers_find_batch finds who datagrams are from, VK_PEER_NOBODY where nobody is known. All are
 * looked for at once, so that cache misses of one batch overlap. */
void vk_peers_find_batch(const struct vk_run *run, const struct vk_rx_frame *frames, uint32_t count,
			 uint32_t *peers);

/* vk_peers_prefetch begins to fetch what receiving needs of those that were found: which session
 * there is, and its packet numbers. */
void vk_peers_prefetch(const struct vk_run *run, const uint32_t *peers, uint32_t count);
#endif
