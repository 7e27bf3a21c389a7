/* SPDX-License-Identifier: MIT */
#include "vk_frame.h"

static const uint8_t ext_bytes[] = {
	[VK_EXT_SESSION] = sizeof(struct vk_ext_session),
	[VK_EXT_TOKEN] = sizeof(struct vk_ext_token),
	[VK_EXT_SEQ] = sizeof(struct vk_ext_seq),
	[VK_EXT_SHARD] = sizeof(struct vk_ext_shard),
	[VK_EXT_TIME] = sizeof(struct vk_ext_time),
	[VK_EXT_TRACE] = sizeof(struct vk_ext_trace),
};

/* What a shard is of its message, of the extension or of a compact frame. */
static void take_place(struct vk_frame *frame, const uint8_t *at)
{
	frame->sequence = vk_get32(at + VK_SHARD_SEQUENCE_AT);
	frame->offset = vk_get16(at + VK_SHARD_OFFSET_AT);
	frame->total = vk_get16(at + VK_SHARD_LAST_AT) + 1u;
}

/* The first of a kind counts: it is the one that the kernel's program has checked. */
static void take_ext(struct vk_frame *frame, const uint8_t *at, uint32_t kind)
{
	if (frame->present & 1u << kind)
		return;
	switch (kind) {
	case VK_EXT_SESSION:
		frame->epoch = vk_get16(at + 2) >> VK_SESSION_EPOCH_SHIFT;
		frame->space = at[3] >> VK_SESSION_SPACE_SHIFT;
		frame->session = vk_get32(at + 4);
		frame->number = vk_get64(at + 8);
		break;
	case VK_EXT_SEQ:
		frame->fragment = at[3] & VK_FRAGMENT_MASK;
		frame->sequence = vk_get32(at + 4);
		break;
	case VK_EXT_SHARD:
		frame->fragment = at[3] & VK_FRAGMENT_MASK;
		take_place(frame, at);
		break;
	case VK_EXT_TIME:
		frame->time_ns = vk_get64(at + 4);
		break;
	default:
		break;
	}
	frame->present |= 1u << kind;
}

static int parse_extensions(struct vk_frame *frame, const uint8_t *at, uint32_t left)
{
	for (uint32_t i = 0; left; i++) {
		uint32_t kind = at[0], bytes = (uint32_t)at[1] * VK_EXT_WORD;

		if (i == VK_EXT_KINDS_MAX || !bytes || bytes > left)
			return VK_FRAME_EXTENSION;
		if (kind < sizeof ext_bytes && ext_bytes[kind]) {
			if (bytes != ext_bytes[kind])
				return VK_FRAME_EXTENSION;
			take_ext(frame, at, kind);
		}
		at += bytes;
		left -= bytes;
	}
	return VK_FRAME_OK;
}

int vk_frame_parse(struct vk_frame *frame, const uint8_t *data, uint32_t size, int exact)
{
	uint32_t start, ext;
	uint64_t full;

	if (size < VK_HEADER_SIZE)
		return VK_FRAME_TRUNCATED;
	start = vk_get32(data);
	if (start >> 16 != VK_MAGIC)
		return VK_FRAME_MAGIC;
	if ((start >> 8 & 0xff) != VK_VERSION)
		return VK_FRAME_VERSION;
	frame->type = (uint8_t)start;
	if (!vk_type_known(frame->type))
		return VK_FRAME_TYPE;
	frame->flags = data[4];
	frame->priority = data[5];
	frame->trace = data[6];
	ext = vk_frame_head(data) - VK_HEADER_SIZE;
	frame->stream = vk_get32(data + 8);
	frame->length = vk_get32(data + 12);
	frame->correlation = vk_get32(data + 16);
	frame->present = 0;
	frame->fragment = 0;
	frame->sequence = 0;
	frame->time_ns = 0;
	if (size - VK_HEADER_SIZE < ext)
		return VK_FRAME_TRUNCATED;
	full = (uint64_t)VK_HEADER_SIZE + ext + frame->length +
	       (frame->flags & VK_FLAG_ENC ? VK_TAG_SIZE : 0);
	if (exact ? full != size : full > size)
		return VK_FRAME_LENGTH;
	frame->size = (uint32_t)full;
	frame->payload = data + VK_HEADER_SIZE + ext;
	return ext ? parse_extensions(frame, data + VK_HEADER_SIZE, ext) : VK_FRAME_OK;
}

static int parse_compact(struct vk_frame *frame, const uint8_t *data, uint32_t size)
{
	frame->length = vk_compact_length(data);
	frame->size = (uint32_t)sizeof(struct vk_compact) + frame->length;
	frame->payload = data + sizeof(struct vk_compact);
	frame->sequence++;
	return frame->size <= size;
}

static int parse_compact_stream(struct vk_frame *frame, const uint8_t *data, uint32_t size)
{
	if (size < sizeof(struct vk_compact_stream))
		return 0;
	frame->length = vk_compact_length(data);
	frame->size = (uint32_t)sizeof(struct vk_compact_stream) + frame->length;
	frame->payload = data + sizeof(struct vk_compact_stream);
	frame->stream = vk_get32(data + VK_COMPACT_STREAM_AT);
	frame->sequence = vk_get32(data + VK_COMPACT_SEQUENCE_AT);
	return frame->size <= size;
}

static int parse_compact_shard(struct vk_frame *frame, uint32_t stream, const uint8_t *data,
			       uint32_t size)
{
	uint32_t mark;

	if (size < sizeof(struct vk_compact_shard))
		return 0;
	mark = vk_get16(data);
	*frame = (struct vk_frame){
		.type = VK_STREAM_DATA,
		.flags = VK_FLAG_FRG | (mark & VK_COMPACT_AGAIN ? VK_FLAG_RTX : 0),
		.priority = vk_priority_lowest(vk_stream_class(stream)),
		.stream = stream,
		.length = vk_compact_length(data),
		.payload = data + sizeof(struct vk_compact_shard),
		.present = 1u << VK_EXT_SHARD,
		.fragment = mark & VK_FRAGMENT_MASK,
	};
	frame->size = (uint32_t)sizeof(struct vk_compact_shard) + frame->length;
	take_place(frame, data);
	return frame->size <= size;
}

int vk_frame_inner(struct vk_frame *frame, const uint8_t **like, uint32_t stream,
		   const uint8_t *data, uint32_t size)
{
	if (size < sizeof(struct vk_compact))
		return 0;
	if (vk_is_compact(data))
		return *like && parse_compact(frame, data, size);
	if (vk_is_compact_stream(data))
		return *like && parse_compact_stream(frame, data, size);
	*like = NULL;
	if (vk_is_compact_shard(data))
		return parse_compact_shard(frame, stream, data, size);
	if (vk_frame_parse(frame, data, size, 0) || frame->flags & (VK_FLAG_AGG | VK_FLAG_ENC) ||
	    frame->present & 1u << VK_EXT_SESSION)
		return 0;
	if (frame->present == 1u << VK_EXT_SEQ && frame->payload == data + VK_MESSAGE_HEAD &&
	    !frame->fragment && vk_type_message(frame->type))
		*like = data;
	return 1;
}

uint8_t vk_priority_lowest(uint32_t class)
{
	static const uint8_t lowest[VK_CLASS_COUNT] = {
		[VK_CLASS_CRITICAL] = VK_PRIORITY_CRITICAL, [VK_CLASS_SYSTEM] = VK_PRIORITY_SYSTEM,
		[VK_CLASS_JOB] = VK_PRIORITY_JOB,	    [VK_CLASS_DATA] = VK_PRIORITY_DATA,
		[VK_CLASS_LOGS] = VK_PRIORITY_LOGS,
	};

	return class < VK_CLASS_COUNT ? lowest[class] : 0;
}
