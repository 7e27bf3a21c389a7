/* SPDX-License-Identifier: MIT */
#ifndef VK_SEALING_H
#define VK_SEALING_H
/* vk_sealing.h: frames of sessions that have keys, sealed behind the last byte that is written and
 * opened before the first one is believed. Sessions without (plaintext) pass through.
 */
#include "vk_session.h"

/* vk_sealing_begin gives a new session its keys. Without them none of its frames goes or comes. */
void vk_sealing_begin(struct vk_run *run, struct vk_session *session);

/* vk_sealing_keys reads the keys that a peer's row names; 0, or they are not there. */
int vk_sealing_keys(struct vk_run *run, uint32_t peer, struct vk_keyring *keyring);

/* vk_sealing_changed notes that a session's id and keys are others from now on. */
void vk_sealing_changed(struct vk_run *run, struct vk_session *session);

/* vk_sealing_ready says whether a frame may go now; it may be the first of a new epoch. If not, the
 * daemon is told that the session has to be made anew. */
int vk_sealing_ready(struct vk_run *run, struct vk_session *session);

/* vk_sealing_flags returns the flags of an outer frame: ENC or nothing. */
static inline uint8_t vk_sealing_flags(const struct vk_session *session)
{
	return session->keyring.cipher ? VK_FLAG_ENC : 0;
}

/* vk_sealing_seal finishes a frame of size bytes whose payload lies at `from`, in the frame or
 * elsewhere, and seals it if ENC is in its flags; there is room for the tag behind it. Returns its
 * size now, or 0: it must not go. */
uint32_t vk_sealing_seal(struct vk_session *session, uint32_t space, uint64_t number, uint8_t *data,
			 const uint8_t *from, uint32_t size);

/* vk_sealing_open lets frame->payload be what was sealed, in memory that holds until the next call.
 * Returns whether the frame is its peer's; if not, it was counted. */
int vk_sealing_open(struct vk_run *run, struct vk_session *session, uint32_t class,
		    struct vk_frame *frame);
#endif
