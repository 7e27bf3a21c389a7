/* SPDX-License-Identifier: MIT */
#ifndef VK_READER_H
#define VK_READER_H
/* vk_reader.h: a reliable stream read by an application in C, message by message, of any size: a
 * vk_gather over the application's end of its rings. Nothing is read ahead, so that what waits for
 * the reader is bounded by ring and window. One thread at a time.
 */
#include "vk_gather.h"
#include "vk_inlet.h"

enum vk_reader_const {
	VK_READER_BATCH = 64, /* records that are described at once */
};

/* A stream and what of it was described and not looked at yet. */
struct vk_reader {
	struct vk_client *client;
	struct vk_inlet *inlet;
	struct vk_gather *gather;
	uint32_t ring;
	int64_t flow; /* vk_client_flow */
	uint32_t found; /* in entries ... */
	uint32_t next; /* ... and the one to look at next */
	uint64_t position; /* in the ring: where that one begins */
	int more; /* the gatherer may have another message */
	int lent; /* the last message lies in the ring */
	struct vk_entry entries[VK_READER_BATCH];
};

/* vk_reader_open readies *reader for an open stream, from the message of a sequence on, in order or
 * as messages are whole. Client and inlet must outlive it; others must leave records of the stream
 * alone. Returns 0 or -ENOMEM. */
int vk_reader_open(struct vk_reader *reader, struct vk_client *client, struct vk_inlet *inlet,
		   const struct vk_message *stream, uint32_t sequence, int ordered);

/* vk_reader_close gives back what the reader holds. */
void vk_reader_close(struct vk_reader *reader);

/* vk_reader_next finds the next message: 1 and *whole, valid until the next call. 0: there is none
 * now (vk_client_wait tells when to look again, and what was taken is reported); -ENOMSG: the next
 * record in the ring is none of the stream's messages, vk_client_receive gives it; else -errno like
 * vk_client_receive and vk_gather_take. */
int vk_reader_next(struct vk_reader *reader, struct vk_whole *whole);
#endif
