/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vk_slice.h"

#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* struct sched_attr of linux/sched/types.h, first version: 48 bytes. */
struct attributes {
	uint32_t size;
	uint32_t policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime; /* for normal tasks since 6.12: the slice */
	uint64_t deadline;
	uint64_t period;
};

int vk_slice_set(uint64_t ns)
{
	struct attributes attributes = { .size = sizeof attributes };

	if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0))
		return -errno;
	if (attributes.policy)
		return 0; /* real time, batch or idle: somebody has decided already */
	attributes.size = sizeof attributes;
	attributes.runtime = ns;
	return syscall(SYS_sched_setattr, 0, &attributes, 0) ? -errno : 0;
}
