/* SPDX-License-Identifier: MIT */
#ifndef VK_SEQUENCES_H
#define VK_SEQUENCES_H
/* vk_sequences.h: which messages of a stream came. Numbers wrap (serial numbers, RFC 1982). All
 * before `next` came; what came beyond it lies in runs, taken from a pool while there are gaps.
 * The memory outlives the worker: one that dies in here has at worst forgotten its last number,
 * and the message comes again.
 *
 * A peer has no more rows of the pool than it leaves to all the others. Without one a stream takes
 * the next message only, and what comes before its turn has to come again.
 */
#include "vk_ring.h"
#include "vk_shm.h"

enum vk_sequence {
	VK_SEQUENCE_NEW = 0,
	VK_SEQUENCE_DUPLICATE = 1,
	VK_SEQUENCE_FULL = 2, /* too far ahead, or too many gaps: it has to come again */
};

enum vk_sequences_const {
	VK_SEQUENCES_AHEAD = 1 << 20, /* messages beyond the first gap */
};

/* A pool of rows. Which are free every worker finds out by itself. */
struct vk_sequence_pool {
	struct vk_sequence_runs *rows; /* VK_SEQUENCE_POOL */
	uint32_t free_count;
	uint16_t free[VK_SEQUENCE_POOL]; /* the one given back last is taken next */
};

/* vk_sequences_open begins with rows of which none is in use. */
void vk_sequences_open(struct vk_sequence_pool *pool, struct vk_sequence_runs *rows);

/* vk_sequences_find is vk_sequences_look when there are gaps, or a number is not the next. */
enum vk_sequence vk_sequences_find(const struct vk_sequences *sequences,
				   const struct vk_sequence_pool *pool, uint32_t held,
				   uint32_t number);

/* vk_sequences_insert is vk_sequences_add likewise. */
void vk_sequences_insert(struct vk_sequences *sequences, struct vk_sequence_pool *pool,
			 uint32_t *held, uint32_t owner, uint32_t number);

/* vk_sequences_end returns what is behind all numbers that came. */
uint32_t vk_sequences_end(const struct vk_sequences *sequences,
			  const struct vk_sequence_pool *pool);

/* vk_sequences_free gives the runs back to the pool and forgets what came beyond `next`. */
void vk_sequences_free(struct vk_sequences *sequences, struct vk_sequence_pool *pool,
		       uint32_t *held);

/* vk_sequences_check gives back runs that a dead worker left without an owner, or half changed.
 * flows: all `count` of them. What peers hold is the caller's to count then. */
void vk_sequences_check(struct vk_flow *flows, uint32_t count, struct vk_sequence_pool *pool);

/* vk_sequences_look says what a number is; notes nothing. held: rows that streams of its peer
 * have. */
static inline enum vk_sequence vk_sequences_look(const struct vk_sequences *sequences,
						 const struct vk_sequence_pool *pool,
						 const uint32_t *held, uint32_t number)
{
	if (number == sequences->next)
		return VK_SEQUENCE_NEW; /* the runs begin behind it */
	return vk_sequences_find(sequences, pool, *held, number);
}

/* vk_sequences_add notes a number that vk_sequences_look called new. owner: the flow's number. */
static inline void vk_sequences_add(struct vk_sequences *sequences, struct vk_sequence_pool *pool,
				    uint32_t *held, uint32_t owner, uint32_t number)
{
	if (number == sequences->next && !sequences->runs)
		VK_STORE_RELAXED(&sequences->next, number + 1);
	else
		vk_sequences_insert(sequences, pool, held, owner, number);
}
#endif
