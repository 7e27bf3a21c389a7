/* SPDX-License-Identifier: MIT */
#ifndef VK_ROW_H
#define VK_ROW_H
/* vk_row.h: rows that one process writes while others read them (vk_state in vk_shm.h): a sequence
 * lock, the writer's half. The reader's half is vk_seqlock_copy in dataplane/session/vk_peers.h.
 */
#include "vk_ring.h"

/* vk_row_begin makes a row's sequence odd, so that readers try again until vk_row_end. What a dead
 * writer left odd is taken over. One writer a row. Full fence: no store to the row comes before
 * it; pairs with the reader's acquire fence. */
void vk_row_begin(uint32_t *sequence);

/* vk_row_end makes the sequence even again, and another than before. Release; pairs with the
 * reader's acquire load of sequence. */
void vk_row_end(uint32_t *sequence);

/* vk_epoch_bump says that rows have changed. Release; pairs with the acquire load of an epoch. */
void vk_epoch_bump(uint32_t *epoch);

/* vk_peer_news says that a peer's row has changed, which may be the first of its number:
 * peer_count, peer_news and peer_epoch of vk_state. Release; pairs with the acquire load of the
 * epoch. */
void vk_peer_news(struct vk_state *state, uint32_t peer);
#endif
