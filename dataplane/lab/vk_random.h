/* SPDX-License-Identifier: MIT */
#ifndef VK_RANDOM_H
#define VK_RANDOM_H
/* vk_random.h: numbers that look random and are the same for the same seed on every machine:
 * integers only, no libm. xoshiro256**, seeded by splitmix64 (Blackman and Vigna, "Scrambled linear
 * pseudorandom number generators", 2018). Nothing secret may come from it.
 */
#ifndef VK_CDEF
#include <stdint.h>
#endif

enum vk_random_const {
	VK_PPB = 1000000000, /* chances are stated in parts per billion */
};

struct vk_random {
	uint64_t state[4];
};

#ifndef VK_CDEF
/* vk_random_mix is splitmix64's finalizer: every bit of the result depends on every bit. */
static inline uint64_t vk_random_mix(uint64_t value)
{
	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
	value = (value ^ value >> 27) * 0x94d049bb133111ebu;
	return value ^ value >> 31;
}

/* vk_random_seed begins the sequence of a seed. */
static inline void vk_random_seed(struct vk_random *random, uint64_t seed)
{
	for (int i = 0; i < 4; i++)
		random->state[i] = vk_random_mix(seed += 0x9e3779b97f4a7c15u);
}

/* vk_random_rotate rotates to the left by 1 to 63 bits. */
static inline uint64_t vk_random_rotate(uint64_t value, int bits)
{
	return value << bits | value >> (64 - bits);
}

/* vk_random_next returns 64 bits. */
static inline uint64_t vk_random_next(struct vk_random *random)
{
	uint64_t *s = random->state, result = vk_random_rotate(s[1] * 5, 7) * 9, t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = vk_random_rotate(s[3], 45);
	return result;
}

/* vk_random_below returns a number in [0, limit); 0 for limit 0. */
static inline uint64_t vk_random_below(struct vk_random *random, uint64_t limit)
{
	return (uint64_t)((unsigned __int128)vk_random_next(random) * limit >> 64);
}

/* vk_random_chance says yes so many times in a billion; it draws nothing for 0. */
static inline int vk_random_chance(struct vk_random *random, uint32_t ppb)
{
	return ppb && vk_random_below(random, VK_PPB) < ppb;
}
#endif
#endif
