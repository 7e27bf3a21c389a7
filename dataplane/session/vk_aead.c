/* SPDX-License-Identifier: MIT */
#include "vk_aead.h"

#include "vk_wire.h"

#include <assert.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

enum {
	LABEL_MAX = 32,
	HASH_SIZE = 32, /* SHA-256 */
};

static const char prefix[] = "valkyrie 1 ";

int vk_aead_derive(const uint8_t secret[32], const char *label, uint8_t *to, uint32_t size)
{
	size_t name = sizeof prefix - 1 + strlen(label);
	uint8_t info[4 + sizeof prefix + LABEL_MAX + 1], block[HASH_SIZE];
	uint32_t block_size = sizeof block;

	assert(strlen(label) <= LABEL_MAX && size <= HASH_SIZE);
	/* RFC 5869, 2.3: T(1) = HMAC-Hash(PRK, T(0) | info | 0x01), and T(0) is empty. */
	info[0] = 0;
	info[1] = (uint8_t)size;
	info[2] = (uint8_t)name;
	info[3] = 0; /* no context */
	memcpy(info + 4, prefix, sizeof prefix - 1);
	memcpy(info + 4 + sizeof prefix - 1, label, strlen(label));
	info[4 + name] = 1;
	if (!HMAC(EVP_sha256(), secret, HASH_SIZE, info, 4 + name + 1, block, &block_size))
		return -EIO;
	memcpy(to, block, size);
	OPENSSL_cleanse(block, sizeof block);
	return 0;
}

static const EVP_CIPHER *cipher_of(uint32_t cipher)
{
	switch (cipher) {
	case VK_CIPHER_CHACHA20_POLY1305:
		return EVP_chacha20_poly1305();
	case VK_CIPHER_AES_256_GCM:
		return EVP_aes_256_gcm();
	default:
		return NULL;
	}
}

int vk_aead_init(struct vk_aead *aead, uint32_t cipher, const uint8_t secret[32], int seals)
{
	const EVP_CIPHER *type = cipher_of(cipher);
	uint8_t key[VK_CIPHER_KEY_SIZE];
	int error = -ENOMEM;

	if (!type)
		return -ENOTSUP;
	aead->context = EVP_CIPHER_CTX_new();
	if (!aead->context)
		return -ENOMEM;
	if (vk_aead_derive(secret, "key", key, sizeof key) ||
	    vk_aead_derive(secret, "nonce", aead->mask, sizeof aead->mask))
		error = -EIO;
	else if (EVP_CipherInit_ex(aead->context, type, NULL, key, aead->mask, seals) == 1)
		error = 0;
	OPENSSL_cleanse(key, sizeof key);
	if (error)
		vk_aead_free(aead);
	return error;
}

void vk_aead_free(struct vk_aead *aead)
{
	EVP_CIPHER_CTX_free(aead->context);
	OPENSSL_cleanse(aead, sizeof *aead);
}

/* The mask, XORed with the space and the number as vk_wire.h has it. */
static void make_nonce(const struct vk_aead *aead, uint32_t space, uint64_t number,
		       uint8_t nonce[VK_CIPHER_NONCE_SIZE])
{
	uint32_t high = __builtin_bswap32(space);
	uint32_t mask_high;
	uint64_t mask_low;

	memcpy(&mask_high, aead->mask, sizeof mask_high);
	memcpy(&mask_low, aead->mask + sizeof mask_high, sizeof mask_low);
	high ^= mask_high;
	number = __builtin_bswap64(number) ^ mask_low;
	memcpy(nonce, &high, sizeof high);
	memcpy(nonce + sizeof high, &number, sizeof number);
}

int vk_aead_seal(const struct vk_aead *aead, uint32_t space, uint64_t number, const uint8_t *head,
		 uint32_t head_size, const uint8_t *from, uint8_t *to, uint32_t size)
{
	uint8_t nonce[VK_CIPHER_NONCE_SIZE];
	int written;

	make_nonce(aead, space, number, nonce);
	if (EVP_EncryptInit_ex(aead->context, NULL, NULL, NULL, nonce) != 1 ||
	    EVP_EncryptUpdate(aead->context, NULL, &written, head, (int)head_size) != 1 ||
	    (size && EVP_EncryptUpdate(aead->context, to, &written, from, (int)size) != 1) ||
	    EVP_EncryptFinal_ex(aead->context, to + size, &written) != 1 ||
	    EVP_CIPHER_CTX_ctrl(aead->context, EVP_CTRL_AEAD_GET_TAG, VK_TAG_SIZE, to + size) != 1)
		return -EIO;
	return 0;
}

int vk_aead_open(const struct vk_aead *aead, uint32_t space, uint64_t number, const uint8_t *head,
		 uint32_t head_size, const uint8_t *from, uint8_t *to, uint32_t size)
{
	uint8_t nonce[VK_CIPHER_NONCE_SIZE];
	/* libcrypto wants to be able to write it. Set in front of the text it makes
	 * ChaCha20-Poly1305 a fifth slower for short ones. */
	uint8_t tag[VK_TAG_SIZE];
	int written;

	make_nonce(aead, space, number, nonce);
	memcpy(tag, from + size, sizeof tag);
	if (EVP_DecryptInit_ex(aead->context, NULL, NULL, NULL, nonce) != 1 ||
	    EVP_DecryptUpdate(aead->context, NULL, &written, head, (int)head_size) != 1 ||
	    (size && EVP_DecryptUpdate(aead->context, to, &written, from, (int)size) != 1) ||
	    EVP_CIPHER_CTX_ctrl(aead->context, EVP_CTRL_AEAD_SET_TAG, sizeof tag, tag) != 1 ||
	    EVP_DecryptFinal_ex(aead->context, to + size, &written) != 1)
		return -EBADMSG;
	return 0;
}

void vk_aead_erase(void *secret, uint32_t size)
{
	OPENSSL_cleanse(secret, size);
}
