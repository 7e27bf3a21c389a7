/* SPDX-License-Identifier: MIT */
#ifndef VK_CHANNEL_H
#define VK_CHANNEL_H
/* vk_channel.h: regions of a channel: made, checked, mapped and sealed (layout in vk_region.h).
 * Cold paths; nothing here is called per message. Needs no capability. Syscalls: memfd_create,
 * ftruncate, fstat, fcntl, mmap, munmap.
 */
#include "vk_ring.h"

/* vk_channel_create makes one region's memfd with its header written: ring r has capacity[r] bytes
 * (0 = absent, else a power of two within the bounds of vk_region.h). Returns the descriptor
 * (close-on-exec, sealable, not sealed) or -errno. */
int vk_channel_create(const uint32_t capacity[VK_RINGS_MAX], uint32_t ring_count,
		      uint32_t generation);

/* vk_channel_file_size returns the bytes of a region's memfd, vk_channel_span those of address
 * space that one mapping takes: the header page and every ring's data twice. 0 for capacities out
 * of bounds. */
uint64_t vk_channel_file_size(const uint32_t capacity[VK_RINGS_MAX]);
uint64_t vk_channel_span(const uint32_t capacity[VK_RINGS_MAX]);

/* vk_channel_check reads the header of a region that somebody else made and copies its capacities.
 * Refuses (-EPROTO) a wrong magic, size or shape, (-EPROTONOSUPPORT) another ABI, and (-EPERM) a
 * memfd that its maker could still shrink: a truncation would kill whoever has it mapped. sealed =
 * 0 skips the seals. The two regions of a channel are checked one by one: compare their capacities
 * before they are mapped. */
int vk_channel_check(int fd, int sealed, uint32_t capacity[VK_RINGS_MAX], uint32_t *generation);

/* vk_channel_map maps a region, data of every ring twice in a row. at: where a reservation of
 * vk_channel_span bytes begins, or NULL to find a place. Returns the region or NULL and errno. */
struct vk_region *vk_channel_map(int fd, const uint32_t capacity[VK_RINGS_MAX], int writable,
				 void *at);

/* vk_channel_unmap gives a mapping back; keep != 0 leaves the addresses reserved (PROT_NONE). */
void vk_channel_unmap(struct vk_region *region, const uint32_t capacity[VK_RINGS_MAX], int keep);

/* vk_channel_reserve reserves address space; NULL and errno when there is none. */
void *vk_channel_reserve(uint64_t size);

/* vk_channel_seal forbids resizing for ever, and with future_write new writable mappings too.
 * Returns 0 or -errno. */
int vk_channel_seal(int fd, int future_write);

/* vk_channel_data returns where ring's data begins behind a mapped region. */
uint8_t *vk_channel_data(const struct vk_region *region, const uint32_t capacity[VK_RINGS_MAX],
			 uint32_t ring);

/* vk_tx_open and vk_rx_open make the two ends of a ring out of mapped regions: self is the region
 * that the caller writes, peer the other's. They resume where the shared indices stand and return
 * 0, or -EPROTO when those are impossible or there is no such ring. The regions must outlive the
 * ends. */
int vk_tx_open(struct vk_tx *tx, struct vk_region *self, const struct vk_region *peer,
	       const uint32_t capacity[VK_RINGS_MAX], uint32_t ring);
int vk_rx_open(struct vk_rx *rx, struct vk_region *self, const struct vk_region *peer,
	       const uint32_t capacity[VK_RINGS_MAX], uint32_t ring);
#endif
