/* SPDX-License-Identifier: MIT */
#ifndef VK_INTAKE_H
#define VK_INTAKE_H
/* vk_intake.h: takes datagrams from ports in batches, classes by priority, and finds who they are
 * from before the first of a batch is received.
 */
#include "vk_run.h"

/* vk_intake_all takes frames of all classes: critical is looked at again after at most 16 frames of
 * a lower class, and what applications answer is sent at once. Returns how many frames were taken,
 * or -errno when a port is gone. */
int vk_intake_all(struct vk_run *run);

/* vk_intake_rest handles what the paths have taken from the kernel already, and no more. */
void vk_intake_rest(struct vk_run *run);
#endif
