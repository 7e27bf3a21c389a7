/* SPDX-License-Identifier: MIT */
#include "vk_content.h"

#include "vk_again.h"
#include "vk_flows.h"

static struct vk_ledger *ledger_of(struct vk_run *run, const struct vk_sent_run *content)
{
	return &run->slots[content->slot].ledgers[content->ring];
}

/* An entry is done: the record need not stay. */
static void mark_done(struct vk_run *run, struct vk_entry *entry)
{
	entry->state = VK_ENTRY_DONE;
	if (entry->shards)
		vk_shards_drop(&run->shards, entry->shards);
	entry->shards = 0;
}

static void finish(struct vk_run *run, uint32_t slot, uint32_t ring, struct vk_entry *entry)
{
	mark_done(run, entry);
	run->slots[slot].consumed |= 1u << ring;
	vk_flows_entries_done(run, entry->flow, 1);
}

/* Begins to fetch the flows of the messages that a run names, if they are many. */
static void look_ahead(const struct vk_run *run, struct vk_ledger *ledger,
		       struct vk_sent_run run_of)
{
	uint32_t number;

	while (vk_flows_many(run) && vk_content_take(&run_of, &number)) {
		const struct vk_entry *entry = vk_ledger_get(ledger, number);

		if (entry && entry->flow != VK_NO_FLOW)
			vk_flows_fetch(run, entry->flow);
	}
}

/* Marks those of a row of entries as done that are there and are not; as many of one flow as lie
 * one behind the other are taken off it at once. */
static void finish_row(struct vk_run *run, struct vk_ledger *ledger, uint32_t first, uint32_t count)
{
	uint32_t flow = VK_NO_FLOW, done = 0, left;

	while (count && !vk_ledger_get(ledger, first)) {
		first++;
		count--;
	}
	left = ledger->next - first;
	for (count = count < left ? count : left; count; count--) {
		struct vk_entry *entry = &ledger->entries[first++ & ledger->mask];

		if (entry->state == VK_ENTRY_DONE)
			continue;
		if (entry->flow != flow) {
			vk_flows_entries_done(run, flow, done);
			flow = entry->flow;
			done = 0;
		}
		mark_done(run, entry);
		done++;
	}
	vk_flows_entries_done(run, flow, done);
}

static void finish_messages(struct vk_run *run, const struct vk_sent_run *content)
{
	struct vk_ledger *ledger = ledger_of(run, content);
	struct vk_sent_run left = *content;
	uint32_t number;

	look_ahead(run, ledger, left);
	run->slots[content->slot].consumed |= 1u << content->ring;
	if (!content->apart) {
		finish_row(run, ledger, content->first, content->a);
		return;
	}
	while (vk_content_take(&left, &number))
		finish_row(run, ledger, number, 1);
}

void vk_content_done(struct vk_run *run, uint32_t slot, uint32_t ring, uint32_t number)
{
	struct vk_entry *entry = vk_ledger_get(&run->slots[slot].ledgers[ring], number);

	if (entry && entry->state != VK_ENTRY_DONE)
		finish(run, slot, ring, entry);
}

void vk_content_forget(struct vk_run *run, struct vk_flow *flow)
{
	uint32_t flow_number = vk_flow_number(run, flow);
	struct vk_flow_run *own = &run->flows[flow_number];
	struct vk_ledger *ledger = &run->slots[flow->app].ledgers[flow->class];

	own->held_count = 0;
	if (flow->peer < VK_PEERS_MAX)
		run->pools[flow->peer].held -= own->held_bytes;
	own->held_bytes = 0;
	for (uint32_t n = ledger->first; own->unacked && n != ledger->next; n++) {
		struct vk_entry *entry = vk_ledger_get(ledger, n);

		if (entry->flow != flow_number || entry->state == VK_ENTRY_DONE)
			continue;
		own->unacked--;
		entry->flow = VK_NO_FLOW;
		finish(run, flow->app, flow->class, entry);
	}
}

void vk_content_settle(struct vk_run *run)
{
	struct vk_sent_run acked = run->acked;
	struct vk_entry *entry;

	if (acked.kind != VK_CONTENT_SHARD)
		return;
	run->acked.kind = VK_CONTENT_NONE;
	entry = vk_ledger_get(ledger_of(run, &acked), acked.first);
	if (entry && entry->shards &&
	    vk_shards_acked(&run->shards.rows[entry->shards - 1], acked.a, acked.a + acked.b))
		finish(run, acked.slot, acked.ring, entry);
}

/* Shards that lie one behind the other in a message are noted together. */
static void gather_shard(struct vk_run *run, const struct vk_sent_run *content)
{
	struct vk_sent_run *last = &run->acked;

	if (last->kind == VK_CONTENT_SHARD && last->slot == content->slot &&
	    last->ring == content->ring && last->first == content->first &&
	    last->a + last->b == content->a) {
		last->b += content->b;
		return;
	}
	vk_content_settle(run);
	*last = *content;
}

void vk_content_acked(struct vk_run *run, const struct vk_sent_run *content)
{
	struct vk_flow *flow;

	switch (content->kind) {
	case VK_CONTENT_MESSAGES:
		finish_messages(run, content);
		break;
	case VK_CONTENT_SHARD:
		gather_shard(run, content);
		break;
	case VK_CONTENT_CONTROL:
		flow = &run->work->flows[content->first];
		if (content->a & VK_OWE_RESET && flow->state == VK_ROW_CLOSING &&
		    flow->generation == content->b)
			vk_flows_close(run, flow);
		break;
	default:
		break;
	}
}

int vk_content_lost(struct vk_run *run, const struct vk_sent_run *content)
{
	struct vk_ledger *ledger = ledger_of(run, content);
	struct vk_sent_run left = *content;
	uint32_t number;
	int again = 0;

	if (content->kind == VK_CONTENT_SHARD) {
		struct vk_entry *entry = vk_ledger_get(ledger, content->first);

		return entry && entry->shards;
	}
	while (vk_content_take(&left, &number)) {
		struct vk_entry *entry = vk_ledger_get(ledger, number);

		if (!entry || entry->state != VK_ENTRY_FLYING || --entry->copies)
			continue;
		entry->state = VK_ENTRY_LOST;
		again = 1;
	}
	return again;
}

int vk_content_send(struct vk_run *run, struct vk_sent_run *content, int forced)
{
	struct vk_ledger *ledger = ledger_of(run, content);
	struct vk_sent_run left = *content;
	struct vk_entry *entry;
	uint32_t number;

	if (content->kind == VK_CONTENT_SHARD) {
		entry = vk_ledger_get(ledger, content->first);
		return !entry || !entry->shards || vk_again_shard(run, content, forced);
	}
	for (; vk_content_take(&left, &number); *content = left) {
		entry = vk_ledger_get(ledger, number);
		if (!entry ||
		    (entry->state != VK_ENTRY_LOST && !(forced && entry->state == VK_ENTRY_FLYING)))
			continue;
		if (!vk_again_entry(run, content->slot, content->ring, number, forced))
			return 0;
	}
	return 1;
}

int vk_content_probe(struct vk_run *run, struct vk_session *session,
		     const struct vk_sent_run *content)
{
	struct vk_sent_run copy = *content;

	if (content->kind == VK_CONTENT_MESSAGES || content->kind == VK_CONTENT_SHARD)
		return vk_content_send(run, &copy, 1);
	vk_session_lost(run, session, content);
	return 1;
}

static void resend_ring(struct vk_run *run, struct vk_session *session, uint32_t slot,
			uint32_t ring)
{
	struct vk_ledger *ledger = &run->slots[slot].ledgers[ring];

	for (uint32_t n = ledger->first; n != ledger->next; n++) {
		struct vk_entry *entry = vk_ledger_get(ledger, n);
		struct vk_sent_run content = { .kind = VK_CONTENT_MESSAGES,
					       .slot = (uint8_t)slot,
					       .ring = (uint8_t)ring,
					       .first = n,
					       .a = 1 };

		if (entry->flow == VK_NO_FLOW || entry->state == VK_ENTRY_DONE ||
		    run->work->flows[entry->flow].peer != session->peer)
			continue;
		if (entry->shards) { /* the beginning of one that is held, too */
			content.kind = VK_CONTENT_SHARD;
			content.a = 0;
			content.b = run->shards.rows[entry->shards - 1].sent;
		} else if (entry->state == VK_ENTRY_HELD) {
			continue;
		} else { /* what the old session was to send again is known to nobody else */
			entry->state = VK_ENTRY_FLYING;
		}
		entry->copies = 1;
		vk_session_lost(run, session, &content);
	}
}

void vk_content_resend_peer(struct vk_run *run, struct vk_session *session)
{
	for (uint32_t i = 0; i < run->schedule.count; i++) {
		for (uint32_t c = VK_CLASS_CRITICAL; c < VK_CLASS_COUNT; c++)
			resend_ring(run, session, run->schedule.apps[i], c);
	}
}
