/* SPDX-License-Identifier: MIT */
#ifndef VK_REFUSED_H
#define VK_REFUSED_H
/* vk_refused.h: packets that came and were not taken, because an application's ring or some memory
 * was full. They are not acknowledged, so that what they carry is sent again as if they were lost;
 * but the peer is told, once, that the path delivered them: it does not take a reader that is
 * behind for congestion, which all streams of the session would pay for. If that is lost, too, they
 * count as lost.
 *
 * Like those that were taken they are known by their numbers when they come once more: whoever kept
 * a copy must not have it taken later, and parts of it were taken, perhaps.
 */
#include "vk_session.h"

/* vk_refused_note notes a packet that was not taken. */
void vk_refused_note(struct vk_run *run, struct vk_session *session, const struct vk_frame *frame);

/* vk_refused_find is vk_refused_look for a number that is not behind all of them. */
int vk_refused_find(const struct vk_refusals *refusals, uint64_t number);

/* vk_refused_look says whether a packet came before and was not taken; or perhaps, if it is one of
 * those in between of long ago. */
static inline int vk_refused_look(const struct vk_session *session, uint32_t space, uint64_t number)
{
	return number < session->received[space].refused_end &&
	       vk_refused_find(&session->refusals[space], number);
}

/* vk_refused_send_all tells peers, before any acknowledgement that makes them look for losses. */
void vk_refused_send_all(struct vk_run *run);
#endif
