/* SPDX-License-Identifier: MIT */
#ifndef VK_SEAT_H
#define VK_SEAT_H
/* vk_seat.h: the ids of sessions. Who gets the frames chooses the id on them, and its workers read
 * the peer's row out of it: no table has to be asked who a frame may be from, however many peers
 * there are. An id is the row and how many ids it had before, mixed under keys of the node, so that
 * who knows some ids cannot foresee those of others: of 2^32 any one may be it. Nothing else rests
 * on that, and this is no cipher: a frame's source must be the peer's, its id the session's, and it
 * opens with the session's keys.
 *
 *     31           20 19                  0
 *    +---------------+---------------------+
 *    |     turn      |  seat: the peer's   |   then four rounds of a Feistel network
 *    +---------------+---------------------+
 */
#ifndef VK_CDEF
#include <stdint.h>
#endif

enum vk_seat_const {
	VK_SEAT_BITS = 20, /* VK_PEERS_MAX seats */
	VK_SEAT_TURNS = 4096, /* then a peer's ids come again */
	VK_SEAT_KEYS = 4,
};

/* vk_seat_id returns the id of a peer's session, another one each turn; it may be 0, which is
 * none. */
uint32_t vk_seat_id(const uint32_t keys[VK_SEAT_KEYS], uint32_t seat, uint32_t turn);

#ifndef VK_CDEF
/* vk_seat_mix is a round's function. */
static inline uint32_t vk_seat_mix(const uint32_t keys[VK_SEAT_KEYS], uint32_t round, uint32_t half)
{
	uint32_t sum = half + keys[round];

	return sum * (sum ^ keys[(round + 1) % VK_SEAT_KEYS]) >> 16;
}

/* vk_seat_of returns the seat that an id names: one of VK_PEERS_MAX, whoever made it. */
static inline uint32_t vk_seat_of(const uint32_t keys[VK_SEAT_KEYS], uint32_t id)
{
	uint32_t left = id >> 16, right = id & 0xffff;

	left ^= vk_seat_mix(keys, 3, right);
	right ^= vk_seat_mix(keys, 2, left);
	left ^= vk_seat_mix(keys, 1, right);
	right ^= vk_seat_mix(keys, 0, left);
	return (left << 16 | right) & ((1u << VK_SEAT_BITS) - 1);
}
#endif
#endif
