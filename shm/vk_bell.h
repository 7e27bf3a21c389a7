/* SPDX-License-Identifier: MIT */
#ifndef VK_BELL_H
#define VK_BELL_H
/* vk_bell.h: how a party sleeps on its eventfd and how it is woken; hot path inline.
 *
 *   sleeper: vk_sleep_begin · look at every ring once more · poll the bell · vk_sleep_end
 *   waker:   vk_tx_publish or vk_rx_release · vk_bell_ring
 *
 * Either the sleeper's last look sees what the waker published, or the waker sees `sleeping`: each
 * side stores, then fences, then loads (vk_bell_wanted has the waker's fence).
 */
#include "vk_ring.h"

#ifndef VK_CDEF
#include <poll.h>
#include <unistd.h>

/* vk_sleep_begin announces that the owner of self may sleep; *sleeps is its private count. */
static inline void vk_sleep_begin(struct vk_region *self, uint32_t *sleeps)
{
	if (++*sleeps == 0)
		*sleeps = 1; /* 0 means awake */
	VK_STORE_RELAXED(&self->sleeping, *sleeps);
	VK_FULL_FENCE();
}

/* vk_sleep_end says that the owner is awake, and empties its bell if it rang. */
static inline void vk_sleep_end(struct vk_region *self, int bell, int rang)
{
	uint64_t count;

	VK_STORE_RELAXED(&self->sleeping, 0);
	if (rang && read(bell, &count, sizeof count) < 0)
		return; /* EAGAIN: somebody emptied it before */
}

/* vk_bell_ring wakes the owner of peer if it sleeps and was not rung for that sleep yet. Returns
 * whether it rang. One system call, only then. */
static inline int vk_bell_ring(const struct vk_region *peer, int bell, uint32_t *rang)
{
	uint64_t one = 1;

	if (!vk_bell_wanted(peer, rang))
		return 0;
	return write(bell, &one, sizeof one) == (ssize_t)sizeof one;
}
#endif
#endif
