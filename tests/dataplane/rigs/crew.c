/* SPDX-License-Identifier: MIT */
/* Loops for forked children of the tests: a worker that echoes, to be killed anywhere, and a
 * sender that floods. Neither ends by itself. */
#include "vk_path.h"

#include <string.h>

/* What the children tell their parent, in shared memory. */
struct crew_counts {
	uint64_t received;
	uint64_t echoed;
	uint64_t recovered;
	uint64_t sent;
	uint64_t failed; /* the path could not be opened */
};

int crew_work(struct vk_port *port, struct vk_port_state *state, struct vk_peer *peer,
	      struct crew_counts *counts);
int crew_flood(struct vk_port *port, struct vk_port_state *state, struct vk_peer *peer,
	       uint32_t class, const uint8_t *frame, uint32_t size, struct crew_counts *counts);

/* turn moves one batch of a class and echoes it. */
static void turn(struct vk_path *path, uint32_t class, struct vk_peer *peer,
		 struct crew_counts *counts)
{
	struct vk_rx_frame frames[VK_RX_BATCH];
	int count = path->ops->rx(path, class, frames, VK_RX_BATCH);

	if (count <= 0)
		return;
	for (int i = 0; i < count; i++) {
		uint8_t *at = path->ops->tx_reserve(path, peer, class);

		if (!at)
			break;
		memcpy(at, frames[i].data, frames[i].size);
		path->ops->tx_commit(path, frames[i].size, 0);
		counts->echoed++;
	}
	path->ops->rx_done(path, class);
	counts->received += (uint64_t)count;
}

int crew_work(struct vk_port *port, struct vk_port_state *state, struct vk_peer *peer,
	      struct crew_counts *counts)
{
	uint32_t recovered;
	struct vk_path *path = vk_path_xdp_open(port, state, &recovered);

	if (!path) {
		counts->failed++;
		return 1;
	}
	counts->recovered += recovered;
	for (;;) {
		for (uint32_t class = 0; class < VK_CLASS_COUNT; class ++)
			turn(path, class, peer, counts);
		path->ops->tx_flush(path);
	}
}

int crew_flood(struct vk_port *port, struct vk_port_state *state, struct vk_peer *peer,
	       uint32_t class, const uint8_t *frame, uint32_t size, struct crew_counts *counts)
{
	struct vk_path *path = vk_path_udp_open(port, state);

	if (!path) {
		counts->failed++;
		return 1;
	}
	for (;;) {
		for (int i = 0; i < 32; i++) {
			uint8_t *at = path->ops->tx_reserve(path, peer, class);

			if (!at)
				break;
			memcpy(at, frame, size);
			path->ops->tx_commit(path, size, 0);
		}
		path->ops->tx_flush(path);
		counts->sent = path->sent;
	}
}
