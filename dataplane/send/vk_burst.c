/* SPDX-License-Identifier: MIT */
#include "vk_burst.h"

#include "vk_flows.h"

#include <string.h>

/* What a burst goes on with and has come to. */
struct burst {
	struct vk_flow *flow;
	const struct vk_message *like;
	uint8_t head[VK_MESSAGE_HEAD]; /* of the last frame that has one */
	uint32_t count;
	uint64_t cost;
	uint64_t cost_before; /* without the last one's */
	uint64_t bytes; /* of payload */
};

/* Whether what follows needs nothing that is done for each message: stamps, a pool's leave, room of
 * a class of its own. */
static int may_go(const struct vk_run *run, uint32_t ring)
{
	const struct vk_datagram *open = &run->datagram;
	const struct vk_flow *flow = run->burst.flow;
	const struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];
	const struct vk_message *like = &run->burst.like;

	return open->data && open->inner && open->run_count && ring != VK_CLASS_CRITICAL &&
	       ring != VK_CLASS_LOGS && !like->code && !like->time_ns && !run->params.stamp &&
	       !(own->pooled && run->peers[flow->peer].session_window);
}

/* Whether records of the ring need no rate and can be entered in the datagram's last run. */
static int may_go_on(const struct vk_run *run, uint32_t slot, uint32_t ring)
{
	const struct vk_datagram *open = &run->datagram;
	const struct vk_run_slot *owner = &run->slots[slot];
	const struct vk_sent_run *last;

	if (owner->messages.cost_ns || owner->bytes.cost_ns || !may_go(run, ring))
		return 0;
	last = &open->runs[open->run_count - 1];
	return last->kind == VK_CONTENT_MESSAGES && last->slot == slot && last->ring == ring &&
	       !last->apart && last->first + last->a == owner->ledgers[ring].next;
}

static struct burst begin(struct vk_run *run)
{
	const struct vk_datagram *open = &run->datagram;
	struct burst burst = { .flow = run->burst.flow, .like = &run->burst.like };

	memcpy(burst.head, open->data + open->used - run->burst.size - VK_MESSAGE_HEAD,
	       VK_MESSAGE_HEAD);
	burst.cost = burst.flow->tx_cost[burst.flow->tx_sequence & 1];
	return burst;
}

static int is_alike(uint32_t kind, const struct vk_message *message, const struct vk_message *like,
		    uint32_t sequence)
{
	return kind == VK_RECORD_DATA && message->sequence == sequence &&
	       message->flow == like->flow && message->flow_generation == like->flow_generation &&
	       message->type == like->type && message->flags == like->flags &&
	       message->priority == like->priority && message->trace == like->trace &&
	       !message->code && !message->time_ns;
}

/* The bytes in front of a message's payload: those of a compact frame, if it goes on with the one
 * before it, whose head is at hand. */
static uint32_t head_of(const uint8_t head[VK_MESSAGE_HEAD], const struct vk_message *message)
{
	return message->correlation == vk_get32(head + VK_CORRELATION_AT) ?
		       sizeof(struct vk_compact) :
		       VK_MESSAGE_HEAD;
}

/* Whether a record of so many bytes goes on like the last one, has room and is paid for. */
static int goes_on(const struct vk_datagram *open, const struct burst *burst, uint32_t kind,
		   uint32_t bytes, const struct vk_message *message)
{
	uint32_t at = VK_OUTER_SIZE + vk_align_run(open->used - VK_OUTER_SIZE);
	uint32_t size = bytes - (uint32_t)sizeof *message;

	return bytes >= sizeof *message &&
	       is_alike(kind, message, burst->like, burst->flow->tx_sequence + burst->count) &&
	       size <= open->limit && at + head_of(burst->head, message) + size <= open->limit &&
	       burst->cost + vk_out_cost(size) <= burst->flow->tx_limit;
}

/* Enters a record as sent. */
static int enter(struct vk_ledger *ledger, uint64_t at, const struct vk_record *record,
		 const struct vk_message *message)
{
	struct vk_entry *entry = vk_ledger_push(ledger, at);

	if (!entry)
		return 0;
	entry->flow = message->flow;
	entry->sequence = message->sequence;
	entry->size = record->size;
	entry->kind = record->kind;
	vk_out_flying(entry);
	return 1;
}

/* Writes the frame of a message behind the one whose head is at hand, and which a head becomes that
 * is written; returns where it ends. */
static uint32_t write(uint8_t *data, uint32_t used, uint8_t head[VK_MESSAGE_HEAD],
		      const struct vk_message *message, const uint8_t *payload, uint32_t size)
{
	uint32_t at = VK_OUTER_SIZE + vk_align_run(used - VK_OUTER_SIZE);
	uint8_t *frame = data + at;

	memset(data + used, 0, at - used);
	if (head_of(head, message) == VK_MESSAGE_HEAD) {
		vk_put32(head + VK_LENGTH_AT, size);
		vk_put32(head + VK_CORRELATION_AT, message->correlation);
		vk_put32(head + VK_SEQUENCE_AT, message->sequence);
		memcpy(frame, head, VK_MESSAGE_HEAD);
		frame += VK_MESSAGE_HEAD;
	} else {
		frame = vk_put_compact(frame, size);
	}
	memcpy(frame, payload, size);
	return (uint32_t)(frame + size - data);
}

static void add(struct vk_datagram *open, struct burst *burst, const struct vk_message *message,
		const uint8_t *payload, uint32_t size)
{
	open->used = write(open->data, open->used, burst->head, message, payload, size);
	open->inner++;
	burst->cost_before = burst->cost;
	burst->cost += vk_out_cost(size);
	burst->bytes += size;
	burst->count++;
}

/* The messages are on their way for the first time. As in vk_out_count which of the sums of cost
 * holds is told by the sequence's last bit: it is turned by every step. */
static void count(struct vk_run *run, uint32_t slot, uint32_t ring, const struct burst *burst)
{
	struct vk_flow *flow = burst->flow;
	uint32_t first = flow->tx_sequence, next = first + burst->count;

	if (burst->count % 2 == 0) {
		flow->tx_cost[(first + 1) & 1] = burst->cost_before;
		VK_STORE_RELEASE(&flow->tx_sequence, next - 1);
	}
	flow->tx_cost[next & 1] = burst->cost;
	VK_STORE_RELEASE(&flow->tx_sequence, next);
	vk_out_sent(run, slot, ring, burst->count, burst->bytes);
}

static uint32_t flow_of(const uint8_t *body)
{
	uint32_t flow;

	memcpy(&flow, body + offsetof(struct vk_message, flow), sizeof flow);
	return flow;
}

void vk_burst_go(struct vk_run *run, uint32_t slot, uint32_t ring, int64_t budget, int64_t *bytes)
{
	struct vk_rx *in = &run->slots[slot].in[ring];
	struct vk_ledger *ledger = &run->slots[slot].ledgers[ring];
	struct vk_datagram *open = &run->datagram;
	struct vk_record record;
	struct burst burst;
	const uint8_t *body;

	/* Streams often take turns: then nothing else is to be looked at. */
	if (vk_rx_peek(in, &record, &body) <= 0 || flow_of(body) != run->burst.like.flow ||
	    !may_go_on(run, slot, ring)) {
		run->burst.flow = NULL;
		return;
	}
	burst = begin(run);
	run->burst.flow = NULL;
	while (*bytes < budget && open->inner < VK_AGG_MAX && vk_rx_peek(in, &record, &body) > 0) {
		struct vk_message message;

		memcpy(&message, body, sizeof message);
		if (!goes_on(open, &burst, record.kind, record.size, &message) ||
		    !enter(ledger, in->head, &record, &message))
			break;
		add(open, &burst, &message, body + sizeof message,
		    record.size - (uint32_t)sizeof message);
		vk_rx_advance(in, &record);
		*bytes += record.size;
	}
	if (!burst.count)
		return;
	open->runs[open->run_count - 1].a += burst.count;
	count(run, slot, ring, &burst);
	run->flows[vk_flow_number(run, burst.flow)].unacked += burst.count;
	if (in->head > run->work->looked[slot][ring])
		VK_STORE_RELAXED(&run->work->looked[slot][ring], in->head);
}

void vk_burst_held(struct vk_run *run, int64_t budget, int64_t *bytes)
{
	struct vk_flow *flow = run->burst.flow;
	struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];
	uint32_t slot = flow->app, ring = flow->class;
	struct vk_ledger *ledger = &run->slots[slot].ledgers[ring];
	struct vk_datagram *open = &run->datagram;
	struct burst burst;

	if (!may_go(run, ring)) {
		run->burst.flow = NULL;
		return;
	}
	burst = begin(run);
	run->burst.flow = NULL;
	while (own->held_count && *bytes < budget && open->inner < VK_AGG_MAX) {
		struct vk_entry *entry = vk_ledger_get(ledger, own->held_first);
		struct vk_message message;
		struct vk_out out;

		vk_out_read(run, slot, ring, entry, &message, &out);
		if (entry->more || entry->shards || entry->again ||
		    !goes_on(open, &burst, entry->kind, entry->size, &message) ||
		    !vk_datagram_carry(open, slot, ring, own->held_first))
			break;
		add(open, &burst, &message, out.payload, out.size);
		vk_out_flying(entry);
		*bytes += entry->size;
		vk_flows_went(run, flow);
	}
	if (burst.count)
		count(run, slot, ring, &burst);
}
