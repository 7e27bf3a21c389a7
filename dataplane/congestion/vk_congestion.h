/* SPDX-License-Identifier: MIT */
#ifndef VK_CONGESTION_H
#define VK_CONGESTION_H
/* vk_congestion.h: how much of a session may be in flight, and how fast it may go out.
 *
 * One of three controllers decides, and may be changed while packets fly:
 *
 *   fixed   a window and a rate that somebody chose; loss says nothing to it
 *   delay   keeps the queue at the bottleneck short; loss says something only when it is heavy
 *   cubic   RFC 9438 with HyStart++ (RFC 9406); shares with TCP
 *
 * What every controller wants to know of the path (rounds, the base RTT, the highest delivery
 * rate) is kept here for all of them, so that a new one starts with it. Sans-IO, integers only
 * (the same run gives the same numbers on every machine), time is an argument (ns,
 * CLOCK_MONOTONIC, never going back). Windows are bytes of datagrams in flight.
 */
#ifndef VK_CDEF
#include <stdint.h>
#endif

enum vk_controller {
	VK_CONTROLLER_FIXED = 0,
	VK_CONTROLLER_DELAY = 1,
	VK_CONTROLLER_CUBIC = 2,
	VK_CONTROLLER_COUNT = 3,
};

enum vk_congestion_const {
	VK_CONGESTION_WINDOW_MAX = 1073741824, /* bytes: 8.6 Gbit/s over 1 s */
	VK_CONGESTION_DATAGRAM_MIN = 64, /* bytes */
	VK_CONGESTION_DATAGRAM_MAX = 65535,
	VK_CONGESTION_MIN_DATAGRAMS = 2, /* RFC 9002, 7.2: the minimum window */
	VK_CONGESTION_INITIAL_DATAGRAMS = 10, /* RFC 9002, 7.2 and RFC 6928 */
	VK_CONGESTION_INITIAL_BYTES = 14720, /* RFC 9002, 7.2, when datagrams are large */
	VK_CONGESTION_SPELL_MS = 5000, /* the base RTT is the smallest of this spell and the last */
	VK_CONGESTION_RATE_ROUNDS =
		8, /* the highest delivery rate: of this many, and as many before */
	VK_FIXED_WINDOW_MIN = 262144, /* bytes, when no window is configured ... */
	VK_FIXED_WINDOW_MIN_US = 10000, /* ... but not more than the path carries in this time */
	VK_FIXED_SCALE = 1024, /* the whole window, see vk_fixed */
	VK_DELAY_TARGET_FLOOR_NS =
		100000, /* below, it is the hosts that are late and not a queue */
	VK_CONGESTION_LATE_ROUNDS = 32, /* a round forgets this part of the longest wait */
};

/* What a path has shown, whoever controls. */
struct vk_round {
	uint64_t start_ns; /* it ends with the first ACK of a packet sent since then */
	uint64_t rtt_ns; /* smallest in it; UINT64_MAX = no sample */
	uint64_t last_rtt_ns; /* smallest in the one before */
	uint64_t count; /* rounds ended */
	uint32_t samples; /* of the RTT */
	uint32_t ended; /* with the ACK being handled */
};

struct vk_fixed {
	uint32_t scale; /* of the window that is used, in VK_FIXED_SCALE-ths */
	uint32_t level_rounds; /* in which the delivery rate did not grow */
	uint64_t start_rate; /* bytes/s, that it would have to exceed */
	uint64_t rate; /* highest ever, bytes/s */
	uint64_t rtt_ns; /* smallest ever; 0 = none */
};

enum vk_delay_mode {
	VK_DELAY_AVOID = 0, /* around the target */
	VK_DELAY_DRAIN = 1, /* the queue is being emptied to see the base RTT */
	VK_DELAY_ADJUST =
		2, /* slow start was left, and what the path delivered then is to be seen */
};

struct vk_delay {
	uint64_t base_seen_ns; /* when an RTT near the base was last seen */
	uint64_t drain_round; /* round.count at the last drain, */
	uint64_t drain_ns; /* and when that was */
	uint64_t peak; /* window when the run of decreases began, bytes */
	uint64_t before; /* window a round ago: what the RTTs of this one tell of */
	uint64_t sample_ns; /* smallest RTT of the last samples, in slow start */
	uint64_t acked; /* bytes since losses were last weighed */
	uint64_t lost;
	uint32_t steps; /* rounds of growth since the last decrease */
	uint32_t settle; /* rounds until samples show what the last decrease did */
	uint32_t decreases; /* in a row */
	uint32_t mode; /* enum vk_delay_mode */
	uint32_t samples;
	uint32_t pad;
};

/* HyStart++ (RFC 9406, 4.2); all names from there. */
struct vk_hystart {
	uint64_t css_baseline_ns; /* UINT64_MAX = in slow start */
	uint32_t css_rounds;
	uint32_t done; /* slow start was left once: it is for the first one only */
};

/* CUBIC (RFC 9438, 4.1); windows in bytes. */
struct vk_cubic {
	uint64_t w_max;
	uint64_t cwnd_prior; /* when ssthresh was last set */
	uint64_t w_est;
	uint64_t epoch_ns; /* when this congestion avoidance began; 0 = not yet */
	uint64_t k_ns;
	uint64_t seen_ns; /* when it last heard of the session: time with nothing to do is not t */
	uint64_t est_rest; /* of the divisions, so that small ACKs add up */
	uint64_t window_rest;
	struct vk_hystart hystart;
	uint32_t after_timeout; /* RFC 9438, 4.8: the next epoch begins with K = 0 */
	uint32_t pad;
};

union vk_controller_state {
	struct vk_fixed fixed;
	struct vk_delay delay;
	struct vk_cubic cubic;
};

struct vk_congestion {
	uint64_t window; /* bytes that may be in flight */
	uint64_t ssthresh; /* slow start below it; UINT64_MAX = unknown yet */
	uint64_t pacing_rate; /* bytes/s; 0 = unpaced */
	uint64_t recovery_start_ns; /* loss of what was sent until then is known; 0 = none */
	uint32_t kind; /* enum vk_controller */
	uint32_t datagram_size; /* bytes */
	uint64_t window_min;
	uint64_t window_max;
	struct vk_round round;
	uint64_t base_ns[2]; /* smallest RTT of this spell and the last; UINT64_MAX = none */
	uint64_t spell_ns; /* when this spell began */
	uint64_t rate[2]; /* highest delivery rate of these rounds and those before, bytes/s */
	uint64_t rate_rounds; /* round.count at which these began */
	uint64_t late_ns; /* how long acknowledgements wait for us: the longest, of late */
	uint64_t late_round_ns; /* the longest of this round */
	union vk_controller_state state;
	/* Parameters; may be set at any time. */
	uint64_t fixed_window; /* bytes; 0 = twice the bandwidth-delay product measured */
	uint64_t
		fixed_rate; /* bytes/s; 0 = window / RTT, or what was delivered if that is 0, too */
	uint64_t target_floor_ns; /* delay: the least queueing delay that is a queue */
	/* What the last loss took away: vk_congestion_spurious gives it back. */
	union vk_controller_state saved_state;
	uint64_t saved_window; /* 0 = nothing to give back */
	uint64_t saved_ssthresh;
	uint64_t saved_recovery_ns;
};

struct vk_congestion_ack {
	uint64_t now_ns;
	uint64_t bytes; /* newly acknowledged */
	uint64_t sent_ns; /* of the newest packet acknowledged */
	uint64_t rtt_ns; /* this sample, without the peer's ACK delay; 0 = none */
	uint64_t rtt_min_ns;
	uint64_t rtt_smoothed_ns;
	uint64_t rate; /* delivery-rate sample, bytes/s; 0 = none */
	uint64_t in_flight; /* before this ACK */
	uint64_t late_ns; /* how long this host had it before it was looked at */
	int app_limited; /* the sender had nothing to send, or no credit, when the packet went */
	uint64_t largest_number;
};

/* vk_congestion_init starts a controller on a path of which nothing is known. */
void vk_congestion_init(struct vk_congestion *congestion, enum vk_controller kind,
			uint32_t datagram_size, uint64_t now_ns);

/* vk_congestion_bounds sets the least and greatest window; both are clamped, to two datagrams and
 * VK_CONGESTION_WINDOW_MAX. */
void vk_congestion_bounds(struct vk_congestion *congestion, uint64_t window_min,
			  uint64_t window_max);

/* vk_congestion_datagram says that datagrams have another size: path MTU discovery found it. */
void vk_congestion_datagram(struct vk_congestion *congestion, uint32_t datagram_size);

/* vk_congestion_sent notes bytes that went out; in_flight counts them. */
void vk_congestion_sent(struct vk_congestion *congestion, uint64_t bytes, uint64_t in_flight,
			uint64_t now_ns);

/* vk_congestion_acked notes an ACK that acknowledged something new: one call an ACK. */
void vk_congestion_acked(struct vk_congestion *congestion, const struct vk_congestion_ack *ack);

/* vk_congestion_lost notes packets declared lost, of which the newest was sent at newest_sent_ns.
 * One call for all that one ACK or timer brought. persistent: RFC 9002, 7.6. */
void vk_congestion_lost(struct vk_congestion *congestion, uint64_t bytes, uint64_t newest_sent_ns,
			int persistent, uint64_t now_ns);

/* vk_congestion_ce notes that the path marked packets; the newest acknowledged with the report was
 * sent at newest_sent_ns. */
void vk_congestion_ce(struct vk_congestion *congestion, uint64_t newest_sent_ns, uint64_t now_ns);

/* vk_congestion_spurious gives back what the last loss took, unless a mark, persistent congestion
 * or another controller came since. Call it when most of what was lost then was acknowledged
 * after all. */
void vk_congestion_spurious(struct vk_congestion *congestion, uint64_t now_ns);

/* vk_congestion_switch lets another controller go on, with the window, slow start's threshold and
 * all that is known of the path. */
void vk_congestion_switch(struct vk_congestion *congestion, enum vk_controller kind,
			  uint64_t now_ns);

/* vk_congestion_base returns the RTT of the path without queues in ns, the smallest of the last 5
 * to 10 s; UINT64_MAX = unknown. */
uint64_t vk_congestion_base(const struct vk_congestion *congestion);

/* vk_congestion_rate returns the highest delivery rate of the last 8 to 16 rounds, in bytes/s; 0 =
 * unknown. */
uint64_t vk_congestion_rate(const struct vk_congestion *congestion);
#endif
