/* SPDX-License-Identifier: MIT */
#ifndef VK_WAKE_H
#define VK_WAKE_H
/* vk_wake.h: what it costs on this host to wake who sleeps: how late a thread runs that a timer
 * woke. 3 to 8 µs on bare metal; 40 to 100 on a virtual machine, where a core without work is given
 * back to the host. Not on the hot path.
 */
#ifndef VK_CDEF
#include <stdint.h>
#endif

/* What sleeps of one thread showed; zeroed but for timer it knows nothing yet. */
struct vk_wake {
	int timer; /* descriptor that becomes readable at times that are known; -1 = none */
	int64_t period_ns;
	int64_t due_ns; /* when it rings next */
	int64_t cost_ns; /* 0 = not known yet */
};

enum vk_wake_const {
	VK_WAKE_MOST_NS = 100000, /* what is later than that waited for other work on its core */
	VK_WAKE_FALL = 4, /* the cost takes a fourth of what a sample is below it */
	VK_WAKE_RISE = 16, /* and a sixteenth of what one is above: other work only adds */
};

/* vk_wake_open has wake->timer ring every period_ns. Returns 0 or -errno; then timer is -1, and
 * nothing is learned. Syscalls: timerfd_create, timerfd_settime, close. */
int vk_wake_open(struct vk_wake *wake, int64_t period_ns);

/* vk_wake_close closes the timer. */
void vk_wake_close(struct vk_wake *wake);

/* vk_wake_rang learns from a sleep that began at began_ns, and behind which the timer was readable.
 * Syscalls: preadv2. */
void vk_wake_rang(struct vk_wake *wake, int64_t began_ns);

/* vk_wake_learn learns from one wake that came late_ns late. */
void vk_wake_learn(struct vk_wake *wake, int64_t late_ns);

/* vk_wake_bound returns for how long threads of this process may poll (vk_spin_bound): it measures
 * once, 2 ms long, and remembers. Any thread. */
int64_t vk_wake_bound(void);
#endif
