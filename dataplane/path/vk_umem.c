/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vk_umem.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static uint64_t area_size(const struct vk_umem *umem)
{
	return ((uint64_t)umem->rx_frames + umem->tx_frames) * umem->chunk_size;
}

int vk_umem_create(struct vk_umem *umem, uint32_t rx_frames, uint32_t tx_frames)
{
	void *area;
	int error;

	memset(umem, 0, sizeof *umem);
	umem->memfd = -1;
	if (!rx_frames || rx_frames > VK_UMEM_FRAMES_MAX || tx_frames > VK_UMEM_FRAMES_MAX)
		return -EINVAL;
	umem->chunk_size = VK_CHUNK_SIZE;
	umem->rx_frames = rx_frames;
	umem->tx_frames = tx_frames;
	umem->memfd = memfd_create("valkyrie-umem", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (umem->memfd < 0)
		return -errno;
	if (ftruncate(umem->memfd, (off_t)area_size(umem)) ||
	    fcntl(umem->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
		goto failed;
	area = mmap(NULL, area_size(umem), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
		    umem->memfd, 0);
	if (area == MAP_FAILED)
		goto failed;
	umem->area = area;
	return 0;
failed:
	error = errno;
	vk_umem_destroy(umem);
	return -error;
}

void vk_umem_destroy(struct vk_umem *umem)
{
	if (umem->area)
		munmap(umem->area, area_size(umem));
	if (umem->memfd >= 0)
		close(umem->memfd);
	memset(umem, 0, sizeof *umem);
	umem->memfd = -1;
}

int vk_umem_map(struct vk_xsk_ring *ring, int fd, uint64_t page_offset, const void *offsets,
		uint32_t size, uint32_t entry_size)
{
	const struct xdp_ring_offset *at = offsets;
	uint64_t map_size = at->desc + (uint64_t)size * entry_size;
	uint8_t *map;

	memset(ring, 0, sizeof *ring);
	map = mmap(NULL, map_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
		   (off_t)page_offset);
	if (map == MAP_FAILED)
		return -errno;
	ring->map = map;
	ring->map_size = map_size;
	ring->producer = (void *)(map + at->producer);
	ring->consumer = (void *)(map + at->consumer);
	ring->flags = (void *)(map + at->flags);
	ring->entries = map + at->desc;
	ring->size = size;
	return 0;
}

void vk_umem_unmap(struct vk_xsk_ring *ring)
{
	if (ring->map)
		munmap(ring->map, ring->map_size);
	memset(ring, 0, sizeof *ring);
}
