/* SPDX-License-Identifier: MIT */
#ifndef VK_SPIN_H
#define VK_SPIN_H
/* vk_spin.h: how long an application polls before it sleeps, learned from what polling and sleeping
 * brought. Hot path inline. (A worker has a rule of its own, which counts idle periods.)
 */
#ifndef VK_CDEF
#include <stdint.h>
#endif

/* How long a waiter polls before it sleeps; adapts to what polling brought. */
struct vk_spin {
	int64_t max_ns; /* 0 = never: set it on a host without a core to spare */
	int64_t now_ns; /* of the next wait */
	uint32_t near; /* sleeps in a row that ended soon */
};

enum vk_spin_const {
	VK_SPIN_STEP_NS = 2000, /* the least that is tried; a wake costs 3000 to 8000 */
	VK_SPIN_NEAR = 8, /* short sleeps after which polling is tried again */
	VK_SPIN_SOON = 4, /* a sleep is short below this many times the longest polling */
	VK_SPIN_LOOKS = 32, /* looks between two readings of the clock */
};

#ifndef VK_CDEF
#include <time.h>

/* vk_spin_clock reads CLOCK_MONOTONIC in nanoseconds. */
static inline int64_t vk_spin_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* vk_spin_pause tells the processor that this thread only waits. */
static inline void vk_spin_pause(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#endif
}

/* vk_spin_slept learns from a sleep of waited_ns: when both parties sleep, two wakes make every
 * wait long, and only trying to poll shows whether it would be short. */
static inline void vk_spin_slept(struct vk_spin *spin, int64_t waited_ns)
{
	if (spin->now_ns || waited_ns > VK_SPIN_SOON * spin->max_ns) {
		spin->near = 0;
	} else if (++spin->near >= VK_SPIN_NEAR) {
		spin->near = 0;
		spin->now_ns = spin->max_ns;
	}
}

/* vk_spin_until polls ready(context) for as long as polling has paid lately: twice as long after
 * every hit, half as long after a miss, at most max_ns. Returns whether it became ready. */
static inline int vk_spin_until(struct vk_spin *spin, int (*ready)(void *), void *context)
{
	int64_t end;

	if (!spin->now_ns || !spin->max_ns)
		return 0;
	end = vk_spin_clock() + spin->now_ns;
	do {
		for (int look = 0; look < VK_SPIN_LOOKS; look++) {
			if (ready(context)) {
				spin->now_ns *= 2;
				if (spin->now_ns > spin->max_ns)
					spin->now_ns = spin->max_ns;
				return 1;
			}
			vk_spin_pause();
		}
	} while (vk_spin_clock() < end);
	spin->now_ns /= 2;
	if (spin->now_ns < VK_SPIN_STEP_NS)
		spin->now_ns = 0;
	return 0;
}
#endif
#endif
