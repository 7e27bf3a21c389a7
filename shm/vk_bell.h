/* SPDX-License-Identifier: MIT */
#ifndef VK_BELL_H
#define VK_BELL_H
/* vk_bell.h: how a party sleeps on its bell and how it is woken; hot path inline.
 *
 *   sleeper: vk_sleep_begin · look at every ring once more · poll the bell · vk_sleep_end
 *   waker:   vk_tx_publish or vk_rx_release · vk_bell_ring
 *
 * Either the sleeper's last look sees what the waker published, or the waker sees `sleeping`: each
 * side stores, then fences, then loads (vk_bell_wanted has the waker's fence).
 *
 * What a bell is depends on who must not be held up by whom, because the parties share it:
 *
 *   worker rings an application    socket, the worker's end shut for reading
 *   application rings the worker   eventfd
 *   application and application    socket, both ways
 *
 * Whoever holds an eventfd can take O_NONBLOCK off it and fill it: then a write blocks, and nothing
 * but that flag tells it not to. A read can be told, and so can every call on a socket; but who
 * receives from a socket also receives descriptors that the sender put beside the bytes, and to
 * close those takes as long as the sender likes (a TCP socket that lingers: seconds). So the worker
 * writes to sockets only and reads from eventfds only: nothing an application does holds it up.
 * Between two applications that way remains on kernels before 6.16; see local.py.
 */
#include "vk_ring.h"
#include "vk_spin.h"

#ifndef VK_CDEF
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* vk_sleep_begin announces that the owner of self may sleep; *sleeps is its private count. */
static inline void vk_sleep_begin(struct vk_region *self, uint32_t *sleeps)
{
	if (++*sleeps == 0)
		*sleeps = 1; /* 0 means awake */
	VK_STORE_RELEASE(&self->sleeping, *sleeps); /* what it wants to be woken for is written */
	VK_FULL_FENCE();
}

/* vk_sleep_end says that the owner is awake. A bell that rang is its to empty. */
static inline void vk_sleep_end(struct vk_region *self)
{
	VK_STORE_RELAXED(&self->sleeping, 0);
}

/* vk_bell_empty takes what rang out of a socket: 1 = it rang, 0 = it did not, -EPIPE = the other
 * end is gone, and the bell stays readable. Never blocks on the bell. */
static inline int vk_bell_empty(int bell)
{
	uint8_t rings[64];
	ssize_t n = recv(bell, rings, sizeof rings, MSG_DONTWAIT);

	if (n == 0 || (n < 0 && errno == ECONNRESET))
		return -EPIPE;
	return n > 0;
}

/* vk_bell_ring wakes the owner of peer by a socket, if it sleeps and was not rung for that sleep
 * yet. Returns whether it rang; a full socket has rung already. System calls only then, and never
 * blocks. */
static inline int vk_bell_ring(const struct vk_region *peer, int bell, uint32_t *rang)
{
	const uint8_t one = 1;

	return vk_bell_wanted(peer, rang) &&
	       send(bell, &one, sizeof one, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof one;
}

/* vk_event_empty takes what rang out of an eventfd. Never blocks, whatever whoever shares it made
 * of its flags: that is what RWF_NOWAIT is for (Linux 5.8). */
static inline void vk_event_empty(int event)
{
	uint64_t rings;
	struct iovec part = { .iov_base = &rings, .iov_len = sizeof rings };

	if (preadv2(event, &part, 1, -1, RWF_NOWAIT) < 0)
		return; /* somebody else was faster */
}

/* vk_event_ring is vk_bell_ring by an eventfd. Blocks if it is full and set to block: only for who
 * trusts the other holders. */
static inline int vk_event_ring(const struct vk_region *peer, int event, uint32_t *rang)
{
	const uint64_t one = 1;

	return vk_bell_wanted(peer, rang) && write(event, &one, sizeof one) == sizeof one;
}
#endif
#endif
