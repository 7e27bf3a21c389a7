/* SPDX-License-Identifier: MIT */
#ifndef VK_RELAY_PACKET_H
#define VK_RELAY_PACKET_H
/* packet.h: what a network changes in a frame on its way: the ECN field, or any bit. */
#include <stdint.h>

enum {
	VK_RELAY_CE = 3, /* RFC 3168, 5: Congestion Experienced */
	VK_RELAY_IP4_MIN = 34, /* bytes: Ethernet and IPv4 headers */
	VK_RELAY_IP6_MIN = 54,
};

/* vk_relay_mark sets CE in a packet whose sender understands it. RFC 3168, 5: "The ECT codepoints
 * ... indicate that the end-points of the transport protocol are ECN-capable"; 00 is not.
 * Returns 1 if the packet carries CE now.
 */
static inline int vk_relay_mark(uint8_t *frame, uint32_t size)
{
	unsigned int type = (unsigned int)frame[12] << 8 | frame[13], before, after;
	uint32_t sum;

	if (type == 0x86dd && size >= VK_RELAY_IP6_MIN) {
		if (!(frame[15] & VK_RELAY_CE << 4))
			return 0;
		frame[15] |= VK_RELAY_CE << 4; /* RFC 8200, 3: traffic class, bits 4 to 11 */
		return 1;
	}
	if (type != 0x0800 || size < VK_RELAY_IP4_MIN || !(frame[15] & VK_RELAY_CE))
		return 0;
	before = (unsigned int)frame[14] << 8 | frame[15];
	after = before | VK_RELAY_CE;
	frame[15] = (uint8_t)after;
	/* RFC 1624, 3: HC' = ~(~HC + ~m + m') */
	sum = (~((unsigned int)frame[24] << 8 | frame[25]) & 0xffff) + (~before & 0xffff) + after;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	frame[24] = (uint8_t)(~sum >> 8);
	frame[25] = (uint8_t)~sum;
	return 1;
}

/* vk_relay_flip changes one bit behind the Ethernet header; random is any number. */
static inline void vk_relay_flip(uint8_t *frame, uint32_t size, uint64_t random)
{
	uint32_t bit = (uint32_t)(random % ((size - 14) * 8));

	frame[14 + bit / 8] ^= (uint8_t)(1u << bit % 8);
}
#endif
