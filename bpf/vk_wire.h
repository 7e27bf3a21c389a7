/* SPDX-License-Identifier: MIT */
#ifndef VK_WIRE_H
#define VK_WIRE_H
/* vk_wire.h states the wire format, once. The XDP program, the worker, cffi (preprocessed with
 * -DVK_CDEF), the scapy layer and the tables of docs/FORMATS.md all come from this file.
 *
 * A UDP datagram to port VK_PORT is one outer frame, all fields in network byte order:
 *
 *    0                   1                   2                   3
 *    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 *   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 *   |         magic 0x5243          |  version = 2  |     type      |
 *   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 *   |     flags     |   priority    |     trace     |      ext      |
 *   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 *   |                            stream                             |
 *   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 *   |                            length                             |
 *   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 *   |                          correlation                          |
 *   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 *   |                           timestamp                           |
 *   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 *   |   extensions: ext 4-byte words of {kind, words, arg, body}    |
 *   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 *   |   payload: length bytes            [AEAD tag 16 B when ENC]   |
 *   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 *
 * header + extensions + payload (+ tag) fill the datagram exactly. With AGG the payload is a run of
 * inner frames of the outer frame's class, each beginning on a multiple of VK_AGG_ALIGN from the
 * start of the payload; a zero magic ends the run (padding up to a segment size); `correlation` of
 * the outer frame is then the number of inner frames. Inner frames carry no AGG, ENC or SESSION.
 * Messages that are alike need no header each, nor do shards of the outer frame's stream: see
 * struct vk_compact, vk_compact_stream and vk_compact_shard.
 *
 * A message over VK_SHARDED_MAX, which logs do not have, is a run of fragments: messages to the
 * nodes, with sequences that follow each other, marked in the arg of their SEQ or SHARD. Only the
 * applications' libraries join them.
 *
 *    0                   1                   2                   3
 *    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 *   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 *   |  SEQ or SHARD |     words     |             0             |C|M|
 *   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 */
#ifndef VK_CDEF /* cffi knows uintN_t by itself */
#ifdef __bpf__
#include <linux/types.h>
typedef __u8 uint8_t;
typedef __u16 uint16_t;
typedef __u32 uint32_t;
typedef __u64 uint64_t;
#else
#include <stdint.h>
#endif
#endif

enum vk_wire_const {
	VK_MAGIC = 0x5243,
	VK_VERSION = 2,
	VK_PORT = 21059, /* UDP, default; 0x5243 in decimal */
	VK_HEADER_SIZE = 24,
	VK_EXT_WORD = 4, /* bytes in a word of `ext` and of an extension's `words` */
	VK_EXT_KINDS_MAX = 16, /* extensions in one frame that the kernel walks */
	VK_AGG_ALIGN = 4,
	VK_AGG_MAX = 256, /* inner frames of one outer frame */
	VK_COMPACT = 0x4358, /* where other frames have their magic */
	VK_COMPACT_STREAM = 0x4353, /* likewise */
	VK_COMPACT_SHARD = 0x4368, /* likewise; the low bits are free */
	VK_COMPACT_AGAIN =
		0x4, /* of these bits: the frame has RTX; the others are enum vk_fragment */
	VK_COMPACT_BITS = 0x7,
	VK_TAG_SIZE = 16,
	VK_SESSION_EPOCH_SHIFT = 8, /* in the arg of SESSION; the path is its low bits */
	VK_SESSION_SPACE_SHIFT = 6,
	VK_NUMBER_BITS = 62, /* of packet numbers, as in QUIC; larger ones name no packet */
	VK_FRAGMENT_MASK = 0x3, /* enum vk_fragment in the arg of SEQ and SHARD */
	VK_MESSAGE_MAX = 67108864, /* bytes a message, over its fragments */
	VK_SHARDED_MAX = 65536, /* bytes of what nodes pass on as one: they reassemble its shards */
	VK_SERVICE_NAME_MAX = 64, /* bytes of a service name in STREAM_OPEN, UTF-8 */
};

/* The five QoS classes a stream id selects, and the control class of handshake frames. */
enum vk_class {
	VK_CLASS_CONTROL = 0,
	VK_CLASS_CRITICAL = 1,
	VK_CLASS_SYSTEM = 2,
	VK_CLASS_JOB = 3,
	VK_CLASS_DATA = 4,
	VK_CLASS_LOGS = 5,
	VK_CLASS_COUNT = 6,
};

/* First stream id of each class (a class ends where the next begins). */
enum vk_first_stream {
	VK_FIRST_CRITICAL = 0,
	VK_FIRST_SYSTEM = 1,
	VK_FIRST_JOB = 100,
	VK_FIRST_DATA = 1000,
	VK_FIRST_LOGS = 10000,
};

/* Lowest priority of each class's band; the stream decides the class, a priority outside its band
 * is counted as a QoS violation. 0 is the lowest priority of the lowest class. */
enum vk_priority {
	VK_PRIORITY_LOGS = 0,
	VK_PRIORITY_DATA = 50,
	VK_PRIORITY_JOB = 100,
	VK_PRIORITY_SYSTEM = 200,
	VK_PRIORITY_CRITICAL = 255,
};

enum vk_flag {
	VK_FLAG_ACK = 0x01,
	VK_FLAG_EOS = 0x02,
	VK_FLAG_CMP = 0x04,
	VK_FLAG_ENC = 0x08,
	VK_FLAG_FRG = 0x10,
	VK_FLAG_URG = 0x20,
	VK_FLAG_RTX = 0x40,
	VK_FLAG_AGG = 0x80,
};

enum vk_type {
	VK_HELLO = 0x00,
	VK_HELLO_ACK = 0x01,
	VK_PING = 0x02,
	VK_PONG = 0x03,
	VK_ERROR = 0x04,
	VK_CLOSE = 0x05,
	VK_UPGRADE = 0x06,
	VK_NEGOTIATE = 0x07,
	VK_AUTH_CHALLENGE = 0x10,
	VK_AUTH_RESPONSE = 0x11,
	VK_AUTH_SUCCESS = 0x12,
	VK_AUTH_FAILURE = 0x13,
	VK_KEY_EXCHANGE = 0x14,
	VK_CERT_REQUEST = 0x15,
	VK_JOB_REQUEST = 0x20,
	VK_JOB_ACCEPT = 0x21,
	VK_JOB_REJECT = 0x22,
	VK_JOB_START = 0x23,
	VK_JOB_PROGRESS = 0x24,
	VK_JOB_COMPLETE = 0x25,
	VK_JOB_FAILED = 0x26,
	VK_JOB_CANCEL = 0x27,
	VK_JOB_MIGRATE = 0x28,
	VK_JOB_PAUSE = 0x29,
	VK_JOB_RESUME = 0x2a,
	VK_STREAM_OPEN = 0x30,
	VK_STREAM_DATA = 0x31,
	VK_STREAM_CLOSE = 0x32,
	VK_STREAM_ACK = 0x33,
	VK_STREAM_RESET = 0x34,
	VK_FILE_TRANSFER_START = 0x35,
	VK_FILE_CHUNK = 0x36,
	VK_FILE_COMPLETE = 0x37,
	VK_METRICS_REPORT = 0x40,
	VK_LOG_ENTRY = 0x41,
	VK_TRACE_SPAN = 0x42,
	VK_HEALTH_CHECK = 0x43,
	VK_STATUS_UPDATE = 0x44,
	VK_ALERT_NOTIFICATION = 0x45,
	VK_TYPE_COUNT = 0x50, /* types from here on are never delivered */
	VK_TYPE_CONTROL_END = 0x20, /* below: control class unless a SESSION is present */
};

/* What a message is of a larger one, in the arg of SEQ and SHARD; 0 = all of it. */
enum vk_fragment {
	VK_FRAGMENT_MORE = 0x1, /* the next sequence goes on with it */
	VK_FRAGMENT_CONTINUES = 0x2, /* it goes on with the sequence before */
};

enum vk_ext_kind {
	VK_EXT_SESSION = 1,
	VK_EXT_TOKEN = 2,
	VK_EXT_SEQ = 3,
	VK_EXT_SHARD = 4,
	VK_EXT_HOP = 5,
	VK_EXT_TIME = 6,
	VK_EXT_TRACE = 7,
};

/* Packet-number spaces of a session, so that priority queues cannot look like loss. */
enum vk_space {
	VK_SPACE_E = 0, /* critical, system */
	VK_SPACE_B = 1, /* job, data */
	VK_SPACE_L = 2, /* logs */
	VK_SPACE_COUNT = 3,
};

/* How the frames of a session are sealed: what both agreed on when they shook hands. The nonce is
 * the epoch's mask, XORed with the space in the first 4 bytes and the packet number in the last 8;
 * additional data is all that lies before the payload. */
enum vk_cipher {
	VK_CIPHER_NONE = 0, /* they are not: plaintext */
	VK_CIPHER_CHACHA20_POLY1305 = 1,
	VK_CIPHER_AES_256_GCM = 2,
};

enum vk_cipher_const {
	VK_CIPHER_KEY_SIZE = 32,
	VK_CIPHER_NONCE_SIZE = 12,
};

struct vk_header {
	uint16_t magic;
	uint8_t version;
	uint8_t type;
	uint8_t flags;
	uint8_t priority;
	uint8_t trace; /* slot of a trace context */
	uint8_t ext; /* extensions, in words */
	uint32_t stream;
	uint32_t length; /* payload bytes, without the tag */
	uint32_t correlation; /* request/reply id; inner frame count when AGG */
	uint32_t timestamp; /* Unix seconds */
};

/* Begins a compact frame: within an aggregate, directly behind a message with no extension but SEQ
 * that is no fragment, or behind another compact frame, the next message of the same stream. Its
 * payload follows. All that is not here is as in the message before it, but for the sequence, which
 * is one more. */
struct vk_compact {
	uint16_t mark; /* VK_COMPACT */
	uint16_t length; /* payload bytes */
};

/* Begins a compact frame where one may be, of any stream of the aggregate's class. Its payload
 * follows. All that is not here is as in the message before it. */
struct vk_compact_stream {
	uint16_t mark; /* VK_COMPACT_STREAM */
	uint16_t length; /* payload bytes */
	uint32_t stream;
	uint32_t sequence; /* of the message, on its stream */
};

/* Begins a compact frame anywhere in an aggregate: a shard of a message on the outer frame's
 * stream. Its payload follows. It is a STREAM_DATA of the lowest priority of its class, with FRG
 * and SHARD and nothing else. */
struct vk_compact_shard {
	uint16_t mark; /* VK_COMPACT_SHARD, with VK_COMPACT_AGAIN and enum vk_fragment */
	uint16_t length; /* payload bytes */
	uint32_t sequence; /* as in SHARD */
	uint16_t offset;
	uint16_t last;
};

struct vk_ext {
	uint8_t kind;
	uint8_t words; /* this header and its body, in words; at least 1 */
	uint16_t arg;
};

struct vk_ext_session {
	struct vk_ext ext; /* arg: epoch, space, path (VK_SESSION_*_SHIFT) */
	uint32_t session; /* chosen by the receiver; 0 = static plaintext peer */
	uint32_t number_high; /* packet number, two halves: the body is only 4-byte aligned */
	uint32_t number_low;
};

/* The receiver's own word that it has let the sender in: it gives the sender these 16 bytes, the
 * sender puts them on its frames as they are, right behind SESSION, which is then the first
 * extension. So the kernel can refuse all others before anything is spent on them, and keeps
 * nothing for a session. It says nothing of a frame's content: that is for the cipher. The tag is
 * SipHash-2-4 of a struct vk_mac under the receiver's master key of the generation in arg. Two
 * generations are good at a time, so that a key can be replaced while frames come. */
struct vk_ext_token {
	struct vk_ext ext; /* arg: generation of the key */
	uint32_t expiry; /* the first tick of the receiver's clock at which it is refused */
	uint32_t tag_high;
	uint32_t tag_low;
};

/* What the tag of a token covers, in network order. From another address, in another session or
 * with a later expiry the tag is another one. The source's port is not in it: routers that
 * translate addresses change it when they like. */
struct vk_mac {
	uint8_t address[16]; /* source; IPv4 mapped into IPv6 (::ffff:a.b.c.d) */
	uint32_t subject; /* of a token: the session id on the frame */
	uint32_t expiry; /* as in the token */
	uint16_t generation; /* as in the token */
	uint16_t purpose; /* enum vk_mac_purpose */
};

/* One key has several uses; no tag is good for another one. */
enum vk_mac_purpose {
	VK_MAC_TOKEN = 1,
	VK_MAC_COOKIE = 2,
};

enum vk_token_const {
	VK_TICK_SHIFT = 30, /* a tick is 2^30 ns (1.07 s) of CLOCK_MONOTONIC */
};

struct vk_ext_seq {
	struct vk_ext ext; /* arg: enum vk_fragment */
	uint32_t sequence; /* of the message, on its stream */
};

struct vk_ext_shard {
	struct vk_ext ext; /* arg: enum vk_fragment, of the whole that it is a part of */
	uint32_t sequence;
	uint16_t offset; /* bytes */
	uint16_t last; /* bytes of the whole message, or fragment, less one */
};

struct vk_ext_time {
	struct vk_ext ext;
	uint32_t ns_high; /* sender's CLOCK_REALTIME, nanoseconds */
	uint32_t ns_low;
};

struct vk_ext_trace {
	struct vk_ext ext;
	uint8_t trace_id[16];
	uint8_t span_id[8];
};

/* Payload of a STREAM_ACK on a session, all that a receiver has to say: then range_count
 * vk_ack_range (numbers of packets that came, highest first), then credit_count vk_ack_credit. */
struct vk_ack {
	uint8_t space; /* enum vk_space, whose packets it is about */
	uint8_t flags; /* enum vk_ack_flag */
	uint8_t range_count;
	uint8_t credit_count;
	uint32_t delay_us; /* from the arrival of `largest` to this frame */
	uint32_t largest_high; /* packet number */
	uint32_t largest_low;
	uint32_t ce_count; /* packets of this space that came with a congestion mark, wraps */
	uint32_t session_limit_high; /* cost that all streams together may have been sent */
	uint32_t session_limit_low;
};

struct vk_ack_range {
	uint32_t gap; /* packets missing before it; 0 in the first */
	uint32_t length; /* packets that came; the first ends with `largest` */
};

struct vk_ack_credit {
	uint32_t stream;
	uint32_t limit_high; /* cost that may have been sent on it */
	uint32_t limit_low;
};

enum vk_ack_flag {
	VK_ACK_HAS_RANGES = 1,
	VK_ACK_HAS_SESSION_LIMIT = 2,
	VK_ACK_REFUSED = 4, /* the ranges came and were not taken: lost, but not by the path */
};

enum vk_ack_const {
	VK_ACK_RANGES_MAX = 32,
	VK_ACK_CREDITS_MAX = 64,
};

/* ---- Handshake: payloads of the control class ----
 *
 * I asks, R answers. Whoever is asked keeps nothing before a cookie has come back:
 *
 *    I                                              R
 *    | HELLO (offer) ---------------------------->  |  keeps nothing, answers fewer bytes
 *    |  <----------------- HELLO_ACK (cookie, offer)|  than 3 times what came
 *    | NEGOTIATE (both offers, cookie, choice) -->  |  the address is proven
 *    | KEY_EXCHANGE (first message) ------------->  |
 *    |  <--------- AUTH_CHALLENGE (second message)  |
 *    | AUTH_RESPONSE (third message, proof) ----->  |  I is who it says: R has joined
 *    |  <-------------------- AUTH_SUCCESS (proof)  |
 *    |  I has joined
 *
 * Each payload begins with struct vk_handshake; a message that does not fit a datagram comes in
 * pieces from KEY_EXCHANGE on. `sized` is {u16 size} and bytes, a list is {u8 count} and one byte
 * each, numbers of controlplane/security/modes.py:
 *
 *    offer           u8 version, 32 bytes nonce, lists of modes, patterns, ciphers, signatures,
 *                    sized extra: the incarnation of the sender, 8 bytes
 *    HELLO           offer
 *    HELLO_ACK       VK_COOKIE_SIZE bytes cookie, offer
 *    NEGOTIATE       sized HELLO, sized HELLO_ACK, sized choice {u8 mode, u8 pattern, u8 cipher,
 *                    list of signatures}: the beginning of what both sides sign
 *    AUTH_RESPONSE   sized third message of the key exchange, sealed proof
 *    AUTH_SUCCESS    sealed proof
 *    AUTH_FAILURE    u32 enum vk_code, from either side: not proven by anything, a hint
 *    proof           sized terms, card, evidence, signatures; the terms are struct vk_terms
 *
 * Each side's terms name the session id that the other puts on its frames. A node that lost its
 * memory answers frames of a session by ERROR VK_CODE_SESSION_UNKNOWN, which anybody could have
 * sent: it begins a handshake and ends nothing. PING asks for a PONG with the same token; CLOSE
 * names the session. In a session with keys these three carry VK_OPTION_PROOF, or are ignored.
 *
 * In a session of mode zero_trust each side asks the other now and then to prove itself anew:
 *
 *    AUTH_CHALLENGE  32 bytes that were never used
 *    AUTH_RESPONSE   sized signatures, as in a handshake's proof
 *
 * Both begin with struct vk_handshake and come in pieces; each piece is sealed by the cipher of the
 * handshake, its type and head are additional data, its nonce is its offset, and `total` is without
 * the tags. The number in the place of the attempt, and the key, are of this question or answer
 * only, derived from the session (controlplane/security/envelope.py, reproof.py); so is what is
 * signed. A side has one question at a time, and the next one when it was answered.
 *
 * Options follow vk_terms, vk_error, vk_close and vk_ping to the end, each on a multiple of 4
 * bytes: {u16 kind, u16 size} and size bytes. Unknown options are skipped, but a kind with
 * VK_OPTION_REQUIRED set refuses the message (VK_CODE_VERSION).
 */

/* Begins the payload of every handshake message. */
struct vk_handshake {
	uint32_t attempt_high; /* random, chosen by the side that asks, never used again */
	uint32_t attempt_low;
	uint8_t cookie[16]; /* struct vk_cookie */
	uint16_t offset; /* of this piece in the message's body */
	uint16_t total; /* bytes of the body */
};

/* A session's terms, sealed within the proofs; options follow. */
struct vk_terms {
	uint8_t version; /* of the terms; both sides have the same */
	uint8_t pad;
	uint16_t payload_max; /* UDP payload bytes that the sender takes */
	uint32_t incarnation_high; /* of the sender: random, another one whenever a node starts */
	uint32_t incarnation_low;
	uint32_t attempt_high; /* of the sender's asking, the newest: rises within an incarnation */
	uint32_t attempt_low;
	uint32_t session; /* id that the receiver is to put on its frames; never 0 */
	uint32_t continues; /* id on the sender's frames so far; 0 = it has kept no stream */
	uint32_t capabilities; /* enum vk_capability bits */
	uint32_t required; /* of these, what the sender cannot do without */
	uint32_t window_start; /* bytes that a stream may be sent before its first credit */
	uint32_t session_window_high; /* bytes that all streams together may be sent at first */
	uint32_t session_window_low;
	uint32_t streams_max; /* open at a time, whoever opened them; 0 = any */
	uint32_t ack_delay_e_us; /* how long an acknowledgement may wait, by enum vk_space */
	uint32_t ack_delay_b_us;
	uint32_t ack_delay_l_us;
	uint32_t keepalive_ms; /* silence after which the sender would ask whether the other lives:
				* both do after the shorter one; 0 = not said */
};

/* Payload of ERROR: `subject` is the session that it is about. */
struct vk_error {
	uint32_t code; /* enum vk_code */
	uint32_t subject;
};

/* Payload of CLOSE. */
struct vk_close {
	uint32_t code; /* enum vk_code */
	uint32_t session; /* id on the frames of the sender: who does not know it cannot close */
};

/* Payload of PING and PONG on the control class. */
struct vk_ping {
	uint32_t token_high; /* random; a PONG repeats it */
	uint32_t token_low;
};

/* Body of VK_OPTION_TOKEN, in terms and in PING: from now on the receiver puts the token on its
 * frames of these classes. A PONG says that it does. */
struct vk_grant {
	uint32_t session; /* id on these frames: who does not know it cannot say anything of them */
	uint32_t classes; /* bit enum vk_class; 0: none any more */
	uint32_t number_high; /* rises: what comes late, or again, is not taken */
	uint32_t number_low;
	uint8_t token[16]; /* struct vk_ext_token */
};

enum vk_option_kind {
	VK_OPTION_PADDING = 0,
	VK_OPTION_PROOF = 1, /* first 16 bytes of HMAC-SHA256 over type and payload without it */
	VK_OPTION_TOKEN = 2, /* struct vk_grant */
	VK_OPTION_BEFORE = 3, /* in terms, u32: what vk_terms.continues would be if the receiver did
			       * not know that session yet, and had the one that it continued */
	VK_OPTION_REQUIRED = 0x8000, /* bit: who does not know the option must refuse */
};

/* What a node can do beyond the first version; both must say so. */
enum vk_capability {
	VK_CAPABILITY_RELIABLE =
		1, /* acknowledgements, credit and shards as this header has them */
};

enum vk_handshake_const {
	VK_TERMS_VERSION = 1,
	VK_PROOF_SIZE = 16,
	VK_OPTION_SIZE_MAX = 1024, /* bytes of one option's body */
	VK_COOKIE_SIZE = 20, /* the daemon's half: u32 time slot, 16 bytes of HMAC-SHA256 */
};

/* ---- Files ---- */

/* A file goes over a stream of its own, which its receiver reads in order:
 *
 *      sender                                                        receiver
 *        | FILE_TRANSFER_START        vk_file_start, name               |
 *        | ---------------------------------------------------------->  | opens NAME.part
 *        |        FILE_TRANSFER_START with ACK       vk_file_have       |
 *        | <----------------------------------------------------------  | "so much, of that digest"
 *        | FILE_CHUNK                 vk_file_chunk, bytes              |
 *        | ---------------------------------------------------------->  | writes, computes
 *        |        FILE_CHUNK with ACK                vk_file_chunk      |
 *        | <----------------------------------------------------------  | "this far", now and then
 *        | FILE_COMPLETE              vk_file_complete, text            |
 *        | ---------------------------------------------------------->  | compares, syncs, renames
 *        |        FILE_COMPLETE with ACK       vk_file_complete, text   |
 *        | <----------------------------------------------------------  |
 *
 * The first chunk begins behind what the receiver has if the sender's bytes have the same digest,
 * and else at 0; each other one begins where the one before it ended. One without bytes says that
 * its sender is busy and still there. A FILE_COMPLETE with another code than OK ends the transfer
 * from either side, at any time; its text is for people. Digests are SHA-256. */
struct vk_file_start {
	uint32_t size_high; /* bytes of the file */
	uint32_t size_low;
	uint32_t mtime_high; /* of the last change, ns of Unix time; then the name, UTF-8 */
	uint32_t mtime_low;
};

struct vk_file_have {
	uint32_t size_high; /* bytes from the beginning that the receiver has */
	uint32_t size_low;
	uint8_t digest[32]; /* of these bytes */
};

struct vk_file_chunk {
	uint32_t offset_high; /* of the bytes that follow; with ACK: bytes done with */
	uint32_t offset_low;
};

struct vk_file_complete {
	uint32_t code; /* enum vk_file_code */
	uint8_t digest[32]; /* of the whole file; zeros with ACK and when code is not OK */
};

enum vk_file_code {
	VK_FILE_OK = 0,
	VK_FILE_MALFORMED = 1, /* a message that breaks the protocol */
	VK_FILE_NAME = 2, /* the receiver takes no file of that name */
	VK_FILE_SIZE = 3, /* larger than the receiver takes, or than it has room for */
	VK_FILE_EXISTS = 4, /* a file of that name is there, and stays */
	VK_FILE_BUSY = 5, /* a file of that name is on its way already, or too many are */
	VK_FILE_STORAGE = 6, /* the receiver could not write */
	VK_FILE_DIGEST = 7, /* what came is not what was sent: it was deleted */
	VK_FILE_CHANGED = 8, /* the file changed while it was sent */
	VK_FILE_CANCELLED = 9, /* the sender gave up, or could not read */
	VK_FILE_SILENT = 10, /* nothing was heard from the other side for too long */
};

enum vk_file_const {
	VK_FILE_CHUNK_SIZE = 61440, /* bytes of a full chunk: a message with room for its heads */
	VK_FILE_NAME_MAX = 240, /* bytes: with .part it is a name of every file system */
	VK_FILE_TEXT_MAX = 1024, /* bytes */
};

#ifndef VK_CDEF
_Static_assert(sizeof(struct vk_handshake) == 28, "wire: a handshake's head is 28 bytes");
_Static_assert(sizeof(struct vk_terms) == 68, "wire: terms are 68 bytes");
_Static_assert(sizeof(struct vk_error) == 8, "wire: ERROR is 8 bytes");
_Static_assert(sizeof(struct vk_file_start) == 16, "wire: a file's offer is 16 bytes");
_Static_assert(sizeof(struct vk_file_have) == 40, "wire: what a receiver has is 40 bytes");
_Static_assert(sizeof(struct vk_file_chunk) == 8, "wire: a chunk's head is 8 bytes");
_Static_assert(sizeof(struct vk_file_complete) == 36, "wire: the end of a file is 36 bytes");
_Static_assert(sizeof(struct vk_ack) == 28, "wire: feedback is 28 bytes");
_Static_assert(sizeof(struct vk_header) == VK_HEADER_SIZE, "wire: the header is 24 bytes");
_Static_assert(__builtin_offsetof(struct vk_header, stream) == 8, "wire: stream at 8");
_Static_assert(sizeof(struct vk_compact) == 4, "wire: a compact frame's head is 4 bytes");
_Static_assert(sizeof(struct vk_compact_stream) == 12, "wire: one that names its stream is 12");
_Static_assert(sizeof(struct vk_compact_shard) == 12, "wire: that of a shard is 12");
_Static_assert(sizeof(struct vk_ext) == VK_EXT_WORD, "wire: an extension header is one word");
_Static_assert(sizeof(struct vk_ext_session) == 16, "wire: SESSION is 4 words");
_Static_assert(sizeof(struct vk_ext_token) == 16, "wire: TOKEN is 4 words");
_Static_assert(sizeof(struct vk_grant) == 32, "wire: a grant is 32 bytes");
_Static_assert(sizeof(struct vk_mac) == 28, "wire: a tag covers 28 bytes");
_Static_assert(sizeof(struct vk_ext_seq) == 8, "wire: SEQ is 2 words");
_Static_assert(sizeof(struct vk_ext_shard) == 12, "wire: SHARD is 3 words");
_Static_assert((int)VK_SHARDED_MAX == 1 << 16, "wire: SHARD says where a message ends");
_Static_assert(sizeof(struct vk_ext_time) == 12, "wire: TIME is 3 words");
_Static_assert(sizeof(struct vk_ext_trace) == 28, "wire: TRACE is 7 words");

#include "vk_class.h"
#endif /* VK_CDEF */
#endif
