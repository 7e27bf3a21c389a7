/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#ifndef VK_DIRECT_H
#define VK_DIRECT_H
/* vk_direct.h: a packet as XDP sees it, read in place from its first byte to the end of the frame's
 * extensions. Each function returns VK_STEER or the verdict that ends it.
 */
#include "vk_parse.h"

/* What parsing found out about a frame. Small and never passed by address to a helper, so that the
 * compiler keeps it in registers. */
struct vk_view {
	const struct vk_header *header; /* in the packet, right behind addresses and UDP header */
	uint64_t place; /* vk_meta's first eight bytes, but for the class */
	uint32_t frame_size;
	uint32_t class;
};

/* Which extension chains a reader takes: with VK_CHAIN_USUAL it refuses any that vk_chain_usual
 * does not know, well-formed or not. */
enum vk_chain { VK_CHAIN_ANY, VK_CHAIN_USUAL };

/* An extension's first two bytes, read as one number. */
#define VK_EXT_HEAD(kind, type) ((kind) | sizeof(struct type) / VK_EXT_WORD << 8)

/* vk_chain_usual says whether a chain is one that workers write: SESSION, a TOKEN if the peer asks
 * for it, and SEQ or SHARD if the datagram is one message. A few comparisons instead of a walk; a
 * chain that is not usual may be well-formed all the same. */
static __always_inline int vk_chain_usual(const struct vk_header *header, const void *end)
{
	const uint16_t *head = (const void *)(header + 1);
	uint32_t words = sizeof(struct vk_ext_session) / VK_EXT_WORD;

	if ((const void *)head + sizeof(struct vk_ext_session) > end ||
	    *head != VK_EXT_HEAD(VK_EXT_SESSION, vk_ext_session))
		return 0;
	if (header->ext == words)
		return 1;
	head = (const void *)head + sizeof(struct vk_ext_session);
	if ((const void *)(head + 1) > end)
		return 0;
	if (*head == VK_EXT_HEAD(VK_EXT_TOKEN, vk_ext_token)) {
		words += sizeof(struct vk_ext_token) / VK_EXT_WORD;
		if (header->ext == words)
			return 1;
		head = (const void *)head + sizeof(struct vk_ext_token);
		if ((const void *)(head + 1) > end)
			return 0;
	}
	if (*head == VK_EXT_HEAD(VK_EXT_SEQ, vk_ext_seq))
		return header->ext == words + sizeof(struct vk_ext_seq) / VK_EXT_WORD;
	return *head == VK_EXT_HEAD(VK_EXT_SHARD, vk_ext_shard) &&
	       header->ext == words + sizeof(struct vk_ext_shard) / VK_EXT_WORD;
}

/* vk_parse_chain walks the extensions of a frame whose header says that the datagram holds them. */
static __always_inline uint32_t vk_parse_chain(const struct vk_header *header, const void *end)
{
	uint32_t at = 0, size = header->ext; /* words */

	for (int i = 0; i < VK_EXT_KINDS_MAX && at < size; i++) {
		const struct vk_ext *ext = (const struct vk_ext *)(header + 1) + (at & 0xff);
		uint32_t verdict;

		if ((const void *)(ext + 1) > end)
			return VK_DROP_TRUNCATED;
		verdict = vk_ext_check(ext, size - at);
		if (verdict != VK_STEER)
			return verdict;
		at += ext->words;
	}
	return at == size ? VK_STEER : VK_DROP_EXTENSION;
}

/* vk_chain_session returns the first SESSION of a well-formed chain, NULL without one. Not inline,
 * and not done by the way in vk_parse_chain: few frames need it. */
static __noinline __attribute__((pure)) const struct vk_ext_session *
vk_chain_session(const struct vk_header *header, const void *end)
{
	uint32_t at = 0;

	for (int i = 0; i < VK_EXT_KINDS_MAX && at < header->ext; i++) {
		const struct vk_ext *ext = (const struct vk_ext *)(header + 1) + (at & 0xff);
		const struct vk_ext_session *session = (const void *)ext;

		if ((const void *)(ext + 1) > end)
			return 0;
		if (ext->kind == VK_EXT_SESSION)
			return (const void *)(session + 1) > end ? 0 : session;
		at += ext->words;
	}
	return 0;
}

/* vk_parse_frame reads the frame of a datagram of size bytes into the view. */
static __always_inline uint32_t vk_parse_frame(struct vk_cursor *cursor, struct vk_view *view,
					       uint32_t size, enum vk_chain chain)
{
	struct vk_header *header = cursor->at;
	uint32_t verdict;

	if (size < VK_HEADER_SIZE || (void *)(header + 1) > cursor->end)
		return VK_DROP_TRUNCATED;
	verdict = vk_parse_fields(header, size);
	if (verdict != VK_STEER)
		return verdict;
	if (header->ext && !vk_chain_usual(header, cursor->end)) {
		if (chain == VK_CHAIN_USUAL)
			return VK_DROP_EXTENSION;
		verdict = vk_parse_chain(header, cursor->end);
		if (verdict != VK_STEER)
			return verdict;
	}
	if (vk_frame_size(header) != size)
		return VK_DROP_LENGTH;
	view->header = header;
	view->place = cursor->place;
	view->frame_size = size;
	view->class = vk_frame_class(header, header->type >= VK_TYPE_CONTROL_END ||
						     vk_chain_session(header, cursor->end) != 0);
	return VK_STEER;
}

/* vk_parse_packet reads a packet from its first byte into the view. */
static __always_inline uint32_t vk_parse_packet(void *data, void *end, uint16_t port,
						struct vk_view *view, enum vk_chain chain)
{
	struct vk_cursor cursor = { .at = data, .end = end };
	__be16 protocol = 0;
	uint32_t verdict, size = 0;

	verdict = vk_parse_ethernet(&cursor, &protocol);
	if (verdict != VK_STEER)
		return verdict;
	if (protocol == bpf_htons(ETH_P_IP))
		verdict = vk_parse_ip4(&cursor, &size);
	else if (protocol == bpf_htons(ETH_P_IPV6))
		verdict = vk_parse_ip6(&cursor, &size);
	else
		verdict = VK_PASS_NOT_IP;
	if (verdict != VK_STEER)
		return verdict;
	verdict = vk_parse_udp(&cursor, port, &size);
	if (verdict != VK_STEER)
		return verdict;
	return vk_parse_frame(&cursor, view, size, chain);
}
#endif
