/* SPDX-License-Identifier: MIT */
#ifndef VK_COUNTERS_H
#define VK_COUNTERS_H
/* vk_counters.h states the counters page, once: one named POSIX shared-memory object a node, mode
 * 0640, never reset, read by whoever may while everything runs or after a crash. One writer a
 * field.
 */
#include "vk_shm.h"

/* Per class, written by the worker. Names go to users as they stand here, in lower case. Units:
 * frames are datagrams; messages are what applications send. drop_* and refused_* count messages
 * that went no further, by reason (refused_open counts no messages), and everything adds up:
 *
 *   rx_messages = rx_shards + drop_reassembly + drop_stale + drop_unknown_stream
 *               + rx_delivered + drop_app_ring + drop_app_gone - rx_reassembled
 *   DATA records taken = tx_messages + refused_flow + refused_size + refused_policy
 *                      + refused_late + drop_tx_unreachable
 */
enum vk_counter {
	VK_RX_FRAMES = 0,
	VK_RX_BYTES = 1,
	VK_RX_MESSAGES = 2, /* DATA messages and shards taken out of frames */
	VK_RX_SHARDS = 3, /* of these, shards that went into a reassembly */
	VK_RX_REASSEMBLED = 4, /* messages made of shards */
	VK_RX_DELIVERED = 5, /* messages put into an application's ring, reassembled too */
	VK_RX_DELIVERED_BYTES = 6,
	VK_RX_CONTROL = 7, /* STREAM_OPEN, ACK, CLOSE, RESET and other frames that are no message */
	VK_RX_GAPS = 8, /* messages that never came, by sequence */
	VK_RX_QOS_VIOLATIONS = 9, /* priority outside the class's band (delivered all the same) */
	VK_DROP_FRAME_INVALID = 10, /* frames: not a frame, or of another class than its socket */
	VK_DROP_FRAME_UNKNOWN_PEER = 11, /* frames */
	VK_DROP_INNER_INVALID = 12, /* messages: malformed inner frame, one a run */
	VK_DROP_UNKNOWN_STREAM = 13,
	VK_DROP_APP_RING = 14, /* the application's ring is full */
	VK_DROP_APP_GONE = 15,
	VK_DROP_REASSEMBLY = 16, /* shards: inconsistent, over a limit, or too late */
	VK_DROP_STALE = 17, /* came before, or may have */
	VK_TX_MESSAGES = 18, /* taken from applications' rings and sent */
	VK_TX_BYTES = 19, /* payload */
	VK_TX_FRAMES = 20, /* datagrams handed to the kernel */
	VK_TX_SHARDS = 21,
	VK_TX_CONTROL = 22, /* frames of the worker's own (OPEN, ACK, RESET ...) */
	VK_REFUSED_FLOW = 23, /* TX record for a flow that is not the application's (any more) */
	VK_REFUSED_POLICY = 24,
	VK_REFUSED_SIZE = 25,
	VK_DROP_TX_UNREACHABLE = 26, /* no neighbour, interface gone, kernel refused */
	VK_DROP_TX_FRAMES = 27, /* datagrams: the kernel took them and said they are lost */
	VK_TX_AGAIN = 28, /* messages and shards sent again */
	VK_REFUSED_LATE = 29, /* messages whose lifetime had passed */
	VK_DROP_FRAME_SESSION = 30, /* frames of a session that is not known (any more) */
	VK_DROP_FRAME_TWICE = 31, /* frames whose packet number came before */
	VK_DROP_FRAME_PLAIN = 32, /* frames that are not sealed on a session whose frames are */
	VK_DROP_FRAME_EPOCH = 33, /* frames sealed with a key that is not known (any more) */
	VK_DROP_FRAME_TAG = 34, /* frames whose tag does not verify: damaged, or forged */
	/* Frames behind the first of what the kernel has joined: as enum vk_verdict has them. */
	VK_DROP_FRAME_TOKEN_MISSING = 35,
	VK_DROP_FRAME_TOKEN_GENERATION = 36,
	VK_DROP_FRAME_TOKEN_EXPIRED = 37,
	VK_DROP_FRAME_TOKEN_FORGED = 38,
	VK_REFUSED_OPEN = 39, /* STREAM_OPENs of peers, repeated ones too: by rights or by rules */
	VK_COUNTER_COUNT = 40,
};

/* Per node, written by the worker. */
enum vk_gauge {
	VK_LOOPS = 0,
	VK_SLEEPS = 1,
	VK_WAKE_BELLS = 2, /* bells rung to applications */
	VK_SYSCALLS_RX = 3,
	VK_SYSCALLS_TX = 4,
	VK_APP_VIOLATIONS = 5, /* an application broke its ring's rules and was detached */
	VK_APPS_ATTACHED = 6,
	VK_FLOWS_OPEN = 7,
	VK_REASSEMBLY_BYTES = 8,
	VK_WORKER_STARTS = 9,
	VK_FRAMES_RECOVERED = 10, /* UMEM frames a dead worker held */
	VK_TURN_MEAN_NS = 11, /* of the worker's turns that had something to do, in the last tick */
	VK_TURN_MAX_NS = 12, /* the longest of these */
	VK_GAUGE_COUNT = 16,
};

/* Per application and class, written by the worker. */
struct vk_app_count {
	uint64_t delivered;
	uint64_t delivered_bytes;
	uint64_t dropped; /* its ring was full */
	uint64_t sent;
	uint64_t sent_bytes;
	uint64_t refused;
};

/* Kernel verdicts of one interface, copied from the BPF maps by the broker: an interface's are in
 * the row of its first port. */
struct vk_verdicts {
	uint8_t interface[16];
	uint8_t rx_mode[16]; /* "xdp-zero-copy", "xdp-native", "xdp-generic", "udp" */
	uint8_t tx_mode[16];
	uint64_t packets[8][32]; /* [class][enum vk_verdict] */
	uint64_t bytes[8][32];
	uint64_t messages[8][32];
	uint64_t xsk_dropped; /* sum over sockets, XDP_STATISTICS */
	uint64_t xsk_ring_full; /* on the kernel path: UDP sockets were full (super-packets) */
	uint64_t xsk_fill_empty;
	uint64_t xsk_invalid;
};

/* How the session with a peer fares, by the worker: seqlocked, every 100 ms (of more than 4096
 * sessions in use less often, and not of one that was idle and given up: vk_idle.h) while the
 * worker lives. Sums are those of the session. */
struct vk_signals {
	uint32_t sequence;
	uint32_t live; /* 1 = there is a session, or was when the worker last wrote */
	uint32_t tuning; /* version of vk_tuning that is in force */
	uint32_t controller; /* enum vk_controller */
	uint8_t family; /* of the peer's address, as in vk_peer */
	uint8_t pad[7];
	uint8_t address[16];
	uint64_t rtt_min_ns; /* UINT64_MAX = never measured */
	uint64_t rtt_ns; /* smoothed */
	uint64_t rtt_variance_ns;
	uint64_t delivery_rate; /* highest of late, bytes/s */
	uint64_t pacing_rate; /* bytes/s; 0 = none */
	uint64_t window; /* bytes that may be in flight */
	uint64_t in_flight; /* bytes */
	uint64_t sent; /* packets */
	uint64_t acked;
	uint64_t lost;
	uint64_t lost_bytes;
	uint64_t spurious; /* declared lost, and acknowledged after all */
	uint64_t timeouts; /* PTOs */
	uint64_t marked; /* acknowledgements that told of new CE marks */
	uint64_t window_limited_ns; /* time in which the window or the pacer held something back */
	uint64_t credit_limited_ns; /* time in which streams waited for the peer's credit */
	uint64_t alive_ns; /* the session's age when this was written */
	uint64_t heard_ns; /* CLOCK_MONOTONIC: when a frame of the peer last came */
	uint32_t reordering; /* packets by which one may come late before it counts as lost */
	uint32_t payload_max; /* UDP payload bytes of a packet */
	uint8_t cipher; /* enum vk_cipher */
	uint8_t epoch_seal; /* of the keys in use */
	uint8_t epoch_open;
	uint8_t pad2[5];
	uint64_t rotations; /* both directions */
	uint64_t held_bytes; /* in applications' rings, waiting for credit or for the path */
	uint64_t resend; /* parts of lost packets that wait to be sent again */
};

struct vk_counters {
	uint32_t magic;
	uint32_t abi;
	uint8_t node[VK_NAME_MAX];
	uint64_t started_ns; /* CLOCK_REALTIME */
	uint64_t daemon_heartbeat_ns; /* CLOCK_MONOTONIC */
	uint32_t daemon_pid;
	uint32_t port_count;
	uint64_t daemon_frames; /* control frames that the daemon sent by itself */
	uint32_t peer_count; /* rows of `signals` that may be in use; by the worker */
	uint8_t pad0[20];
	/* worker */
	uint64_t classes[8][40]; /* [enum vk_class][enum vk_counter] */
	uint64_t gauges[VK_GAUGE_COUNT];
	struct vk_app_count apps[VK_APPS_MAX][8];
	/* daemon */
	uint32_t app_uid[VK_APPS_MAX];
	uint32_t app_pid[VK_APPS_MAX];
	uint8_t app_name[VK_APPS_MAX][32];
	struct vk_app_count app_before[VK_APPS_MAX][8]; /* of others that had the slot before */
	struct vk_verdicts verdicts[VK_PORTS_MAX]; /* by the broker */
	struct vk_signals signals[VK_PEERS_MAX]; /* by the worker */
};

#ifndef VK_CDEF
_Static_assert((int)VK_COUNTER_COUNT <= 40 && (int)VK_GAUGE_COUNT <= 16, "counters: rows");
#endif
#endif
