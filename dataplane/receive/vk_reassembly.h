/* SPDX-License-Identifier: MIT */
#ifndef VK_REASSEMBLY_H
#define VK_REASSEMBLY_H
/* vk_reassembly.h: messages made of shards. Bounded by time, and by bytes and partial messages, of
 * which each has as many as vk_shares.h lets it have; a message whose shards contradict each other
 * is given up. The partial messages lie in vk_work, so that the next worker goes on with them.
 * Sans-IO, time is an argument.
 */
#include "vk_shares.h"

enum vk_shard_result {
	VK_SHARD_TAKEN = 0, /* more is missing */
	VK_SHARD_COMPLETE = 1, /* *message is whole until the next call; see vk_reassembly_done */
	VK_SHARD_REFUSED = 2, /* impossible, or over a limit */
	VK_SHARD_KNOWN = 3, /* it is there already */
	VK_SHARD_CONTRADICTS = 4, /* others say that the message has another size; it is given up */
};

struct vk_reassembly;

/* What a shard is part of, and where in it. */
struct vk_shard {
	uint32_t flow;
	uint32_t flow_generation;
	uint32_t sequence;
	uint32_t offset;
	uint32_t total;
	uint32_t size;
	const uint8_t *data;
	struct vk_party party;
};

/* vk_reassembly_new returns a table over VK_PARTIALS_MAX partials and as many buffers, which must
 * outlive it; NULL = no memory. Partials of an earlier worker are taken over; one that it was
 * changing when it died is given up. Whose they are vk_reassembly_adopt has to say. Uses at most
 * bytes for payloads. */
struct vk_reassembly *vk_reassembly_new(struct vk_partial *partials,
					uint8_t (*buffers)[VK_PARTIAL_SIZE], uint64_t bytes);

/* vk_reassembly_free forgets the table, not the partials; NULL is fine. */
void vk_reassembly_free(struct vk_reassembly *table);

/* vk_reassembly_limit changes the bound; partial messages over it stay until they end. */
void vk_reassembly_limit(struct vk_reassembly *table, uint64_t bytes);

/* vk_reassembly_add takes a shard. On VK_SHARD_COMPLETE, *message points to shard->total bytes. */
enum vk_shard_result vk_reassembly_add(struct vk_reassembly *table, const struct vk_shard *shard,
				       uint64_t now_ns, const uint8_t **message);

/* vk_reassembly_stored returns how many bytes of the last shard were new. */
uint32_t vk_reassembly_stored(const struct vk_reassembly *table);

/* vk_reassembly_done ends the message that was completed last, and returns how many bytes of it
 * waited. Without it, its last shard is forgotten with the next call and has to come again. */
uint32_t vk_reassembly_done(struct vk_reassembly *table);

/* vk_reassembly_wait notes that the message that was completed last only waits for room elsewhere;
 * returns how many bytes more wait than before. One that came as one shard is given up instead. */
uint32_t vk_reassembly_wait(struct vk_reassembly *table);

/* vk_reassembly_adopt says whose one of the partials is that were taken over; vk_reassembly_lose
 * gives it up. */
void vk_reassembly_adopt(struct vk_reassembly *table, uint32_t partial,
			 const struct vk_party *party);
void vk_reassembly_lose(struct vk_reassembly *table, uint32_t partial);

/* vk_reassembly_forget gives up the partial messages of a flow that is no more. */
void vk_reassembly_forget(struct vk_reassembly *table, uint32_t flow);

/* vk_reassembly_expire gives up partial messages not completed within age_ns; returns how many. */
uint32_t vk_reassembly_expire(struct vk_reassembly *table, uint64_t now_ns, uint64_t age_ns);

/* vk_reassembly_bytes returns the payload memory in use. */
uint64_t vk_reassembly_bytes(const struct vk_reassembly *table);
#endif
