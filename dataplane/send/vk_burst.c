/* SPDX-License-Identifier: MIT */
#include "vk_burst.h"

#include "vk_flows.h"
#include "vk_head.h"
#include "vk_outgoing.h"

#include <string.h>

/* What a burst goes on with and has come to. Copies of what others keep: the bytes of a message
 * that are written could be part of anything, as far as the compiler knows. */
struct burst {
	/* Of the stream that it is at. */
	struct vk_flow *flow;
	uint32_t number; /* the flow's */
	uint32_t other; /* the message in front of its next one is another stream's */
	uint64_t whose; /* the first word of a message of its */
	uint32_t first; /* sequence that it began with */
	uint32_t sequence; /* of the next message */
	uint32_t end; /* the one for which the datagram has no room any more */
	uint64_t cost;
	uint64_t cost_before; /* without the last one's */
	uint64_t cost_max;
	/* Of all. */
	uint64_t manner; /* the fourth word of a message that is alike, from the type to the code */
	uint8_t *data;
	uint32_t used;
	uint32_t limit;
	uint32_t inner; /* messages on the streams that it was at before */
	uint32_t last_stream; /* of the last of these */
	uint32_t last_sequence;
	uint64_t bytes; /* of payload, of these */
	uint8_t head[VK_MESSAGE_HEAD]; /* of the last frame that has one */
};

_Static_assert(offsetof(struct vk_message, flow) == 0 &&
		       offsetof(struct vk_message, flow_generation) == 4,
	       "a message's first word says whose it is");
_Static_assert(offsetof(struct vk_message, type) == 24 && offsetof(struct vk_message, code) == 28,
	       "a message's fourth word says what it is like");
_Static_assert((int)VK_AGG_ALIGN == sizeof(uint32_t), "a frame is padded by less than a number");

/* Whether a stream's messages need no leave of a pool. */
static int is_free(const struct vk_run *run, const struct vk_flow *flow)
{
	return !(run->flows[vk_flow_number(run, flow)].pooled &&
		 run->peers[flow->peer].session_window);
}

/* Whether what follows needs nothing that is done for each message: stamps, a pool's leave, room of
 * a class of its own. */
static int may_go(const struct vk_run *run, uint32_t ring)
{
	const struct vk_datagram *open = &run->datagram;
	const struct vk_message *like = &run->burst.like;

	return open->data && open->alike && ring != VK_CLASS_CRITICAL && !like->code &&
	       !like->time_ns && !run->params.stamp && is_free(run, run->burst.flow);
}

/* Whether records of the ring need no rate. Reliable ones are entered in the datagram's last run;
 * of best effort nothing may lie before them in the ring. */
static int may_go_on(const struct vk_run *run, uint32_t slot, uint32_t ring)
{
	const struct vk_datagram *open = &run->datagram;
	const struct vk_run_slot *owner = &run->slots[slot];
	const struct vk_sent_run *last;

	if (owner->messages.cost_ns || owner->bytes.cost_ns || !may_go(run, ring))
		return 0;
	if (ring == VK_CLASS_LOGS)
		return vk_ledger_empty(&owner->ledgers[ring]);
	if (!open->run_count)
		return 0;
	last = &open->runs[open->run_count - 1];
	return last->kind == VK_CONTENT_MESSAGES && last->slot == slot && last->ring == ring &&
	       !last->apart && last->first + last->a == owner->ledgers[ring].next;
}

/* A word of a message in memory that an application can write: read once. */
static uint64_t word(const uint8_t *message, size_t at)
{
	return VK_LOAD_RELAXED((const uint64_t *)(const void *)(message + at));
}

static uint32_t half(const uint8_t *message, size_t at)
{
	return VK_LOAD_RELAXED((const uint32_t *)(const void *)(message + at));
}

/* Goes on at a stream, from whose next message on. */
static inline void be_at(struct vk_run *run, struct burst *burst, struct vk_flow *flow)
{
	burst->flow = flow;
	burst->number = vk_flow_number(run, flow);
	memcpy(&burst->whose, (const uint32_t[]){ burst->number, flow->generation },
	       sizeof burst->whose);
	burst->first = flow->tx_sequence;
	burst->sequence = flow->tx_sequence;
	burst->end = flow->tx_sequence + VK_AGG_MAX - run->datagram.inner - burst->inner;
	burst->cost = flow->tx_cost[flow->tx_sequence & 1];
	burst->cost_max = flow->class == VK_CLASS_LOGS ? UINT64_MAX : flow->tx_limit;
}

static struct burst begin(struct vk_run *run)
{
	const struct vk_datagram *open = &run->datagram;
	const struct vk_message *like = &run->burst.like;
	struct burst burst = { .data = open->data, .used = open->used, .limit = open->limit };

	be_at(run, &burst, run->burst.flow);
	memcpy(&burst.manner, (const uint8_t *)like + offsetof(struct vk_message, type),
	       sizeof burst.manner);
	memcpy(burst.head, open->head, VK_MESSAGE_HEAD);
	run->burst.flow = NULL;
	return burst;
}

/* Where the next frame begins. */
static uint32_t end_of(const struct burst *burst)
{
	return VK_OUTER_SIZE + vk_align_run(burst->used - VK_OUTER_SIZE);
}

/* Returns how many bytes lie in front of the payload if a record goes on like the last one, has
 * room and is paid for: those of a compact frame where the head of the one before holds for it,
 * too; 0: it does not go on. */
static inline uint32_t goes_on(const struct burst *burst, const struct vk_record *record,
			       const uint8_t *message, uint32_t correlation)
{
	uint32_t size = record->size - (uint32_t)sizeof(struct vk_message);
	uint32_t head = burst->other ? sizeof(struct vk_compact_stream) : sizeof(struct vk_compact);

	if (correlation != vk_get32(burst->head + VK_CORRELATION_AT))
		head = VK_MESSAGE_HEAD;

	return record->kind == VK_RECORD_DATA && record->size >= sizeof(struct vk_message) &&
			       half(message, offsetof(struct vk_message, sequence)) ==
				       burst->sequence &&
			       word(message, 0) == burst->whose &&
			       word(message, offsetof(struct vk_message, type)) == burst->manner &&
			       !word(message, offsetof(struct vk_message, time_ns)) &&
			       size <= burst->limit &&
			       end_of(burst) + head + size <= burst->limit &&
			       burst->cost + vk_out_cost(size) <= burst->cost_max ?
		       head :
		       0;
}

/* Enters a record as sent. */
static inline int enter(struct vk_ledger *ledger, uint64_t at, const struct vk_record *record,
			const struct burst *burst)
{
	struct vk_entry *entry = vk_ledger_spare(ledger);

	if (!entry)
		entry = vk_ledger_push(ledger, at);
	if (!entry)
		return 0;
	*entry = (struct vk_entry){
		.at = at,
		.flow = burst->number,
		.sequence = burst->sequence,
		.size = record->size,
		.kind = VK_RECORD_DATA,
	};
	vk_out_flying(entry);
	return 1;
}

/* Writes the frame of a message, with so many bytes in front of its payload, behind the one whose
 * head is at hand, and which a head becomes that is written. */
static inline void add(struct burst *burst, uint32_t head, uint32_t correlation,
		       const uint8_t *payload, uint32_t size)
{
	uint8_t *frame = burst->data + end_of(burst);

	vk_put32(burst->data + burst->used, 0); /* padding, and a bit of what comes now */
	if (head == VK_MESSAGE_HEAD) {
		vk_put32(burst->head + VK_LENGTH_AT, size);
		vk_put32(burst->head + VK_CORRELATION_AT, correlation);
		vk_put32(burst->head + VK_STREAM_AT, burst->flow->stream);
		vk_put32(burst->head + VK_SEQUENCE_AT, burst->sequence);
		memcpy(frame, burst->head, VK_MESSAGE_HEAD);
	} else if (burst->other) {
		vk_put_compact_stream(frame, size, burst->flow->stream, burst->sequence);
	} else {
		vk_put_compact(frame, size);
	}
	burst->other = 0;
	memcpy(frame + head, payload, size);
	burst->used = (uint32_t)(frame + head + size - burst->data);
	burst->sequence++;
	burst->cost_before = burst->cost;
	burst->cost += vk_out_cost(size);
}

/* The messages of the stream that a burst is at are on their way for the first time. As in
 * vk_out_count which of the sums of cost holds is told by the sequence's last bit: it is turned by
 * every step. Returns how many they are. */
static inline uint32_t count(struct burst *burst)
{
	struct vk_flow *flow = burst->flow;
	uint32_t messages = burst->sequence - burst->first;

	if (!messages)
		return 0;
	burst->inner += messages;
	burst->bytes += burst->cost - flow->tx_cost[burst->first & 1] -
			(uint64_t)messages * VK_MESSAGE_COST;
	if (messages % 2 == 0) {
		flow->tx_cost[(burst->sequence - 1) & 1] = burst->cost_before;
		VK_STORE_RELEASE(&flow->tx_sequence, burst->sequence - 1);
	}
	flow->tx_cost[burst->sequence & 1] = burst->cost;
	VK_STORE_RELEASE(&flow->tx_sequence, burst->sequence);
	return messages;
}

/* Counts them; of those that are reliable what is not acknowledged, too. */
static inline void leave(struct vk_run *run, struct burst *burst)
{
	uint32_t messages = count(burst);

	if (burst->flow->class != VK_CLASS_LOGS)
		run->flows[burst->number].unacked += messages;
}

/* All of them are in the datagram. */
static void finish(struct vk_run *run, uint32_t slot, uint32_t ring, const struct burst *burst)
{
	struct vk_datagram *open = &run->datagram;

	open->used = burst->used;
	open->inner += burst->inner;
	memcpy(open->head, burst->head, VK_MESSAGE_HEAD);
	vk_put32(open->head + VK_STREAM_AT,
		 burst->other ? burst->last_stream : burst->flow->stream);
	vk_put32(open->head + VK_SEQUENCE_AT,
		 burst->other ? burst->last_sequence : burst->sequence - 1);
	vk_out_sent(run, slot, ring, burst->inner, burst->bytes);
}

/* Turns to the stream of the next record, if that may go like those before it. */
static int turn(struct vk_run *run, struct burst *burst, const struct vk_record *record,
		const uint8_t *body)
{
	const struct vk_flow *from = burst->flow;
	struct vk_message message;
	struct vk_flow *flow;

	if (record->kind != VK_RECORD_DATA || record->size < sizeof message ||
	    word(body, 0) == burst->whose)
		return 0;
	memcpy(&message, body, sizeof message);
	flow = vk_outgoing_flow(run, from->app, from->class, &message);
	if (!flow || flow->peer != from->peer || vk_flows_holds(run, flow) || !is_free(run, flow))
		return 0;
	if (!burst->other) {
		burst->last_stream = from->stream;
		burst->last_sequence = burst->sequence - 1;
	}
	leave(run, burst);
	be_at(run, burst, flow);
	burst->other = 1;
	return 1;
}

void vk_burst_go(struct vk_run *run, uint32_t slot, uint32_t ring, int64_t budget, int64_t *bytes,
		 struct vk_ahead *ahead)
{
	struct vk_rx *in = &run->slots[slot].in[ring];
	struct vk_ledger *ledger = &run->slots[slot].ledgers[ring];
	struct vk_record record;
	struct burst burst;
	const uint8_t *body;
	int64_t sum = *bytes;
	struct vk_rx scan;

	if (!may_go_on(run, slot, ring)) {
		run->burst.flow = NULL;
		return;
	}
	burst = begin(run);
	scan = *in;
	while (sum < budget && burst.sequence != burst.end &&
	       vk_rx_peek(&scan, &record, &body) > 0) {
		uint32_t correlation = half(body, offsetof(struct vk_message, correlation)), head;

		head = goes_on(&burst, &record, body, correlation);
		if (!head) {
			vk_ahead_look(run, &scan, ahead);
			if (!turn(run, &burst, &record, body))
				break;
			head = goes_on(&burst, &record, body, correlation);
		}
		if (!head || (ring != VK_CLASS_LOGS && !enter(ledger, scan.head, &record, &burst)))
			break;
		add(&burst, head, correlation, body + sizeof(struct vk_message),
		    record.size - (uint32_t)sizeof(struct vk_message));
		vk_rx_advance(&scan, &record);
		sum += record.size;
	}
	*bytes = sum;
	in->head = scan.head;
	in->tail = scan.tail;
	leave(run, &burst);
	if (!burst.inner)
		return;
	if (ring != VK_CLASS_LOGS)
		run->datagram.runs[run->datagram.run_count - 1].a += burst.inner;
	finish(run, slot, ring, &burst);
	if (in->head > run->work->looked[slot][ring])
		VK_STORE_RELAXED(&run->work->looked[slot][ring], in->head);
}

void vk_burst_held(struct vk_run *run, int64_t budget, int64_t *bytes)
{
	struct vk_flow *flow = run->burst.flow;
	struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];
	uint32_t slot = flow->app, ring = flow->class;
	struct vk_ledger *ledger = &run->slots[slot].ledgers[ring];
	struct burst burst;

	if (ring == VK_CLASS_LOGS || !run->datagram.run_count || !may_go(run, ring)) {
		run->burst.flow = NULL;
		return;
	}
	burst = begin(run);
	while (own->held_count && *bytes < budget && burst.sequence != burst.end) {
		struct vk_entry *entry = vk_ledger_get(ledger, own->held_first);
		struct vk_record record = { .size = entry->size, .kind = entry->kind };
		const uint8_t *body = vk_out_body(run, slot, ring, entry->at);
		uint32_t correlation = half(body, offsetof(struct vk_message, correlation)), head;

		head = goes_on(&burst, &record, body, correlation);
		if (!head || entry->more || entry->shards || entry->again ||
		    !vk_datagram_carry(&run->datagram, slot, ring, own->held_first))
			break;
		add(&burst, head, correlation, body + sizeof(struct vk_message),
		    record.size - (uint32_t)sizeof(struct vk_message));
		vk_out_flying(entry);
		*bytes += entry->size;
		vk_flows_went(run, flow);
	}
	if (count(&burst))
		finish(run, slot, ring, &burst);
}
