/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vk_pipe.h"

#include <string.h>

enum { NS_PER_S = 1000000000 };

int vk_pipe_open(struct vk_pipe *pipe, struct vk_region *own, const struct vk_region *other,
		 const uint32_t capacity[VK_RINGS_MAX], int bell, int64_t spin_ns_max)
{
	memset(pipe, 0, sizeof *pipe);
	pipe->bell = bell;
	pipe->spin.max_ns = spin_ns_max;
	if (vk_tx_open(&pipe->tx, own, other, capacity, 0))
		return -EPROTO;
	return vk_rx_open(&pipe->rx, own, other, capacity, 0);
}

/* The other party said good-bye, or died. */
static int ended(const struct vk_pipe *pipe)
{
	return pipe->gone || VK_LOAD_ACQUIRE(&pipe->tx.peer->closed);
}

/* Look now and then whether the other party died, where there is nothing to do: who never waits
 * would not hear of it. Readable or not, the bell says that its other end is closed. */
static void look(struct vk_pipe *pipe)
{
	if (++pipe->idle % VK_PIPE_LOOK == 0)
		vk_pipe_look(pipe);
}

void vk_pipe_look(struct vk_pipe *pipe)
{
	struct pollfd bell = { .fd = pipe->bell, .events = POLLRDHUP };

	if (poll(&bell, 1, 0) > 0 && bell.revents & (POLLRDHUP | POLLHUP | POLLERR))
		pipe->gone = 1;
}

/* Like vk_pipe_put, when the other party was seen to be there. */
static int put(struct vk_pipe *pipe, const uint8_t *data, uint32_t size)
{
	uint8_t *body = vk_tx_reserve(&pipe->tx, size);

	if (!body) {
		if (vk_record_span(size) > pipe->tx.capacity)
			return -EMSGSIZE;
		look(pipe);
		return vk_tx_room(&pipe->tx) == -EPROTO ? -EPROTO : 0;
	}
	memcpy(body, data, size);
	vk_tx_commit(&pipe->tx, size, VK_RECORD_RAW);
	return 1;
}

int vk_pipe_put(struct vk_pipe *pipe, const uint8_t *data, uint32_t size)
{
	return ended(pipe) ? -EPIPE : put(pipe, data, size);
}

void vk_pipe_publish(struct vk_pipe *pipe)
{
	vk_tx_publish(&pipe->tx);
	vk_bell_ring(pipe->tx.peer, pipe->bell, &pipe->rang);
}

int vk_pipe_send(struct vk_pipe *pipe, const uint8_t *data, uint32_t size)
{
	int went = vk_pipe_put(pipe, data, size);

	if (went > 0)
		vk_pipe_publish(pipe);
	return went;
}

int64_t vk_pipe_send_fixed(struct vk_pipe *pipe, const uint8_t *data, uint32_t size, uint32_t n)
{
	int went = ended(pipe) ? -EPIPE : 1;
	uint32_t sent = 0;

	while (went > 0 && sent < n) {
		went = put(pipe, data + (uint64_t)sent * size, size);
		if (went > 0)
			sent++;
	}
	if (sent)
		vk_pipe_publish(pipe);
	return sent || went > 0 ? (int64_t)sent : went;
}

int64_t vk_pipe_recv_many(struct vk_pipe *pipe, uint32_t max, uint32_t *begins, uint32_t *ends)
{
	uint64_t first = pipe->rx.head & (pipe->rx.capacity - 1), start = pipe->rx.head;
	int over = ended(pipe), found = 1;
	struct vk_record record;
	const uint8_t *body;
	uint32_t n = 0;

	if (pipe->lent)
		return -EBUSY;
	/* Mapped twice: a batch may run over the end of the ring and stays contiguous. */
	while (n < max) {
		found = vk_rx_peek(&pipe->rx, &record, &body);
		if (found <= 0)
			break;
		begins[n] = (uint32_t)(first + (pipe->rx.head - start) + sizeof record);
		ends[n] = begins[n] + record.size;
		vk_rx_advance(&pipe->rx, &record);
		n++;
	}
	pipe->lent = n > 0;
	if (n || found > 0)
		return n;
	if (!found && !over)
		look(pipe); /* before it died it may have sent something: the next call says so */
	return found < 0 ? found : over ? -EPIPE : 0;
}

int64_t vk_pipe_recv(struct vk_pipe *pipe, const uint8_t **body)
{
	struct vk_record record;
	int found, over;

	if (pipe->lent)
		return -EBUSY;
	found = vk_rx_peek(&pipe->rx, &record, body);
	if (!found) { /* what came before the end was published before it */
		over = ended(pipe);
		found = over ? vk_rx_peek(&pipe->rx, &record, body) : 0;
		if (!found && !over)
			look(pipe);
		if (!found)
			return over ? -EPIPE : -EAGAIN;
	}
	if (found < 0)
		return found;
	vk_rx_advance(&pipe->rx, &record);
	return record.size;
}

void vk_pipe_release(struct vk_pipe *pipe)
{
	pipe->lent = 0;
	vk_rx_release(&pipe->rx);
	vk_bell_ring(pipe->rx.peer, pipe->bell, &pipe->rang);
}

int vk_pipe_ready(struct vk_pipe *pipe, uint32_t room)
{
	int64_t free;

	if (ended(pipe))
		return 1;
	if (!room)
		return VK_LOAD_ACQUIRE(&pipe->rx.peer->tail[0]) != pipe->rx.head;
	free = vk_tx_room(&pipe->tx);
	return free < 0 || free >= (int64_t)vk_record_span(room) ||
	       vk_record_span(room) > pipe->tx.capacity;
}

int vk_pipe_arm(struct vk_pipe *pipe, uint32_t room)
{
	vk_sleep_begin(pipe->tx.self, &pipe->sleeps);
	return vk_pipe_ready(pipe, room);
}

int vk_pipe_wake(struct vk_pipe *pipe, int rang)
{
	vk_sleep_end(pipe->tx.self);
	if (rang && vk_bell_empty(pipe->bell) == -EPIPE)
		pipe->gone = 1;
	return pipe->gone ? -EPIPE : 0;
}

struct wanted {
	struct vk_pipe *pipe;
	uint32_t room;
};

static int is_ready(void *context)
{
	const struct wanted *wanted = context;

	return vk_pipe_ready(wanted->pipe, wanted->room);
}

int vk_pipe_spin(struct vk_pipe *pipe, uint32_t room)
{
	struct wanted wanted = { pipe, room };

	return is_ready(&wanted) || vk_spin_until(&pipe->spin, is_ready, &wanted);
}

void vk_pipe_slept(struct vk_pipe *pipe, int64_t waited_ns)
{
	vk_spin_slept(&pipe->spin, waited_ns);
}

/* Leave the lines that both parties use alone for a moment, if this wait polls at all. Who has said
 * something since the last wait waits for an answer, and for that every look counts. */
static void hold_off(struct vk_pipe *pipe, uint32_t room, int64_t begin)
{
	int64_t until = begin + (room ? VK_PIPE_ROOM_NS : VK_PIPE_LISTEN_NS);
	int asked = !room && pipe->tx.tail != pipe->said;

	if (!room)
		pipe->said = pipe->tx.tail;
	while (!asked && vk_spin_pays(&pipe->spin) && vk_spin_clock() < until)
		vk_spin_pause();
}

int vk_pipe_wait(struct vk_pipe *pipe, uint32_t room, int64_t timeout_ns)
{
	struct wanted wanted = { pipe, room };
	int64_t begin, end;
	int n = 1;

	begin = vk_spin_clock();
	end = timeout_ns < 0 ? 0 : begin + timeout_ns;
	if (timeout_ns)
		hold_off(pipe, room, begin);
	if (is_ready(&wanted))
		return 1;
	if (timeout_ns && vk_spin_until(&pipe->spin, is_ready, &wanted))
		return 1;
	while (n > 0) {
		struct pollfd bell = { .fd = pipe->bell, .events = POLLIN };
		int64_t left = timeout_ns < 0 ? 0 : end - vk_spin_clock();
		struct timespec until = { .tv_sec = left / NS_PER_S, .tv_nsec = left % NS_PER_S };

		if (left < 0)
			until = (struct timespec){ 0 };
		if (vk_pipe_arm(pipe, room)) {
			vk_pipe_wake(pipe, 0);
			return 1;
		}
		n = ppoll(&bell, 1, timeout_ns < 0 ? NULL : &until, NULL);
		n = n < 0 ? -errno : n;
		vk_pipe_wake(pipe, n > 0);
		if (is_ready(&wanted)) {
			vk_spin_slept(&pipe->spin, vk_spin_clock() - begin);
			return 1;
		}
	}
	return n;
}

void vk_pipe_close(struct vk_pipe *pipe)
{
	VK_STORE_RELEASE(&pipe->tx.self->closed, 1);
	pipe->rang = 0; /* whatever it was rung for before */
	vk_bell_ring(pipe->tx.peer, pipe->bell, &pipe->rang);
}
