/* SPDX-License-Identifier: MIT */
#include "vk_again.h"

#include "vk_burst.h"
#include "vk_content.h"
#include "vk_credit.h"
#include "vk_fit.h"
#include "vk_flows.h"
#include "vk_out.h"

#include <string.h>

static int send_entry(struct vk_run *run, const struct vk_out *out, const struct vk_entry *entry,
		      uint32_t number, int forced)
{
	struct vk_part part;

	if (entry->kind == VK_RECORD_OPEN)
		return vk_out_open(run, out, number, forced);
	if (entry->kind == VK_RECORD_CLOSE)
		return vk_out_close(run, out, number, forced);
	part = vk_out_part(run, out, number, entry->again);
	part.forced = (uint8_t)forced;
	if (!vk_out_fits(run, &part)) /* the path's MTU shrank */
		return -1;
	return vk_datagram_add(run, &part, 0);
}

/* A message that no longer fits goes in shards from now on. */
static int break_up(struct vk_run *run, struct vk_entry *entry, struct vk_sent_run *content)
{
	uint32_t size = entry->size - (uint32_t)sizeof(struct vk_message);

	if (!entry->shards) /* else it is probed once more */
		entry->shards = vk_shards_new(&run->shards, size);
	if (!entry->shards)
		return 0;
	run->shards.rows[entry->shards - 1].sent = size;
	content->kind = VK_CONTENT_SHARD;
	content->a = 0;
	content->b = size;
	return 1;
}

int vk_again_entry(struct vk_run *run, uint32_t slot, uint32_t ring, uint32_t number, int forced)
{
	struct vk_ledger *ledger = &run->slots[slot].ledgers[ring];
	struct vk_entry *entry = vk_ledger_get(ledger, number);
	struct vk_message message;
	struct vk_out out;
	int sent;

	if (!vk_out_read(run, slot, ring, entry, &message, &out))
		return 1;
	if (entry->kind == VK_RECORD_OPEN && out.flow->answered) {
		vk_content_done(run, slot, ring,
				number); /* it came; asked late, it would open anew */
		return 1;
	}
	sent = send_entry(run, &out, entry, number, forced);
	if (!sent)
		return 0;
	vk_out_flying(entry);
	vk_count_row(run, ring)[VK_TX_AGAIN]++;
	if (sent < 0) {
		struct vk_sent_run content = { .slot = (uint8_t)slot,
					       .ring = (uint8_t)ring,
					       .first = number };

		if (break_up(run, entry, &content) && !vk_again_shard(run, &content, forced))
			vk_session_lost(run, vk_session_of(run, out.flow->peer), &content);
	}
	return 1;
}

int vk_again_shard(struct vk_run *run, struct vk_sent_run *content, int forced)
{
	struct vk_ledger *ledger = &run->slots[content->slot].ledgers[content->ring];
	struct vk_entry *entry = vk_ledger_get(ledger, content->first);
	uint32_t end = content->a + content->b;
	struct vk_message message;
	struct vk_span missing;
	struct vk_out out;

	if (!vk_out_read(run, content->slot, content->ring, entry, &message, &out))
		return 1;
	while (vk_shards_missing(&run->shards.rows[entry->shards - 1], content->a, end, &missing)) {
		uint32_t stop = vk_out_shards(run, &out, content->first, missing.begin, missing.end,
					      1, forced);

		vk_count_row(run, out.ring)[VK_TX_AGAIN] += stop > missing.begin;
		content->a = stop;
		content->b = end - stop;
		if (stop < missing.end)
			return 0;
	}
	return 1;
}

/* How far a large message may go on from where it stopped: whole datagrams only, as many as its
 * stream's credit pays for, and as the turn's budget is used up by. What ends within a datagram
 * makes the next turn begin there, and end within another: each such costs 12 bytes of headers, if
 * not 60. */
static uint32_t shards_end(struct vk_run *run, const struct vk_out *out, uint32_t number,
			   uint32_t sent, int64_t budget)
{
	const struct vk_flow *flow = out->flow;
	uint64_t paid = flow->tx_cost[flow->tx_sequence & 1] + VK_MESSAGE_COST + sent;
	uint64_t size = out->size - sent, turn;

	if (out->message->sequence == flow->tx_sequence &&
	    !vk_out_affordable(run, flow, vk_out_cost(out->size)))
		size = flow->tx_limit > paid ?
			       vk_out_whole(run, out, number, flow->tx_limit - paid, 0) :
			       0;
	turn = budget > 0 ? vk_out_whole(run, out, number, (uint64_t)budget, 1) : 0;
	return sent + (uint32_t)(size < turn ? size : turn);
}

/* A large message goes on where it stopped. */
static enum vk_outcome held_shards(struct vk_run *run, const struct vk_out *out, uint32_t number,
				   int64_t budget, int64_t *bytes)
{
	struct vk_ledger *ledger = &run->slots[out->slot].ledgers[out->ring];
	struct vk_entry *entry = vk_ledger_get(ledger, number);
	struct vk_shards *shards;
	uint32_t end, stop;

	if (!entry->shards)
		entry->shards = vk_shards_new(&run->shards, out->size);
	if (!entry->shards) {
		run->refused = VK_BLOCKED_MEMORY;
		return VK_LATER;
	}
	shards = &run->shards.rows[entry->shards - 1];
	end = shards_end(run, out, number, shards->sent, budget - *bytes);
	if (end == shards->sent)
		return VK_HOLD;
	stop = vk_out_shards(run, out, number, shards->sent, end, 0, 0);
	*bytes += stop - shards->sent;
	shards->sent = stop;
	if (stop < end)
		return VK_LATER;
	if (stop < out->size)
		return VK_HOLD;
	vk_out_flying(entry);
	vk_out_count(run, out);
	if (out->ring == VK_CLASS_LOGS)
		vk_content_done(run, out->slot, out->ring, number);
	return VK_WENT;
}

/* Whether credit pays for a message, or for the beginning of a large one. */
static int may_begin(struct vk_run *run, const struct vk_out *out)
{
	uint64_t cost = vk_out_cost(out->size);

	return (out->size > vk_fit_payload(run, out->flow->peer) ||
		vk_out_affordable(run, out->flow, cost)) &&
	       vk_credit_begin(run, out->flow, cost);
}

/* Whether a message is still to begin: no byte of it went. */
static int is_whole(const struct vk_run *run, const struct vk_entry *entry)
{
	return !entry->shards || !run->shards.rows[entry->shards - 1].sent;
}

static enum vk_outcome held_one(struct vk_run *run, struct vk_flow *flow, uint32_t number,
				int64_t budget, int64_t *bytes)
{
	uint32_t slot = flow->app, ring = flow->class;
	struct vk_ledger *ledger = &run->slots[slot].ledgers[ring];
	struct vk_entry *entry = vk_ledger_get(ledger, number);
	struct vk_message message;
	struct vk_out out;
	int sent;

	if (!vk_out_read(run, slot, ring, entry, &message, &out))
		return VK_WENT;
	if (entry->kind == VK_RECORD_DATA && ring == VK_CLASS_LOGS && is_whole(run, entry) &&
	    vk_out_late(run, &out)) {
		vk_content_done(run, slot, ring, number);
		return VK_WENT;
	}
	if (entry->kind == VK_RECORD_DATA && !entry->shards &&
	    entry->sequence == flow->tx_sequence && !may_begin(run, &out))
		return VK_HOLD;
	sent = entry->shards ? -1 : send_entry(run, &out, entry, number, 0);
	if (sent < 0)
		return held_shards(run, &out, number, budget, bytes);
	if (!sent)
		return VK_LATER;
	vk_out_flying(entry);
	*bytes += entry->size;
	if (entry->kind == VK_RECORD_DATA) {
		vk_burst_begin(run, &out);
		vk_out_count(run, &out);
	}
	if (entry->kind == VK_RECORD_DATA && ring == VK_CLASS_LOGS)
		vk_content_done(run, slot, ring, number);
	return VK_WENT;
}

enum vk_outcome vk_again_held(struct vk_run *run, struct vk_flow *flow, int64_t budget,
			      int64_t *bytes, int *more)
{
	const struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];
	enum vk_outcome outcome = VK_WENT;

	*more = 0;
	while (own->held_count && outcome == VK_WENT) {
		if (*bytes >= budget) {
			*more = 1;
			return VK_HOLD;
		}
		run->burst.flow = NULL;
		outcome = held_one(run, flow, own->held_first, budget, bytes);
		if (outcome == VK_WENT)
			vk_flows_went(run, flow);
		if (run->burst.flow)
			vk_burst_held(run, budget, bytes);
	}
	*more = outcome == VK_HOLD && *bytes >= budget;
	return outcome;
}

/* Whether a flow's credit pays for half of what it holds, and for the first message: with less it
 * would be held once more, again and again. */
static int pays_half(const struct vk_run *run, const struct vk_flow *flow,
		     const struct vk_entry *first)
{
	const struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];
	const uint64_t head = sizeof(struct vk_message);
	uint64_t half = (own->held_bytes + own->held_count * (VK_MESSAGE_COST - head)) / 2;
	uint64_t least = first->size + (VK_MESSAGE_COST - head);
	uint64_t spent = flow->tx_cost[flow->tx_sequence & 1];

	return !own->pooled && flow->tx_limit >= spent + (half > least ? half : least);
}

void vk_again_unhold(struct vk_run *run, uint32_t slot, uint32_t ring)
{
	struct vk_run_slot *owner = &run->slots[slot];
	struct vk_ledger *ledger = &owner->ledgers[ring];
	uint32_t number = owner->some_stream[ring] - 1; /* none: no flow's */
	const struct vk_entry *entry;
	const struct vk_flow *flow;
	struct vk_flow_run *own;

	if (number >= VK_FLOWS_MAX || owner->messages.cost_ns || owner->bytes.cost_ns)
		return; /* a rate would be paid twice */
	own = &run->flows[number];
	flow = &run->work->flows[number];
	if (flow->state != VK_ROW_LIVE || flow->app != slot || flow->class != ring ||
	    own->closing || !own->held_count || own->held_count != ledger->next - own->held_first)
		return;
	entry = vk_ledger_get(ledger, own->held_first);
	/* What fits no datagram is held for its shards: looked at again it would be held again. */
	if (!pays_half(run, flow, entry) || entry->shards || entry->kind != VK_RECORD_DATA ||
	    !vk_out_alone(run, flow, entry->size - (uint32_t)sizeof(struct vk_message)))
		return;
	owner->in[ring].head = entry->at;
	ledger->next = own->held_first;
	own->unacked -= own->held_count;
	run->pools[flow->peer].held -= own->held_bytes;
	own->held_bytes = 0;
	own->held_count = 0;
}
