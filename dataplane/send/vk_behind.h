/* SPDX-License-Identifier: MIT */
#ifndef VK_BEHIND_H
#define VK_BEHIND_H
/* vk_behind.h: what lies in a ring behind a message that has to wait for its stream's credit. Where
 * that are only more of the same stream, all stay where they are: to hold each, and to send it from
 * there, costs several times what it costs to send them one behind the other.
 */
#include "vk_run.h"

/* vk_behind_alike says whether all records of a ring from the scan position on are messages of a
 * flow. Each is looked at once. */
int vk_behind_alike(struct vk_run *run, uint32_t slot, uint32_t ring, const struct vk_flow *flow);
#endif
