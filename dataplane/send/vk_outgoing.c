/* SPDX-License-Identifier: MIT */
#include "vk_outgoing.h"

#include "vk_behind.h"
#include "vk_burst.h"
#include "vk_content.h"
#include "vk_credit.h"
#include "vk_flows.h"
#include "vk_out.h"
#include "vk_slots.h"

#include <string.h>

/* ---- Streams begin and end ---- */

/* Tells an application that its OPEN is refused. */
static void refuse_open(struct vk_run *run, uint32_t slot, uint32_t class,
			const struct vk_message *message, uint32_t code)
{
	struct vk_message reply = *message;
	uint8_t *body = vk_slots_out(run, slot, class, sizeof reply);

	if (!body)
		return;
	reply.flow = reply.flow_generation = 0; /* it has none */
	reply.code = code;
	memcpy(body, &reply, sizeof reply);
	vk_slots_commit(run, slot, class, sizeof reply, VK_RECORD_OPENED);
}

/* Which flow an OPEN is for: an old one asked for again, or a new one; NULL = refused, or (*code 0)
 * done with by a worker before this one. */
static struct vk_flow *flow_to_open(struct vk_run *run, uint32_t slot, uint32_t ring,
				    const struct vk_message *message, uint32_t size, uint32_t *code)
{
	struct vk_flow *flow;

	*code = 0;
	if (message->peer >= VK_PEERS_MAX || run->peers[message->peer].state != VK_ROW_LIVE)
		*code = VK_CODE_NO_PEER;
	else if (vk_stream_class(message->stream) != ring || size > VK_SERVICE_NAME_MAX ||
		 !vk_slots_allow(&run->slots[slot], message->stream) ||
		 !vk_slots_reach(run, slot, message->peer))
		*code = VK_CODE_POLICY;
	else if (!run->peers[message->peer].joined)
		*code = run->peers[message->peer].refuse;
	if (*code)
		return NULL;
	flow = vk_flows_find(run, message->peer, message->stream);
	if ((!flow || flow->token != message->correlation || flow->state != VK_ROW_LIVE) &&
	    run->slots[slot].in[ring].head < run->work->looked[slot][ring])
		return NULL;
	if (flow && flow->state == VK_ROW_CLOSING) {
		vk_flows_close(run, flow);
		flow = NULL;
	}
	if (flow && (!flow->opener || flow->app != slot || flow->token != message->correlation)) {
		*code = VK_CODE_STREAM_IN_USE;
		return NULL;
	}
	if (!flow)
		flow = vk_flows_open(run, message->peer, message->stream, slot,
				     message->correlation, 1);
	if (!flow)
		*code = VK_CODE_STREAMS_FULL;
	return flow;
}

/* The entry of the record at the ring's scan position, for a flow. */
static struct vk_entry *enter(struct vk_run *run, uint32_t slot, uint32_t ring,
			      const struct vk_record *record, struct vk_flow *flow,
			      uint32_t sequence)
{
	struct vk_run_slot *owner = &run->slots[slot];
	struct vk_ledger *ledger = &owner->ledgers[ring];
	struct vk_entry *entry = vk_ledger_push(ledger, owner->in[ring].head);

	if (!entry)
		return NULL;
	entry->kind = record->kind;
	entry->size = record->size;
	entry->flow = vk_flow_number(run, flow);
	entry->sequence = sequence;
	run->flows[entry->flow].unacked++;
	return entry;
}

/* Takes back what `enter` just did: the record stays in the ring. */
static void leave(struct vk_run *run, uint32_t slot, uint32_t ring, struct vk_flow *flow)
{
	struct vk_ledger *ledger = &run->slots[slot].ledgers[ring];

	ledger->next--;
	run->flows[vk_flow_number(run, flow)].unacked--;
}

int vk_outgoing_ahead(const struct vk_run *run, uint32_t slot, uint32_t ring)
{
	const uint32_t mixed = 1u << VK_CLASS_JOB | 1u << VK_CLASS_DATA;
	const struct vk_run_slot *owner = &run->slots[slot];

	if (run->refused != VK_BLOCKED_CONGESTION && run->refused != VK_BLOCKED_SESSION)
		return 0;
	return owner->many_peers || owner->many_streams & mixed & 1u << ring;
}

/* Puts a record behind what its flow holds. */
static enum vk_outcome hold(struct vk_run *run, struct vk_flow *flow, uint32_t number,
			    struct vk_ledger *ledger)
{
	struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];

	if (own->held_count)
		vk_ledger_get(ledger, own->held_last)->next = number;
	else
		own->held_first = number;
	if (!own->held_count)
		own->since_ns = run->now_ns;
	own->held_last = number;
	own->held_count++;
	own->held_bytes += vk_ledger_get(ledger, number)->size;
	run->pools[flow->peer].held += vk_ledger_get(ledger, number)->size;
	vk_lanes_add(run, flow);
	return VK_HOLD;
}

/* What becomes of a record that cannot go now: a peer's window may not keep others waiting, nor a
 * large message small ones of other streams. */
static enum vk_outcome later(const struct vk_run *run, const struct vk_out *out)
{
	return vk_outgoing_ahead(run, out->slot, out->ring) ? VK_HOLD : VK_LATER;
}

/* The same of one that is entered, in the ledger's last entry. */
static enum vk_outcome later_or_hold(struct vk_run *run, const struct vk_out *out)
{
	struct vk_ledger *ledger = &run->slots[out->slot].ledgers[out->ring];

	if (later(run, out) == VK_HOLD)
		return hold(run, out->flow, ledger->next - 1, ledger);
	leave(run, out->slot, out->ring, out->flow);
	return VK_LATER;
}

/* Whether a stream is still that of an application which leaves: it is free as soon as the peer has
 * what that one sent, and the next one may know that it closed it. */
static int is_left(struct vk_run *run, uint32_t slot, const struct vk_message *message)
{
	const struct vk_flow *flow = message->peer < VK_PEERS_MAX ?
					     vk_flows_find(run, message->peer, message->stream) :
					     NULL;

	return flow && flow->state == VK_ROW_LIVE && flow->app != slot &&
	       run->slots[flow->app].leaving_ns;
}

static enum vk_outcome take_open(struct vk_run *run, uint32_t slot, uint32_t ring,
				 const struct vk_record *record, const struct vk_message *message,
				 const uint8_t *name)
{
	int waits = is_left(run, slot, message);
	uint32_t size = record->size - (uint32_t)sizeof *message, code = 0;
	struct vk_flow *flow = waits ? NULL : flow_to_open(run, slot, ring, message, size, &code);
	struct vk_ledger *ledger = &run->slots[slot].ledgers[ring];
	struct vk_out out = { flow, message, name, size, slot, ring };
	struct vk_entry *entry;

	if (waits) {
		run->refused = VK_BLOCKED_SESSION;
		return VK_LATER;
	}
	if (!flow) {
		if (code)
			refuse_open(run, slot, ring, message, code);
		return VK_WENT;
	}
	if (run->flows[vk_flow_number(run, flow)].unacked || flow->answered)
		return VK_WENT; /* asked again while the first one is under way */
	entry = enter(run, slot, ring, record, flow, 0);
	if (!entry) {
		run->refused = VK_BLOCKED_MEMORY;
		return VK_LATER;
	}
	if (!vk_out_open(run, &out, ledger->next - 1, 0))
		return later_or_hold(run, &out);
	vk_out_flying(entry);
	return VK_WENT;
}

/* The flow that an ending record is about, NULL = gone already. */
static struct vk_flow *flow_to_end(struct vk_run *run, uint32_t slot,
				   const struct vk_message *message)
{
	struct vk_flow *flow = NULL;

	if (message->flow < VK_FLOWS_MAX) {
		flow = &run->work->flows[message->flow];
		if (flow->state != VK_ROW_LIVE || flow->generation != message->flow_generation)
			flow = NULL;
	} else if (message->peer < VK_PEERS_MAX) {
		flow = vk_flows_find(run, message->peer, message->stream);
		if (flow && (flow->token != message->correlation || flow->state != VK_ROW_LIVE))
			flow = NULL;
	}
	return flow && flow->app == slot ? flow : NULL;
}

static enum vk_outcome take_close(struct vk_run *run, uint32_t slot, uint32_t ring,
				  const struct vk_record *record, const struct vk_message *message)
{
	struct vk_flow *flow = flow_to_end(run, slot, message);
	struct vk_ledger *ledger = &run->slots[slot].ledgers[ring];
	struct vk_out out = { flow, message, NULL, 0, slot, ring };
	struct vk_entry *entry;

	if (!flow || flow->class != ring)
		return VK_WENT;
	entry = enter(run, slot, ring, record, flow, flow->tx_sequence);
	if (!entry) {
		run->refused = VK_BLOCKED_MEMORY;
		return VK_LATER;
	}
	run->flows[vk_flow_number(run, flow)].closing = 1;
	if (vk_flows_holds(run, flow))
		return hold(run, flow, ledger->next - 1, ledger);
	if (!vk_out_close(run, &out, ledger->next - 1, 0))
		return later_or_hold(run, &out);
	vk_out_flying(entry);
	return VK_WENT;
}

static enum vk_outcome take_reset(struct vk_run *run, uint32_t slot,
				  const struct vk_message *message)
{
	struct vk_flow *flow = flow_to_end(run, slot, message);

	if (flow)
		vk_flows_end(run, flow, message->code ? message->code : VK_CODE_CANCELLED);
	return VK_WENT;
}

/* Answered when everything before it in the ring is done: vk_slots_flush meets it then. */
static enum vk_outcome take_flush(struct vk_run *run, uint32_t slot, uint32_t ring)
{
	struct vk_run_slot *owner = &run->slots[slot];
	struct vk_entry *entry = vk_ledger_push(&owner->ledgers[ring], owner->in[ring].head);

	if (!entry) {
		run->refused = VK_BLOCKED_MEMORY;
		return VK_LATER;
	}
	entry->kind = VK_RECORD_FLUSH;
	entry->flow = VK_NO_FLOW;
	entry->state = VK_ENTRY_DONE;
	return VK_WENT;
}

/* ---- Messages ---- */

struct vk_flow *vk_outgoing_flow(struct vk_run *run, uint32_t slot, uint32_t ring,
				 const struct vk_message *message)
{
	struct vk_flow *flow;

	if (message->flow >= VK_FLOWS_MAX)
		return NULL;
	flow = &run->work->flows[message->flow];
	if (flow->state != VK_ROW_LIVE || flow->generation != message->flow_generation ||
	    flow->app != slot || flow->class != ring ||
	    ((flow->closed & VK_CLOSED_HERE || run->flows[message->flow].closing) &&
	     (int32_t)(message->sequence - flow->tx_sequence) >= 0) ||
	    flow->app_generation != run->slots[slot].generation)
		return NULL;
	return flow;
}

/* Why a message cannot be sent at all; VK_COUNTER_COUNT = it can. */
static enum vk_counter refuse_data(const struct vk_run *run, const struct vk_flow *flow,
				   const struct vk_message *message, uint32_t size)
{
	uint32_t held = flow ? run->flows[vk_flow_number(run, flow)].held_count : 0;
	uint8_t type = message->type ? message->type : VK_STREAM_DATA;

	if (!flow)
		return VK_REFUSED_FLOW;
	if ((int32_t)(message->sequence - flow->tx_sequence) > (int32_t)held)
		return VK_REFUSED_POLICY;
	if (size > VK_SHARDED_MAX)
		return VK_REFUSED_SIZE;
	if (!vk_type_message(type))
		return VK_REFUSED_POLICY;
	return run->peers[flow->peer].state == VK_ROW_LIVE ? VK_COUNTER_COUNT :
							     VK_DROP_TX_UNREACHABLE;
}

/* Best effort: the record is done with when it is sent. */
static enum vk_outcome take_log(struct vk_run *run, const struct vk_out *out, int alone)
{
	struct vk_part part = vk_out_part(run, out, 0, 0);

	if (vk_out_late(run, out))
		return VK_WENT;
	if (!vk_out_fits(run, &part))
		return VK_HOLD;
	if (!vk_datagram_add(run, &part, alone))
		return later(run, out);
	vk_out_count(run, out);
	vk_burst_begin(run, out);
	return VK_WENT;
}

/* Sends a message that fits one packet and enters it; the flow holds nothing and can pay. */
static enum vk_outcome take_now(struct vk_run *run, const struct vk_out *out,
				struct vk_entry *entry, int alone)
{
	struct vk_ledger *ledger = &run->slots[out->slot].ledgers[out->ring];
	struct vk_part part = vk_out_part(run, out, ledger->next - 1, 0);

	if (!vk_out_fits(run, &part))
		return VK_HOLD;
	if (!vk_datagram_add(run, &part, alone)) {
		if (later(run, out) == VK_HOLD)
			return VK_HOLD;
		leave(run, out->slot, out->ring, out->flow);
		return VK_LATER;
	}
	vk_out_flying(entry);
	vk_out_count(run, out);
	vk_burst_begin(run, out);
	return VK_WENT;
}

static enum vk_outcome take_data(struct vk_run *run, uint32_t slot, uint32_t ring,
				 const struct vk_record *record, const struct vk_message *message,
				 const uint8_t *payload, int alone)
{
	uint32_t size = record->size - (uint32_t)sizeof *message;
	struct vk_flow *flow = vk_outgoing_flow(run, slot, ring, message);
	struct vk_ledger *ledger = &run->slots[slot].ledgers[ring];
	struct vk_out out = { flow, message, payload, size, slot, ring };
	enum vk_counter refusal = refuse_data(run, flow, message, size);
	enum vk_outcome outcome = VK_HOLD;
	struct vk_entry *entry;
	int holds, pays;

	if (refusal != VK_COUNTER_COUNT) {
		vk_count_row(run, ring)[refusal]++;
		run->counters->apps[slot][ring].refused++;
		if (flow && refusal != VK_DROP_TX_UNREACHABLE) /* a gap that nothing can fill */
			vk_flows_break(run, flow, VK_CODE_MALFORMED);
		return VK_WENT;
	}
	/* A worker before this one has sent it, and its copy would have another packet's number. */
	if (ring == VK_CLASS_LOGS && (int32_t)(message->sequence - flow->tx_sequence) < 0)
		return VK_WENT;
	holds = vk_flows_holds(run, flow);
	if (ring == VK_CLASS_LOGS && !holds) {
		outcome = take_log(run, &out, alone);
		if (outcome != VK_HOLD)
			return outcome;
	}
	pays = !holds && vk_out_affordable(run, flow, vk_out_cost(size));
	if (!holds && !pays && vk_out_alone(run, flow, size) &&
	    vk_behind_alike(run, slot, ring, flow))
		return VK_STAYS;
	entry = enter(run, slot, ring, record, flow, message->sequence);
	if (!entry) {
		run->refused = VK_BLOCKED_MEMORY;
		return VK_LATER;
	}
	entry->more = vk_flow_reliable(flow) && message->code & VK_FRAGMENT_MORE;
	if (pays && vk_credit_begin(run, flow, vk_out_cost(size)))
		outcome = take_now(run, &out, entry, alone);
	return outcome == VK_HOLD ? hold(run, flow, ledger->next - 1, ledger) : outcome;
}

enum vk_outcome vk_outgoing_record(struct vk_run *run, uint32_t slot, uint32_t ring,
				   const struct vk_record *record, const uint8_t *body, int alone)
{
	struct vk_message message;

	memcpy(&message, body, sizeof message);
	switch (record->kind) {
	case VK_RECORD_DATA:
		return take_data(run, slot, ring, record, &message, body + sizeof message, alone);
	case VK_RECORD_OPEN:
		return take_open(run, slot, ring, record, &message, body + sizeof message);
	case VK_RECORD_CLOSE:
		return take_close(run, slot, ring, record, &message);
	case VK_RECORD_RESET:
		return take_reset(run, slot, &message);
	case VK_RECORD_FLUSH:
		return take_flush(run, slot, ring);
	default:
		vk_count_row(run, ring)[VK_REFUSED_POLICY]++;
		return VK_WENT;
	}
}
