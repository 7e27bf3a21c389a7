/* SPDX-License-Identifier: MIT */
#ifndef VK_PIPE_H
#define VK_PIPE_H
/* vk_pipe.h: both directions of a one-ring channel between two applications, as Python uses it:
 * raw records, many a call. No daemon is involved.
 */
#include "vk_channel.h"
#include "vk_row.h"

struct vk_pipe {
	struct vk_tx tx;
	struct vk_rx rx;
	uint32_t capacity[VK_RINGS_MAX];
	uint32_t rang;
	uint32_t sleeps;
	int bell_self; /* eventfd that wakes us */
	int bell_peer; /* eventfd that wakes the other party */
};

/* vk_pipe_open makes a pipe of two mapped regions: own, which we write, and other. Returns 0 or
 * -EPROTO. The regions and descriptors stay the caller's. */
int vk_pipe_open(struct vk_pipe *pipe, struct vk_region *own, const struct vk_region *other,
		 const uint32_t capacity[VK_RINGS_MAX], int bell_self, int bell_peer);

/* vk_pipe_send_many sends n messages that lie one after the other at data, sizes[i] bytes each;
 * publishes and wakes once. Returns how many went (fewer when the ring is full) or -EPROTO. */
int64_t vk_pipe_send_many(struct vk_pipe *pipe, const uint8_t *data, const uint32_t *sizes,
			  uint32_t n);

/* vk_pipe_send_fixed is vk_pipe_send_many with messages of one size. */
int64_t vk_pipe_send_fixed(struct vk_pipe *pipe, const uint8_t *data, uint32_t size, uint32_t n);

/* vk_pipe_recv_many finds up to max messages: begins[i] to ends[i] from *base, valid until
 * vk_pipe_release. Returns how many, 0 if none, -EPROTO if the other party broke the rules. */
int64_t vk_pipe_recv_many(struct vk_pipe *pipe, uint32_t max, uint32_t *begins, uint32_t *ends,
			  const uint8_t **base);

/* vk_pipe_release gives what vk_pipe_recv_many found back to the sender and wakes it if it waits
 * for room. */
void vk_pipe_release(struct vk_pipe *pipe);

/* vk_pipe_sleep announces sleep and looks once more: 1 = sleep on bell_self, 0 = there is a
 * message, or room for size bytes when size is not 0. vk_pipe_wake ends it. */
int vk_pipe_sleep(struct vk_pipe *pipe, uint32_t size);

/* vk_pipe_wake says that we are awake and empties the bell; call it after every vk_pipe_sleep. */
void vk_pipe_wake(struct vk_pipe *pipe);
#endif
