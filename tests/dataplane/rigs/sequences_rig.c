/* SPDX-License-Identifier: MIT */
#include "sequences_rig.h"

int sequences_look(const struct vk_sequences *sequences, const struct vk_sequence_pool *pool,
		   const uint32_t *held, uint32_t number)
{
	return vk_sequences_look(sequences, pool, held, number);
}

void sequences_add(struct vk_sequences *sequences, struct vk_sequence_pool *pool, uint32_t *held,
		   uint32_t owner, uint32_t number)
{
	vk_sequences_add(sequences, pool, held, owner, number);
}

void sequences_free(struct vk_sequences *sequences, struct vk_sequence_pool *pool, uint32_t *held)
{
	vk_sequences_free(sequences, pool, held);
}

void sequences_check(struct vk_flow *flows, uint32_t count, struct vk_sequence_pool *pool)
{
	vk_sequences_check(flows, count, pool);
}
