/* SPDX-License-Identifier: MIT */
#ifndef VK_KEYRING_H
#define VK_KEYRING_H
/* vk_keyring.h: the keys of a session, epoch by epoch. Each side goes on to the next epoch of what
 * it sends when it wants, and follows the other in what it gets: keys of the epoch before, the
 * current and the next one are at hand. What must survive the worker is in vk_keys, which it shares
 * with the next one; the epoch in use is stored there before anything is sealed or accepted with
 * it. Time is an argument (ns).
 *
 *    seal   e ----------------------> e + 1          rotate_ms or rotate_packets have passed, and
 *                                                    something sealed in e was acknowledged: so the
 *                                                    peer has e + 1 at hand
 *    open   {e - 1, e, e + 1} ------> {e, e + 1, e + 2}   a frame of e + 1 verified
 */
#include "vk_aead.h"
#include "vk_shm.h"
#include "vk_wire.h"

enum vk_keyring_const {
	VK_OPENING = 3, /* epochs of what comes in: previous, current, next */
};

struct vk_keyring {
	uint32_t cipher; /* enum vk_cipher; NONE: frames are not sealed */
	uint32_t sealing; /* epoch */
	uint32_t opening; /* epoch */
	uint32_t there; /* bit: which of `open` are there */
	struct vk_keys *row;
	struct vk_aead open[VK_OPENING]; /* by epoch % VK_OPENING */
	struct vk_aead seal;
	uint64_t first
		[VK_SPACE_COUNT]; /* number of the first frame that `sealing` may have sealed */
	uint64_t rotations; /* of both directions, seen by this worker */
};

/* What a keyring needs to know to rotate. */
struct vk_rotation {
	uint64_t rotate_ns;
	uint64_t packets_max;
	const uint64_t *next; /* packet numbers to be issued next, by space */
	uint64_t acked[VK_SPACE_COUNT]; /* the largest that was acknowledged + 1 */
};

/* vk_keyring_init takes a row up where the last worker left it, before the packet numbers `next`
 * are issued. row must outlive the keyring.
 * Returns 0, or -errno: nothing of the session can be sealed or opened. */
int vk_keyring_init(struct vk_keyring *keyring, uint32_t cipher, struct vk_keys *row,
		    const uint64_t *next);

/* vk_keyring_freeze lets go of the row: the keys that are there are used on, without new epochs. */
void vk_keyring_freeze(struct vk_keyring *keyring);

/* vk_keyring_free erases the keys; the row stays. */
void vk_keyring_free(struct vk_keyring *keyring);

/* vk_keyring_ready goes on to the next epoch if it is time, and says whether a frame may be sealed:
 * 0, or -EKEYEXPIRED when the key is too old and the next one cannot be used: a new session is
 * needed. */
int vk_keyring_ready(struct vk_keyring *keyring, const struct vk_rotation *rotation,
		     uint64_t now_ns);

/* vk_keyring_seal seals size bytes of payload from `from` to behind head_size bytes of header and
 * extensions, where there is room for the tag, too; they may be there already. Returns 0, or
 * -EIO. */
int vk_keyring_seal(struct vk_keyring *keyring, uint32_t space, uint64_t number, uint8_t *frame,
		    uint32_t head_size, const uint8_t *from, uint32_t size);

/* vk_keyring_open opens such a frame into `to`. Returns 0, -ENOKEY for an epoch whose key is not at
 * hand, or -EBADMSG. */
int vk_keyring_open(struct vk_keyring *keyring, uint32_t epoch, uint32_t space, uint64_t number,
		    const uint8_t *frame, uint32_t head_size, uint32_t size, uint8_t *to);
#endif
