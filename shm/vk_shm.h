/* SPDX-License-Identifier: MIT */
#ifndef VK_SHM_H
#define VK_SHM_H
/* vk_shm.h states the memory of a node, once: vk_state (daemon writes), vk_work (worker writes) and
 * vk_secrets. Rule: one writer a field. Applications see none of it: theirs is in vk_region.h.
 */
#include "vk_region.h"
#include "vk_seat.h"

enum vk_node_const {
	VK_PEERS_MAX = 1048576,
	VK_PEER_NEWS = 16384, /* changes of peer rows that a worker may be behind */
	VK_APPS_MAX = 64,
	VK_SERVICES_MAX = 256,
	VK_PORTS_MAX = 8, /* (interface, queue) pairs of a node */
	VK_FLOWS_MAX = 262144,
	VK_FLOW_BUCKETS = 524288, /* open addressing, load <= 1/2 */
	VK_RANGES_MAX = 8,
	VK_NAME_MAX = 64,
	VK_SEQUENCE_RUNS = 256, /* gaps of a stream */
	VK_SEQUENCE_POOL = 4096, /* streams with gaps at a time */
	VK_PARTIALS_MAX = 1024, /* messages that wait for more of their shards */
	VK_PARTIAL_RUNS_MAX = 256, /* separate runs of bytes in one of them */
	VK_PARTIAL_SIZE = 65536, /* bytes of the largest */
	VK_TOKEN_BYTES = 16, /* of a TOKEN extension: this header knows nothing of frames */
	VK_BUDGET_FRAMES_MAX = 256, /* of vk_params.budget_frames */
	VK_CREDIT_POOL_MIN = 1048576, /* bytes of session_window, whatever a peer says */
};

enum vk_row_state {
	VK_ROW_FREE = 0,
	VK_ROW_LIVE = 1,
	VK_ROW_CLOSING = 2,
	VK_ROW_TELLING = 3, /* a flow that is over, of which its application has to hear */
};

/* Rows that change while the worker reads them are seqlocked: sequence odd = being written.
 * The worker copies a row and retries when sequence changed. */
struct vk_peer {
	uint32_t sequence;
	uint8_t state; /* enum vk_row_state */
	uint8_t family; /* 4 or 6 */
	uint8_t resolved; /* MAC addresses are known (XDP transmit needs them) */
	uint8_t port_index; /* into vk_state.ports: where its frames leave */
	uint8_t address[16]; /* IPv4 in the first four bytes */
	uint8_t source[16]; /* our address towards it */
	uint16_t udp_port; /* host order */
	uint16_t payload_max; /* UDP payload bytes that fit the path's MTU */
	uint8_t mac[6];
	uint8_t source_mac[6];
	uint32_t generation; /* another one: the peer's node started anew, its streams are gone */
	uint8_t joined; /* there is a session: frames may be sent and taken */
	uint8_t cipher; /* enum vk_cipher of the session's frames */
	uint8_t keys; /* which of the peer's two vk_keys are the session's */
	uint8_t limited; /* it may not open all services: vk_rights says which */
	uint32_t end_code; /* enum vk_code that streams of earlier generations end with */
	uint32_t refuse; /* enum vk_code that streams are refused with while not joined; 0 = wait */
	uint64_t incarnation; /* of the peer's node */
	uint64_t since_ns; /* CLOCK_MONOTONIC: when it joined */
	uint8_t home[16]; /* where the configuration says it is: it may have moved */
	uint16_t home_port;
	uint8_t home_family;
	uint8_t token_classes; /* bit enum vk_class: its frames carry the peer's token */
	uint8_t known; /* the peer has the session; 0: it may have the one before yet */
	uint8_t refused_classes; /* bit enum vk_class: it may open no stream with us in them */
	uint16_t takes; /* UDP payload bytes, by its own word; 0 = it has not said */
	uint32_t session; /* id on the frames we send: the peer's choice */
	uint32_t session_local; /* id on the frames we get: ours (vk_seat.h) */
	uint32_t
		before; /* `session` of the one that it continued; the peer may have that one yet */
	uint32_t before_local;
	uint32_t ack_delay_us; /* how long the peer may hold back an acknowledgement */
	uint32_t window_start; /* bytes that the peer lets every stream begin with */
	uint64_t session_window; /* bytes on streams that it never told a limit of; 0 = any */
	uint32_t streams_max; /* streams that it has with us at a time; 0 = any */
	uint32_t keepalive_ms; /* the silence after which it asks; 0 = it has not said */
	uint8_t token[VK_TOKEN_BYTES]; /* the extension, as the peer gave it for this session */
};

struct vk_app {
	uint32_t sequence;
	uint8_t state;
	uint8_t class_mask; /* bit enum vk_class */
	uint16_t weight; /* share between applications of one class; 1..1000, 100 is normal */
	uint32_t generation;
	uint32_t uid;
	uint32_t pid;
	uint32_t range_count;
	uint32_t range_first[VK_RANGES_MAX]; /* stream ids it may open or be opened on */
	uint32_t range_last[VK_RANGES_MAX];
	uint64_t rate_messages; /* per second; 0 = no limit */
	uint64_t rate_bytes; /* per second; 0 = no limit */
	uint32_t many_peers; /* it has asked for several, and may open streams to each */
	uint32_t pad;
};

struct vk_service {
	uint32_t sequence;
	uint8_t state;
	uint8_t name_size;
	uint16_t app;
	uint32_t app_generation;
	uint8_t name[VK_NAME_MAX];
};

/* What the worker may be told while it runs; it clamps every value. */
struct vk_params {
	uint32_t sequence;
	uint32_t spin_ns; /* how long an idle worker polls at least; 0 = never, ..1000000 */
	uint32_t budget_frames; /* frames of one class per turn; 1..VK_BUDGET_FRAMES_MAX */
	uint32_t quantum_bytes[8]; /* deficit round robin, per class below critical */
	uint32_t aggregate; /* 0: every message in a datagram of its own */
	uint32_t reassembly_bytes; /* memory for partial messages */
	uint32_t reassembly_ns_high; /* a partial message is dropped after this time */
	uint32_t reassembly_ns_low;
	uint32_t stamp; /* 1: a TIME extension on every message */
	uint32_t controller; /* enum vk_controller of all sessions */
	uint32_t ack_delay_us; /* how long an acknowledgement may wait for company */
	uint32_t window_bytes; /* that a stream may be ahead of its reader, at most */
	uint32_t memory_kib; /* that all streams may be ahead of theirs, beyond VK_WINDOW_START */
	uint32_t rotate_ms; /* a key seals no new frame after that, if the next one can */
	uint32_t rotate_packets; /* the same; 0 of either: as long as is safe */
	uint32_t streams_max; /* streams with one peer at a time */
};

/* What differs from vk_params for the session with one peer; 0 = nothing. Seqlocked. */
struct vk_tuning {
	uint32_t sequence;
	uint32_t version; /* told back in vk_signals */
	uint32_t controller; /* enum vk_controller + 1 */
	uint32_t ack_delay_us;
	uint32_t aggregate; /* 1: small messages share datagrams, 2: they do not */
	uint32_t mtu; /* UDP payload bytes that no packet exceeds */
	uint32_t pacing; /* 1: packets are paced, 2: they are not */
	uint32_t pad;
	uint64_t stream_min; /* bytes: a stream's window never shrinks below ... */
	uint64_t stream_max; /* ... or grows above */
	uint64_t window_min; /* bytes in flight that congestion control never goes below ... */
	uint64_t window_max; /* ... or above */
	uint64_t rate; /* bytes/s that `fixed` sends at */
};

/* What a limited peer's applications may not open here. Of a service's row it is written before the
 * service is, so that nobody finds one of whose rights it does not know. */
struct vk_rights {
	uint8_t refused[VK_SERVICES_MAX / 8]; /* bit: index into vk_state.services */
};

/* Peers that a slot's application may open streams to: those that the daemon let it connect to. */
struct vk_reach {
	uint8_t peers[VK_PEERS_MAX / 8]; /* bit: index into vk_state.peers */
};

/* Written by the daemon only. */
struct vk_state {
	uint32_t magic;
	uint32_t abi;
	uint64_t daemon_heartbeat_ns; /* CLOCK_MONOTONIC; older than 2 s = safe values apply */
	uint64_t incarnation; /* of this node: what it remembers is in vk_work */
	struct vk_params params;
	uint32_t peer_epoch; /* bumped after any change of a peer row (release) */
	uint32_t service_epoch;
	uint32_t peer_count; /* no peer has a row from here on; never shrinks */
	uint32_t pad;
	uint32_t seat_keys[VK_SEAT_KEYS]; /* of sessions' ids (vk_seat.h); as long as incarnation */
	/* Which row changed with an epoch: the epoch in the high 32 bits, at epoch % VK_PEER_NEWS.
	 * Written before peer_epoch; where another epoch stands, all rows are looked at. */
	uint64_t peer_news[VK_PEER_NEWS];
	struct vk_peer peers[VK_PEERS_MAX];
	struct vk_tuning tunings[VK_PEERS_MAX]; /* by peer */
	struct vk_app apps[VK_APPS_MAX];
	struct vk_service services[VK_SERVICES_MAX];
	struct vk_rights rights[VK_PEERS_MAX]; /* by peer; only limited ones have memory */
	struct vk_reach reach[VK_APPS_MAX]; /* by slot; no more memory than peers need */
};

/* ---- Secrets: memory that only daemon and workers map ---- */

enum vk_secret_const {
	VK_SECRET_SIZE = 32,
	VK_EPOCHS = 256, /* of a session: it ends before they wrap */
	VK_ROTATE_PACKETS_MAX = 67108864, /* 2^26: frames under one key */
	VK_ROTATE_MS = 120000, /* a key is used so long ... */
	VK_ROTATE_HARD_MS = 180000, /* ... and seals nothing after this time */
};

/* An epoch's secret. Keys are derived from it: vk_aead.h. */
struct vk_secret {
	uint32_t epoch;
	uint8_t bytes[VK_SECRET_SIZE];
};

/* One direction of a session. The daemon writes epoch 0 before the session has joined; then the
 * worker goes from epoch to epoch: it writes the secret that is not live, and says so last. Who
 * has an epoch's secret can compute later ones, and no earlier one. */
struct vk_ratchet {
	uint32_t live; /* index into secrets (release) */
	struct vk_secret secrets[2];
	uint32_t pad;
	uint64_t began_ns; /* CLOCK_MONOTONIC: when the live one first sealed; 0 = not yet */
	uint64_t before; /* frames that were sealed before, of all epochs */
};

/* Of one session. A peer has two: a session is made anew while the old one is still in use. */
struct vk_keys {
	uint32_t session; /* vk_peer.session_local that they are for; 0 = none. Published last */
	uint32_t pad;
	struct vk_ratchet seal; /* what we send */
	struct vk_ratchet open; /* what we get */
	uint8_t proofs[2][VK_SECRET_SIZE]; /* keys of VK_OPTION_PROOF: what we send, what we get */
};

/* What tokens are made with (bpf/vk_wire.h); workers have no use for it. */
struct vk_mint {
	uint64_t generation; /* of the key that makes tokens; 0 = there is none. Published last */
	uint64_t since_ns; /* CLOCK_MONOTONIC: when that key came */
	uint8_t keys[2][16]; /* of a generation: at generation % 2 */
};

struct vk_secrets {
	uint32_t magic;
	uint32_t abi;
	struct vk_mint mint;
	struct vk_keys keys[2][VK_PEERS_MAX]; /* by vk_peer.keys: the second ones are seldom used */
};

/* Which messages of a stream came: see vk_sequences.h. On a multiple of 8 bytes. */
struct vk_sequences {
	uint32_t next; /* all before it */
	uint32_t runs; /* index + 1 into vk_work.runs; 0 = none beyond */
};

/* Numbers that came beyond a gap: sorted, apart from each other and from `next`. */
struct vk_sequence_runs {
	uint32_t owner; /* flow + 1; 0 = free */
	uint32_t count;
	struct {
		uint32_t first;
		uint32_t end;
	} runs[VK_SEQUENCE_RUNS];
};

/* One end of a stream: (peer, stream) <-> application. Written by the worker only; survives it. Two
 * lines: sending reads the first, receiving both. */
struct vk_flow {
	uint32_t state; /* enum vk_row_state, published last (release) */
	uint32_t generation;
	uint32_t stream;
	uint32_t peer;
	uint32_t peer_generation;
	uint32_t app_generation;
	uint16_t app;
	uint8_t class;
	uint8_t opener; /* this side opened it */
	uint8_t answered; /* the peer has accepted, or sent something */
	uint8_t opened; /* the application knows that its OPEN was answered */
	uint8_t closed; /* enum vk_closed */
	uint8_t limited; /* the application was told a limit, and waits for the next */
	uint32_t token; /* of the application that opened it */
	uint32_t tx_sequence; /* next message to send for the first time */
	uint64_t tx_cost[2]; /* spent: the one at tx_sequence & 1 holds */
	uint64_t tx_limit; /* that may be spent */
	uint64_t rx_cost; /* of the messages that came */
	uint64_t rx_consumed; /* of those that the application took */
	uint64_t rx_limit; /* the peer may send */
	struct vk_sequences rx; /* messages that came */
	uint32_t rx_final; /* how many there are, once the peer has closed */
	uint32_t rx_sequence; /* best effort: next message expected */
	uint64_t since; /* number of the packet that opened it: lower ones are older */
	uint32_t since_session; /* and its session */
	uint32_t end_code; /* enum vk_code that its application has to hear of; 0 = of none */
	uint32_t pad[2];
};

/* A port's frame ledger and crash intent: enough for the next worker to find every frame. */
struct vk_port_state {
	uint32_t intent; /* nonzero: RX of class intent-1 is being moved to FILL */
	uint32_t intent_fill; /* FILL producer once the move is published */
	uint32_t intent_rx; /* RX consumer to set then */
	uint32_t pad;
};

/* Packet numbers per peer and space: survive the worker, never reused. */
struct vk_packet {
	uint64_t tx_number[4]; /* next, per enum vk_space */
	uint64_t rx_number[4]; /* highest seen + 1 */
	uint64_t rx_packets[4]; /* received, per space */
	uint64_t heard_ns; /* CLOCK_MONOTONIC: when a frame of its session last came */
	uint64_t rtt_ns; /* smoothed; 0 = not measured yet */
	uint32_t flying; /* nonzero: packets of which it is not known whether they came */
	uint32_t streams; /* open with it */
	uint32_t peer_generation;
	uint32_t rx_session; /* vk_peer.session_local that rx_number is about */
};

/* A message of which shards have come. */
struct vk_partial {
	uint32_t total; /* bytes; 0 = free. Published last (release) */
	uint32_t flow;
	uint32_t flow_generation;
	uint32_t sequence;
	uint32_t buffer; /* into vk_work.partial_data */
	uint32_t run_count;
	uint64_t begin_ns; /* CLOCK_MONOTONIC; UINT64_MAX: it is never given up for its age */
	struct {
		uint32_t begin;
		uint32_t end;
	} runs[VK_PARTIAL_RUNS_MAX]; /* bytes that are there: sorted, apart from each other */
};

enum vk_worker_phase {
	VK_WORKER_NONE = 0,
	VK_WORKER_RUNNING = 1,
	VK_WORKER_STOPPED = 2, /* left at a clean boundary */
	VK_WORKER_FAILED = 3,
};

/* Written by the worker only. Outlives workers. */
struct vk_work {
	uint32_t magic;
	uint32_t abi;
	uint64_t heartbeat_ns; /* CLOCK_MONOTONIC, at least every 100 ms */
	uint32_t phase; /* enum vk_worker_phase */
	uint32_t pid;
	uint32_t starts;
	uint32_t flow_count;
	/* Where the search for a free flow goes on. Another worker goes on there too: a number that
	 * was free a moment ago may stand in records that its application has not read yet. */
	uint32_t flow_cursor;
	uint8_t pad[92];
	struct vk_packet packets[VK_PEERS_MAX];
	struct vk_port_state ports[VK_PORTS_MAX];
	uint32_t flow_index[VK_FLOW_BUCKETS]; /* flow + 1; 0 = empty, 0xffffffff = deleted */
	struct vk_flow flows[VK_FLOWS_MAX];
	uint64_t committed[VK_APPS_MAX][VK_RINGS_MAX]; /* bytes put into rings to applications */
	uint64_t looked[VK_APPS_MAX][VK_RINGS_MAX]; /* bytes of their rings handled once */
	struct vk_sequence_runs runs[VK_SEQUENCE_POOL];
	struct vk_partial partials[VK_PARTIALS_MAX];
	uint8_t partial_data[VK_PARTIALS_MAX][VK_PARTIAL_SIZE];
};

#ifndef VK_CDEF
_Static_assert(VK_PEERS_MAX == 1 << VK_SEAT_BITS, "shm: a seat for each peer");
_Static_assert(__builtin_offsetof(struct vk_flow, rx) % 8 == 0, "shm: one store for two fields");
_Static_assert(sizeof(struct vk_flow) == 2 * VK_LINE &&
		       __builtin_offsetof(struct vk_flow, rx_cost) == VK_LINE,
	       "shm: a flow is two lines");
_Static_assert(__builtin_offsetof(struct vk_work, flows) % VK_LINE == 0, "shm: and begins on one");
_Static_assert(sizeof(struct vk_packet) == 2 * VK_LINE, "shm: packet numbers are two lines");
_Static_assert(__builtin_offsetof(struct vk_work, packets) == 128, "shm: and begin on one");
#endif
#endif
