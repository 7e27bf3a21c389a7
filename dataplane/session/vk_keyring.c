/* SPDX-License-Identifier: MIT */
#include "vk_keyring.h"

#include "vk_ring.h"

#include <errno.h>
#include <string.h>

static const uint64_t hard_ns = (uint64_t)VK_ROTATE_HARD_MS * 1000000;

static uint64_t sum(const uint64_t *numbers)
{
	uint64_t total = 0;

	for (uint32_t s = 0; s < VK_SPACE_COUNT; s++)
		total += numbers[s];
	return total;
}

static const struct vk_secret *live(const struct vk_ratchet *ratchet)
{
	return &ratchet->secrets[VK_LOAD_ACQUIRE(&ratchet->live) & 1];
}

/* Goes on to the next secret. A worker that dies here leaves the old one or the new one. */
static int advance(struct vk_ratchet *ratchet)
{
	const struct vk_secret *old = live(ratchet);
	uint32_t which = !(ratchet->live & 1);
	struct vk_secret *next = &ratchet->secrets[which];
	int error;

	next->epoch = old->epoch + 1;
	error = vk_aead_derive(old->bytes, "epoch", next->bytes, sizeof next->bytes);
	if (error)
		return error;
	VK_STORE_RELEASE(&ratchet->live, which);
	vk_aead_erase(ratchet->secrets[!which].bytes, VK_SECRET_SIZE);
	return 0;
}

/* Makes the context of an epoch of what comes in: that of the live secret, or of the one behind. */
static int have(struct vk_keyring *keyring, uint32_t epoch)
{
	const struct vk_secret *secret = live(&keyring->row->open);
	uint32_t at = epoch % VK_OPENING;
	uint8_t next[VK_SECRET_SIZE];
	int error = 0;

	keyring->there &= ~(1u << at);
	vk_aead_free(&keyring->open[at]);
	memcpy(next, secret->bytes, sizeof next);
	if (epoch != secret->epoch)
		error = vk_aead_derive(secret->bytes, "epoch", next, sizeof next);
	if (!error)
		error = vk_aead_init(&keyring->open[at], keyring->cipher, next, 0);
	vk_aead_erase(next, sizeof next);
	if (!error)
		keyring->there |= 1u << at;
	return error;
}

static int have_next(struct vk_keyring *keyring)
{
	return keyring->opening + 1 < VK_EPOCHS ? have(keyring, keyring->opening + 1) : 0;
}

int vk_keyring_init(struct vk_keyring *keyring, uint32_t cipher, struct vk_keys *row,
		    const uint64_t *next)
{
	int error;

	memset(keyring, 0, sizeof *keyring);
	keyring->cipher = cipher;
	keyring->row = row;
	memcpy(keyring->first, next, sizeof keyring->first);
	if (cipher == VK_CIPHER_NONE)
		return 0;
	keyring->sealing = live(&row->seal)->epoch;
	keyring->opening = live(&row->open)->epoch;
	error = vk_aead_init(&keyring->seal, cipher, live(&row->seal)->bytes, 1);
	if (!error)
		error = have(keyring, keyring->opening);
	if (!error)
		error = have_next(keyring);
	if (error)
		vk_keyring_free(keyring);
	return error;
}

void vk_keyring_free(struct vk_keyring *keyring)
{
	uint32_t cipher = keyring->cipher;

	vk_aead_free(&keyring->seal);
	for (uint32_t i = 0; i < VK_OPENING; i++)
		vk_aead_free(&keyring->open[i]);
	memset(keyring, 0, sizeof *keyring);
	keyring->cipher = cipher; /* nothing goes in the clear that was to be sealed */
}

void vk_keyring_freeze(struct vk_keyring *keyring)
{
	keyring->row = NULL;
}

static int rotate(struct vk_keyring *keyring, const struct vk_rotation *rotation, uint64_t now_ns)
{
	struct vk_ratchet *ratchet = &keyring->row->seal;
	int error = keyring->sealing + 1 < VK_EPOCHS ? 0 : -EKEYEXPIRED;

	if (!error)
		error = advance(ratchet);
	if (error)
		return error;
	ratchet->began_ns = now_ns;
	ratchet->before = sum(rotation->next);
	memcpy(keyring->first, rotation->next, sizeof keyring->first);
	vk_aead_free(&keyring->seal);
	keyring->sealing++;
	keyring->rotations++;
	return vk_aead_init(&keyring->seal, keyring->cipher, live(ratchet)->bytes, 1);
}

/* Whether the peer has seen the epoch that seals: it has the next one at hand then. */
static int is_known(const struct vk_keyring *keyring, const struct vk_rotation *rotation)
{
	for (uint32_t s = 0; s < VK_SPACE_COUNT; s++)
		if (rotation->acked[s] > keyring->first[s])
			return 1;
	return 0;
}

int vk_keyring_ready(struct vk_keyring *keyring, const struct vk_rotation *rotation,
		     uint64_t now_ns)
{
	struct vk_ratchet *ratchet;
	uint64_t age_ns, packets;

	if (!keyring->cipher)
		return 0;
	if (!keyring->seal.context)
		return -EKEYEXPIRED;
	if (!keyring->row)
		return 0;
	ratchet = &keyring->row->seal;
	if (!ratchet->began_ns) {
		ratchet->before = sum(rotation->next);
		ratchet->began_ns = now_ns;
	}
	age_ns = now_ns - ratchet->began_ns;
	packets = sum(rotation->next) - ratchet->before;
	if (age_ns < rotation->rotate_ns && packets < rotation->packets_max)
		return 0;
	if (is_known(keyring, rotation))
		return rotate(keyring, rotation, now_ns);
	return age_ns < hard_ns && packets < 2 * (uint64_t)VK_ROTATE_PACKETS_MAX ? 0 : -EKEYEXPIRED;
}

int vk_keyring_seal(struct vk_keyring *keyring, uint32_t space, uint64_t number, uint8_t *frame,
		    uint32_t head_size, const uint8_t *from, uint32_t size)
{
	return vk_aead_seal(&keyring->seal, space, number, frame, head_size, from,
			    frame + head_size, size);
}

/* Follows the peer to the next epoch. */
static void follow(struct vk_keyring *keyring)
{
	if (!keyring->row || advance(&keyring->row->open))
		return; /* its frames open all the same: the next one is tried again */
	keyring->opening++;
	keyring->rotations++;
	have_next(keyring);
}

int vk_keyring_open(struct vk_keyring *keyring, uint32_t epoch, uint32_t space, uint64_t number,
		    const uint8_t *frame, uint32_t head_size, uint32_t size, uint8_t *to)
{
	uint32_t at = epoch % VK_OPENING;
	int error;

	if (epoch + 1 < keyring->opening || epoch > keyring->opening + 1 ||
	    !(keyring->there & 1u << at))
		return -ENOKEY;
	error = vk_aead_open(&keyring->open[at], space, number, frame, head_size, frame + head_size,
			     to, size);
	if (!error && epoch == keyring->opening + 1)
		follow(keyring);
	return error;
}
