/* SPDX-License-Identifier: MIT */
#ifndef VK_GATHER_H
#define VK_GATHER_H
/* vk_gather.h: the messages of one reliable stream, whole and once each, from the records that come
 * in whatever order. Fragments of a large message are written one behind the other into one piece
 * of memory, which is used again for the next: each byte is copied once, out of the ring, while
 * nothing is missing. What comes ahead of something missing is kept apart until that is there.
 *
 * What was sent is known from neighbours: a fragment that says MORE is followed by one that
 * CONTINUES, and nothing else. Sans-IO; one thread at a time.
 */
#include "vk_region.h"
#include "vk_wire.h"

enum vk_gather_const {
	VK_GATHER_SPANS_MAX =
		512, /* gaps between sequences that came; a worker lets VK_SEQUENCE_RUNS be */
	VK_GATHER_OVERHEAD =
		256, /* bytes of memory that a kept record counts besides its payload */
	VK_GATHER_HELD_MAX = 2 * VK_MESSAGE_MAX, /* bytes that wait on a stream for others */
};

struct vk_gather;

/* A message, its payload valid until the next call with its vk_gather. */
struct vk_whole {
	struct vk_message head; /* of its first record, with EOS if its last one has that */
	const uint8_t *payload;
	uint32_t size;
	uint32_t records; /* that it came in */
};

/* vk_gather_new begins with the message of a sequence; ordered: messages come out in the order of
 * their sequences, else as they are whole. NULL = no memory. */
struct vk_gather *vk_gather_new(uint32_t sequence, int ordered);

/* vk_gather_free gives all memory back; NULL is fine. */
void vk_gather_free(struct vk_gather *gather);

/* vk_gather_take takes a record of the stream. Returns 1 and *whole when a message is whole (its
 * payload is the record's own if it came in one, in its turn), 0 when there is none yet or the
 * record had come before, -EPROTO when records contradict each other or are more than a stream may
 * have waiting (the stream cannot go on: reset it with VK_CODE_SHARDS), -ENOMEM. Nothing refers to
 * the record afterwards but *whole. After 1, vk_gather_next comes first. */
int vk_gather_take(struct vk_gather *gather, const struct vk_message *head, const uint8_t *payload,
		   uint32_t size, struct vk_whole *whole);

/* vk_gather_next returns 1 and another message that is whole now, or 0, -EPROTO or -ENOMEM as
 * above. */
int vk_gather_next(struct vk_gather *gather, struct vk_whole *whole);

/* vk_gather_expected returns the sequence of the first record that is missing. */
uint32_t vk_gather_expected(const struct vk_gather *gather);

/* vk_gather_held returns the bytes that wait for others, with what they cost besides. */
uint64_t vk_gather_held(const struct vk_gather *gather);

/* vk_gather_twice returns how many records came that had come before. */
uint64_t vk_gather_twice(const struct vk_gather *gather);
#endif
