/* SPDX-License-Identifier: MIT */
#ifndef VK_SEND_H
#define VK_SEND_H
/* vk_send.h: from applications' rings to datagrams. vk_schedule decides who is next. A record that
 * cannot go now stays in its ring and `blocked` says why. Messages of one class to one peer share a
 * datagram while more are waiting; everything is flushed at the end of the turn.
 */
#include "vk_run.h"

/* vk_send_replies sends the control frames that receiving queued. */
void vk_send_replies(struct vk_run *run);

/* vk_send_critical sends critical messages that wait, between two parts of a turn. */
void vk_send_critical(struct vk_run *run);

/* vk_send_all takes one turn; returns how many bytes of records went. run->due_ns becomes the time
 * at which a rate lets the next one go, UINT64_MAX if nobody waits for that. */
uint64_t vk_send_all(struct vk_run *run);

/* vk_send_drained says whether everything an application put into its rings is acknowledged, or
 * sent as far as nobody waits for an answer. */
int vk_send_drained(struct vk_run *run, uint32_t slot);

/* vk_send_give_up counts what an application leaves in its rings as refused. */
void vk_send_give_up(struct vk_run *run, uint32_t slot);

/* vk_send_flush hands everything to the kernel and accounts for what it lost. Returns datagrams
 * that it could not take now. */
uint32_t vk_send_flush(struct vk_run *run);
#endif
