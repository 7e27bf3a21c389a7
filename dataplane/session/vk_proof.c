/* SPDX-License-Identifier: MIT */
#include "vk_proof.h"

#include "vk_wire.h"

#include <assert.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

enum {
	KEY_SIZE = 32,
	HASH_SIZE = 32, /* SHA-256 */
	SAID_MAX = 64,
};

int vk_proof_make(const uint8_t key[32], uint8_t type, const uint8_t *said, uint32_t size,
		  uint8_t *proof)
{
	uint8_t data[1 + SAID_MAX], hash[HASH_SIZE];
	uint32_t hash_size = sizeof hash;

	assert(size <= SAID_MAX);
	data[0] = type;
	memcpy(data + 1, said, size);
	if (!HMAC(EVP_sha256(), key, KEY_SIZE, data, 1 + size, hash, &hash_size))
		return -EIO;
	memcpy(proof, hash, VK_PROOF_SIZE);
	return 0;
}

int vk_proof_good(const uint8_t key[32], uint8_t type, const uint8_t *said, uint32_t size,
		  const uint8_t *proof)
{
	uint8_t right[VK_PROOF_SIZE];

	return !vk_proof_make(key, type, said, size, right) &&
	       !CRYPTO_memcmp(right, proof, sizeof right);
}
