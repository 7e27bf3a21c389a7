/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vk_wake.h"

#include "vk_spin.h"

#include <errno.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	NS_PER_S = 1000000000,
	SAMPLES = 8,
	PERIOD_NS = 250000, /* longer than a wake takes */
};

static struct timespec to_time(int64_t ns)
{
	return (struct timespec){ .tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S };
}

static int open_timer(struct vk_wake *wake, int64_t period_ns, int flags)
{
	struct itimerspec when;
	int error;

	wake->period_ns = period_ns;
	wake->due_ns = vk_spin_clock() + period_ns;
	when.it_interval = to_time(period_ns);
	when.it_value = to_time(wake->due_ns);
	wake->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | flags);
	if (wake->timer < 0)
		return -errno;
	if (timerfd_settime(wake->timer, TFD_TIMER_ABSTIME, &when, NULL)) {
		error = -errno;
		vk_wake_close(wake);
		return error;
	}
	return 0;
}

int vk_wake_open(struct vk_wake *wake, int64_t period_ns)
{
	return open_timer(wake, period_ns, TFD_NONBLOCK);
}

void vk_wake_close(struct vk_wake *wake)
{
	if (wake->timer >= 0)
		close(wake->timer);
	wake->timer = -1;
}

void vk_wake_learn(struct vk_wake *wake, int64_t late_ns)
{
	int64_t more_ns = (late_ns < VK_WAKE_MOST_NS ? late_ns : VK_WAKE_MOST_NS) - wake->cost_ns;

	if (wake->cost_ns)
		more_ns /= more_ns < 0 ? VK_WAKE_FALL : VK_WAKE_RISE;
	wake->cost_ns += more_ns;
}

void vk_wake_rang(struct vk_wake *wake, int64_t began_ns)
{
	uint64_t rings;
	struct iovec part = { .iov_base = &rings, .iov_len = sizeof rings };
	int64_t now_ns;

	if (preadv2(wake->timer, &part, 1, -1, 0) != sizeof rings)
		return;
	now_ns = vk_spin_clock();
	if (rings == 1 && began_ns < wake->due_ns && wake->due_ns < now_ns)
		vk_wake_learn(wake, now_ns - wake->due_ns);
	wake->due_ns += (int64_t)rings * wake->period_ns;
}

static int64_t measure(void)
{
	struct vk_wake wake = { .timer = -1 };

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2 || open_timer(&wake, PERIOD_NS, 0))
		return VK_SPIN_LEAST_NS;
	for (int i = 0; i < SAMPLES; i++)
		vk_wake_rang(&wake, vk_spin_clock());
	vk_wake_close(&wake);
	return vk_spin_bound(VK_SPIN_LEAST_NS, wake.cost_ns);
}

int64_t vk_wake_bound(void)
{
	static int64_t bound_ns;
	int64_t known_ns = __atomic_load_n(&bound_ns, __ATOMIC_RELAXED);

	if (!known_ns) {
		known_ns = measure();
		__atomic_store_n(&bound_ns, known_ns, __ATOMIC_RELAXED);
	}
	return known_ns;
}
