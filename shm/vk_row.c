/* SPDX-License-Identifier: MIT */
#include "vk_row.h"

void vk_row_begin(uint32_t *sequence)
{
	VK_STORE_RELAXED(sequence, VK_LOAD_RELAXED(sequence) | 1);
	VK_FULL_FENCE();
}

void vk_row_end(uint32_t *sequence)
{
	VK_STORE_RELEASE(sequence, VK_LOAD_RELAXED(sequence) + 1);
}

void vk_epoch_bump(uint32_t *epoch)
{
	VK_STORE_RELEASE(epoch, VK_LOAD_RELAXED(epoch) + 1);
}

void vk_peer_news(struct vk_state *state, uint32_t peer)
{
	uint32_t epoch = VK_LOAD_RELAXED(&state->peer_epoch) + 1;

	if (peer >= state->peer_count)
		VK_STORE_RELAXED(&state->peer_count, peer + 1);
	VK_STORE_RELAXED(&state->peer_news[epoch % VK_PEER_NEWS], (uint64_t)epoch << 32 | peer);
	VK_STORE_RELEASE(&state->peer_epoch, epoch);
}
