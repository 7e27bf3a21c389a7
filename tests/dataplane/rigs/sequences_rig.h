/* SPDX-License-Identifier: MIT */
#ifndef SEQUENCES_RIG_H
#define SEQUENCES_RIG_H
/* sequences_rig.h: vk_sequences.h for Python, inline functions too. */
#include "vk_sequences.h"

/* sequences_look .. sequences_check: see the functions of the same name. */
int sequences_look(const struct vk_sequences *sequences, const struct vk_sequence_pool *pool,
		   const uint32_t *held, uint32_t number);
void sequences_add(struct vk_sequences *sequences, struct vk_sequence_pool *pool, uint32_t *held,
		   uint32_t owner, uint32_t number);
void sequences_free(struct vk_sequences *sequences, struct vk_sequence_pool *pool, uint32_t *held);
void sequences_check(struct vk_flow *flows, uint32_t count, struct vk_sequence_pool *pool);
#endif
