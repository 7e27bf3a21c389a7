/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#ifndef VK_SIPHASH_H
#define VK_SIPHASH_H
/* vk_siphash.h: SipHash-2-4 (Aumasson and Bernstein, 2012) by words, for eBPF programs and user
 * space alike: straight code on four registers, no loop and no table, little-endian hosts only.
 * Hash whole words in order, then the last one, which holds what is left and the size.
 */
#include "vk_maps.h"

#define VK_SIPHASH_INLINE static inline __attribute__((always_inline))

struct vk_siphash {
	uint64_t v0, v1, v2, v3;
};

/* vk_siphash_rotate moves the bits of a word to the left, and what falls off to the right. */
VK_SIPHASH_INLINE uint64_t vk_siphash_rotate(uint64_t x, uint32_t bits)
{
	return x << bits | x >> (64 - bits);
}

/* vk_siphash_round is SipRound (figure 2.1 of the paper). */
VK_SIPHASH_INLINE void vk_siphash_round(struct vk_siphash *s)
{
	s->v0 += s->v1;
	s->v1 = vk_siphash_rotate(s->v1, 13) ^ s->v0;
	s->v0 = vk_siphash_rotate(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = vk_siphash_rotate(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = vk_siphash_rotate(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = vk_siphash_rotate(s->v1, 17) ^ s->v2;
	s->v2 = vk_siphash_rotate(s->v2, 32);
}

/* vk_siphash_begin keys the state; the key is its 16 bytes read as two little-endian numbers. */
VK_SIPHASH_INLINE void vk_siphash_begin(struct vk_siphash *s, uint64_t key0, uint64_t key1)
{
	s->v0 = key0 ^ 0x736f6d6570736575;
	s->v1 = key1 ^ 0x646f72616e646f6d;
	s->v2 = key0 ^ 0x6c7967656e657261;
	s->v3 = key1 ^ 0x7465646279746573;
}

/* vk_siphash_word takes eight bytes of the message, read as a little-endian number. */
VK_SIPHASH_INLINE void vk_siphash_word(struct vk_siphash *s, uint64_t word)
{
	s->v3 ^= word;
	vk_siphash_round(s);
	vk_siphash_round(s);
	s->v0 ^= word;
}

/* vk_siphash_end takes the last size % 8 bytes of a message of size bytes and returns the hash. */
VK_SIPHASH_INLINE uint64_t vk_siphash_end(struct vk_siphash *s, uint64_t rest, uint32_t size)
{
	vk_siphash_word(s, rest | (uint64_t)size << 56);
	s->v2 ^= 0xff;
	vk_siphash_round(s);
	vk_siphash_round(s);
	vk_siphash_round(s);
	vk_siphash_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

/* vk_mac_tag returns the tag of what struct vk_mac holds, whose fields are given as they lie in
 * memory: the address in two words, the numbers in network order. */
VK_SIPHASH_INLINE uint64_t vk_mac_tag(const struct vk_master *master, uint64_t address0,
				      uint64_t address1, uint32_t subject, uint32_t expiry,
				      uint32_t kind)
{
	struct vk_siphash s;

	vk_siphash_begin(&s, master->key[0], master->key[1]);
	vk_siphash_word(&s, address0);
	vk_siphash_word(&s, address1);
	vk_siphash_word(&s, subject | (uint64_t)expiry << 32);
	return vk_siphash_end(&s, kind, sizeof(struct vk_mac));
}

/* vk_cookie_tag returns the tag of what struct vk_cookie_mac holds, in words as they lie in memory:
 * the address in two, the attempt, and expiry, generation and port in one. */
VK_SIPHASH_INLINE uint64_t vk_cookie_tag(const struct vk_master *master, uint64_t address0,
					 uint64_t address1, uint64_t attempt, uint64_t rest)
{
	struct vk_siphash s;

	vk_siphash_begin(&s, master->key[0], master->key[1]);
	vk_siphash_word(&s, address0);
	vk_siphash_word(&s, address1);
	vk_siphash_word(&s, attempt);
	vk_siphash_word(&s, rest);
	/* purpose in network order; then padding */
	return vk_siphash_end(&s, VK_MAC_COOKIE << 8, sizeof(struct vk_cookie_mac));
}
#endif
