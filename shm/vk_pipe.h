/* SPDX-License-Identifier: MIT */
#ifndef VK_PIPE_H
#define VK_PIPE_H
/* vk_pipe.h: both directions of a one-ring channel between two applications, as Python uses it:
 * raw records, many a call, and waiting. No daemon is involved. One thread at a time.
 */
#include "vk_bell.h"
#include "vk_channel.h"
#include "vk_counters.h"
#include "vk_row.h"
#include "vk_seat.h"
#include "vk_wake.h"

struct vk_pipe {
	struct vk_tx tx;
	struct vk_rx rx;
	uint32_t rang;
	uint32_t sleeps;
	int bell; /* our end of a socket pair; the other party has the other end */
	int gone; /* the other end of the bell is closed */
	uint32_t watched; /* an event loop sleeps on the bell, too */
	uint32_t idle; /* calls that found nothing, or no room */
	int lent; /* what vk_pipe_recv_many found has not been released */
	uint64_t said; /* tx.tail at the last wait for a message */
	struct vk_spin spin;
};

enum vk_pipe_const {
	/* How long a wait that polls leaves the other party alone before it looks. To look costs
	 * both a cache line, which was 150 ns a message where every one was looked for: who only
	 * listens looks after the time of a few, and for room when there is some for a heap. */
	VK_PIPE_LISTEN_NS = 300,
	VK_PIPE_ROOM_NS = 1000,
	/* Every so many calls that find nothing, or no room, one looks whether the other party is
	 * there: a system call, several times what finding nothing takes. */
	VK_PIPE_LOOK = 64,
};

/* vk_pipe_open makes a pipe of two mapped regions: own, which we write, and other. spin_ns_max: how
 * long vk_pipe_wait may poll before it sleeps. Returns 0 or -EPROTO. The regions and the descriptor
 * stay the caller's. */
int vk_pipe_open(struct vk_pipe *pipe, struct vk_region *own, const struct vk_region *other,
		 const uint32_t capacity[VK_RINGS_MAX], int bell, int64_t spin_ns_max);

/* vk_pipe_send sends one message and wakes the receiver if it sleeps: 1, 0 when the ring is full,
 * -EMSGSIZE if it never fits, -EPIPE if the other party is gone, -EPROTO if it broke the rules. */
int vk_pipe_send(struct vk_pipe *pipe, const uint8_t *data, uint32_t size);

/* vk_pipe_put is vk_pipe_send without telling the receiver: for many at once, with one
 * vk_pipe_publish behind them. Setting tx.tail back instead takes them out again. */
int vk_pipe_put(struct vk_pipe *pipe, const uint8_t *data, uint32_t size);
void vk_pipe_publish(struct vk_pipe *pipe);

/* vk_pipe_send_fixed sends n messages of size bytes that lie one after the other at data;
 * publishes and wakes once. Returns how many went (fewer when the ring is full), or an error like
 * vk_pipe_send if none did. */
int64_t vk_pipe_send_fixed(struct vk_pipe *pipe, const uint8_t *data, uint32_t size, uint32_t n);

/* vk_pipe_recv_many finds up to max messages: begins[i] to ends[i] from where the ring's data
 * begins, below 2 * capacity, valid until vk_pipe_release. Returns how many; when there is none, 0,
 * -EPIPE if none will come any more, -EPROTO if the other party broke the rules; -EBUSY if those of
 * the last call were not released. */
int64_t vk_pipe_recv_many(struct vk_pipe *pipe, uint32_t max, uint32_t *begins, uint32_t *ends);

/* vk_pipe_recv finds the next message: its size, and *body, valid until vk_pipe_release; when there
 * is none, -EAGAIN, or an error like those of vk_pipe_recv_many. Those found since the last release
 * are released together; setting rx.head back instead lets them be found again. */
int64_t vk_pipe_recv(struct vk_pipe *pipe, const uint8_t **body);

/* vk_pipe_release gives what vk_pipe_recv_many or vk_pipe_recv found back to the sender, and wakes
 * it if it waits for room. */
void vk_pipe_release(struct vk_pipe *pipe);

/* vk_pipe_look sets gone if the other party has died: recv and send do so at every VK_PIPE_LOOK-th
 * time that they find nothing, or no room. Syscall: poll. */
void vk_pipe_look(struct vk_pipe *pipe);

/* vk_pipe_ready says whether there is a message, or, when room is not 0, whether a message of room
 * bytes can be sent; errors, and the other party's end, count as ready. */
int vk_pipe_ready(struct vk_pipe *pipe, uint32_t room);

/* vk_pipe_arm asks for the bell and returns vk_pipe_ready as it is then: sleep only on 0.
 * vk_pipe_wake undoes it. */
int vk_pipe_arm(struct vk_pipe *pipe, uint32_t room);

/* vk_pipe_wake says that we are awake; rang: the bell is readable, empty it. Returns 0, or -EPIPE
 * when the other party is gone: the bell stays readable then. */
int vk_pipe_wake(struct vk_pipe *pipe, int rang);

/* vk_pipe_spin polls for what vk_pipe_wait waits for, if that has paid lately; 1 = it is there. For
 * event loops, which sleep elsewhere: vk_pipe_slept tells it how long that took, nanoseconds. */
int vk_pipe_spin(struct vk_pipe *pipe, uint32_t room);

/* vk_pipe_slept learns from a sleep: see vk_pipe_spin. */
void vk_pipe_slept(struct vk_pipe *pipe, int64_t waited_ns);

/* vk_pipe_wait blocks until vk_pipe_ready: 1; 0 after timeout_ns (negative: never); -EINTR. */
int vk_pipe_wait(struct vk_pipe *pipe, uint32_t room, int64_t timeout_ns);

/* vk_pipe_close tells the other party that nothing more will come, and wakes it. */
void vk_pipe_close(struct vk_pipe *pipe);
#endif
