/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vk_channel.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010 /* linux/fcntl.h, since 5.1 */
#endif

/* Rings past ring_count must be absent. */
static int count_ok(const uint32_t capacity[VK_RINGS_MAX], uint32_t ring_count)
{
	if (ring_count > VK_RINGS_MAX)
		return 0;
	for (uint32_t r = ring_count; r < VK_RINGS_MAX; r++) {
		if (capacity[r])
			return 0;
	}
	return 1;
}

static int capacities_ok(const uint32_t capacity[VK_RINGS_MAX])
{
	uint32_t rings = 0;

	for (uint32_t r = 0; r < VK_RINGS_MAX; r++) {
		if (!capacity[r])
			continue;
		if (capacity[r] < VK_RING_CAPACITY_MIN || capacity[r] > VK_RING_CAPACITY_MAX ||
		    (capacity[r] & (capacity[r] - 1)))
			return 0;
		rings++;
	}
	return rings > 0;
}

static uint64_t data_size(const uint32_t capacity[VK_RINGS_MAX], uint32_t rings)
{
	uint64_t size = 0;

	for (uint32_t r = 0; r < rings; r++)
		size += capacity[r];
	return size;
}

uint64_t vk_channel_file_size(const uint32_t capacity[VK_RINGS_MAX])
{
	return capacities_ok(capacity) ? VK_SHM_PAGE + data_size(capacity, VK_RINGS_MAX) : 0;
}

uint64_t vk_channel_span(const uint32_t capacity[VK_RINGS_MAX])
{
	return capacities_ok(capacity) ? VK_SHM_PAGE + 2 * data_size(capacity, VK_RINGS_MAX) : 0;
}

int vk_channel_create(const uint32_t capacity[VK_RINGS_MAX], uint32_t ring_count,
		      uint32_t generation)
{
	struct vk_region header = {
		.magic = VK_SHM_MAGIC,
		.abi = VK_REGION_ABI,
		.ring_count = (uint16_t)ring_count,
		.generation = generation,
	};
	uint64_t size = vk_channel_file_size(capacity);
	int fd;

	if (!size || !count_ok(capacity, ring_count))
		return -EINVAL;
	memcpy(header.capacity, capacity, sizeof header.capacity);
	fd = memfd_create("valkyrie-region", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) ||
	    pwrite(fd, &header, sizeof header, 0) != (ssize_t)sizeof header) {
		int error = errno;

		close(fd);
		return -error;
	}
	return fd;
}

int vk_channel_check(int fd, int sealed, uint32_t capacity[VK_RINGS_MAX], uint32_t *generation)
{
	struct vk_region header;
	struct stat st;

	if (sealed) {
		int seals = fcntl(fd, F_GET_SEALS);

		if (seals < 0 ||
		    (seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW))
			return -EPERM;
	}
	if (fstat(fd, &st) || pread(fd, &header, sizeof header, 0) != (ssize_t)sizeof header)
		return -EPROTO;
	if (header.magic != VK_SHM_MAGIC)
		return -EPROTO;
	if (header.abi != VK_REGION_ABI)
		return -EPROTONOSUPPORT;
	if (!count_ok(header.capacity, header.ring_count) || !capacities_ok(header.capacity) ||
	    (uint64_t)st.st_size != vk_channel_file_size(header.capacity))
		return -EPROTO;
	memcpy(capacity, header.capacity, sizeof header.capacity);
	if (generation)
		*generation = header.generation;
	return 0;
}

void *vk_channel_reserve(uint64_t size)
{
	void *at = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

struct vk_region *vk_channel_map(int fd, const uint32_t capacity[VK_RINGS_MAX], int writable,
				 void *at)
{
	int prot = writable ? PROT_READ | PROT_WRITE : PROT_READ, error;
	uint64_t span = vk_channel_span(capacity), file = VK_SHM_PAGE;
	uint8_t *base = at, *next;

	if (!span) {
		errno = EINVAL;
		return NULL;
	}
	if (!base)
		base = vk_channel_reserve(span);
	if (!base)
		return NULL;
	if (mmap(base, VK_SHM_PAGE, prot, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		goto fail;
	next = base + VK_SHM_PAGE;
	for (uint32_t r = 0; r < VK_RINGS_MAX; file += capacity[r], r++) {
		for (int copy = 0; copy < 2 && capacity[r]; copy++, next += capacity[r]) {
			if (mmap(next, capacity[r], prot, MAP_SHARED | MAP_FIXED, fd,
				 (off_t)file) == MAP_FAILED)
				goto fail;
		}
	}
	return (struct vk_region *)base;
fail:
	error = errno;
	vk_channel_unmap((struct vk_region *)base, capacity, at != NULL);
	errno = error;
	return NULL;
}

void vk_channel_unmap(struct vk_region *region, const uint32_t capacity[VK_RINGS_MAX], int keep)
{
	uint64_t span = vk_channel_span(capacity);

	if (!keep)
		munmap(region, span);
	else
		mmap(region, span, PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

int vk_channel_seal(int fd, int future_write)
{
	int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

	if (future_write)
		seals |= F_SEAL_FUTURE_WRITE;
	return fcntl(fd, F_ADD_SEALS, seals) ? -errno : 0;
}

uint8_t *vk_channel_data(const struct vk_region *region, const uint32_t capacity[VK_RINGS_MAX],
			 uint32_t ring)
{
	return (uint8_t *)region + VK_SHM_PAGE + 2 * data_size(capacity, ring);
}

int vk_tx_open(struct vk_tx *tx, struct vk_region *self, const struct vk_region *peer,
	       const uint32_t capacity[VK_RINGS_MAX], uint32_t ring)
{
	if (ring >= VK_RINGS_MAX || !capacity[ring])
		return -EPROTO;
	*tx = (struct vk_tx){
		.self = self,
		.peer = peer,
		.data = vk_channel_data(self, capacity, ring),
		.tail = VK_LOAD_RELAXED(&self->tail[ring]),
		.head = VK_LOAD_ACQUIRE(&peer->head[ring]),
		.capacity = capacity[ring],
		.ring = ring,
	};
	if (tx->tail - tx->head > tx->capacity || (tx->tail | tx->head) % VK_RECORD_ALIGN)
		return -EPROTO;
	return 0;
}

int vk_rx_open(struct vk_rx *rx, struct vk_region *self, const struct vk_region *peer,
	       const uint32_t capacity[VK_RINGS_MAX], uint32_t ring)
{
	if (ring >= VK_RINGS_MAX || !capacity[ring])
		return -EPROTO;
	*rx = (struct vk_rx){
		.self = self,
		.peer = peer,
		.data = vk_channel_data(peer, capacity, ring),
		.head = VK_LOAD_RELAXED(&self->head[ring]),
		.capacity = capacity[ring],
		.ring = ring,
	};
	rx->tail = rx->head;
	if (rx->head % VK_RECORD_ALIGN ||
	    VK_LOAD_ACQUIRE(&peer->tail[ring]) - rx->head > rx->capacity)
		return -EPROTO;
	return 0;
}
