/* SPDX-License-Identifier: MIT */
/* The census: every frame of a quiet port has exactly one owner. */
#include "vk_path_xdp.h"

#include <stdlib.h>
#include <string.h>

struct walk {
	const struct vk_umem *umem;
	uint8_t *seen;
	uint32_t twice;
	uint32_t tx_seen;
};

static void see(struct walk *walk, uint64_t address)
{
	uint64_t frame = address / walk->umem->chunk_size;

	if (frame >= (uint64_t)walk->umem->rx_frames + walk->umem->tx_frames || walk->seen[frame])
		walk->twice++;
	else
		walk->seen[frame] = 1;
	walk->tx_seen += frame >= walk->umem->rx_frames;
}

static uint32_t see_ring(struct walk *walk, const struct vk_xsk_ring *ring, int descriptors)
{
	uint32_t ready = vk_umem_ready(ring);

	for (uint32_t i = 0; i < ready; i++) {
		uint32_t index = *ring->consumer + i;

		see(walk, descriptors ? vk_umem_descriptor(ring, index)->addr :
					*vk_umem_address(ring, index));
	}
	return ready;
}

/* see_private counts what only the worker knows: free frames, and frames in its hands. */
static void see_private(struct walk *walk, const struct vk_xdp_path *self, struct vk_census *census)
{
	const struct vk_xsk_ring *ring = &self->path.port->xsks[VK_CLASS_CONTROL].tx;

	for (uint32_t i = 0; i < self->free_count; i++)
		see(walk, (uint64_t)self->free[i] * walk->umem->chunk_size);
	census->free = self->free_count;
	for (int class = 0; class < VK_CLASS_COUNT; class ++) {
		census->rx[class] -= self->receive[class].held;
		census->held += self->receive[class].held;
	}
	if (self->reserved != VK_XDP_NO_FRAME) {
		see(walk, (uint64_t)self->reserved * walk->umem->chunk_size);
		census->held++;
	}
	for (uint32_t i = ring->size ? *ring->producer : self->producer; i != self->producer; i++) {
		see(walk, vk_umem_descriptor(ring, i)->addr);
		census->held++;
	}
}

void vk_path_xdp_census(const struct vk_port *port, const struct vk_path *path,
			struct vk_census *census)
{
	struct walk walk = { .umem = &port->umem };
	uint32_t total = port->umem.rx_frames + port->umem.tx_frames, rings = 0;

	memset(census, 0, sizeof *census);
	walk.seen = calloc(total + 1, 1);
	if (!walk.seen || !port->umem.area) {
		free(walk.seen);
		return;
	}
	census->fill = see_ring(&walk, &port->umem.fill, 0);
	for (int class = 0; class < VK_CLASS_COUNT; class ++) {
		census->rx[class] = see_ring(&walk, &port->xsks[class].rx, 1);
		rings += census->rx[class];
	}
	census->tx = see_ring(&walk, &port->xsks[VK_CLASS_CONTROL].tx, 1);
	census->completion = see_ring(&walk, &port->umem.completion, 0);
	census->kernel = port->umem.rx_frames - census->fill - rings;
	if (path) {
		see_private(&walk, (const struct vk_xdp_path *)path, census);
		census->kernel += port->umem.tx_frames - walk.tx_seen;
	} else if (port->umem.tx_frames) {
		uint32_t sent = vk_xdp_outstanding(port) - census->tx - census->completion;

		census->kernel += sent;
		census->free = port->umem.tx_frames - census->tx - census->completion - sent;
	}
	census->twice = walk.twice;
	free(walk.seen);
}
