/* SPDX-License-Identifier: MIT */
#ifndef VK_AEAD_H
#define VK_AEAD_H
/* vk_aead.h: authenticated encryption and key derivation by libcrypto. A context is made once a key
 * and used for every frame: what libcrypto fetches and schedules is paid for when it is made.
 */
#include <stdint.h>

struct vk_aead {
	void *context; /* EVP_CIPHER_CTX; NULL = none */
	uint8_t mask[12]; /* of the nonces */
};

/* vk_aead_init makes a context of a secret (vk_shm.h, struct vk_ratchet) for enum vk_cipher.
 * Returns 0, or -ENOTSUP and -ENOMEM. */
int vk_aead_init(struct vk_aead *aead, uint32_t cipher, const uint8_t secret[32], int seals);

/* vk_aead_free erases the key; one that was never made is fine. */
void vk_aead_free(struct vk_aead *aead);

/* vk_aead_seal encrypts size bytes from `from` to `to`, which may be the same, writes the tag
 * behind them and binds head. A pair of space and number is used once a context. Returns 0, or
 * -EIO. */
int vk_aead_seal(const struct vk_aead *aead, uint32_t space, uint64_t number, const uint8_t *head,
		 uint32_t head_size, const uint8_t *from, uint8_t *to, uint32_t size);

/* vk_aead_open is its inverse; the tag lies behind `from`. Returns 0, or -EBADMSG: what is in `to`
 * then means nothing. */
int vk_aead_open(const struct vk_aead *aead, uint32_t space, uint64_t number, const uint8_t *head,
		 uint32_t head_size, const uint8_t *from, uint8_t *to, uint32_t size);

/* vk_aead_derive derives a secret of size bytes, at most 32, from another by a label: HKDF-Expand
 * with SHA-256 (RFC 5869), as controlplane/security/keys.py has it. Returns 0, or -EIO. */
int vk_aead_derive(const uint8_t secret[32], const char *label, uint8_t *to, uint32_t size);

/* vk_aead_erase overwrites a secret, though nobody reads it any more. */
void vk_aead_erase(void *secret, uint32_t size);
#endif
