/* SPDX-License-Identifier: MIT */
#ifndef VK_IDLE_H
#define VK_IDLE_H
/* vk_idle.h: what a worker keeps of a session besides its rows is about 10 KiB, and the next frame
 * makes it again. When there are many, those are given up on which nothing is under way and nothing
 * was heard for a while: a million sessions cost their rows, and only those in use cost more.
 */
#include "vk_session.h"

enum vk_idle_const {
	VK_IDLE_KEPT = 1024, /* so many sessions stay, idle or not */
	VK_IDLE_S = 10,
};

/* vk_idle_end gives a session up that is one too many and idle; says whether it did. What came is
 * not taken again: numbers up to the highest count as old in the next one. */
int vk_idle_end(struct vk_run *run, const struct vk_session *session);
#endif
