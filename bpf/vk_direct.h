/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#ifndef VK_DIRECT_H
#define VK_DIRECT_H
/* vk_direct.h: a packet as XDP sees it, read in place from its first byte to the end of the frame's
 * extensions. Each function returns VK_STEER or the verdict that ends it.
 */
#include "vk_parse.h"

/* vk_parse_chain walks the extensions of a frame whose header says that the datagram holds them. */
static __always_inline uint32_t vk_parse_chain(const struct vk_header *header, void *end,
					       uint32_t *session)
{
	struct vk_chain chain = { .end = header->ext };

	for (int i = 0; i < VK_EXT_KINDS_MAX && chain.at < chain.end; i++) {
		struct vk_ext *ext = (void *)(header + 1) + (chain.at & 0xff) * VK_EXT_WORD;
		uint32_t verdict;

		if ((void *)(ext + 1) > end)
			return VK_DROP_TRUNCATED;
		verdict = vk_ext_step(&chain, ext);
		if (verdict != VK_STEER)
			return verdict;
	}
	*session = chain.session;
	return chain.at == chain.end ? VK_STEER : VK_DROP_EXTENSION;
}

/* vk_parse_frame reads the frame of a datagram of size bytes into the view. */
static __always_inline uint32_t vk_parse_frame(struct vk_cursor *cursor, struct vk_view *view,
					       uint32_t size)
{
	struct vk_header *header = cursor->at;
	uint32_t verdict, session = 0;

	if (size < VK_HEADER_SIZE || (void *)(header + 1) > cursor->end)
		return VK_DROP_TRUNCATED;
	verdict = vk_parse_fields(header, size);
	if (verdict != VK_STEER)
		return verdict;
	if (header->ext) {
		verdict = vk_parse_chain(header, cursor->end, &session);
		if (verdict != VK_STEER)
			return verdict;
	}
	if (vk_frame_size(header) != size)
		return VK_DROP_LENGTH;
	view->frame_offset = cursor->offset;
	view->payload_offset = cursor->offset + VK_HEADER_SIZE + header->ext * VK_EXT_WORD;
	view->frame_size = size;
	view->class = vk_frame_class(header, session);
	view->messages = vk_frame_messages(header);
	return VK_STEER;
}

/* vk_parse_packet reads a packet from its first byte into the view. */
static __always_inline uint32_t vk_parse_packet(void *data, void *end, uint16_t port,
						struct vk_view *view)
{
	struct vk_cursor cursor = { .at = data, .end = end };
	__be16 protocol = 0;
	uint32_t verdict, size = 0;

	verdict = vk_parse_ethernet(&cursor, &protocol);
	if (verdict != VK_STEER)
		return verdict;
	view->l3_offset = cursor.offset;
	if (protocol == bpf_htons(ETH_P_IP))
		verdict = vk_parse_ip4(&cursor, view, &size);
	else if (protocol == bpf_htons(ETH_P_IPV6))
		verdict = vk_parse_ip6(&cursor, view, &size);
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
