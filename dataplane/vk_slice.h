/* SPDX-License-Identifier: MIT */
#ifndef VK_SLICE_H
#define VK_SLICE_H
/* vk_slice.h: how long the scheduler lets a thread run at a time. A thread with a short slice gets
 * the core sooner when it wakes, and gives it up sooner; its share stays the same.
 */
enum vk_slice_const {
	VK_SLICE_SHORT_NS = 100000, /* the least that kernels accept */
};

/* vk_slice_short asks for short slices for the calling thread. Returns 0, or -errno where the
 * kernel has none (before 6.12 the wish is ignored). Needs no capability. Syscalls:
 * sched_getattr, sched_setattr. */
int vk_slice_short(void);
#endif
