/* SPDX-License-Identifier: MIT */
#include "vk_mac.h"

#include "vk_siphash.h"

#include <string.h>

uint64_t vk_siphash_bytes(const uint64_t key[2], const void *data, size_t size)
{
	const uint8_t *at = data;
	struct vk_siphash state;
	uint64_t word;
	size_t left;

	vk_siphash_begin(&state, key[0], key[1]);
	for (left = size; left >= sizeof word; left -= sizeof word, at += sizeof word) {
		memcpy(&word, at, sizeof word);
		vk_siphash_word(&state, word);
	}
	word = 0;
	if (left)
		memcpy(&word, at, left);
	return vk_siphash_end(&state, word, (uint32_t)size & 0xff);
}

uint64_t vk_mac_of(const struct vk_master *master, const struct vk_mac *mac)
{
	uint64_t address[2];
	uint32_t kind;

	memcpy(address, mac->address, sizeof address);
	memcpy(&kind, &mac->generation, sizeof kind);
	return vk_mac_tag(master, address[0], address[1], mac->subject, mac->expiry, kind);
}

uint64_t vk_cookie_of(const struct vk_master *master, const struct vk_cookie_mac *mac)
{
	uint64_t address[2], attempt, rest;

	memcpy(address, mac->address, sizeof address);
	memcpy(&attempt, &mac->attempt_high, sizeof attempt);
	memcpy(&rest, &mac->expiry, sizeof rest);
	return vk_cookie_tag(master, address[0], address[1], attempt, rest);
}
