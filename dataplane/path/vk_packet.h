/* SPDX-License-Identifier: MIT */
#ifndef VK_PACKET_H
#define VK_PACKET_H
/* vk_packet.h: the layers below a Valkyrie frame. Pure functions over memory: finding the frame in
 * a received packet, writing Ethernet, IP and UDP headers in front of one, cutting the kernel's
 * super-packets. No syscalls, no allocation.
 */
#include "vk_path.h"

enum vk_packet_const {
	VK_ETHERNET_SIZE = 14,
	VK_VLAN_SIZE = 4,
	VK_VLANS_MAX = 2,
	VK_IPV4_SIZE = 20,
	VK_IPV6_SIZE = 40,
	VK_UDP_SIZE = 8,
	VK_HEAD_ROOM = 64, /* bytes in front of a payload that is being sent: 14 + 40 + 8 fit */
};

/* The headers of every datagram to one peer; DS field, lengths and checksums are still to be filled
 * in. */
struct vk_packet_head {
	uint8_t bytes[VK_HEAD_ROOM];
	uint32_t size; /* 42 or 62 */
	uint32_t family;
	uint64_t sum; /* IPv4: of the IP header with length and DS field 0; IPv6: of addresses,
		       * protocol, ports */
};

/* vk_packet_head_init builds the template for a resolved peer; source_port in host order. */
void vk_packet_head_init(struct vk_packet_head *head, const struct vk_peer *peer,
			 uint16_t source_port);

/* vk_packet_head_write puts the headers directly in front of payload, which has VK_HEAD_ROOM
 * writable bytes before it, and returns how many bytes they take. IPv4: header checksum, no UDP
 * checksum (RFC 768). IPv6: UDP checksum over the size payload bytes (RFC 8200, 8.1). ds_field:
 * what IPv4 has as TOS and IPv6 as traffic class. */
uint32_t vk_packet_head_write(const struct vk_packet_head *head, uint32_t ds_field,
			      uint8_t *payload, uint32_t size);

/* vk_packet_locate finds the Valkyrie frame in a packet of size bytes that begins with its
 * Ethernet header. meta: the 16 bytes the XDP program wrote, believed only as far as they fit the
 * packet; when they do not, or meta is NULL, the packet is parsed. Fills all of *frame but class.
 * Returns 0, or -EBADMSG if there is no frame of at least VK_HEADER_SIZE bytes to port. */
int vk_packet_locate(const uint8_t *packet, uint32_t size, const struct vk_meta *meta,
		     uint16_t port, struct vk_rx_frame *frame);

/* A received datagram, or a run of them that the kernel joined. */
struct vk_packet_run {
	const uint8_t *data;
	uint32_t size;
	uint32_t segment; /* bytes of every datagram but the last; 0 or >= size: it is one */
	uint32_t offset; /* of the next datagram */
};

/* vk_packet_split cuts the next datagrams off run, at most max, as frames[0..n) with the source
 * and class of *source, and returns n. Datagrams shorter than VK_HEADER_SIZE are skipped and
 * added to *invalid. The run is empty when offset == size. */
int vk_packet_split(struct vk_packet_run *run, const struct vk_rx_frame *source,
		    struct vk_rx_frame *frames, int max, uint64_t *invalid);

/* vk_packet_pad raises an AGG frame of size bytes to to bytes: the header's length grows and the
 * new bytes are zero, which ends the run of inner frames. Room for to bytes is the caller's. */
void vk_packet_pad(uint8_t *frame, uint32_t size, uint32_t to);

/* vk_packet_sum adds size bytes to a one's-complement sum of 16-bit words in memory order. */
uint64_t vk_packet_sum(const void *data, uint32_t size, uint64_t sum);
#endif
