/* SPDX-License-Identifier: MIT */
#include "vk_pipe.h"

#include "vk_bell.h"

#include <string.h>

int vk_pipe_open(struct vk_pipe *pipe, struct vk_region *own, const struct vk_region *other,
		 const uint32_t capacity[VK_RINGS_MAX], int bell_self, int bell_peer)
{
	memset(pipe, 0, sizeof *pipe);
	memcpy(pipe->capacity, capacity, sizeof pipe->capacity);
	pipe->bell_self = bell_self;
	pipe->bell_peer = bell_peer;
	if (vk_tx_open(&pipe->tx, own, other, capacity, 0))
		return -EPROTO;
	return vk_rx_open(&pipe->rx, own, other, capacity, 0);
}

static int put(struct vk_pipe *pipe, const uint8_t *data, uint32_t size)
{
	uint8_t *body = vk_tx_reserve(&pipe->tx, size);

	if (!body)
		return vk_tx_room(&pipe->tx) == -EPROTO ? -EPROTO : 0;
	memcpy(body, data, size);
	vk_tx_commit(&pipe->tx, size, VK_RECORD_RAW);
	return 1;
}

static int64_t publish(struct vk_pipe *pipe, int error, uint32_t sent)
{
	if (error < 0)
		return error;
	if (sent) {
		vk_tx_publish(&pipe->tx);
		vk_bell_ring(pipe->tx.peer, pipe->bell_peer, &pipe->rang);
	}
	return sent;
}

int64_t vk_pipe_send_many(struct vk_pipe *pipe, const uint8_t *data, const uint32_t *sizes,
			  uint32_t n)
{
	uint32_t sent = 0;
	int went = 1;

	for (; sent < n; sent++) {
		went = put(pipe, data, sizes[sent]);
		if (went != 1)
			break;
		data += sizes[sent];
	}
	return publish(pipe, went, sent);
}

int64_t vk_pipe_send_fixed(struct vk_pipe *pipe, const uint8_t *data, uint32_t size, uint32_t n)
{
	uint32_t sent = 0;
	int went = 1;

	for (; sent < n; sent++, data += size) {
		went = put(pipe, data, size);
		if (went != 1)
			break;
	}
	return publish(pipe, went, sent);
}

int64_t vk_pipe_recv_many(struct vk_pipe *pipe, uint32_t max, uint32_t *begins, uint32_t *ends,
			  const uint8_t **base)
{
	struct vk_record record;
	const uint8_t *body;
	uint32_t n = 0;

	*base = pipe->rx.data + (pipe->rx.head & (pipe->rx.capacity - 1));
	for (; n < max; n++) {
		int found = vk_rx_peek(&pipe->rx, &record, &body);

		if (found < 0)
			return found;
		if (!found)
			break;
		/* A batch is one contiguous stretch: the second mapping ends it. */
		if (body < *base)
			break;
		begins[n] = (uint32_t)(body - *base);
		ends[n] = begins[n] + record.size;
		vk_rx_advance(&pipe->rx, &record);
	}
	return n;
}

void vk_pipe_release(struct vk_pipe *pipe)
{
	vk_rx_release(&pipe->rx);
	vk_bell_ring(pipe->rx.peer, pipe->bell_peer, &pipe->rang);
}

int vk_pipe_sleep(struct vk_pipe *pipe, uint32_t size)
{
	vk_sleep_begin(pipe->tx.self, &pipe->sleeps);
	if (size)
		return vk_tx_room(&pipe->tx) < (int64_t)vk_record_span(size);
	return VK_LOAD_ACQUIRE(&pipe->rx.peer->tail[0]) == pipe->rx.head &&
	       !VK_LOAD_RELAXED(&pipe->rx.peer->closed);
}

void vk_pipe_wake(struct vk_pipe *pipe)
{
	vk_sleep_end(pipe->tx.self, pipe->bell_self, 1);
}
