/* SPDX-License-Identifier: MIT */
#ifndef VK_FRAME_H
#define VK_FRAME_H
/* vk_frame.h: frames in user space, parsed into host order and built from it. Sans-IO. The parser
 * reads nothing outside [data, data + size) and trusts nothing in it.
 */
#include "vk_wire.h"

#ifndef VK_CDEF
#include <stddef.h>

/* Places in the frame of a message that has no extension but SEQ, from the frame's start. */
enum vk_frame_place {
	VK_STREAM_AT = offsetof(struct vk_header, stream),
	VK_LENGTH_AT = offsetof(struct vk_header, length),
	VK_CORRELATION_AT = offsetof(struct vk_header, correlation),
	VK_SEQUENCE_AT = VK_HEADER_SIZE + offsetof(struct vk_ext_seq, sequence),
	VK_MESSAGE_HEAD = VK_HEADER_SIZE + sizeof(struct vk_ext_seq), /* bytes before its payload */
};

/* Places in a compact frame that names its stream. */
enum vk_compact_place {
	VK_COMPACT_STREAM_AT = offsetof(struct vk_compact_stream, stream),
	VK_COMPACT_SEQUENCE_AT = offsetof(struct vk_compact_stream, sequence),
};

/* Places in that of a shard, and in the extension, of which it has the end. */
enum vk_shard_place {
	VK_SHARD_SEQUENCE_AT = offsetof(struct vk_compact_shard, sequence),
	VK_SHARD_OFFSET_AT = offsetof(struct vk_compact_shard, offset),
	VK_SHARD_LAST_AT = offsetof(struct vk_compact_shard, last),
};

_Static_assert((int)VK_SHARD_SEQUENCE_AT == offsetof(struct vk_ext_shard, sequence) &&
		       (int)VK_SHARD_OFFSET_AT == offsetof(struct vk_ext_shard, offset) &&
		       (int)VK_SHARD_LAST_AT == offsetof(struct vk_ext_shard, last),
	       "a shard's place is told alike in both");
#endif

/* A parsed frame: the header in host order, the extensions it carries, where its payload is. */
struct vk_frame {
	uint8_t type;
	uint8_t flags;
	uint8_t priority;
	uint8_t trace;
	uint32_t stream;
	uint32_t length;
	uint32_t correlation;
	const uint8_t *payload;
	uint32_t size; /* header + extensions + payload (+ tag) */
	uint32_t present; /* bit enum vk_ext_kind */
	/* SESSION */
	uint32_t session;
	uint32_t space;
	uint32_t epoch;
	uint64_t number;
	/* SEQ or SHARD */
	uint32_t fragment; /* enum vk_fragment */
	uint32_t sequence;
	uint32_t offset;
	uint32_t total;
	/* TIME */
	uint64_t time_ns;
};

enum vk_frame_error {
	VK_FRAME_OK = 0,
	VK_FRAME_TRUNCATED = 1,
	VK_FRAME_MAGIC = 2,
	VK_FRAME_VERSION = 3,
	VK_FRAME_TYPE = 4,
	VK_FRAME_EXTENSION = 5,
	VK_FRAME_LENGTH = 6,
};

/* vk_frame_parse reads one frame at data. exact: the frame must fill size bytes (a datagram); else
 * it may be followed by others (a run). Returns enum vk_frame_error. */
int vk_frame_parse(struct vk_frame *frame, const uint8_t *data, uint32_t size, int exact);

/* vk_frame_inner reads the next inner frame of a run at data; `frame` is the one before it,
 * `stream` that of the outer one. *like: where the last one with a header begins, if a compact
 * frame may follow that repeats it, else NULL; NULL at first. Returns 0 when it is malformed. */
int vk_frame_inner(struct vk_frame *frame, const uint8_t **like, uint32_t stream,
		   const uint8_t *data, uint32_t size);

/* vk_priority_lowest returns the lowest priority of a class's band. */
uint8_t vk_priority_lowest(uint32_t class);

#ifndef VK_CDEF
/* vk_type_message says whether a type is assigned to what applications say to each other: neither
 * to handshakes nor to what keeps streams going. */
static inline int vk_type_message(uint32_t type)
{
	return vk_type_known(type) && type >= VK_TYPE_CONTROL_END &&
	       (type < VK_STREAM_OPEN || type == VK_STREAM_DATA || type > VK_STREAM_RESET);
}

/* vk_frame_class returns the class of a parsed frame, by the rule the kernel program uses. */
static inline uint32_t vk_frame_class(const struct vk_frame *frame)
{
	if (frame->type < VK_TYPE_CONTROL_END && !(frame->present & 1u << VK_EXT_SESSION))
		return VK_CLASS_CONTROL;
	return vk_stream_class(frame->stream);
}

/* vk_put16 writes 16 bits in network byte order, at any address. */
static inline void vk_put16(uint8_t *at, uint16_t value)
{
	value = __builtin_bswap16(value);
	__builtin_memcpy(at, &value, sizeof value);
}

/* vk_put32 writes 32 bits in network byte order, at any address. */
static inline void vk_put32(uint8_t *at, uint32_t value)
{
	value = __builtin_bswap32(value);
	__builtin_memcpy(at, &value, sizeof value);
}

/* vk_get32 reads 32 bits in network byte order, at any address. */
static inline uint32_t vk_get32(const uint8_t *at)
{
	uint32_t value;

	__builtin_memcpy(&value, at, sizeof value);
	return __builtin_bswap32(value);
}

/* vk_get64 reads 64 bits in network byte order, at any address. */
static inline uint64_t vk_get64(const uint8_t *at)
{
	return (uint64_t)vk_get32(at) << 32 | vk_get32(at + 4);
}

/* vk_is_compact says whether a compact frame begins at data, of which 4 bytes are there. */
static inline int vk_is_compact(const uint8_t *data)
{
	return vk_get32(data) >> 16 == VK_COMPACT;
}

/* vk_is_compact_stream says whether one that names its stream does. */
static inline int vk_is_compact_stream(const uint8_t *data)
{
	return vk_get32(data) >> 16 == VK_COMPACT_STREAM;
}

/* vk_is_compact_shard says whether one of a shard does. */
static inline int vk_is_compact_shard(const uint8_t *data)
{
	return (vk_get32(data) >> 16 & ~(uint32_t)VK_COMPACT_BITS) == VK_COMPACT_SHARD;
}

/* vk_compact_length returns the payload bytes of the compact frame at data, of any kind. */
static inline uint32_t vk_compact_length(const uint8_t *data)
{
	return vk_get32(data) & 0xffff;
}

/* vk_put_compact writes the head of a compact frame. Returns where the payload goes. */
static inline uint8_t *vk_put_compact(uint8_t *at, uint32_t length)
{
	vk_put32(at, (uint32_t)VK_COMPACT << 16 | length);
	return at + sizeof(struct vk_compact);
}

/* vk_put_compact_stream does the same for one that names its stream. */
static inline uint8_t *vk_put_compact_stream(uint8_t *at, uint32_t length, uint32_t stream,
					     uint32_t sequence)
{
	vk_put32(at, (uint32_t)VK_COMPACT_STREAM << 16 | length);
	vk_put32(at + VK_COMPACT_STREAM_AT, stream);
	vk_put32(at + VK_COMPACT_SEQUENCE_AT, sequence);
	return at + sizeof(struct vk_compact_stream);
}

/* vk_put_place writes what a shard is of its message. */
static inline void vk_put_place(uint8_t *at, const struct vk_frame *frame)
{
	vk_put32(at + VK_SHARD_SEQUENCE_AT, frame->sequence);
	vk_put16(at + VK_SHARD_OFFSET_AT, (uint16_t)frame->offset);
	vk_put16(at + VK_SHARD_LAST_AT, (uint16_t)(frame->total - 1));
}

/* vk_put_compact_shard writes the head of a compact frame of a shard. */
static inline uint8_t *vk_put_compact_shard(uint8_t *at, const struct vk_frame *frame)
{
	uint32_t again = frame->flags & VK_FLAG_RTX ? VK_COMPACT_AGAIN : 0;

	vk_put32(at, (VK_COMPACT_SHARD | again | frame->fragment) << 16 | frame->length);
	vk_put_place(at, frame);
	return at + sizeof(struct vk_compact_shard);
}

/* vk_put_header writes a header; ext counts words. Returns where the extensions go. */
static inline uint8_t *vk_put_header(uint8_t *at, const struct vk_frame *frame, uint32_t ext,
				     uint32_t timestamp)
{
	vk_put32(at, (uint32_t)VK_MAGIC << 16 | VK_VERSION << 8 | frame->type);
	at[4] = frame->flags;
	at[5] = frame->priority;
	at[6] = frame->trace;
	at[7] = (uint8_t)ext;
	vk_put32(at + 8, frame->stream);
	vk_put32(at + 12, frame->length);
	vk_put32(at + 16, frame->correlation);
	vk_put32(at + 20, timestamp);
	return at + VK_HEADER_SIZE;
}

/* vk_get16 reads 16 bits in network byte order, at any address. */
static inline uint16_t vk_get16(const uint8_t *at)
{
	uint16_t value;

	__builtin_memcpy(&value, at, sizeof value);
	return __builtin_bswap16(value);
}

/* vk_frame_head returns the bytes in front of a frame's payload, by a header that is there. */
static inline uint32_t vk_frame_head(const uint8_t *frame)
{
	return VK_HEADER_SIZE +
	       frame[__builtin_offsetof(struct vk_header, ext)] * (uint32_t)VK_EXT_WORD;
}

/* vk_put_ext writes an extension's own header for a body of struct bytes in all. */
static inline void vk_put_ext(uint8_t *at, uint8_t kind, uint32_t bytes, uint16_t arg)
{
	at[0] = kind;
	at[1] = (uint8_t)(bytes / VK_EXT_WORD);
	vk_put16(at + 2, arg);
}

/* vk_put_number writes the packet number of a SESSION extension that begins at a place. */
static inline void vk_put_number(uint8_t *at, uint64_t number)
{
	vk_put32(at + 8, (uint32_t)(number >> 32));
	vk_put32(at + 12, (uint32_t)number);
}

/* vk_put_session writes a SESSION extension and returns where the next one goes. */
static inline uint8_t *vk_put_session(uint8_t *at, uint32_t session, uint32_t epoch, uint32_t space,
				      uint64_t number)
{
	vk_put_ext(at, VK_EXT_SESSION, sizeof(struct vk_ext_session),
		   (uint16_t)(epoch << VK_SESSION_EPOCH_SHIFT | space << VK_SESSION_SPACE_SHIFT));
	vk_put32(at + 4, session);
	vk_put_number(at, number);
	return at + sizeof(struct vk_ext_session);
}

/* vk_put_seq writes a SEQ extension and returns where the next one goes. */
static inline uint8_t *vk_put_seq(uint8_t *at, const struct vk_frame *frame)
{
	vk_put_ext(at, VK_EXT_SEQ, sizeof(struct vk_ext_seq), (uint16_t)frame->fragment);
	vk_put32(at + 4, frame->sequence);
	return at + sizeof(struct vk_ext_seq);
}

/* vk_put_shard writes a SHARD extension and returns where the next one goes. */
static inline uint8_t *vk_put_shard(uint8_t *at, const struct vk_frame *frame)
{
	vk_put_ext(at, VK_EXT_SHARD, sizeof(struct vk_ext_shard), (uint16_t)frame->fragment);
	vk_put_place(at, frame);
	return at + sizeof(struct vk_ext_shard);
}

/* vk_put_time writes a TIME extension and returns where the next one goes. */
static inline uint8_t *vk_put_time(uint8_t *at, uint64_t time_ns)
{
	vk_put_ext(at, VK_EXT_TIME, sizeof(struct vk_ext_time), 0);
	vk_put32(at + 4, (uint32_t)(time_ns >> 32));
	vk_put32(at + 8, (uint32_t)time_ns);
	return at + sizeof(struct vk_ext_time);
}

/* vk_align_run returns where the next inner frame of a run begins, from the payload's start. */
static inline uint32_t vk_align_run(uint32_t offset)
{
	return (offset + VK_AGG_ALIGN - 1) & ~(uint32_t)(VK_AGG_ALIGN - 1);
}
#endif
#endif
