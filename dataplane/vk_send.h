/* SPDX-License-Identifier: MIT */
#ifndef VK_SEND_H
#define VK_SEND_H
/* vk_send.h: from applications' rings to datagrams. vk_schedule decides who is next. A record that
 * cannot go now stays in its ring and `blocked` says why. Messages of one class to one peer share a
 * datagram while more are waiting; everything is flushed at the end of the turn. Every DATA record
 * ends in exactly one counter of its ring's class:
 *
 *   taken = tx_messages + refused_flow + refused_size + refused_policy + drop_tx_unreachable
 */
#include "vk_run.h"

/* vk_send_replies sends the control frames that receiving queued. */
void vk_send_replies(struct vk_run *run);

/* vk_send_all takes one turn; returns how many bytes of records went. run->due_ns becomes the time
 * at which a rate lets the next one go, UINT64_MAX if nobody waits for that. */
uint64_t vk_send_all(struct vk_run *run);

/* vk_send_drain sends what an application that leaves has in its rings, as far as its rates and,
 * within a few milliseconds, the path allow; counts the rest as refused. */
void vk_send_drain(struct vk_run *run, uint32_t slot);

/* vk_send_flush hands everything to the kernel and accounts for what it lost. Returns datagrams
 * that it could not take now. */
uint32_t vk_send_flush(struct vk_run *run);
#endif
