/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#ifndef VK_PARSE_H
#define VK_PARSE_H
/* vk_parse.h: what the two eBPF programs agree on when they read a packet. A cursor walks the
 * packet; every step checks its bounds and returns VK_STEER to go on or the verdict that ends it.
 * The rules of the frame itself (vk_parse_fields, vk_ext_check, vk_frame_size, vk_frame_class) do
 * no memory access of their own, so that classify reads the packet directly and select by copies.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "vk_maps.h"

enum vk_parse_const {
	VK_VLAN_TAGS_MAX = 2,
	VK_IP4_BARE = 0x45, /* version 4, five words: no options */
	VK_IP4_FRAGMENT = 0x3fff, /* more-fragments flag and offset */
};

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "VK_PLACE and the loader's keys are little-endian"
#endif

/* A field of vk_meta's first eight bytes as a part of these bytes read as one number, a "place".
 * Parsers add up a place instead of keeping every offset in a register of its own. */
#define VK_PLACE_SHIFT(field) (8 * __builtin_offsetof(struct vk_meta, field))
#define VK_PLACE(field, value) ((uint64_t)(value) << VK_PLACE_SHIFT(field))
#define VK_PLACE_STEP(size) (VK_PLACE(l3_offset, size) + VK_PLACE(frame_offset, size))

/* What a reader takes. With VK_TAKE_USUAL it refuses, with any verdict, every packet that is not
 * one that workers write, well-formed or not, and may ask for the bounds of many steps at once. */
enum vk_take { VK_TAKE_ANY, VK_TAKE_USUAL };

struct vk_cursor {
	void *at;
	void *end;
	uint64_t place; /* what vk_meta will say, as far as has been read; the class is 0 */
	enum vk_take take; /* a constant: each program has the parser once for each */
};

/* The least that lies behind the UDP header of a usual packet: SESSION and eight bytes more, SEQ or
 * payload. The few frames that are shorter are well-formed and not usual. */
struct vk_usual {
	struct vk_header header;
	struct vk_ext_session session;
	struct vk_ext_seq seq;
};

/* vk_cursor_short says whether the packet ends within the next step. Of a usual one
 * vk_cursor_unusual has asked that before. */
static __always_inline int vk_cursor_short(const struct vk_cursor *cursor, uint32_t step)
{
	return cursor->take == VK_TAKE_ANY && cursor->at + step > cursor->end;
}

/* vk_cursor_unusual says whether the packet ends within all the steps that a usual one has from
 * here: headers of so many bytes, UDP and the frame. One check instead of one a step. */
static __always_inline int vk_cursor_unusual(const struct vk_cursor *cursor, uint32_t headers)
{
	headers += sizeof(struct udphdr) + sizeof(struct vk_usual);
	return cursor->take == VK_TAKE_USUAL && cursor->at + headers > cursor->end;
}

struct vk_vlan {
	__be16 tci;
	__be16 protocol;
};

/* The words of an extension kind whose size is fixed, by kind, four bits each; 0 = any. */
#define VK_EXT_FIXED(kind, type) ((uint64_t)(sizeof(struct type) / VK_EXT_WORD) << ((kind) * 4))
static const uint64_t vk_ext_fixed =
	VK_EXT_FIXED(VK_EXT_SESSION, vk_ext_session) | VK_EXT_FIXED(VK_EXT_TOKEN, vk_ext_token) |
	VK_EXT_FIXED(VK_EXT_SEQ, vk_ext_seq) | VK_EXT_FIXED(VK_EXT_SHARD, vk_ext_shard) |
	VK_EXT_FIXED(VK_EXT_TIME, vk_ext_time) | VK_EXT_FIXED(VK_EXT_TRACE, vk_ext_trace);

/* vk_parse_ethernet steps over the Ethernet header and up to two VLAN tags. */
static __always_inline uint32_t vk_parse_ethernet(struct vk_cursor *cursor, __be16 *protocol)
{
	struct ethhdr *ethernet = cursor->at;

	if (vk_cursor_short(cursor, sizeof(*ethernet)) ||
	    vk_cursor_unusual(cursor, sizeof(*ethernet) + sizeof(struct iphdr)))
		return VK_PASS_SHORT;
	/* not h_proto: its struct is packed, and the compiler would read it byte by byte */
	*protocol = ((__be16 *)(ethernet + 1))[-1];
	cursor->at = ethernet + 1;
	cursor->place = VK_PLACE(magic, VK_META_MAGIC) + VK_PLACE_STEP(sizeof(*ethernet));
#pragma unroll
	for (int i = 0; i < VK_VLAN_TAGS_MAX; i++) {
		struct vk_vlan *tag = cursor->at;

		if (*protocol != bpf_htons(ETH_P_8021Q) && *protocol != bpf_htons(ETH_P_8021AD))
			return VK_STEER;
		if (vk_cursor_short(cursor, sizeof(*tag)) ||
		    vk_cursor_unusual(cursor, sizeof(*tag) + sizeof(struct iphdr)))
			return VK_PASS_SHORT;
		*protocol = tag->protocol;
		cursor->at = tag + 1;
		cursor->place += VK_PLACE_STEP(sizeof(*tag));
	}
	return VK_STEER;
}

/* vk_parse_ip4 steps over an IPv4 header without options; *size becomes what IP says follows. */
static __always_inline uint32_t vk_parse_ip4(struct vk_cursor *cursor, uint32_t *size)
{
	struct iphdr *ip = cursor->at;
	uint8_t first;

	if (vk_cursor_short(cursor, sizeof(*ip)))
		return VK_PASS_SHORT;
	first = *(uint8_t *)ip;
	if (first != VK_IP4_BARE)
		return first >> 4 == 4 && first > VK_IP4_BARE ? VK_PASS_OPTIONS : VK_PASS_NOT_IP;
	if (ip->frag_off & bpf_htons(VK_IP4_FRAGMENT))
		return VK_PASS_FRAGMENT;
	if (ip->protocol != IPPROTO_UDP)
		return VK_PASS_NOT_UDP;
	*size = bpf_ntohs(ip->tot_len);
	if (*size < sizeof(*ip) + sizeof(struct udphdr))
		return VK_PASS_SHORT;
	*size -= sizeof(*ip);
	cursor->at = ip + 1;
	cursor->place +=
		VK_PLACE(family, 4) + VK_PLACE(frame_offset, sizeof(*ip) + sizeof(struct udphdr));
	return VK_STEER;
}

/* vk_parse_ip6 steps over an IPv6 header without extension headers; *size as above. */
static __always_inline uint32_t vk_parse_ip6(struct vk_cursor *cursor, uint32_t *size)
{
	struct ipv6hdr *ip = cursor->at;

	if (vk_cursor_short(cursor, sizeof(*ip)) || vk_cursor_unusual(cursor, sizeof(*ip)))
		return VK_PASS_SHORT;
	if (ip->version != 6)
		return VK_PASS_NOT_IP;
	if (ip->nexthdr != IPPROTO_UDP)
		return VK_PASS_NOT_UDP;
	*size = bpf_ntohs(ip->payload_len);
	if (*size < sizeof(struct udphdr))
		return VK_PASS_SHORT;
	cursor->at = ip + 1;
	cursor->place +=
		VK_PLACE(family, 6) + VK_PLACE(frame_offset, sizeof(*ip) + sizeof(struct udphdr));
	return VK_STEER;
}

/* vk_parse_udp steps over a UDP header to our port; *size: what IP says follows, then the size of
 * the UDP payload. From the port on, a packet is ours: no more PASS. */
static __always_inline uint32_t vk_parse_udp(struct vk_cursor *cursor, uint16_t port,
					     uint32_t *size)
{
	struct udphdr *udp = cursor->at;
	uint32_t length;

	if (vk_cursor_short(cursor, sizeof(*udp)))
		return VK_PASS_SHORT;
	if (udp->dest != bpf_htons(port))
		return VK_PASS_PORT;
	length = bpf_ntohs(udp->len);
	if (length < sizeof(*udp) || length > *size || cursor->at + *size > cursor->end)
		return VK_DROP_LENGTH;
	*size = length - sizeof(*udp);
	cursor->at = udp + 1;
	return VK_STEER;
}

/* vk_parse_fields checks the fixed fields of a frame header in a datagram of size bytes, of which
 * the caller has checked that they hold the header. */
static __always_inline uint32_t vk_parse_fields(const struct vk_header *header, uint32_t size)
{
	if (header->magic != bpf_htons(VK_MAGIC))
		return VK_DROP_MAGIC;
	if (header->version != VK_VERSION)
		return VK_DROP_VERSION;
	if (!vk_type_known(header->type))
		return VK_DROP_TYPE;
	if (VK_HEADER_SIZE + header->ext * VK_EXT_WORD > size)
		return VK_DROP_TRUNCATED;
	return VK_STEER;
}

/* vk_ext_check checks one extension of a chain of which so many words are left. */
static __always_inline uint32_t vk_ext_check(const struct vk_ext *ext, uint32_t left)
{
	uint32_t kind = ext->kind, words = ext->words, fixed;

	if (words == 0 || words > left)
		return VK_DROP_EXTENSION;
	if (kind >= 16)
		return VK_STEER;
	fixed = vk_ext_fixed >> (kind * 4) & 15;
	return fixed && words != fixed ? VK_DROP_EXTENSION : VK_STEER;
}

/* vk_frame_size returns the bytes a frame says that it has: up to 4 GiB and more, hence 64 bits. */
static __always_inline uint64_t vk_frame_size(const struct vk_header *header)
{
	return VK_HEADER_SIZE + header->ext * VK_EXT_WORD + (uint64_t)bpf_ntohl(header->length) +
	       (header->flags & VK_FLAG_ENC ? VK_TAG_SIZE : 0);
}

/* vk_frame_class returns the class of a valid frame. */
static __always_inline uint32_t vk_frame_class(const struct vk_header *header, uint32_t session)
{
	if (header->type < VK_TYPE_CONTROL_END && !session)
		return VK_CLASS_CONTROL;
	return vk_stream_class(bpf_ntohl(header->stream));
}

/* vk_frame_messages returns how many messages a valid frame says that it carries. */
static __always_inline uint32_t vk_frame_messages(const struct vk_header *header)
{
	uint32_t count;

	if (!(header->flags & VK_FLAG_AGG))
		return 1;
	count = bpf_ntohl(header->correlation);
	return count < VK_AGG_MAX ? count : VK_AGG_MAX;
}
#endif
