/* SPDX-License-Identifier: MIT */
#ifndef VK_PEERS_H
#define VK_PEERS_H
/* vk_peers.h: who a datagram is from. Rows are the daemon's (vk_state.peers, seqlocked); the
 * worker keeps private copies, made again when peer_epoch moves and says of which.
 */
#include "vk_run.h"

/* vk_seqlock_copy copies a row that the daemon may be writing: the row begins with its sequence,
 * odd while it is written. Tries a bounded number of times; returns 0, or -EAGAIN and leaves *to
 * as it was. Acquire pairs with the writer's release. */
int vk_seqlock_copy(void *to, const void *row, size_t size);

/* vk_peers_open makes room for VK_PEERS_MAX peers, which is memory when they are there. Returns 0,
 * or -ENOMEM. */
int vk_peers_open(struct vk_run *run);

/* vk_peers_free gives it back. */
void vk_peers_free(struct vk_run *run);

/* vk_peers_refresh copies the peer rows if they changed; force: in any case. */
void vk_peers_refresh(struct vk_run *run, int force);

/* vk_peers_find returns the index of the live peer with that address, or -1. */
int vk_peers_find(struct vk_run *run, uint32_t family, const uint8_t address[16]);
#endif
