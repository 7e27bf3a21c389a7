/* SPDX-License-Identifier: MIT */
#ifndef VK_SHARDS_H
#define VK_SHARDS_H
/* vk_shards.h: how far a message that needs several packets has come on its way: what was sent,
 * what the peer has. The sender's side; vk_reassembly.h is the receiver's. Sans-IO.
 */
#include <stdint.h>

struct vk_span {
	uint32_t begin;
	uint32_t end;
};

struct vk_shards {
	uint32_t total; /* bytes */
	uint32_t sent; /* bytes from the front that were sent at least once */
	uint32_t count; /* spans */
	uint32_t capacity;
	struct vk_span *acked; /* sorted, apart from each other */
	uint32_t next_free; /* index + 1 */
};

/* All of a worker, by index. */
struct vk_shard_table {
	struct vk_shards *rows;
	uint32_t count;
	uint32_t free; /* index + 1 of the first free one; 0 = none */
};

/* vk_shards_new returns the index + 1 of a row for a message of total bytes, 0 without memory. */
uint32_t vk_shards_new(struct vk_shard_table *table, uint32_t total);

/* vk_shards_drop gives a row back; 0 is fine. */
void vk_shards_drop(struct vk_shard_table *table, uint32_t index);

/* vk_shards_free gives all memory back. */
void vk_shards_free(struct vk_shard_table *table);

/* vk_shards_acked notes that the peer has [begin, end); returns 1 when it has everything. Without
 * memory it forgets, and the bytes are sent once more. */
int vk_shards_acked(struct vk_shards *shards, uint32_t begin, uint32_t end);

/* vk_shards_missing finds the first bytes in [begin, end) that are not acknowledged; 0 = none. */
int vk_shards_missing(const struct vk_shards *shards, uint32_t begin, uint32_t end,
		      struct vk_span *missing);
#endif
