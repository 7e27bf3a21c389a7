/* SPDX-License-Identifier: MIT */
#include "vk_burst.h"

#include "vk_flows.h"

#include <string.h>

/* What a burst has come to. */
struct tally {
	uint32_t count;
	uint64_t cost;
	uint64_t cost_before; /* without the last one's */
	uint64_t bytes; /* of payload */
};

/* Whether what follows needs nothing that is done for each message: stamps, rates, a pool's leave,
 * room of a class of its own. */
static int may_go(const struct vk_run *run, uint32_t slot, uint32_t ring)
{
	const struct vk_datagram *open = &run->datagram;
	const struct vk_run_slot *owner = &run->slots[slot];
	const struct vk_flow *flow = run->burst.flow;
	const struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];
	const struct vk_message *like = &run->burst.like;
	const struct vk_sent_run *last;

	if (!open->data || !open->inner || !open->run_count || ring == VK_CLASS_CRITICAL ||
	    ring == VK_CLASS_LOGS || like->code || like->time_ns || run->params.stamp ||
	    owner->messages.cost_ns || owner->bytes.cost_ns ||
	    (own->pooled && run->peers[flow->peer].session_window))
		return 0;
	last = &open->runs[open->run_count - 1];
	return last->kind == VK_CONTENT_MESSAGES && last->slot == slot && last->ring == ring &&
	       last->first + last->a == owner->ledgers[ring].next;
}

static int is_alike(const struct vk_record *record, const struct vk_message *message,
		    const struct vk_message *like, uint32_t sequence)
{
	return record->kind == VK_RECORD_DATA && record->size >= sizeof *message &&
	       message->sequence == sequence && message->flow == like->flow &&
	       message->flow_generation == like->flow_generation && message->type == like->type &&
	       message->flags == like->flags && message->priority == like->priority &&
	       message->trace == like->trace && !message->code && !message->time_ns;
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

/* The bytes in front of a message's payload: those of a compact frame, if it goes on with the one
 * before it, whose head is at hand. */
static uint32_t head_of(const uint8_t head[VK_MESSAGE_HEAD], const struct vk_message *message)
{
	return message->correlation == vk_get32(head + VK_CORRELATION_AT) ?
		       sizeof(struct vk_compact) :
		       VK_MESSAGE_HEAD;
}

/* Writes the frame of a message behind the one whose head is at hand, and which a head becomes that
 * is written; returns where it ends. */
static uint32_t write(uint8_t *data, uint32_t used, uint32_t at, uint8_t head[VK_MESSAGE_HEAD],
		      const struct vk_message *message, const uint8_t *payload, uint32_t size)
{
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

/* The messages are on their way for the first time. As in vk_out_count which of the sums of cost
 * holds is told by the sequence's last bit: it is turned by every step. */
static void count(struct vk_run *run, uint32_t slot, uint32_t ring, struct vk_flow *flow,
		  const struct tally *tally)
{
	uint32_t first = flow->tx_sequence, next = first + tally->count;

	if (tally->count % 2 == 0) {
		flow->tx_cost[(first + 1) & 1] = tally->cost_before;
		VK_STORE_RELEASE(&flow->tx_sequence, next - 1);
	}
	flow->tx_cost[next & 1] = tally->cost;
	VK_STORE_RELEASE(&flow->tx_sequence, next);
	vk_out_sent(run, slot, ring, flow, tally->count, tally->bytes);
	run->flows[vk_flow_number(run, flow)].unacked += tally->count;
}

void vk_burst_go(struct vk_run *run, uint32_t slot, uint32_t ring, int64_t budget, int64_t *bytes)
{
	struct vk_rx *in = &run->slots[slot].in[ring];
	struct vk_ledger *ledger = &run->slots[slot].ledgers[ring];
	struct vk_datagram *open = &run->datagram;
	struct vk_flow *flow = run->burst.flow;
	uint8_t head[VK_MESSAGE_HEAD];
	struct tally tally = { 0 };
	struct vk_record record;
	const uint8_t *body;

	if (!may_go(run, slot, ring)) {
		run->burst.flow = NULL;
		return;
	}
	run->burst.flow = NULL;
	memcpy(head, open->data + open->used - run->burst.size - VK_MESSAGE_HEAD, VK_MESSAGE_HEAD);
	tally.cost = flow->tx_cost[flow->tx_sequence & 1];
	while (*bytes < budget && open->inner < VK_AGG_MAX && vk_rx_peek(in, &record, &body) > 0) {
		uint32_t at = VK_OUTER_SIZE + vk_align_run(open->used - VK_OUTER_SIZE);
		struct vk_message message;
		uint32_t size = record.size - (uint32_t)sizeof message;
		uint64_t cost = tally.cost + vk_out_cost(size);

		memcpy(&message, body, sizeof message);
		if (!is_alike(&record, &message, &run->burst.like,
			      flow->tx_sequence + tally.count) ||
		    size > open->limit || at + head_of(head, &message) + size > open->limit ||
		    cost > flow->tx_limit || !enter(ledger, in->head, &record, &message))
			break;
		open->used = write(open->data, open->used, at, head, &message,
				   body + sizeof message, size);
		open->inner++;
		vk_rx_advance(in, &record);
		tally.cost_before = tally.cost;
		tally.cost = cost;
		tally.bytes += size;
		tally.count++;
		*bytes += record.size;
	}
	if (!tally.count)
		return;
	open->runs[open->run_count - 1].a += tally.count;
	count(run, slot, ring, flow, &tally);
	if (in->head > run->work->looked[slot][ring])
		VK_STORE_RELAXED(&run->work->looked[slot][ring], in->head);
}
