/* SPDX-License-Identifier: MIT */
#ifndef VK_UMEM_H
#define VK_UMEM_H
/* vk_umem.h: the frame memory of a queue and the rings of the kernel that pass its frames on.
 *
 * Owners of frames: RX frames [0, rx_frames) are in FILL, in the RX ring of one class, or in the
 * kernel between the two. FILL has room for all of them, so that rx_done needs no list of its own
 * and a dead worker holds none. rx_frames exceeds the sum of the RX rings by a reserve, so that
 * every class may stall with a full ring and the others still find frames. TX frames are in the
 * TX ring, in the kernel, in COMPLETION, or free (a list private to the worker, rebuilt by the
 * next one).
 */
#include "vk_port.h"

enum vk_umem_const {
	VK_UMEM_FRAMES_MAX = 262144, /* 512 MiB: more is a mistake, not a configuration */
};

/* vk_umem_create makes the frame memory: a memfd sealed against resizing, mapped shared and
 * populated, so that it survives any one process and workers inherit it by fork. Returns 0 or
 * -errno. */
int vk_umem_create(struct vk_umem *umem, uint32_t rx_frames, uint32_t tx_frames);

/* vk_umem_destroy unmaps and closes what vk_umem_create made; safe on a zeroed struct whose memfd
 * is -1, and twice. */
void vk_umem_destroy(struct vk_umem *umem);

/* vk_umem_map maps a ring of size entries from an XSK. page_offset: XDP_*_PGOFF_*. offsets: its
 * struct xdp_ring_offset. Returns 0 or -errno, and then the ring is absent. */
int vk_umem_map(struct vk_xsk_ring *ring, int fd, uint64_t page_offset, const void *offsets,
		uint32_t size, uint32_t entry_size);

/* vk_umem_unmap takes a ring back; safe on an absent one. */
void vk_umem_unmap(struct vk_xsk_ring *ring);

#ifndef VK_CDEF
#include <linux/if_xdp.h>
#include <stddef.h>

/* vk_umem_ready returns the entries between a ring's consumer and producer. Acquire on both pairs
 * with the other side's release, whichever side that is. */
static inline uint32_t vk_umem_ready(const struct vk_xsk_ring *ring)
{
	uint32_t consumer;

	if (!ring->size)
		return 0;
	consumer = __atomic_load_n(ring->consumer, __ATOMIC_ACQUIRE);
	return __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE) - consumer;
}

/* vk_umem_address is the entry of FILL or COMPLETION at a free-running index. */
static inline uint64_t *vk_umem_address(const struct vk_xsk_ring *ring, uint32_t index)
{
	return (uint64_t *)ring->entries + (index & (ring->size - 1));
}

/* vk_umem_descriptor is the entry of RX or TX at a free-running index. */
static inline struct xdp_desc *vk_umem_descriptor(const struct vk_xsk_ring *ring, uint32_t index)
{
	return (struct xdp_desc *)ring->entries + (index & (ring->size - 1));
}

/* vk_umem_wakeup says whether the kernel wants a syscall for a ring (FILL or TX). */
static inline int vk_umem_wakeup(const struct vk_xsk_ring *ring)
{
	return !!(__atomic_load_n(ring->flags, __ATOMIC_RELAXED) & XDP_RING_NEED_WAKEUP);
}
#endif
#endif
