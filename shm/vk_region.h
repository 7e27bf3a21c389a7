/* SPDX-License-Identifier: MIT */
#ifndef VK_REGION_H
#define VK_REGION_H
/* vk_region.h states what a channel is, the shared memory of a node and an application or of two
 * applications, once. Rule: one writer a field; everything a peer writes is copied once and checked
 * before use. Both ends are of one VK_REGION_ABI (vk_abi.h).
 *
 * A channel joins two parties by two regions (one memfd each), one writer each:
 *
 *   region D (daemon side writes: the worker)      region A (application writes)
 *   | vk_region page | ring 0 data | ring 1 ... |  | vk_region page | ring 0 data | ring 1 ... |
 *      tail[r]: bytes produced into D's ring r        tail[r]: bytes produced into A's ring r
 *      head[r]: bytes consumed of A's ring r          head[r]: bytes consumed of D's ring r
 *
 * An application's channel has one ring a class and direction (ring index = enum vk_class; ring 0
 * carries no messages there, only reports). A ring between two applications has one ring, index
 * 0, and the party that created the channel plays D. Ring data is mapped twice in a row, so that
 * every record is contiguous. tail and head count bytes, never wrap (64 bits), and are multiples
 * of VK_RECORD_ALIGN; the byte at count c lives at offset c % capacity.
 */
#include "vk_abi.h"
#ifndef VK_CDEF
#include <stdint.h>
#endif

enum vk_shm_const {
	VK_SHM_MAGIC = 0x4d534b56,
	VK_SHM_REVISION = 4, /* raise it when fields mean something else and no layout changes */
	VK_SHM_PAGE = 4096,
	VK_RINGS_MAX = 8,
	VK_RECORD_ALIGN = 8,
	VK_RING_CAPACITY_MIN = 4096,
	VK_RING_CAPACITY_MAX = 1073741824,
	VK_LINE = 64, /* bytes in a cache line */
};

/* First page of a region. Lines of 64 bytes by how often they change and who polls them. */
struct vk_region {
	/* line 0: constants, set before anybody else maps the region */
	uint32_t magic;
	uint32_t abi; /* VK_REGION_ABI */
	uint32_t generation; /* of the application slot; 0 between two applications */
	uint16_t ring_count;
	uint16_t pad0;
	uint32_t capacity[VK_RINGS_MAX]; /* bytes, power of two; 0 = no such ring */
	uint8_t pad1[16];
	/* line 1: producer indices of this region's rings (release) */
	uint64_t tail[VK_RINGS_MAX];
	/* line 2: consumer indices of the other region's rings (release) */
	uint64_t head[VK_RINGS_MAX];
	/* line 3: nonzero while the owner may sleep and wants its bell rung. It is a count of
	 * sleeps: a waker rings at most once a value. Written before a full fence. */
	uint32_t sleeping;
	uint8_t closed; /* owner says good-bye: nothing more will be produced */
	uint8_t pad2[3];
	uint8_t blocked[VK_RINGS_MAX]; /* enum vk_blocked: why the owner does not consume ring r */
	/* Bytes of room in its own ring r that a sleeping application wants the bell for; 0 = it
	 * wants none. Written before `sleeping`. */
	uint32_t need[VK_RINGS_MAX];
	uint8_t pad3[16];
};

enum vk_blocked {
	VK_BLOCKED_NONE = 0, /* only busy: the ring itself is the limit */
	VK_BLOCKED_POLICY = 1, /* the application's own rate limit */
	VK_BLOCKED_PATH = 2, /* the interface does not take more now */
	VK_BLOCKED_CREDIT = 3, /* the stream's window is spent: the peer's application is behind */
	VK_BLOCKED_SESSION = 4, /* the session's window is spent, or there is no session yet */
	VK_BLOCKED_CONGESTION = 5, /* the path carries no more */
	VK_BLOCKED_MEMORY = 6, /* the worker has none to keep track of more */
};

/* A record: header, body of `size` bytes, padding to VK_RECORD_ALIGN. */
struct vk_record {
	uint32_t size; /* bytes of the body */
	uint8_t kind; /* enum vk_record_kind */
	uint8_t flags;
	uint16_t reserved;
};

enum vk_record_kind {
	VK_RECORD_RAW = 0, /* body is the message (rings between two applications) */
	VK_RECORD_DATA = 1, /* body is vk_message + payload */
	VK_RECORD_OPEN = 2, /* + service name. To worker: peer, stream, correlation = token.
			     * To application: flow of a stream a peer opened on its service */
	VK_RECORD_OPENED = 3, /* to application: answer to OPEN; code 0 or enum vk_code */
	VK_RECORD_CLOSE = 4, /* no more messages in this direction */
	VK_RECORD_RESET = 5, /* the stream is gone; code says why */
	VK_RECORD_CONSUMED = 6, /* to worker, ring 0: body is vk_consumed; credit for the peer */
	VK_RECORD_FLUSH = 7, /* to worker: answer when all before on this stream is acknowledged */
	VK_RECORD_FLUSHED = 8, /* to application, ring 0: the answer; correlation as in FLUSH */
	VK_RECORD_LIMIT = 9, /* to application, ring 0: time_ns = cost it may put for the stream */
	VK_RECORD_KIND_COUNT = 10,
};

/* What an application has taken of a stream: absolute, so that a report may be left out. */
struct vk_consumed {
	uint32_t flow;
	uint32_t flow_generation;
	uint64_t cost; /* sum over messages of payload + VK_MESSAGE_COST, since it was opened */
};

/* Errors that cross the wire in STREAM_RESET / ERROR payloads and rings. */
enum vk_code {
	VK_CODE_OK = 0,
	VK_CODE_MALFORMED = 101, /* a request that breaks the protocol */
	VK_CODE_SESSION_UNKNOWN = 102, /* the peer started anew: shake hands again */
	VK_CODE_SESSION_CLOSED = 103,
	VK_CODE_VERSION = 104, /* no common version, or capabilities that one side requires */
	VK_CODE_ACK_INVALID = 105, /* an acknowledgement of what was never sent */
	VK_CODE_PEER_RESTARTED = 106, /* the peer's node started anew: its streams are gone */
	VK_CODE_UNPROVEN = 201, /* a proof does not verify: other keys, or somebody in between */
	VK_CODE_IDENTITY = 202, /* proven, but not who is expected, or somebody nobody knows */
	VK_CODE_CREDENTIAL = 203, /* missing, expired, revoked, or not for this use */
	VK_CODE_HANDSHAKE_TIMEOUT = 204, /* the other side did not finish its handshake, or did not
					  * prove itself anew in time */
	VK_CODE_COOKIE = 205, /* too old, or from before a restart: begin anew */
	VK_CODE_NO_SERVICE = 301, /* nobody listens under that name */
	VK_CODE_STREAM_IN_USE = 302,
	VK_CODE_STREAM_UNKNOWN = 303,
	VK_CODE_STREAMS_FULL = 304,
	VK_CODE_APPLICATION_GONE = 305,
	VK_CODE_FLOW_CONTROL = 306, /* more was sent than window or CLOSE allowed */
	VK_CODE_SHARDS = 307, /* shards or fragments of one message contradict each other */
	VK_CODE_CANCELLED = 308, /* the other application reset the stream */
	VK_CODE_OVERLOAD = 501, /* too many requests at once: try again later */
	VK_CODE_FAILED = 502, /* the node could not do it */
	VK_CODE_POLICY = 701, /* policy refuses class, stream, peer or service */
	VK_CODE_SECURITY_FLOOR = 702, /* both could agree only below what one's policy demands */
	VK_CODE_NO_PEER = 601,
	VK_CODE_UNREACHABLE = 602, /* the peer does not answer */
};

/* Head of the body of every record between worker and application. 40 bytes. */
struct vk_message {
	uint32_t flow; /* index into vk_flows; the worker checks that it is the application's */
	uint32_t flow_generation;
	uint32_t peer; /* index into vk_state.peers */
	uint32_t stream;
	/* Of the message on its stream and direction, from 0, chosen by the sending application's
	 * library; of CLOSE: how many messages there were. */
	uint32_t sequence;
	uint32_t correlation;
	uint8_t type; /* enum vk_type of a DATA record; 0 = STREAM_DATA */
	uint8_t flags; /* enum vk_flag as the sender set them (EOS, URG, ACK) */
	uint8_t priority; /* 0 = lowest of the class's band is chosen by the worker */
	uint8_t trace;
	uint32_t code; /* enum vk_code. Of DATA: enum vk_fragment, but on logs, to the worker, its
			* lifetime, us after time_ns */
	uint64_t time_ns; /* sender's CLOCK_REALTIME; 0 = none, else TIME is on the wire */
};

/* What both ends count with. */
enum vk_channel_const {
	VK_CONTROL_RING = 65536, /* bytes of ring 0, which no message goes through */
	VK_MESSAGE_COST = 64, /* bytes a message counts in windows besides its payload */
	VK_WINDOW_START = 65536, /* bytes a stream may be sent before its first credit */
};

#ifndef VK_CDEF
_Static_assert(__builtin_offsetof(struct vk_region, tail) == 64, "shm: tails on a line");
_Static_assert(__builtin_offsetof(struct vk_region, head) == 128, "shm: heads on a line");
_Static_assert(__builtin_offsetof(struct vk_region, sleeping) == 192, "shm: bell on a line");
_Static_assert(sizeof(struct vk_region) == 256, "shm: region header is four lines");
_Static_assert(sizeof(struct vk_record) == VK_RECORD_ALIGN, "shm: record header is one unit");
_Static_assert(sizeof(struct vk_message) == 40, "shm: message descriptor is 40 bytes");
#endif
#endif
