/* SPDX-License-Identifier: MIT */
/* libFuzzer: what vk_frame_parse accepts lies inside its input and survives being built again, also
 * behind a token, which changes nothing else. */
#include "vk_frame.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
	if (!condition)
		abort();
}

/* Writes a token as a worker does: as it is, whatever is in it. */
static uint8_t *put_token(uint8_t *at, const uint8_t *from, size_t size)
{
	memset(at, 0, sizeof(struct vk_ext_token));
	memcpy(at, from, size < sizeof(struct vk_ext_token) ? size : sizeof(struct vk_ext_token));
	vk_put_ext(at, VK_EXT_TOKEN, sizeof(struct vk_ext_token), (uint16_t)(at[2] << 8 | at[3]));
	return at + sizeof(struct vk_ext_token);
}

static void rebuild(const struct vk_frame *frame)
{
	uint8_t bytes[VK_HEADER_SIZE + sizeof(struct vk_ext_session) + sizeof(struct vk_ext_token) +
		      sizeof(struct vk_ext_shard) + sizeof(struct vk_ext_time)];
	struct vk_frame bare = *frame, again;
	uint8_t *at;

	bare.flags &= (uint8_t)~VK_FLAG_ENC;
	bare.length = 0;
	at = vk_put_header(bytes, &bare, (sizeof bytes - VK_HEADER_SIZE) / VK_EXT_WORD, 0);
	at = vk_put_session(at, frame->session, frame->epoch, frame->space, frame->number);
	at = put_token(at, frame->payload, frame->length);
	at = vk_put_shard(at, frame);
	at = vk_put_time(at, frame->time_ns);
	require(at == bytes + sizeof bytes);
	require(vk_frame_parse(&again, bytes, sizeof bytes, 1) == VK_FRAME_OK);
	require(again.present == (1u << VK_EXT_SESSION | 1u << VK_EXT_TOKEN | 1u << VK_EXT_SHARD |
				  1u << VK_EXT_TIME));
	require(again.type == frame->type && again.stream == frame->stream);
	require(again.number == frame->number && again.space == frame->space);
	require(again.sequence == frame->sequence);
	/* Without SHARD there is none. */
	require((uint16_t)(again.total - frame->total) == 0);
	require(again.fragment == frame->fragment && !(frame->fragment & ~VK_FRAGMENT_MASK));
	require(again.time_ns == frame->time_ns && again.correlation == frame->correlation);
}

/* A compact frame of a shard says what one with a header would that is written from it. */
static void read_shard(const struct vk_frame *frame, const uint8_t *data, uint32_t stream)
{
	uint8_t bytes[sizeof(struct vk_compact_shard)];

	require(frame->payload == data + sizeof bytes && frame->stream == stream);
	require(frame->type == VK_STREAM_DATA && !frame->correlation && !frame->trace);
	require(vk_priority_ok(vk_stream_class(stream), frame->priority));
	require(frame->total - 1 < VK_SHARDED_MAX);
	vk_put_compact_shard(bytes, frame);
	require(!memcmp(bytes, data, sizeof bytes));
}

/* Compact frames lie inside of the run, and say what the message before them does, but for their
 * place: the next one of its stream, or one that they name. */
static void read_run(const uint8_t *data, uint32_t size)
{
	struct vk_frame frame, before;
	const uint8_t *like = NULL;
	uint32_t stream = size ? data[0] * 40u : 0; /* of any class */

	memset(&frame, 0, sizeof frame);
	for (uint32_t at = 0; at < size; at += vk_align_run(frame.size)) {
		before = frame;
		if (!vk_frame_inner(&frame, &like, stream, data + at, size - at))
			return;
		require(frame.size >= sizeof(struct vk_compact) && frame.size <= size - at);
		require(frame.payload > data + at);
		require(frame.payload + frame.length == data + at + frame.size);
		require(!like || (like <= data + at && frame.present == 1u << VK_EXT_SEQ));
		if (frame.payload >= data + at + VK_HEADER_SIZE)
			continue;
		if (frame.present == 1u << VK_EXT_SHARD) {
			read_shard(&frame, data + at, stream);
			require(!like);
			continue;
		}
		require(like && like < data + at && frame.type == before.type);
		require(frame.correlation == before.correlation && frame.flags == before.flags);
		if (vk_is_compact(data + at))
			require(frame.stream == before.stream &&
				frame.sequence == before.sequence + 1);
		else
			require(frame.payload == data + at + sizeof(struct vk_compact_stream));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vk_frame frame;

	read_run(data, (uint32_t)size);
	for (int exact = 0; exact < 2; exact++) {
		memset(&frame, 0, sizeof frame);
		if (vk_frame_parse(&frame, data, (uint32_t)size, exact) != VK_FRAME_OK)
			continue;
		require(frame.size <= size && (!exact || frame.size == size));
		require(frame.payload >= data + VK_HEADER_SIZE);
		require(frame.payload + frame.length <= data + size);
		require(vk_type_known(frame.type));
		require(vk_frame_class(&frame) < VK_CLASS_COUNT);
		rebuild(&frame);
	}
	return 0;
}
