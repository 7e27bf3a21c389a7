/* SPDX-License-Identifier: MIT */
#ifndef TEXTBOOK_H
#define TEXTBOOK_H
/* textbook.h: CUBIC as RFC 9438 prints it: segments and seconds in doubles, plain slow start, a
 * reduction a round trip. A second opinion of vk_cubic.c, and what it shares a link with.
 */
#include <stdint.h>

struct textbook {
	double cwnd; /* segments */
	double ssthresh;
	double cwnd_prior;
	double w_max;
	double w_est;
	double k; /* seconds */
	double epoch; /* seconds; negative = not begun */
	uint64_t recovery_ns;
};

/* textbook_init begins with a window of ten segments. */
static inline void textbook_init(struct textbook *it)
{
	*it = (struct textbook){ .cwnd = 10, .ssthresh = 1e18, .epoch = -1 };
}

/* textbook_cbrt returns the cube root of what is not negative, by Newton's method. */
static inline double textbook_cbrt(double value)
{
	double root = value > 1 ? value : 1;

	for (int i = 0; value > 0 && i < 200; i++)
		root -= (root - value / (root * root)) / 3;
	return value > 0 ? root : 0;
}

/* textbook_acked notes segments acknowledged, the newest of them sent at sent_ns. */
static inline void textbook_acked(struct textbook *it, double segments, uint64_t sent_ns,
				  uint64_t rtt_ns, uint64_t now_ns)
{
	double now = (double)now_ns / 1e9, t, target, x;

	if (it->recovery_ns && sent_ns <= it->recovery_ns)
		return;
	if (it->cwnd < it->ssthresh) {
		it->cwnd += segments;
		return;
	}
	if (it->epoch < 0) {
		it->epoch = now;
		it->w_est = it->cwnd;
		if (it->w_max < it->cwnd)
			it->w_max = it->cwnd;
		it->k = textbook_cbrt((it->w_max - it->cwnd) / 0.4);
	}
	t = now - it->epoch;
	it->w_est += (it->w_est >= it->cwnd_prior ? 1 : 3 * 0.3 / 1.7) * segments / it->cwnd;
	x = t - it->k;
	if (0.4 * x * x * x + it->w_max < it->w_est) {
		it->cwnd = it->w_est > it->cwnd ? it->w_est : it->cwnd;
		return;
	}
	x += (double)rtt_ns / 1e9;
	target = 0.4 * x * x * x + it->w_max;
	target = target < it->cwnd ? it->cwnd : target > 1.5 * it->cwnd ? 1.5 * it->cwnd : target;
	it->cwnd += (target - it->cwnd) / it->cwnd * segments;
}

/* textbook_lost notes a loss of what was sent at sent_ns. */
static inline void textbook_lost(struct textbook *it, uint64_t sent_ns, uint64_t now_ns)
{
	if (it->recovery_ns && sent_ns <= it->recovery_ns)
		return;
	it->recovery_ns = now_ns;
	it->w_max = it->cwnd < it->w_max ? it->cwnd * 1.7 / 2 : it->cwnd;
	it->cwnd_prior = it->cwnd;
	it->ssthresh = it->cwnd * 0.7 > 2 ? it->cwnd * 0.7 : 2;
	it->cwnd = it->ssthresh;
	it->epoch = -1;
}
#endif
