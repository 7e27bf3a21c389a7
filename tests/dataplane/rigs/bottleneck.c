/* SPDX-License-Identifier: MIT */
#include "bottleneck.h"

#include "textbook.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { THRESHOLD = 3, SECOND = 1000000000, NEVER_ACKED_NS = 25000000 };

struct packet {
	uint64_t sent_ns;
	uint64_t back_ns; /* when its ACK would be back at once; UINT64_MAX = it was dropped */
	uint64_t delivered; /* bytes, when it was sent */
	uint64_t delivered_ns;
	uint64_t first_sent_ns;
	int marked;
};

struct sender {
	struct bottleneck_flow *flow;
	struct vk_congestion congestion;
	struct vk_pacer pacer;
	struct textbook textbook;
	struct packet *ring;
	uint64_t next; /* packet to send */
	uint64_t ack_next; /* first that is neither acknowledged nor known to be lost */
	uint64_t lost_next; /* first that was not judged */
	uint64_t in_flight;
	uint64_t delivered;
	uint64_t delivered_ns;
	uint64_t first_sent_ns;
	uint64_t back_ns; /* latest */
	uint64_t rtt_min_ns;
	uint64_t srtt_ns;
	uint64_t heard_ns;
};

struct run {
	struct bottleneck *it;
	uint64_t free_ns; /* when the link has sent all it has */
	uint64_t random;
	struct sender senders[BOTTLENECK_FLOWS_MAX];
};

static struct packet *at(struct sender *sender, uint64_t number)
{
	return &sender->ring[number % BOTTLENECK_RING];
}

/* xorshift64* */
static uint64_t draw(struct run *run)
{
	run->random ^= run->random >> 12;
	run->random ^= run->random << 25;
	run->random ^= run->random >> 27;
	return run->random * 2685821657736338717ull >> 11;
}

static int textbook(const struct sender *sender)
{
	return sender->flow->controller == BOTTLENECK_TEXTBOOK;
}

static uint64_t window_of(const struct run *run, const struct sender *sender)
{
	if (textbook(sender))
		return (uint64_t)sender->textbook.cwnd * run->it->datagram_size;
	return sender->congestion.window;
}

/* The way through queue and link and back. */
static void travel(struct run *run, struct sender *sender, struct packet *packet, uint64_t now_ns)
{
	struct bottleneck *it = run->it;
	uint64_t from_ns = run->free_ns > now_ns ? run->free_ns : now_ns;
	uint64_t queue = (uint64_t)((unsigned __int128)(from_ns - now_ns) * it->rate / SECOND);
	uint64_t rtt_ns = it->rtt_later_ns && now_ns >= it->later_ns ? it->rtt_later_ns :
								       it->rtt_ns;

	packet->back_ns = UINT64_MAX;
	if (it->loss_ppm && draw(run) % 1000000 < it->loss_ppm)
		return;
	if (queue + it->datagram_size > it->buffer)
		return;
	packet->marked = it->mark_above && queue > it->mark_above;
	run->free_ns = from_ns + (uint64_t)it->datagram_size * SECOND / it->rate;
	packet->back_ns = run->free_ns + rtt_ns;
	if (it->jitter_ns)
		packet->back_ns += draw(run) % it->jitter_ns;
	if (packet->back_ns < sender->back_ns)
		packet->back_ns = sender->back_ns;
	sender->back_ns = packet->back_ns;
}

static void send_one(struct run *run, struct sender *sender, uint64_t now_ns)
{
	struct packet *packet = at(sender, sender->next++);
	uint32_t size = run->it->datagram_size;

	if (!sender->in_flight)
		sender->first_sent_ns = sender->delivered_ns = now_ns;
	*packet = (struct packet){ .sent_ns = now_ns,
				   .delivered = sender->delivered,
				   .delivered_ns = sender->delivered_ns,
				   .first_sent_ns = sender->first_sent_ns };
	travel(run, sender, packet, now_ns);
	sender->in_flight += size;
	if (!textbook(sender)) {
		vk_congestion_sent(&sender->congestion, size, sender->in_flight, now_ns);
		vk_pacer_spend(&sender->pacer, size, now_ns);
	}
	sender->flow->sent += now_ns >= run->it->measure_ns;
}

static int may_send(const struct run *run, const struct sender *sender, uint64_t now_ns)
{
	const struct bottleneck_flow *flow = sender->flow;

	return now_ns >= flow->start_ns && (!flow->stop_ns || now_ns < flow->stop_ns) &&
	       sender->in_flight + run->it->datagram_size <= window_of(run, sender) &&
	       sender->next - sender->lost_next < BOTTLENECK_RING;
}

/* When the receiver's next ACK is back, and up to which packet it goes. */
static uint64_t next_ack(const struct run *run, struct sender *sender)
{
	uint64_t first_ns = UINT64_MAX;
	uint32_t count = 0;

	for (uint64_t n = sender->ack_next; n < sender->next; n++) {
		uint64_t back_ns = at(sender, n)->back_ns;

		if (back_ns == UINT64_MAX)
			continue;
		if (first_ns == UINT64_MAX)
			first_ns = back_ns;
		else if (back_ns > first_ns + run->it->ack_delay_ns)
			break;
		if (++count >= run->it->ack_every)
			return back_ns;
	}
	return first_ns == UINT64_MAX ? first_ns : first_ns + run->it->ack_delay_ns;
}

static void measure(const struct run *run, struct sender *sender, uint64_t bytes, uint64_t now_ns)
{
	struct bottleneck_flow *flow = sender->flow;
	uint64_t window = window_of(run, sender);

	flow->acks++;
	if (now_ns < run->it->measure_ns)
		return;
	flow->delivered += bytes;
	flow->srtt_sum += sender->srtt_ns * bytes;
	if (sender->srtt_ns > flow->srtt_max)
		flow->srtt_max = sender->srtt_ns;
	if (window > flow->window_max)
		flow->window_max = window;
	if (!flow->window_min || window < flow->window_min)
		flow->window_min = window;
}

/* draft-cheng-iccrg-delivery-rate-estimation */
static uint64_t rate_sample(const struct sender *sender, const struct packet *packet,
			    uint64_t now_ns)
{
	uint64_t send_ns = packet->sent_ns - packet->first_sent_ns;
	uint64_t ack_ns = now_ns - packet->delivered_ns;
	uint64_t took_ns = send_ns > ack_ns ? send_ns : ack_ns;

	return took_ns ? (sender->delivered - packet->delivered) * SECOND / took_ns : 0;
}

/* What was dropped is known once a packet three later is acknowledged. */
static void judge(struct run *run, struct sender *sender, uint64_t largest, uint64_t now_ns)
{
	uint64_t bytes = 0, newest_ns = 0;

	for (; sender->lost_next + THRESHOLD <= largest; sender->lost_next++) {
		const struct packet *packet = at(sender, sender->lost_next);

		if (packet->back_ns != UINT64_MAX)
			continue;
		bytes += run->it->datagram_size;
		newest_ns = packet->sent_ns;
		sender->flow->lost += now_ns >= run->it->measure_ns;
	}
	if (!bytes)
		return;
	sender->in_flight -= bytes;
	if (textbook(sender))
		textbook_lost(&sender->textbook, newest_ns, now_ns);
	else
		vk_congestion_lost(&sender->congestion, bytes, newest_ns, 0, now_ns);
}

static void acknowledge(struct run *run, struct sender *sender, uint64_t now_ns)
{
	struct vk_congestion_ack ack = { .now_ns = now_ns, .in_flight = sender->in_flight };
	const struct packet *newest = NULL;
	int marked = 0;

	for (; sender->ack_next < sender->next; sender->ack_next++) {
		const struct packet *packet = at(sender, sender->ack_next);

		if (packet->back_ns == UINT64_MAX)
			continue;
		if (packet->back_ns > now_ns)
			break;
		newest = packet;
		marked |= packet->marked;
		ack.bytes += run->it->datagram_size;
		ack.largest_number = sender->ack_next;
	}
	if (!newest)
		return;
	sender->in_flight -= ack.bytes;
	sender->delivered += ack.bytes;
	sender->delivered_ns = sender->heard_ns = now_ns;
	sender->first_sent_ns = newest->sent_ns;
	ack.sent_ns = newest->sent_ns;
	ack.rtt_ns = newest->back_ns - newest->sent_ns;
	if (!sender->rtt_min_ns || ack.rtt_ns < sender->rtt_min_ns)
		sender->rtt_min_ns = ack.rtt_ns;
	sender->srtt_ns = sender->srtt_ns ? (7 * sender->srtt_ns + ack.rtt_ns) / 8 : ack.rtt_ns;
	ack.rtt_min_ns = sender->rtt_min_ns;
	ack.rtt_smoothed_ns = sender->srtt_ns;
	ack.rate = rate_sample(sender, newest, now_ns);
	judge(run, sender, ack.largest_number, now_ns);
	if (textbook(sender)) {
		textbook_acked(&sender->textbook, (double)ack.bytes / run->it->datagram_size,
			       ack.sent_ns, sender->srtt_ns, now_ns);
	} else {
		if (marked)
			vk_congestion_ce(&sender->congestion, ack.sent_ns, now_ns);
		vk_congestion_acked(&sender->congestion, &ack);
		vk_pacer_rate(&sender->pacer, sender->congestion.pacing_rate, now_ns);
	}
	measure(run, sender, ack.bytes, now_ns);
}

/* Nothing comes back any more: all that is in flight was dropped. */
static void give_up(struct run *run, struct sender *sender, uint64_t now_ns)
{
	judge(run, sender, sender->next + THRESHOLD - 1, now_ns);
	sender->ack_next = sender->next;
	sender->heard_ns = now_ns;
}

/* Lets a sender do what is due at now_ns and returns when it wants to go on. */
static uint64_t serve(struct run *run, struct sender *sender, uint64_t now_ns)
{
	struct bottleneck_flow *flow = sender->flow;
	uint64_t ack_ns, pace_ns = UINT64_MAX;

	if (now_ns < flow->start_ns)
		return flow->start_ns;
	if (flow->switch_ns && now_ns >= flow->switch_ns && !textbook(sender)) {
		vk_congestion_switch(&sender->congestion, flow->switch_to, now_ns);
		flow->switch_ns = 0;
	}
	if (next_ack(run, sender) <= now_ns)
		acknowledge(run, sender, now_ns);
	while (may_send(run, sender, now_ns) && vk_pacer_ready(&sender->pacer, now_ns))
		send_one(run, sender, now_ns);
	if (may_send(run, sender, now_ns))
		pace_ns = vk_pacer_next_ns(&sender->pacer);
	ack_ns = next_ack(run, sender);
	if (ack_ns == UINT64_MAX && pace_ns == UINT64_MAX && sender->in_flight) {
		ack_ns = sender->heard_ns + 3 * sender->srtt_ns + NEVER_ACKED_NS;
		if (now_ns >= ack_ns) {
			give_up(run, sender, now_ns);
			return now_ns;
		}
	}
	return ack_ns < pace_ns ? ack_ns : pace_ns;
}

static int prepare(struct run *run)
{
	struct bottleneck *it = run->it;

	for (uint32_t i = 0; i < it->flow_count; i++) {
		struct sender *sender = &run->senders[i];

		sender->flow = &it->flows[i];
		sender->ring = calloc(BOTTLENECK_RING, sizeof *sender->ring);
		if (!sender->ring)
			return -1;
		sender->heard_ns = sender->flow->start_ns;
		vk_pacer_init(&sender->pacer, it->datagram_size, 0);
		textbook_init(&sender->textbook);
		if (!textbook(sender))
			vk_congestion_init(&sender->congestion, sender->flow->controller,
					   it->datagram_size, sender->flow->start_ns);
	}
	return 0;
}

int bottleneck_run(struct bottleneck *it)
{
	struct run *run = calloc(1, sizeof *run);
	uint64_t due_ns[BOTTLENECK_FLOWS_MAX] = { 0 }, now_ns = 0;
	int error = -1;

	if (!run)
		return -1;
	run->it = it;
	run->random = it->seed * 2 + 88172645463325253ull;
	if (!prepare(run))
		error = 0;
	while (!error && now_ns < it->end_ns) {
		uint32_t first = 0;

		for (uint32_t i = 1; i < it->flow_count; i++)
			first = due_ns[i] < due_ns[first] ? i : first;
		now_ns = due_ns[first] > now_ns ? due_ns[first] : now_ns;
		due_ns[first] = serve(run, &run->senders[first], now_ns);
	}
	for (uint32_t i = 0; i < it->flow_count; i++) {
		it->flows[i].base_ns = vk_congestion_base(&run->senders[i].congestion);
		free(run->senders[i].ring);
	}
	free(run);
	return error;
}

double bottleneck_cost(uint32_t controller, uint32_t count)
{
	struct vk_congestion congestion;
	struct vk_congestion_ack ack = { .bytes = 12000, .rtt_ns = 1000000, .rate = 125000000 };
	struct timespec from, to;

	vk_congestion_init(&congestion, controller, 1200, 1);
	vk_congestion_bounds(&congestion, 0, 1000000);
	ack.now_ns = 1;
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (uint32_t i = 0; i < count; i++) {
		ack.now_ns += 100000;
		ack.sent_ns = ack.now_ns > 1000000 ? ack.now_ns - 1000000 : 0;
		ack.rtt_ns = 1000000 + i % 64 * 1000;
		ack.rtt_smoothed_ns = ack.rtt_min_ns = 1000000;
		ack.in_flight = congestion.window;
		vk_congestion_acked(&congestion, &ack);
		if (i % 1000 == 999)
			vk_congestion_lost(&congestion, 1200, ack.now_ns, 0, ack.now_ns);
	}
	clock_gettime(CLOCK_MONOTONIC, &to);
	return ((double)(to.tv_sec - from.tv_sec) * SECOND + (double)(to.tv_nsec - from.tv_nsec)) /
	       count;
}
