/* SPDX-License-Identifier: MIT */
#ifndef VK_SEND_H
#define VK_SEND_H
/* vk_send.h: from applications' rings to datagrams. Critical first, then deficit round robin over
 * the other classes and, inside a class, over applications by weight. A record that cannot go now
 * stays in its ring and `blocked` says why. Messages of one class to one peer share a datagram
 * while more are waiting; everything is flushed at the end of the turn.
 */
#include "vk_run.h"

/* vk_send_replies sends the control frames that receiving queued. */
void vk_send_replies(struct vk_run *run);

/* vk_send_all takes one turn; returns how many records went. */
uint32_t vk_send_all(struct vk_run *run);

/* vk_send_flush hands everything to the kernel and accounts for what it lost. Returns datagrams
 * that it could not take now. */
uint32_t vk_send_flush(struct vk_run *run);
#endif
