/* SPDX-License-Identifier: MIT */
#ifndef VK_HEAD_H
#define VK_HEAD_H
/* vk_head.h: what stands in front of a message's payload in an aggregate, where the one before it
 * was like it. `last` is the head of that one, whole, as it would be if nothing were ever left out:
 * VK_MESSAGE_HEAD bytes.
 */
#include "vk_frame.h"

/* vk_head_alike says whether a message's frame differs from the last one only in length, stream and
 * sequence. */
static inline int vk_head_alike(const uint8_t *last, const struct vk_frame *frame)
{
	return last[offsetof(struct vk_header, type)] == frame->type &&
	       last[offsetof(struct vk_header, flags)] == frame->flags &&
	       last[offsetof(struct vk_header, priority)] == frame->priority &&
	       last[offsetof(struct vk_header, trace)] == frame->trace &&
	       vk_get32(last + VK_CORRELATION_AT) == frame->correlation;
}

/* vk_head_short returns the bytes of a compact frame's head behind the last message. */
static inline uint32_t vk_head_short(const uint8_t *last, uint32_t stream, uint32_t sequence)
{
	return stream == vk_get32(last + VK_STREAM_AT) &&
			       sequence == vk_get32(last + VK_SEQUENCE_AT) + 1 ?
		       sizeof(struct vk_compact) :
		       sizeof(struct vk_compact_stream);
}

/* vk_head_shard says whether a compact frame can say all that a shard's would. */
static inline int vk_head_shard(const struct vk_frame *frame, uint32_t class)
{
	return frame->present == 1u << VK_EXT_SHARD && frame->type == VK_STREAM_DATA &&
	       !(frame->flags & ~(VK_FLAG_FRG | VK_FLAG_RTX)) && !frame->trace &&
	       !frame->correlation && frame->priority == vk_priority_lowest(class);
}

/* vk_head_put writes a compact frame's head of so many bytes, of the message that is the last one
 * now. Returns where its payload goes. */
static inline uint8_t *vk_head_put(uint8_t *last, uint8_t *at, uint32_t head, uint32_t stream,
				   uint32_t sequence, uint32_t length)
{
	vk_put32(last + VK_SEQUENCE_AT, sequence);
	if (head == sizeof(struct vk_compact))
		return vk_put_compact(at, length);
	vk_put32(last + VK_STREAM_AT, stream);
	return vk_put_compact_stream(at, length, stream, sequence);
}
#endif
