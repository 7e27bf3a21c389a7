/* SPDX-License-Identifier: MIT */
#include "vk_seat.h"

uint32_t vk_seat_id(const uint32_t keys[VK_SEAT_KEYS], uint32_t seat, uint32_t turn)
{
	uint32_t plain = turn << VK_SEAT_BITS | (seat & ((1u << VK_SEAT_BITS) - 1));
	uint32_t left = plain >> 16, right = plain & 0xffff;

	right ^= vk_seat_mix(keys, 0, left);
	left ^= vk_seat_mix(keys, 1, right);
	right ^= vk_seat_mix(keys, 2, left);
	left ^= vk_seat_mix(keys, 3, right);
	return left << 16 | right;
}
