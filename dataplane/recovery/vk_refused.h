/* SPDX-License-Identifier: MIT */
#ifndef VK_REFUSED_H
#define VK_REFUSED_H
/* vk_refused.h: packets that came and were not taken, because an application's ring or some memory
 * was full. They are not acknowledged, so that what they carry is sent again as if they were lost;
 * but the peer is told, once, that the path delivered them: it does not take a reader that is
 * behind for congestion, which all streams of the session would pay for. If that is lost, too, they
 * count as lost.
 *
 * Nothing says that a copy of such a packet is one. What it carries of reliable classes is known by
 * its sequence; logs are not, so those of packets up to it are left out.
 */
#include "vk_session.h"

/* vk_refused_note notes a packet that was not taken. */
void vk_refused_note(struct vk_run *run, struct vk_session *session, const struct vk_frame *frame);

/* vk_refused_maybe says whether the logs in a packet may have been taken from a copy of it. */
static inline int vk_refused_maybe(const struct vk_session *session, uint64_t number)
{
	return number < session->refused_next;
}

/* vk_refused_send_all tells peers, before any acknowledgement that makes them look for losses. */
void vk_refused_send_all(struct vk_run *run);
#endif
