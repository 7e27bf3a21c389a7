/* SPDX-License-Identifier: MIT */
#ifndef VK_PROBE_H
#define VK_PROBE_H
/* vk_probe.h: what asks for an acknowledgement when none has come in time.
 *
 * RFC 9002, 6.2.4: "When a PTO timer expires, a sender MUST send at least one ack-eliciting packet
 * in the packet number space as a probe."
 */
#include "vk_session.h"

/* vk_probe_send sends session->probes probes: the oldest content in flight, or PINGs. A policer
 * that is always empty takes one packet now and then, and the smaller the sooner. So there is one
 * PING where nothing is missing, or the loss of the second would ask for two more without end; and
 * where something is, a PING does not go ahead of it every time. */
void vk_probe_send(struct vk_run *run, struct vk_session *session);

/* vk_probe_ask sends a PING that is acknowledged as soon as may be. Lost, it is sent again. */
void vk_probe_ask(struct vk_run *run, const struct vk_session *session);
#endif
