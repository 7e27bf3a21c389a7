/* SPDX-License-Identifier: MIT */
#ifndef VK_SIGNALS_H
#define VK_SIGNALS_H
/* vk_signals.h: what a session is told (vk_tuning) and what it tells (vk_signals), through memory
 * that others see. Both once a tick: nothing here is done for a packet.
 */
#include "vk_session.h"

/* vk_signals_begin has a session that begins follow the worker's own parameters. */
void vk_signals_begin(struct vk_run *run, struct vk_session *session);

/* vk_signals_end says that there is no session with a peer. */
void vk_signals_end(struct vk_run *run, uint32_t peer);

/* vk_signals_limited counts the time since the last look to what held the session back in it. */
void vk_signals_limited(struct vk_run *run, struct vk_session *session);

/* vk_signals_tick takes what sessions are tuned to, clamped, or nothing without a daemon; and
 * writes how each of them fares; of more than 4096, of so many a tick, in turn. */
void vk_signals_tick(struct vk_run *run, int leased);
#endif
