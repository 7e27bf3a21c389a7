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
	uint32_t class;
};

/* vk_view_size reads the bytes of the frame in view, again: cheaper than to keep them on the stack,
 * for calls leave four registers, which the view, its class and the context need. */
static __always_inline uint32_t vk_view_size(const struct vk_view *view)
{
	const struct udphdr *udp = (const void *)view->header - sizeof(*udp);

	return bpf_ntohs(udp->len) - sizeof(*udp);
}

/* An extension's first two bytes, read as one number. */
#define VK_EXT_HEAD(kind, type) ((kind) | sizeof(struct type) / VK_EXT_WORD << 8)

/* vk_chain_usual says whether a chain is one that workers write: SESSION, a TOKEN if the peer asks
 * for it, and SEQ or SHARD if the datagram is one message. A few comparisons instead of a walk; a
 * chain that is not usual may be well-formed all the same. */
static __always_inline int vk_chain_usual(const struct vk_cursor *cursor)
{
	const struct vk_usual *usual = cursor->at;
	const uint16_t *head = (const void *)&usual->seq;
	uint32_t left = usual->header.ext - sizeof(usual->session) / VK_EXT_WORD;

	if (vk_cursor_short(cursor, sizeof(usual->header) + sizeof(usual->session)) ||
	    *(const uint16_t *)&usual->session != VK_EXT_HEAD(VK_EXT_SESSION, vk_ext_session))
		return 0;
	if (!left)
		return 1;
	if (vk_cursor_short(cursor, sizeof(*usual)))
		return 0;
	if (*head == VK_EXT_HEAD(VK_EXT_TOKEN, vk_ext_token)) {
		left -= sizeof(struct vk_ext_token) / VK_EXT_WORD;
		if (!left)
			return 1;
		head = (const void *)head + sizeof(struct vk_ext_token);
		if ((const void *)(head + 1) > cursor->end)
			return 0;
	}
	if (*head == VK_EXT_HEAD(VK_EXT_SEQ, vk_ext_seq))
		return left == sizeof(struct vk_ext_seq) / VK_EXT_WORD;
	return *head == VK_EXT_HEAD(VK_EXT_SHARD, vk_ext_shard) &&
	       left == sizeof(struct vk_ext_shard) / VK_EXT_WORD;
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
					       uint32_t size)
{
	struct vk_header *header = cursor->at;
	/* No frame has the size of a datagram too small for its header or extensions: where
	 * verdicts are all one, it is enough that sizes are compared in the end. */
	uint32_t room = cursor->take == VK_TAKE_USUAL ? ~0u : size, verdict;
	int session;

	if (room < VK_HEADER_SIZE || vk_cursor_short(cursor, sizeof(*header)))
		return VK_DROP_TRUNCATED;
	verdict = vk_parse_fields(header, room);
	if (verdict != VK_STEER)
		return verdict;
	session = header->ext != 0;
	if (session && !vk_chain_usual(cursor)) {
		if (cursor->take == VK_TAKE_USUAL)
			return VK_DROP_EXTENSION;
		verdict = vk_parse_chain(header, cursor->end);
		if (verdict != VK_STEER)
			return verdict;
		session = header->type >= VK_TYPE_CONTROL_END ||
			  vk_chain_session(header, cursor->end);
	}
	if (vk_frame_size(header) != size)
		return VK_DROP_LENGTH;
	view->header = header;
	view->place = cursor->place;
	view->class = vk_frame_class(header, session);
	return VK_STEER;
}

/* vk_parse_packet reads a packet from its first byte into the view. */
static __always_inline uint32_t vk_parse_packet(void *data, void *end, uint16_t port,
						struct vk_view *view, enum vk_take take)
{
	struct vk_cursor cursor = { .at = data, .end = end, .take = take };
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
	return vk_parse_frame(&cursor, view, size);
}
#endif
