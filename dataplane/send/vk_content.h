/* SPDX-License-Identifier: MIT */
#ifndef VK_CONTENT_H
#define VK_CONTENT_H
/* vk_content.h: what packets carry, looked at from the records: acknowledged, lost, sent again. A
 * packet may outlive what it carries; then nothing happens.
 */
#include "vk_session.h"

/* vk_content_acked marks records as done, so that their ring can be released. Shards are at the
 * latest when vk_content_settle is called, behind all that one acknowledgement told. */
void vk_content_acked(struct vk_run *run, const struct vk_sent_run *content);
void vk_content_settle(struct vk_run *run);

/* vk_content_lost notes that a packet with these records is lost; says whether any has to be sent
 * again. */
int vk_content_lost(struct vk_run *run, const struct vk_sent_run *content);

/* vk_content_send sends lost records again. Returns 0 when it cannot go on now: *content is what
 * is left. forced: though the window is full, and what still flies too. */
int vk_content_send(struct vk_run *run, struct vk_sent_run *content, int forced);

/* vk_content_probe sends the content of a packet in flight again, whatever the window says. Returns
 * 0 when some of it did not go. */
int vk_content_probe(struct vk_run *run, struct vk_session *session,
		     const struct vk_sent_run *content);

/* vk_content_done marks one entry as done: nobody waits for an answer about it. */
void vk_content_done(struct vk_run *run, uint32_t slot, uint32_t ring, uint32_t number);

/* vk_content_forget lets go of everything that a flow's application sent on it. */
void vk_content_forget(struct vk_run *run, struct vk_flow *flow);

/* vk_content_resend_peer puts everything that was sent to a peer and not acknowledged back into
 * what has to be sent: its session is a new one. */
void vk_content_resend_peer(struct vk_run *run, struct vk_session *session);
#endif
