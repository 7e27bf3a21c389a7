/* SPDX-License-Identifier: MIT */
#ifndef VK_MAPS_H
#define VK_MAPS_H
/* vk_maps.h states the ABI between the eBPF programs and user space, once: map names, keys, values,
 * verdicts, the metadata block. classify.bpf.c (XDP) and select.bpf.c (sk_reuseport) share it.
 *
 * | map        | type                     | key                         | value             |
 * |------------|--------------------------|-----------------------------|-------------------|
 * | vk_xsks    | XSKMAP                   | queue * VK_CLASS_COUNT + class | XSK fd         |
 * | vk_socks   | REUSEPORT_SOCKARRAY      | class, + VK_CLASS_COUNT for IPv6 | UDP socket fd |
 * | vk_lanes   | ARRAY, MMAPABLE, 1 entry | 0                           | vk_lane[]         |
 * | vk_source  | ARRAY, MMAPABLE, 1 entry | 0                           | vk_police         |
 * | vk_sources | LRU_PERCPU_HASH          | vk_source_key               | vk_bucket         |
 * | vk_guard   | ARRAY, MMAPABLE, 1 entry | 0                           | vk_guard          |
 * | vk_denied  | HASH                     | session id, network order   | u32, unused       |
 * | vk_blocked | HASH                     | vk_source_key               | u32, tick it ends |
 * | vk_counts  | PERCPU_ARRAY             | class * VK_VERDICT_COUNT + verdict | vk_count   |
 *
 * A lane is a class on a queue, at queue * VK_CLASS_COUNT + class. vk_lanes, vk_source and vk_guard
 * are variables of the programs (.data.vk_lanes and so on to libbpf and the kernel): the code
 * has their address, and a packet needs no lookup. User space maps vk_lanes into its memory.
 *
 * User space divides a class's rate by the number of queues before it writes vk_lane.police: a
 * bucket belongs to one queue, and one CPU at a time works on a queue. select knows no queue and
 * uses the lanes of queue 0; there a token may be lost or won when CPUs race, which no policer
 * notices.
 *
 * vk_counts: a packet is counted exactly once. VK_STEER and the verdicts from VK_DROP_CLASS_RATE on
 * are counted in the row of the frame's class; all others come before a class is known and are
 * counted in VK_CLASS_CONTROL's row.
 *
 * Configuration in .rodata, set before load: vk_udp_port (classify), vk_sample_shift (classify).
 */
#include "vk_wire.h"

enum vk_map_const {
	VK_QUEUES_MAX = 64,
	VK_LANES_MAX = 384, /* a lane for each queue and class */
	VK_SOCKS_SINK = 12, /* drops what is refused; + 1 for IPv6 */
	VK_SOCKS_MAX = 14, /* and in front of them one for each class and family */
	VK_SOURCES_MAX = 16384, /* addresses a per-source policer remembers */
	VK_TOKEN_SHIFT = 30, /* fixed point of rates and tokens: one packet is 1 << 30 */
	VK_REFILL_NS_MAX = 1000000000, /* a bucket refills for at most this long at once */
	VK_POLICE_BITS =
		33, /* vk_police.rate and .burst are below 1 << 33: a refill fits 64 bits */
	VK_DENIED_MAX = 4096, /* sessions that are dropped at once */
	VK_BLOCKED_MAX = 1024, /* addresses that are dropped at once */
	VK_MASTERS = 2, /* generations of the key that are good at a time */
	VK_SAMPLE_NEVER = 32, /* vk_sample_shift: stamp no frame */
	VK_META_MAGIC = 0x564b,
};

/* What became of a packet, and why. STEER..: to a socket. PASS..: to the kernel, untouched.
 * DROP..: a Valkyrie frame refused. The order is ABI; names go to users in lower case. */
enum vk_verdict {
	VK_STEER = 0,
	VK_PASS_SHORT = 1, /* too short for the headers it announces, before the port matched */
	VK_PASS_NOT_IP = 2, /* or more than two VLAN tags, or an IP header of another version */
	VK_PASS_OPTIONS = 3, /* IPv4 options */
	VK_PASS_FRAGMENT = 4,
	VK_PASS_NOT_UDP = 5, /* another protocol, or an IPv6 extension header */
	VK_PASS_PORT = 6, /* UDP to another port */
	VK_DROP_TRUNCATED = 7, /* datagram ends inside the frame header or the extensions */
	VK_DROP_MAGIC = 8,
	VK_DROP_VERSION = 9,
	VK_DROP_TYPE = 10, /* reserved type */
	VK_DROP_EXTENSION = 11, /* malformed extension chain */
	VK_DROP_LENGTH = 12, /* packet, datagram and frame disagree about their length */
	VK_DROP_CLASS_RATE = 13,
	VK_DROP_SOURCE_RATE = 14,
	VK_DROP_CREDIT = 15, /* the class has spent its frames: its consumer is behind */
	VK_DROP_NO_SOCKET = 16, /* nobody listens on this queue and class */
	VK_PASS_QUEUE = 17, /* a valid frame on a queue beyond VK_QUEUES_MAX */
	VK_DROP_DENIED = 18, /* its session was ended, and is to be heard no more */
	VK_DROP_TOKEN_MISSING = 19, /* its class takes no frame without a token */
	VK_DROP_TOKEN_GENERATION = 20, /* of a key that is not known, or not any more */
	VK_DROP_TOKEN_EXPIRED = 21,
	VK_DROP_TOKEN_FORGED = 22, /* of another address or session, or simply made up */
	VK_DROP_BLOCKED = 23, /* its source was blocked for a while, by a rule against intrusion */
	VK_DROP_COOKIE_MISSING = 24, /* a handshake frame behind HELLO has no place for a cookie */
	VK_DROP_COOKIE_GENERATION = 25, /* of a key that is not known, or not any more; or none */
	VK_DROP_COOKIE_EXPIRED = 26,
	VK_DROP_COOKIE_FORGED = 27, /* of another address, port or attempt, or simply made up */
	VK_VERDICT_COUNT = 28,
};

/* A token bucket's configuration. rate 0 = no limit. */
struct vk_police {
	uint64_t rate; /* tokens per nanosecond, fixed point 2^-30; a token is one packet */
	uint64_t burst; /* packets; 0 = refuse all */
};

/* Key of vk_sources: an IPv6 address, or an IPv4 address mapped into IPv6 (::ffff:a.b.c.d). */
struct vk_source_key {
	uint32_t address[4]; /* network order */
};

/* A token bucket's state, fixed point 2^-30. Refilled only when short: no clock read before. */
struct vk_bucket {
	uint64_t tokens;
	uint64_t last_ns; /* bpf_ktime_get_ns of the last refill */
};

/* All that a class on a queue is policed by: a line that user space writes, a line that the
 * program writes. The frame credit: granted is written by the worker only (release, after it
 * refilled FILL), used by XDP only; used - granted >= 0 (as signed) means spent. */
struct vk_lane {
	uint64_t granted;
	struct vk_police police;
	uint64_t pad0[5];
	uint64_t used;
	struct vk_bucket bucket;
	uint64_t pad1[5];
};

/* A key of tokens and cookies, its 16 bytes as two little-endian numbers. */
struct vk_master {
	uint64_t key[2];
	uint32_t generation; /* the low 16 bits are in tokens */
	uint32_t valid; /* 0: there is none. Written first and last when the key changes */
};

/* The half of a cookie that the kernel checks, in the head of every handshake message. A HELLO_ACK
 * brings it, and the side that asks repeats it in all that it sends for this attempt: so frames of
 * somebody who does not receive at the address that they are from are dropped before the daemon
 * hears of them. The tag is SipHash-2-4 of a struct vk_cookie_mac under the same master keys as
 * tokens. It says nothing of what was said: that is for the half in the body, which the daemon
 * checks. In all other messages it is zeros. */
struct vk_cookie {
	uint32_t expiry; /* the first tick of the responder's clock at which it is refused */
	uint32_t tag_high;
	uint32_t tag_low;
	uint16_t generation; /* of the key */
	uint16_t pad;
};

/* What the tag of a cookie covers, in network order. */
struct vk_cookie_mac {
	uint8_t address[16]; /* source; IPv4 mapped into IPv6 (::ffff:a.b.c.d) */
	uint32_t attempt_high; /* as in the message */
	uint32_t attempt_low;
	uint32_t expiry; /* as in the cookie */
	uint16_t generation; /* as in the cookie */
	uint16_t port; /* source */
	uint16_t purpose; /* enum vk_mac_purpose */
	uint16_t pad;
};

/* What is asked of frames before they are charged to anybody. All zeros: nothing. */
struct vk_guard {
	uint32_t checks; /* bit enum vk_class: its frames need a token, control's a cookie; or
			  * vk_guard_check */
	uint32_t pad0;
	struct vk_master masters[VK_MASTERS]; /* of a generation: at generation % VK_MASTERS */
	uint64_t pad1;
};

enum vk_guard_check {
	VK_GUARD_COOKIES = 0x01, /* the bit of control: frames that vk_type_proves */
	VK_GUARD_TOKENS = 0x3f, /* the bits of all classes */
	VK_GUARD_BLOCKED = 0x40, /* vk_blocked is not empty */
	VK_GUARD_DENIED = 0x80, /* vk_denied is not empty */
};

struct vk_count {
	uint64_t packets;
	uint64_t bytes; /* of the whole packet as XDP sees it; of the UDP payload in select */
	uint64_t more; /* of steered packets: messages beyond one a packet, mod 2^64: with AGG the
			* inner frames, at most VK_AGG_MAX, - 1 */
};

/* 16 bytes in front of a steered packet (bpf_xdp_adjust_meta). The worker uses them to find the
 * frame without parsing again, after it checked magic and bounds. */
struct vk_meta {
	uint16_t magic; /* VK_META_MAGIC, host order */
	uint8_t class; /* enum vk_class */
	uint8_t family; /* 4 or 6 */
	uint16_t l3_offset; /* IP header, bytes from the packet's start */
	uint16_t frame_offset; /* Valkyrie header, bytes from the packet's start */
	uint16_t payload_offset; /* payload, bytes from the packet's start */
	uint16_t frame_size; /* header + extensions + payload + tag */
	uint32_t stamp; /* low 32 bits of bpf_ktime_get_ns when sampled, else 0 */
};

#ifndef VK_CDEF
_Static_assert(sizeof(struct vk_meta) == 16, "maps: metadata is 16 bytes");
_Static_assert((int)VK_SOCKS_SINK == 2 * (int)VK_CLASS_COUNT, "maps: a socket per class, family");
_Static_assert((int)VK_LANES_MAX == (int)VK_QUEUES_MAX * (int)VK_CLASS_COUNT, "maps: lanes");
_Static_assert(sizeof(struct vk_cookie) == 16, "maps: a cookie's half is 16 bytes");
_Static_assert(sizeof(struct vk_cookie_mac) == 36, "maps: a cookie's tag covers 36 bytes");
_Static_assert(sizeof(struct vk_guard) == 64, "maps: the guard is one cache line");
_Static_assert(VK_GUARD_TOKENS == (1 << (int)VK_CLASS_COUNT) - 1, "maps: classes have bits");
_Static_assert(VK_GUARD_COOKIES == 1 << (int)VK_CLASS_CONTROL, "maps: cookies are control's bit");
_Static_assert(sizeof(struct vk_lane) == 128, "maps: a lane is two cache lines");
_Static_assert(__builtin_offsetof(struct vk_lane, used) == 64, "maps: a line for each writer");
#endif
#endif
