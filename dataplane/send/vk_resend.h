/* SPDX-License-Identifier: MIT */
#ifndef VK_RESEND_H
#define VK_RESEND_H
/* vk_resend.h: content of lost packets of one session and class, in the order of their loss, which
 * is sent again before anything new.
 *
 * What the peer had no room for is lost, too. It may be what was begun that takes the room, and
 * waits for a rest that is new: so new content has the path for a round trip.
 */
#include "vk_sent.h"

struct vk_run;
struct vk_session;

struct vk_resend {
	struct vk_sent_run *runs; /* ring of mask + 1 */
	uint32_t mask;
	uint32_t first;
	uint32_t next;
	uint64_t due_ns; /* nothing is sent before */
};

/* vk_resend_push adds content. Without memory it does not: the probe time-out sends the oldest
 * again, and so on. */
void vk_resend_push(struct vk_resend *resend, const struct vk_sent_run *lost);

/* vk_resend_refused notes that the peer had no room for content of a class. */
void vk_resend_refused(const struct vk_run *run, struct vk_session *session, uint32_t class);

/* vk_resend_send sends what may go now. Returns 0 when something is left. */
int vk_resend_send(struct vk_run *run, struct vk_session *session, uint32_t class);

/* vk_resend_count returns how many packets' content waits. */
static inline uint32_t vk_resend_count(const struct vk_resend *resend)
{
	return resend->next - resend->first;
}

/* vk_resend_free forgets all of it. */
void vk_resend_free(struct vk_resend *resend);
#endif
