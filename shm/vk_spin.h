/* SPDX-License-Identifier: MIT */
#ifndef VK_SPIN_H
#define VK_SPIN_H
/* vk_spin.h: how long who waits polls before it sleeps, learned from what polling and sleeping
 * brought. Hot path inline. Applications, ends of channels and workers follow the same rule:
 *
 *   A wait polls for up to two wakes of this host (vk_wake.h), and at least 20 µs, a worker for
 *   its spin_ns. Each poll that brought something pays for 60 µs of polling in vain; when eight
 *   polls are not paid for, waits sleep at once. After eight sleeps that ended soon four polls are
 *   tried, and after each try in vain twice as many sleeps have to, up to 64.
 */
#ifndef VK_CDEF
#include <stdint.h>
#endif

/* Of one waiter; zeroed but for max_ns it begins with polling. */
struct vk_spin {
	int64_t max_ns; /* of a wait; 0 = never: set it on a host without a core to spare */
	int64_t vain_ns; /* polled in vain, and not paid for by polls that brought something */
	uint32_t soon; /* sleeps since the last poll that ended soon */
	uint32_t enough; /* of those to try polling again */
};

enum vk_spin_const {
	VK_SPIN_LEAST_NS = 20000, /* where a wake costs little: 3000 to 8000 */
	VK_SPIN_MOST_NS = 200000,
	VK_SPIN_WAKES = 2, /* a poll is as long as so many: who is waited for may have to wake */
	VK_SPIN_PAID_NS = 60000, /* by a poll that brings something: one in four does for 20 µs */
	VK_SPIN_VAIN = 8, /* polls that need not be paid for */
	VK_SPIN_TRIES = 4, /* of them after sleeps */
	VK_SPIN_SOON = 4, /* a sleep ended soon below this many times the longest polling */
	VK_SPIN_ENOUGH = 8, /* short sleeps after which polling is tried again */
	VK_SPIN_ENOUGH_MAX = 64, /* the same behind tries in vain */
	VK_SPIN_LOOKS = 32, /* looks between two readings of the clock */
};

#ifndef VK_CDEF
#include <sched.h>
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

/* vk_spin_bound returns max_ns for a host on which a wake takes wake_ns: at least least_ns, and 0
 * if that is 0. */
static inline int64_t vk_spin_bound(int64_t least_ns, int64_t wake_ns)
{
	int64_t bound_ns = wake_ns < VK_SPIN_MOST_NS / VK_SPIN_WAKES ? wake_ns * VK_SPIN_WAKES :
								       VK_SPIN_MOST_NS;

	return least_ns && bound_ns > least_ns ? bound_ns : least_ns;
}

/* vk_spin_pays says whether the next wait begins with polling. */
static inline int vk_spin_pays(const struct vk_spin *spin)
{
	return spin->vain_ns < VK_SPIN_VAIN * spin->max_ns;
}

/* vk_spin_hit learns that polling brought what was waited for. */
static inline void vk_spin_hit(struct vk_spin *spin)
{
	spin->vain_ns -= VK_SPIN_PAID_NS;
	if (spin->vain_ns > 0)
		return;
	spin->vain_ns = 0;
	spin->enough = 0;
}

/* vk_spin_missed learns that polling for max_ns brought nothing. */
static inline void vk_spin_missed(struct vk_spin *spin)
{
	spin->vain_ns += spin->max_ns;
	spin->soon = 0;
}

/* vk_spin_slept learns from a sleep of waited_ns: when all parties sleep, their wakes make every
 * wait long, and only trying to poll shows whether it would be short. They find out together, so
 * each tries at a time of its own: when, the last bits of the clock say. */
static inline void vk_spin_slept(struct vk_spin *spin, int64_t waited_ns)
{
	uint32_t enough = spin->enough ? spin->enough : VK_SPIN_ENOUGH;

	if (vk_spin_pays(spin) || waited_ns > VK_SPIN_SOON * spin->max_ns ||
	    ++spin->soon < enough + waited_ns % VK_SPIN_ENOUGH)
		return;
	spin->vain_ns = (VK_SPIN_VAIN - VK_SPIN_TRIES) * spin->max_ns;
	spin->enough = enough < VK_SPIN_ENOUGH_MAX ? 2 * enough : VK_SPIN_ENOUGH_MAX;
}

/* vk_spin_until polls ready(context), if that pays. Returns whether it became ready. Who is to make
 * it ready may wait for this core: from VK_SPIN_LEAST_NS on it is offered at every look. Where
 * somebody takes it for longer than the poll, that was in vain. */
static inline int vk_spin_until(struct vk_spin *spin, int (*ready)(void *), void *context)
{
	int64_t begin, now;

	if (!vk_spin_pays(spin))
		return 0;
	begin = vk_spin_clock();
	for (now = begin; now - begin < spin->max_ns; now = vk_spin_clock()) {
		for (int look = 0; look < VK_SPIN_LOOKS; look++) {
			if (ready(context)) {
				vk_spin_hit(spin);
				return 1;
			}
			vk_spin_pause();
		}
		if (now - begin >= VK_SPIN_LEAST_NS)
			sched_yield();
	}
	vk_spin_missed(spin);
	return ready(context);
}
#endif
#endif
