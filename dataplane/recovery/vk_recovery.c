/* SPDX-License-Identifier: MIT */
#include "vk_recovery.h"

#include "vk_frame.h"

#include <errno.h>

enum {
	THRESHOLD_MIN = 3, /* RFC 9002, 6.1.1: "kPacketThreshold [...] is 3" */
	THRESHOLD_MAX = 256, /* packets of reordering that are believed */
	PROBES = 2, /* RFC 9002, 6.2.4: "up to two full-sized datagrams" */
	PTO_SHIFT_MAX = 10, /* backoff: at most 2^10 */
	PTO_NS_MAX = 2000000000, /* a peer that returns from a black-out is found this soon */
	GRANULARITY_NS = 100000,
	ACK_DELAY_NS = 1000000,
	PERSISTENT = 3, /* RFC 9002, 7.6.1: kPersistentCongestionThreshold */
};

/* What one acknowledgement or time-out brought. */
struct harvest {
	uint64_t acked_bytes;
	uint64_t acked_sent_ns; /* of the newest packet acknowledged */
	uint64_t delivered; /* when that one was sent */
	uint64_t delivered_ns;
	uint64_t first_ns;
	int app_limited;
	int spurious; /* most of the last loss was */
	uint64_t late[2]; /* lowest number taken for lost that came, + 1; as vk_sent.told_next */
	uint64_t lost_bytes;
	uint32_t lost_anew; /* packets, of a flight that the last loss was not of */
	uint32_t lost_more; /* packets, of that which it was of */
	uint64_t lost_sent_ns; /* of the newest packet lost */
	uint64_t lost_first_ns;
};

void vk_recovery_init(struct vk_recovery *recovery, const struct vk_recovery_params *params,
		      uint64_t now_ns)
{
	*recovery = (struct vk_recovery){ .params = *params,
					  .threshold = THRESHOLD_MIN,
					  .delivered_ns = now_ns,
					  .held_ns = now_ns };
	if (!recovery->params.max_ack_delay_ns)
		recovery->params.max_ack_delay_ns = ACK_DELAY_NS;
	if (!recovery->params.granularity_ns)
		recovery->params.granularity_ns = GRANULARITY_NS;
	vk_rtt_init(&recovery->rtt);
	vk_congestion_init(&recovery->congestion, params->controller, params->datagram_size,
			   now_ns);
	vk_pacer_init(&recovery->pacer, params->datagram_size, now_ns);
	for (uint32_t s = 0; s < VK_SPACE_COUNT; s++)
		recovery->sent[s].loss_ns = UINT64_MAX;
}

void vk_recovery_free(struct vk_recovery *recovery)
{
	for (uint32_t s = 0; s < VK_SPACE_COUNT; s++)
		vk_sent_free(&recovery->sent[s]);
}

/* Which of its space's two classes a packet is of. */
static uint32_t ahead(uint32_t flags)
{
	return !!(flags & VK_SENT_AHEAD);
}

/* Whether a packet that is lost says something of congestion. RFC 8899, 3: loss of a probe packet
 * "SHOULD NOT trigger a congestion control reaction". */
static int telling(const struct vk_sent_packet *packet)
{
	return !(packet->flags & VK_SENT_MTU);
}

/* The sum that a packet in flight counts in. */
static uint64_t *flying(struct vk_recovery *recovery, const struct vk_sent_packet *packet)
{
	return packet->flags & VK_SENT_CRITICAL ? &recovery->critical : &recovery->in_flight;
}

int vk_recovery_sent_row(struct vk_recovery *recovery, uint32_t space, uint64_t number,
			 uint32_t count, uint32_t size, uint32_t flags, uint64_t now_ns)
{
	struct vk_sent *sent = &recovery->sent[space];
	uint64_t bytes = (uint64_t)count * size;
	struct vk_sent_packet *packet = vk_sent_put(sent, number);

	if (packet && count > 1)
		packet = vk_sent_put(sent, number + count - 1);
	vk_recovery_issue(recovery, space, number + count - 1);
	if (!packet)
		return 0;
	if (!recovery->in_flight) /* idle time is none of the path's */
		recovery->delivered_ns = recovery->first_ns = now_ns;
	if (now_ns - recovery->held_ns > recovery->rtt.smoothed_ns)
		flags |= VK_SENT_APP_LIMITED;
	for (uint64_t n = number; n != number + count; n++) {
		packet = &sent->packets[n & sent->mask];
		packet->sent_ns = now_ns;
		packet->delivered = recovery->delivered;
		packet->delivered_ns = recovery->delivered_ns;
		packet->first_ns = recovery->first_ns;
		packet->size = size;
		packet->state = VK_SENT_FLYING;
		packet->flags = (uint8_t)flags;
	}
	sent->eliciting += count;
	sent->last_ns = now_ns;
	*flying(recovery, packet) += bytes;
	recovery->count.sent += count;
	vk_congestion_sent(&recovery->congestion, bytes, recovery->in_flight, now_ns);
	vk_pacer_spend(&recovery->pacer, bytes, now_ns);
	return 1;
}

struct vk_sent_packet *vk_recovery_sent(struct vk_recovery *recovery, uint32_t space,
					uint64_t number, uint32_t size, uint32_t flags,
					uint64_t now_ns)
{
	if (!vk_recovery_sent_row(recovery, space, number, 1, size, flags, now_ns))
		return NULL;
	return vk_sent_get(&recovery->sent[space], number);
}

void vk_recovery_skip(struct vk_recovery *recovery, uint32_t space, uint64_t number)
{
	struct vk_sent *sent = &recovery->sent[space];
	struct vk_sent_packet *packet;

	vk_recovery_issue(recovery, space, number);
	if (!sent->eliciting) { /* a lie would gain nothing, and nobody might answer for long */
		sent->oldest = sent->next;
		return;
	}
	packet = vk_sent_put(sent, number);
	if (packet)
		packet->flags = VK_SENT_SKIPPED;
}

/* Whether every number that an acknowledgement names was sent. */
static int honest(const struct vk_sent *sent, const struct vk_ack_view *ack)
{
	uint64_t last = ack->largest, first;

	if (ack->largest >= sent->issued)
		return 0;
	for (uint32_t i = 0; i < ack->range_count; i++) {
		const uint8_t *range = ack->ranges + i * sizeof(struct vk_ack_range);

		last -= vk_get32(range);
		first = last - vk_get32(range + 4) + 1;
		for (uint64_t n = first > sent->oldest ? first : sent->oldest;
		     n <= last && n < sent->next; n++) {
			if (sent->packets[n & sent->mask].flags & VK_SENT_SKIPPED)
				return 0;
		}
		if (first <= sent->oldest)
			break;
		last = first - 1;
	}
	return 1;
}

static void take_acked(struct vk_recovery *recovery, uint32_t space, uint64_t number,
		       struct vk_sent_packet *packet, struct harvest *harvest,
		       const struct vk_recovery_events *events)
{
	struct vk_sent *sent = &recovery->sent[space];

	if (packet->state == VK_SENT_LOST) {
		uint64_t *late = &harvest->late[ahead(packet->flags)];

		recovery->count.spurious++;
		if (telling(packet) && packet->sent_ns > recovery->congestion.saved_recovery_ns)
			harvest->spurious |= 2 * ++recovery->doubted > recovery->missed;
		if (!*late || number + 1 < *late)
			*late = number + 1;
	} else {
		sent->eliciting--;
		*flying(recovery, packet) -= packet->size;
	}
	if (number >= sent->told_next[ahead(packet->flags)])
		sent->told_next[ahead(packet->flags)] = number + 1;
	recovery->delivered += packet->size;
	harvest->acked_bytes += packet->size;
	if (packet->sent_ns >= harvest->acked_sent_ns) {
		harvest->acked_sent_ns = packet->sent_ns;
		harvest->delivered = packet->delivered;
		harvest->delivered_ns = packet->delivered_ns;
		harvest->first_ns = packet->first_ns;
		harvest->app_limited = packet->flags & VK_SENT_APP_LIMITED;
	}
	recovery->count.acked++;
	events->acked(events->context, space, packet);
	packet->state = VK_SENT_FREE;
}

static void walk(struct vk_recovery *recovery, const struct vk_ack_view *ack,
		 struct harvest *harvest, const struct vk_recovery_events *events)
{
	struct vk_sent *sent = &recovery->sent[ack->space];
	uint64_t last = ack->largest, first;

	for (uint32_t i = 0; i < ack->range_count; i++) {
		const uint8_t *range = ack->ranges + i * sizeof(struct vk_ack_range);

		last -= vk_get32(range);
		first = last - vk_get32(range + 4) + 1;
		for (uint64_t n = first > sent->oldest ? first : sent->oldest;
		     n <= last && n < sent->next; n++) {
			struct vk_sent_packet *packet = &sent->packets[n & sent->mask];

			if (packet->state != VK_SENT_FREE)
				take_acked(recovery, ack->space, n, packet, harvest, events);
		}
		if (first <= sent->oldest)
			break;
		last = first - 1;
	}
}

/* They were reordered by so much: the threshold learns (RFC 9002, 6.1.1). */
static void learn(struct vk_recovery *recovery, const struct vk_sent *sent,
		  const struct harvest *harvest)
{
	for (uint32_t i = 0; i < 2; i++) {
		uint64_t distance = sent->told_next[i] + 1 - harvest->late[i];

		if (harvest->late[i] && distance >= recovery->threshold)
			recovery->threshold = distance < THRESHOLD_MAX ? (uint32_t)distance + 1 :
									 THRESHOLD_MAX;
	}
}

/* RFC 9002, 6.1.2: "max(smoothed_rtt, latest_rtt)". */
static uint64_t recent_rtt_ns(const struct vk_recovery *recovery)
{
	const struct vk_rtt *rtt = &recovery->rtt;

	return rtt->smoothed_ns > rtt->latest_ns ? rtt->smoothed_ns : rtt->latest_ns;
}

/* RFC 9002, 6.1.2: "max(kTimeThreshold * max(smoothed_rtt, latest_rtt), kGranularity)", 9/8. */
static uint64_t loss_delay_ns(const struct vk_recovery *recovery)
{
	uint64_t rtt_ns = recent_rtt_ns(recovery), delay_ns = rtt_ns + rtt_ns / 8;

	return delay_ns > recovery->params.granularity_ns ? delay_ns :
							    recovery->params.granularity_ns;
}

/* RFC 9002, 6.2.1: "max(4*rttvar, kGranularity)". */
static uint64_t spread_ns(const struct vk_recovery *recovery)
{
	uint64_t spread = 4 * recovery->rtt.variance_ns;

	return spread > recovery->params.granularity_ns ? spread : recovery->params.granularity_ns;
}

/* RFC 9002, 6.2.1: "smoothed_rtt + max(4*rttvar, kGranularity) + max_ack_delay". */
static uint64_t pto_ns(const struct vk_recovery *recovery)
{
	return recovery->rtt.smoothed_ns + spread_ns(recovery) + recovery->params.max_ack_delay_ns;
}

static void tally(struct vk_recovery *recovery, const struct vk_sent_packet *packet,
		  struct harvest *harvest)
{
	if (!telling(packet))
		return;
	if (!harvest->lost_bytes || packet->sent_ns < harvest->lost_first_ns)
		harvest->lost_first_ns = packet->sent_ns;
	if (packet->sent_ns > harvest->lost_sent_ns)
		harvest->lost_sent_ns = packet->sent_ns;
	harvest->lost_bytes += packet->size;
	harvest->lost_anew += packet->sent_ns > recovery->congestion.recovery_start_ns;
	harvest->lost_more += packet->sent_ns > recovery->congestion.saved_recovery_ns;
	recovery->count.lost++;
	recovery->count.lost_bytes += packet->size;
}

/* How long a packet is waited for. What was sent in its class behind it and came says that it is
 * lost, by number too; of what only the other class has passed it is told by time alone. Readers
 * take critical packets before system ones and jobs before data, however many of these wait: who
 * is ahead says nothing of who is behind before a probe would be due, which those ahead put off
 * while they are sent. Neither do numbers of what nobody answers, whose class is not known here.
 * Who is behind came last, but a reader that had more jobs than it takes in a turn looked at data
 * in between. Its turns go with no round trip, and with many jobs they are longer at once than the
 * smoothed one knows. */
static uint64_t patience_ns(const struct vk_recovery *recovery, const struct vk_sent_packet *packet,
			    int passed)
{
	uint64_t delay_ns = loss_delay_ns(recovery);
	uint64_t turns_ns = recent_rtt_ns(recovery) + spread_ns(recovery);

	if (!passed && !ahead(packet->flags))
		return pto_ns(recovery);
	return passed || delay_ns > turns_ns ? delay_ns : turns_ns;
}

/* Declares lost what is old or far enough behind; forgets what was lost long ago. */
static void detect(struct vk_recovery *recovery, uint32_t space, uint64_t now_ns,
		   struct harvest *harvest, const struct vk_recovery_events *events)
{
	struct vk_sent *sent = &recovery->sent[space];
	uint64_t pause_ns = pto_ns(recovery);

	sent->loss_ns = UINT64_MAX;
	for (uint64_t n = sent->oldest; n < sent->acked_next; n++) {
		struct vk_sent_packet *packet = &sent->packets[n & sent->mask];
		uint64_t told = sent->told_next[ahead(packet->flags)], due_ns;

		if (packet->flags & VK_SENT_SKIPPED && n + VK_SENT_MIN < sent->acked_next)
			packet->flags = 0;
		if (packet->state == VK_SENT_LOST && packet->sent_ns + 3 * pause_ns < now_ns)
			packet->state = VK_SENT_FREE;
		if (packet->state != VK_SENT_FLYING || !recovery->params.detect_loss)
			continue;
		due_ns = packet->sent_ns + patience_ns(recovery, packet, n < told);
		if ((n >= told || told - 1 - n < recovery->threshold) && due_ns > now_ns) {
			if (due_ns < sent->loss_ns)
				sent->loss_ns = due_ns;
			continue;
		}
		packet->state = VK_SENT_LOST;
		sent->eliciting--;
		*flying(recovery, packet) -= packet->size;
		tally(recovery, packet, harvest);
		events->lost(events->context, space, packet);
	}
	vk_sent_settle(sent);
}

static void tell_lost(struct vk_recovery *recovery, const struct harvest *harvest, uint64_t now_ns)
{
	int persistent;

	if (!harvest->lost_bytes)
		return;
	/* RFC 9002, 7.6.1: the duration is (smoothed_rtt + max(4*rttvar, kGranularity) +
	 * max_ack_delay) * kPersistentCongestionThreshold, of what was sent after the first RTT
	 * sample; nothing in between was acknowledged when probes went out. */
	persistent = recovery->rtt.latest_ns && recovery->pto_count >= PERSISTENT &&
		     harvest->lost_sent_ns - harvest->lost_first_ns > PERSISTENT * pto_ns(recovery);
	recovery->count.persistent += (uint64_t)persistent;
	if (harvest->lost_anew)
		recovery->missed = recovery->doubted = 0;
	recovery->missed += harvest->lost_anew ? harvest->lost_anew : harvest->lost_more;
	vk_congestion_lost(&recovery->congestion, harvest->lost_bytes, harvest->lost_sent_ns,
			   persistent, now_ns);
}

static void tell_acked(struct vk_recovery *recovery, const struct vk_ack_view *ack,
		       const struct harvest *harvest, uint64_t in_flight, uint64_t rtt_ns,
		       uint64_t late_ns, uint64_t now_ns)
{
	uint64_t span_ns = recovery->delivered_ns - harvest->delivered_ns;
	uint64_t sent_ns = harvest->acked_sent_ns - harvest->first_ns;
	struct vk_congestion_ack told = {
		.now_ns = now_ns,
		.bytes = harvest->acked_bytes,
		.sent_ns = harvest->acked_sent_ns,
		.rtt_ns = rtt_ns,
		.rtt_min_ns = recovery->rtt.min_ns,
		.rtt_smoothed_ns = recovery->rtt.smoothed_ns,
		.in_flight = in_flight,
		.late_ns = late_ns,
		.app_limited = harvest->app_limited,
		.largest_number = ack->largest,
	};

	/* draft-cheng-iccrg-delivery-rate-estimation: "delivery_rate = min(send_rate, ack_rate)".
	 * Acknowledgements that were held up come in a heap, and seem to be of a faster path. */
	if (sent_ns > span_ns)
		span_ns = sent_ns;
	if (span_ns && span_ns >= recovery->rtt.min_ns)
		told.rate =
			(uint64_t)((unsigned __int128)(recovery->delivered - harvest->delivered) *
				   1000000000 / span_ns);
	vk_congestion_acked(&recovery->congestion, &told);
}

/* RFC 9000, 13.4.2.1: counts of an acknowledgement that does not raise the largest number may be
 * old and are not looked at. A peer's worker that died counts from 0 again: no news either. */
static void take_marks(struct vk_recovery *recovery, const struct vk_ack_view *ack,
		       const struct harvest *harvest, uint64_t now_ns)
{
	struct vk_sent *sent = &recovery->sent[ack->space];
	int32_t more = (int32_t)(ack->ce_count - sent->ce_count);

	if (ack->largest + 1 != sent->acked_next || !more)
		return;
	sent->ce_count = ack->ce_count;
	if (more < 0 || !harvest->acked_bytes)
		return;
	recovery->count.marked++;
	vk_congestion_ce(&recovery->congestion, harvest->acked_sent_ns, now_ns);
}

/* When the packet of the largest number acknowledged was sent, if that is news; 0 = it is not, or
 * is not known. */
static uint64_t largest_sent_ns(struct vk_sent *sent, uint64_t number)
{
	const struct vk_sent_packet *packet = vk_sent_get(sent, number);
	uint64_t sent_ns = 0;

	if (packet && packet->state == VK_SENT_FLYING)
		return packet->sent_ns;
	if (number == sent->quiet) {
		sent_ns = sent->quiet_ns;
		sent->quiet_ns = 0;
	}
	return sent_ns;
}

/* RFC 9002, 5.1: a sample is taken when "the largest acknowledged packet number is newly
 * acknowledged" and "at least one of the newly acknowledged packets was ack-eliciting". Returns it
 * without the peer's delay, but nothing below the least RTT, so that a peer that exaggerates hides
 * no queue that goes with the path. */
static uint64_t sample(struct vk_recovery *recovery, const struct vk_ack_view *ack,
		       uint64_t sent_ns, uint64_t came_ns)
{
	uint64_t delay_ns = recovery->params.max_ack_delay_ns, rtt_ns;

	if (ack->delay_ns < delay_ns)
		delay_ns = ack->delay_ns;
	rtt_ns = came_ns > sent_ns ? came_ns - sent_ns : 1;
	vk_rtt_sample(&recovery->rtt, rtt_ns, delay_ns);
	if (rtt_ns > recovery->rtt.min_ns + delay_ns)
		return rtt_ns - delay_ns;
	return recovery->rtt.min_ns;
}

static void raise_largest(struct vk_sent *sent, uint64_t largest)
{
	if (largest >= sent->acked_next)
		sent->acked_next = largest + 1 < sent->next ? largest + 1 : sent->next;
}

int vk_recovery_ack(struct vk_recovery *recovery, const struct vk_ack_view *ack, uint64_t came_ns,
		    uint64_t now_ns, const struct vk_recovery_events *events)
{
	struct vk_sent *sent = &recovery->sent[ack->space];
	uint64_t in_flight = recovery->in_flight, sent_ns, rtt_ns = 0;
	struct harvest harvest = { 0 };

	if (!honest(sent, ack))
		return -EPROTO;
	sent_ns = largest_sent_ns(sent, ack->largest);
	raise_largest(sent, ack->largest);
	walk(recovery, ack, &harvest, events);
	if (sent_ns && harvest.acked_bytes)
		rtt_ns = sample(recovery, ack, sent_ns, came_ns);
	learn(recovery, sent, &harvest);
	detect(recovery, ack->space, came_ns, &harvest, events);
	if (harvest.acked_sent_ns > recovery->first_ns)
		recovery->first_ns = harvest.acked_sent_ns;
	if (harvest.acked_bytes && came_ns > recovery->delivered_ns)
		recovery->delivered_ns = came_ns;
	if (harvest.spurious)
		vk_congestion_spurious(&recovery->congestion, now_ns);
	tell_lost(recovery, &harvest, now_ns);
	take_marks(recovery, ack, &harvest, now_ns);
	if (!harvest.acked_bytes)
		return 0;
	recovery->pto_count = 0; /* RFC 9002, 6.2.1: "reset when an acknowledgment is received" */
	tell_acked(recovery, ack, &harvest, in_flight, rtt_ns, now_ns - came_ns, now_ns);
	vk_recovery_pace(recovery, now_ns);
	return 0;
}

/* Not in flight any more, and nothing that could come after all. */
static void refuse(struct vk_recovery *recovery, uint32_t space, uint64_t number,
		   struct vk_sent_packet *packet, const struct vk_recovery_events *events)
{
	struct vk_sent *sent = &recovery->sent[space];

	packet->flags |= VK_SENT_REFUSED;
	packet->state = VK_SENT_FREE;
	sent->eliciting--;
	if (number >= sent->told_next[ahead(packet->flags)])
		sent->told_next[ahead(packet->flags)] = number + 1;
	*flying(recovery, packet) -= packet->size;
	recovery->pto_count = 0;
	events->lost(events->context, space, packet);
}

int vk_recovery_refused(struct vk_recovery *recovery, const struct vk_ack_view *ack,
			uint64_t came_ns, uint64_t now_ns, const struct vk_recovery_events *events)
{
	struct vk_sent *sent = &recovery->sent[ack->space];
	uint64_t sent_ns = largest_sent_ns(sent, ack->largest);
	uint64_t last = ack->largest, first;
	struct harvest harvest = { 0 };

	if (!honest(sent, ack))
		return -EPROTO;
	for (uint32_t i = 0; i < ack->range_count; i++) {
		const uint8_t *range = ack->ranges + i * sizeof(struct vk_ack_range);

		last -= vk_get32(range);
		first = last - vk_get32(range + 4) + 1;
		for (uint64_t n = first > sent->oldest ? first : sent->oldest;
		     n <= last && n < sent->next; n++) {
			struct vk_sent_packet *packet = &sent->packets[n & sent->mask];

			if (packet->state == VK_SENT_FLYING && recovery->params.detect_loss)
				refuse(recovery, ack->space, n, packet, events);
		}
		if (first <= sent->oldest)
			break;
		last = first - 1;
	}
	raise_largest(sent, ack->largest);
	if (sent_ns)
		sample(recovery, ack, sent_ns, came_ns);
	detect(recovery, ack->space, came_ns, &harvest, events);
	tell_lost(recovery, &harvest, now_ns);
	return 0;
}

/* The space whose probe is due first, and when. */
static uint64_t pto_deadline(const struct vk_recovery *recovery, uint32_t *space)
{
	uint64_t wait_ns = pto_ns(recovery)
			   << (recovery->pto_count < PTO_SHIFT_MAX ? recovery->pto_count :
								     PTO_SHIFT_MAX);
	uint64_t due_ns = UINT64_MAX;

	if (wait_ns > PTO_NS_MAX)
		wait_ns = PTO_NS_MAX;
	for (uint32_t s = 0; s < VK_SPACE_COUNT; s++) {
		const struct vk_sent *sent = &recovery->sent[s];

		if (!sent->eliciting || sent->last_ns + wait_ns >= due_ns)
			continue;
		due_ns = sent->last_ns + wait_ns;
		*space = s;
	}
	return due_ns;
}

uint64_t vk_recovery_deadline(const struct vk_recovery *recovery)
{
	uint64_t due_ns;
	uint32_t space;

	due_ns = pto_deadline(recovery, &space);
	for (uint32_t s = 0; s < VK_SPACE_COUNT; s++) {
		if (recovery->sent[s].loss_ns < due_ns)
			due_ns = recovery->sent[s].loss_ns;
	}
	return due_ns;
}

int vk_recovery_expire(struct vk_recovery *recovery, uint64_t now_ns,
		       const struct vk_recovery_events *events, uint32_t *space)
{
	struct harvest harvest = { 0 };

	for (uint32_t s = 0; s < VK_SPACE_COUNT; s++) {
		if (recovery->sent[s].loss_ns <= now_ns)
			detect(recovery, s, now_ns, &harvest, events);
	}
	tell_lost(recovery, &harvest, now_ns);
	if (harvest.lost_bytes || pto_deadline(recovery, space) > now_ns)
		return 0;
	recovery->pto_count++;
	recovery->count.timeouts++;
	recovery->sent[*space].last_ns = now_ns; /* if nothing can be sent now: try again later */
	return recovery->params.detect_loss ? PROBES : 0;
}
