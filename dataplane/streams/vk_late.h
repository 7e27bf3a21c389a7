/* SPDX-License-Identifier: MIT */
#ifndef VK_LATE_H
#define VK_LATE_H
/* vk_late.h: which of a best-effort stream's newest messages came. A datagram that another one
 * overtook, on another queue, is told from a second copy: small messages are more than a hundred to
 * a datagram. Bit 0 is the newest message, bit n the one n before it.
 */
#include "vk_shm.h"

enum vk_late_const {
	VK_LATE_MAX = 64 * VK_LATE_WORDS, /* messages */
};

/* vk_late_came says whether the message so far behind the newest came: 0..VK_LATE_MAX - 1. */
static inline int vk_late_came(const uint64_t *window, uint32_t behind)
{
	return window[behind / 64] >> behind % 64 & 1;
}

/* vk_late_note notes that it came. */
static inline void vk_late_note(uint64_t *window, uint32_t behind)
{
	window[behind / 64] |= (uint64_t)1 << behind % 64;
}

/* vk_late_go goes on by so many messages, at least one: the last is the newest now, and came. */
static inline void vk_late_go(uint64_t *window, uint32_t by)
{
	uint32_t words = by / 64, bits = by % 64;

	for (uint32_t i = VK_LATE_WORDS; i-- > 0;) {
		uint64_t high = i >= words ? window[i - words] : 0;
		uint64_t low = bits && i > words ? window[i - words - 1] >> (64 - bits) : 0;

		window[i] = high << bits | low;
	}
	window[0] |= 1;
}
#endif
