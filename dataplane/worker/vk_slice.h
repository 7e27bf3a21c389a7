/* SPDX-License-Identifier: MIT */
#ifndef VK_SLICE_H
#define VK_SLICE_H
/* vk_slice.h: how long the scheduler lets a thread run at a time. A thread with a short slice gets
 * the core sooner when it wakes, and gives it up sooner; its share stays the same.
 */
#ifndef VK_CDEF
#include <stdint.h>
#endif

enum vk_slice_const {
	VK_SLICE_SHORT_NS = 100000, /* of urgent applications; the least that kernels accept */
	/* Who wakes takes the core at once from a thread with a longer slice than its own. From
	 * one with the same it waits for the slice's end, which only a timer tick notices. */
	VK_SLICE_WORKER_NS = 200000,
};

/* vk_slice_set asks for slices of ns for the calling thread. Returns 0, or -errno where the kernel
 * has none (before 6.12 the wish is ignored). Needs no capability. Syscalls: sched_getattr,
 * sched_setattr. */
int vk_slice_set(uint64_t ns);
#endif
