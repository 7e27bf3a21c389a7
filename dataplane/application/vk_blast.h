/* SPDX-License-Identifier: MIT */
#ifndef VK_BLAST_H
#define VK_BLAST_H
/* vk_blast.h: an application in C for benchmarks and the demo: sends and receives on an open stream
 * at full speed, and checks what it receives. Every message carries its number and a pattern made
 * of it. All loops end at a deadline; outlet and inlet are the open stream. Messages are taken in
 * the order in which they arrive.
 */
#include "vk_inlet.h"

enum vk_blast_const {
	VK_BLAST_SIZE_MIN = 8, /* bytes: the number */
	VK_BLAST_BATCH_MAX = 256,
};

struct vk_blast_result {
	uint64_t messages;
	uint64_t records; /* received: fragments of a message count each */
	uint64_t bytes;
	uint64_t lost; /* numbers that were jumped over and did not come later */
	uint64_t corrupt; /* messages whose contents are not what their number says */
	uint64_t blocked; /* times there was no room */
	uint64_t elapsed_ns; /* from the first message to the last */
};

/* vk_blast_send sends count messages of size bytes (multiple of 8, at most VK_MESSAGE_MAX), batch
 * at a time (1..VK_BLAST_BATCH_MAX), waiting for room. Larger ones than VK_SHARDED_MAX are cut into
 * fragments, and go one at a time. Returns 0, -ETIMEDOUT at the deadline, or -errno. */
int vk_blast_send(struct vk_client *client, struct vk_outlet *outlet, uint32_t size, uint64_t count,
		  uint32_t batch, int64_t timeout_ns, struct vk_blast_result *result);

/* vk_blast_receive takes messages, whole or in fragments, until count have come, or a message with
 * EOS, or the deadline (-ETIMEDOUT). Records that are not DATA of this flow end it with -EPROTO. */
int vk_blast_receive(struct vk_client *client, struct vk_outlet *outlet, struct vk_inlet *inlet,
		     uint64_t count, int64_t timeout_ns, struct vk_blast_result *result);

/* vk_blast_ping sends count messages one at a time, each after the echo of the one before, and
 * notes each round trip in rtt_ns[0..count). */
int vk_blast_ping(struct vk_client *client, struct vk_outlet *outlet, struct vk_inlet *inlet,
		  uint32_t size, uint64_t count, int64_t timeout_ns, uint64_t *rtt_ns,
		  struct vk_blast_result *result);

/* vk_blast_echo sends back count messages as they come. */
int vk_blast_echo(struct vk_client *client, struct vk_outlet *outlet, struct vk_inlet *inlet,
		  uint64_t count, int64_t timeout_ns, struct vk_blast_result *result);
#endif
