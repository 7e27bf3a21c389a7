/* SPDX-License-Identifier: MIT */
#ifndef VK_TAP_H
#define VK_TAP_H
/* tap.h: an interface of the relay: frames come through a ring that the kernel fills at the moment
 * they arrive, each with that moment, and leave in batches past the queueing discipline.
 */
#include <linux/if_packet.h>
#include <stdint.h>
#include <sys/socket.h>

enum {
	VK_TAP_RING_BYTES = 16 << 20, /* 8192 frames of Ethernet's usual size */
	VK_TAP_BATCH = 64,
	VK_TAP_ETHERNET = 14, /* bytes: Ethernet header */
};

/* One that came: valid until the next vk_tap_release. */
struct vk_tap_frame {
	uint8_t *bytes;
	uint32_t size; /* of the frame on the link */
	uint32_t kept; /* of it in the ring: less than size when it did not fit */
	uint64_t at_ns; /* CLOCK_REALTIME */
	int unsummed;
};

struct vk_tap {
	int receive, send;
	uint8_t *ring;
	uint32_t slot_size, slots, next;
	uint32_t frame_max; /* Ethernet header + MTU, bytes */
	uint32_t queued;
	struct iovec parts[VK_TAP_BATCH];
	struct mmsghdr batch[VK_TAP_BATCH];
	uint64_t sent, refused;
};

/* vk_tap_open opens an interface of this namespace. Returns 0 or -errno. Needs CAP_NET_RAW. */
int vk_tap_open(struct vk_tap *tap, const char *interface);

/* vk_tap_peek returns 1 and the frame that came first, or 0. */
int vk_tap_peek(const struct vk_tap *tap, struct vk_tap_frame *frame);

/* vk_tap_release gives the frame that vk_tap_peek returned back to the kernel. */
void vk_tap_release(struct vk_tap *tap);

/* vk_tap_add appends a frame to the batch, which has room; it stays the caller's memory. */
void vk_tap_add(struct vk_tap *tap, uint8_t *bytes, uint32_t size);

/* vk_tap_flush sends the batch and counts what the interface did not take. */
void vk_tap_flush(struct vk_tap *tap);

/* vk_tap_dropped returns how many frames found the ring full since it was last asked. */
uint32_t vk_tap_dropped(const struct vk_tap *tap);
#endif
