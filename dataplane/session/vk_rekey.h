/* SPDX-License-Identifier: MIT */
#ifndef VK_REKEY_H
#define VK_REKEY_H
/* vk_rekey.h: a session that is made anew goes on, with other ids and other keys: packet numbers,
 * acknowledgements and congestion control are between two workers that remember, whatever their
 * daemons agree on. What is on its way loses nothing by it:
 *
 *   the side that asked    sends with the new keys at once, and says so by a PING
 *   the side that was      sends with the old ones until something comes with the new ones: before,
 *                          the other side may not have them
 *   both                   take what comes with either, for VK_REKEY_NS
 */
#include "vk_session.h"

enum vk_rekey_const {
	VK_REKEY_NS =
		3000000000, /* a handshake's time: then the peer has the new keys, or is gone */
};

/* The other keys of a session. */
struct vk_other {
	uint32_t peer;
	uint32_t id; /* on the frames that the peer sends with them */
	uint8_t next; /* they follow those in use; else they came before */
	uint64_t until_ns;
	struct vk_keyring keyring;
	struct vk_peer row; /* with ids, token and cipher of those in use, while these follow */
	struct vk_other *earlier; /* of all peers, in the order of until_ns */
	struct vk_other *later;
};

/* vk_rekey_row looks at a peer's new row and the one that there was, and says whether its session
 * goes on: the new row then has what is to be sent with. */
int vk_rekey_row(struct vk_run *run, uint32_t peer, const struct vk_peer *was);

/* vk_rekey_keyring returns what opens frames with a session id; NULL = the id is unknown. */
static inline struct vk_keyring *vk_rekey_keyring(struct vk_session *session, uint32_t id)
{
	if (id == session->id)
		return &session->keyring;
	return session->other && session->other->id == id ? &session->other->keyring : NULL;
}

/* vk_rekey_opened notes that a frame with a session id came and was genuine. Returns whether the id
 * is the newest: the peer has what our daemon agreed on with its own. */
int vk_rekey_opened(struct vk_run *run, struct vk_session *session, uint32_t id);

/* vk_rekey_forget erases a session's other keys. */
void vk_rekey_forget(struct vk_run *run, struct vk_session *session);

/* vk_rekey_expire erases those that had their time. */
void vk_rekey_expire(struct vk_run *run);
#endif
