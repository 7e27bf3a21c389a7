/* SPDX-License-Identifier: MIT */
/* CUBIC after RFC 9438; the sections are its. Windows are bytes instead of segments of one
 * datagram each, time is divided into 2^-20 s (about a microsecond) where it is cubed. */
#include "vk_cubic.h"

#include "vk_controller.h"
#include "vk_hystart.h"

enum {
	TIME_SHIFT = 20, /* 2^-20 s */
	PACING_PERCENT = 125, /* RFC 9002, 7.7: N, "small, but at least 1 (for example, 1.25)" */
	PACING_START_PERCENT =
		200, /* slow start doubles in a round, so it sends at twice the rate */
};

/* Nanoseconds to 2^-20 s: 2^62 / 10^9 >> 42. */
static uint64_t to_ticks(uint64_t ns)
{
	ns = vk_min(ns, VK_CUBIC_TIME_MAX_S * 1000000000ull);
	return (uint64_t)((unsigned __int128)ns * 4611686018u >> 42);
}

uint64_t vk_cubic_k_ns(uint64_t bytes, uint32_t datagram_size)
{
	/* In ticks: k^3 <= bytes / datagram_size / 0.4 * 2^60, bit by bit. */
	unsigned __int128 cube = (unsigned __int128)vk_min(bytes, VK_CONGESTION_WINDOW_MAX)
				 << (3 * TIME_SHIFT);
	uint64_t k = 0;

	cube = cube * 10 / (VK_CUBIC_C_TENTHS * (uint64_t)datagram_size);
	for (uint64_t bit = 1ull << 30; bit; bit >>= 1) {
		uint64_t next = k | bit;

		if ((unsigned __int128)next * next * next <= cube)
			k = next;
	}
	return vk_min((uint64_t)((unsigned __int128)k * 1000000000 >> TIME_SHIFT),
		      VK_CUBIC_TIME_MAX_S * 1000000000ull);
}

uint64_t vk_cubic_window(uint64_t t_ns, uint64_t k_ns, uint64_t w_max, uint32_t datagram_size)
{
	uint64_t ticks = to_ticks(t_ns > k_ns ? t_ns - k_ns : k_ns - t_ns), change;
	/* Below 2^30 ticks, 2^16 bytes and 2^2: 2^108. */
	unsigned __int128 cube = (unsigned __int128)ticks * ticks * ticks;

	cube = cube * VK_CUBIC_C_TENTHS * datagram_size >> (3 * TIME_SHIFT);
	change = (uint64_t)cube / 10;
	if (t_ns <= k_ns)
		return w_max > change ? w_max - change : 0;
	return vk_min(w_max + change, VK_CONGESTION_WINDOW_MAX);
}

static void enter(struct vk_congestion *congestion, uint64_t now_ns)
{
	struct vk_cubic *cubic = &congestion->state.cubic;

	vk_hystart_init(&cubic->hystart);
	cubic->cwnd_prior = congestion->window;
	cubic->seen_ns = now_ns;
}

/* The beginning of a congestion avoidance stage (4.2). */
static void begin(struct vk_congestion *congestion, uint64_t now_ns)
{
	struct vk_cubic *cubic = &congestion->state.cubic;
	uint64_t window = congestion->window;

	cubic->epoch_ns = vk_max(now_ns, 1);
	cubic->est_rest = cubic->window_rest = 0;
	/* 4.3: "W_est is set equal to cwnd_epoch at the start of the congestion avoidance stage.
	 * After that, on every new ACK, W_est is updated" */
	cubic->w_est = window;
	/* 4.8 and 4.10: after a timeout, or when slow start was left without a loss, K is 0 and
	 * W_max is the window at the beginning. */
	if (cubic->after_timeout || !cubic->w_max || cubic->w_max <= window) {
		cubic->k_ns = 0;
		cubic->w_max = window;
		cubic->after_timeout = 0;
		return;
	}
	cubic->k_ns = vk_cubic_k_ns(cubic->w_max - window, congestion->datagram_size);
}

/* Slow start; returns what is left of bytes for congestion avoidance. */
static void start_slowly(struct vk_congestion *congestion, uint64_t bytes)
{
	struct vk_cubic *cubic = &congestion->state.cubic;
	uint32_t divisor = 1;

	/* RFC 9406, 4.3: "An implementation SHOULD use HyStart++ only for the initial slow
	 * start". */
	if (congestion->ssthresh == UINT64_MAX)
		divisor = vk_hystart_acked(&cubic->hystart, &congestion->round,
					   vk_congestion_base(congestion));
	if (!divisor) {
		/* RFC 9406, 4.2: "enter congestion avoidance by setting the ssthresh to the current
		 * cwnd"; RFC 9438, 4.10: "In this special case, CUBIC sets cwnd_prior = cwnd". */
		congestion->ssthresh = cubic->cwnd_prior = congestion->window;
		return;
	}
	congestion->window += bytes / divisor;
	if (congestion->window >= congestion->ssthresh)
		congestion->window = congestion->ssthresh;
}

/* 4.3, equation 4: W_est = W_est + alpha_cubic * segments_acked / cwnd. "Once W_est has grown to
 * reach the cwnd at the time of most recently setting ssthresh -- that is, W_est >= cwnd_prior --
 * the sender SHOULD set alpha_cubic to 1". */
static void estimate(struct vk_congestion *congestion, uint64_t bytes)
{
	struct vk_cubic *cubic = &congestion->state.cubic;
	int equal = cubic->w_est >= cubic->cwnd_prior;
	uint64_t divisor = VK_CUBIC_ALPHA_DENOMINATOR * congestion->window;
	uint64_t factor = equal ? VK_CUBIC_ALPHA_DENOMINATOR : VK_CUBIC_ALPHA_NUMERATOR;

	cubic->est_rest += vk_min(bytes, congestion->window) * congestion->datagram_size * factor;
	cubic->w_est += cubic->est_rest / divisor;
	cubic->est_rest %= divisor;
	cubic->w_est = vk_min(cubic->w_est, VK_CONGESTION_WINDOW_MAX);
}

static void avoid(struct vk_congestion *congestion, uint64_t bytes, uint64_t rtt_ns,
		  uint64_t now_ns)
{
	struct vk_cubic *cubic = &congestion->state.cubic;
	uint64_t t_ns, target, window = congestion->window;
	uint32_t size = congestion->datagram_size;

	if (!cubic->epoch_ns)
		begin(congestion, now_ns);
	t_ns = now_ns > cubic->epoch_ns ? now_ns - cubic->epoch_ns : 0;
	estimate(congestion, bytes);
	/* 4.3: "CUBIC checks whether W_cubic(t) is less than W_est. If so, CUBIC is in the
	 * Reno-friendly region and cwnd SHOULD be set to W_est at each reception of a new ACK." */
	if (vk_cubic_window(t_ns, cubic->k_ns, cubic->w_max, size) < cubic->w_est) {
		congestion->window = vk_max(window, cubic->w_est);
		return;
	}
	/* 4.2: target = W_cubic(t + RTT), not below cwnd and not above 1.5 cwnd. */
	target = vk_cubic_window(t_ns + rtt_ns, cubic->k_ns, cubic->w_max, size);
	target = vk_min(vk_max(target, window), window + window / 2);
	/* 4.4 and 4.5: "cwnd MUST be incremented by (target - cwnd) / cwnd for each received new
	 * ACK", a segment; in bytes, for each that was acknowledged. */
	cubic->window_rest += vk_min(bytes, window) * (target - window);
	congestion->window += cubic->window_rest / window;
	cubic->window_rest %= window;
}

/* 4.2: "The elapsed time t in Equation 1 MUST NOT include periods during which cwnd has not been
 * updated due to application-limited behavior". */
static void sent(struct vk_congestion *congestion, uint64_t bytes, uint64_t in_flight,
		 uint64_t now_ns)
{
	struct vk_cubic *cubic = &congestion->state.cubic;

	if (in_flight <= bytes && now_ns > cubic->seen_ns) {
		if (cubic->epoch_ns)
			cubic->epoch_ns += now_ns - cubic->seen_ns;
		cubic->seen_ns = now_ns;
	}
}

static void acked(struct vk_congestion *congestion, const struct vk_congestion_ack *ack)
{
	struct vk_cubic *cubic = &congestion->state.cubic;
	uint64_t passed = ack->now_ns > cubic->seen_ns ? ack->now_ns - cubic->seen_ns : 0;

	cubic->seen_ns += passed;
	/* 5.8: "CUBIC does not increase its congestion window if a flow is application-limited." */
	if (!vk_congestion_limited(congestion, ack)) {
		if (cubic->epoch_ns)
			cubic->epoch_ns += passed;
		return;
	}
	/* RFC 9002, 7.3.2: the window does not grow for what was sent before recovery began. */
	if (congestion->recovery_start_ns && ack->sent_ns <= congestion->recovery_start_ns)
		return;
	if (congestion->window < congestion->ssthresh)
		start_slowly(congestion, ack->bytes);
	else
		avoid(congestion, ack->bytes, ack->rtt_smoothed_ns, ack->now_ns);
}

static void lost(struct vk_congestion *congestion, uint64_t bytes, enum vk_loss loss, int fresh,
		 uint64_t now_ns)
{
	struct vk_cubic *cubic = &congestion->state.cubic;
	uint64_t window = congestion->window, percent = VK_CUBIC_BETA_PERCENT;

	(void)bytes, (void)now_ns;
	cubic->hystart.done = 1;
	if (loss == VK_LOSS_PERSISTENT) {
		/* RFC 9002, 7.6.2: "the sender's congestion window MUST be reduced to the minimum
		 * congestion window (kMinimumWindow)"; slow start to ssthresh follows. */
		congestion->window = congestion->window_min;
		cubic->after_timeout = 1;
		cubic->epoch_ns = 0;
		return;
	}
	if (!fresh)
		return;
	if (loss == VK_LOSS_MARK)
		percent = VK_CUBIC_BETA_ECN_PERCENT;
	/* 4.7, fast convergence: W_max is cwnd * (1 + beta_cubic) / 2 if cwnd < W_max. "This flow
	 * can then release more bandwidth by reducing W_max further." */
	cubic->w_max = window < cubic->w_max ? window * (100 + percent) / 200 : window;
	/* 4.6: "ssthresh = flight_size * beta_cubic"; growth stops while cwnd is not used, so cwnd
	 * stands for it. */
	cubic->cwnd_prior = window;
	congestion->ssthresh = vk_max(window * percent / 100, congestion->window_min);
	congestion->window = congestion->ssthresh;
	cubic->epoch_ns = 0;
}

static uint64_t pace(const struct vk_congestion *congestion, uint64_t rtt_ns)
{
	int starting = congestion->window < congestion->ssthresh;

	return vk_congestion_pace(congestion, starting ? PACING_START_PERCENT : PACING_PERCENT,
				  rtt_ns);
}

const struct vk_controller_ops vk_cubic_ops = {
	.enter = enter,
	.sent = sent,
	.acked = acked,
	.lost = lost,
	.pace = pace,
};
