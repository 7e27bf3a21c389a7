/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vk_slots.h"

#include "vk_bell.h"
#include "vk_credit.h"
#include "vk_ends.h"
#include "vk_flows.h"
#include "vk_peers.h"

#include <string.h>
#include <sys/socket.h>

enum {
	SLEEPS_APART = 0x61c88647, /* 2^32 by the golden ratio twice: its multiples are far apart */
};

static int open_rings(struct vk_run_slot *slot)
{
	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++) {
		vk_ledger_begin(&slot->ledgers[c]);
		if (!slot->capacity[c])
			continue;
		if (vk_tx_open(&slot->out[c], slot->self, slot->peer, slot->capacity, c) ||
		    vk_rx_open(&slot->in[c], slot->self, slot->peer, slot->capacity, c))
			return -EPROTO;
	}
	return 0;
}

/* Publishes what a dead worker had put into a ring and not published: it may have acknowledged it
 * to the peer. -EPROTO: the application says meanwhile that it has taken less than it had. */
static int publish_rest(struct vk_run *run, uint32_t number, uint32_t class)
{
	struct vk_tx *tx = &run->slots[number].out[class];
	uint64_t committed = run->work->committed[number][class];

	if (run->boot->recover && committed - tx->tail <= tx->capacity &&
	    committed % VK_RECORD_ALIGN == 0) {
		if (committed - tx->head > tx->capacity)
			return -EPROTO;
		tx->tail = committed;
		vk_tx_publish(tx);
	}
	run->work->committed[number][class] = tx->tail;
	return 0;
}

/* The boot slot's regions are mapped: open the rings over them. */
static int adopt(struct vk_run *run, uint32_t number)
{
	struct vk_slot *boot = &run->boot->slots[number];
	struct vk_run_slot *slot = &run->slots[number];

	memset(slot, 0, offsetof(struct vk_run_slot, ledgers));
	memset(slot->ledgers + VK_CLASS_COUNT, 0,
	       sizeof *slot - offsetof(struct vk_run_slot, ledgers) - sizeof slot->ledgers);
	slot->generation = boot->generation;
	slot->self = (struct vk_region *)boot->region_d;
	slot->peer = (const struct vk_region *)boot->region_a;
	slot->bell_app = boot->bell_app;
	slot->bell_worker = boot->bell_worker;
	memcpy(slot->capacity, slot->self->capacity, sizeof slot->capacity);
	slot->policy.sequence = 1; /* odd: never equal to a row that can be read */
	/* Of no sleep of an earlier worker the number comes again: it may have been rung for. */
	slot->sleeps = run->work->starts * SLEEPS_APART;
	VK_STORE_RELAXED(&slot->self->sleeping, 0);
	if (open_rings(slot))
		return -EPROTO;
	for (uint32_t c = VK_CLASS_COUNT; c-- > 0;) /* answers to FLUSH last */
		if (slot->capacity[c] && publish_rest(run, number, c))
			return -EPROTO;
	slot->attached = 1;
	vk_schedule_add(&run->schedule, number);
	vk_slots_policy(run, number);
	run->counters->gauges[VK_APPS_ATTACHED] = run->schedule.count;
	return 0;
}

/* The rings that there are, a bit a class. */
static uint32_t rings_of(const struct vk_run_slot *slot)
{
	uint32_t rings = 0;

	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++)
		rings |= slot->capacity[c] ? 1u << c : 0;
	return rings;
}

void vk_slots_inherit(struct vk_run *run)
{
	for (uint32_t i = 0; i < VK_APPS_MAX; i++) {
		struct vk_run_slot *slot = &run->slots[i];

		if (!run->boot->slots[i].attached)
			continue;
		if (adopt(run, i))
			vk_slots_violation(run, i);
		else if (run->boot->recover) /* of what is there a bell may not have told */
			slot->published = slot->consumed = rings_of(slot);
	}
	run->counters->gauges[VK_APPS_ATTACHED] = run->schedule.count;
}

int vk_slots_attach(struct vk_run *run, uint32_t number, const int fds[4])
{
	struct vk_slot *boot = &run->boot->slots[number];
	uint32_t capacity[VK_RINGS_MAX], other[VK_RINGS_MAX], generation;
	int error = run->slots[number].attached ? -EBUSY : 0;

	if (!error)
		error = vk_channel_check(fds[0], 0, capacity, &generation);
	if (!error)
		error = vk_channel_check(fds[1], 0, other, NULL);
	if (!error && memcmp(capacity, other, sizeof capacity))
		error = -EPROTO;
	if (!error && vk_channel_span(capacity) > boot->map_size)
		error = -E2BIG;
	if (!error && (!vk_channel_map(fds[0], capacity, 1, boot->region_d) ||
		       !vk_channel_map(fds[1], capacity, 0, boot->region_a)))
		error = -errno;
	close(fds[0]);
	close(fds[1]);
	if (!error) { /* what it says is of the rings that were here before */
		memset(run->work->committed[number], 0, sizeof run->work->committed[number]);
		memset(run->work->looked[number], 0, sizeof run->work->looked[number]);
		boot->generation = generation;
		boot->bell_app = fds[2];
		boot->bell_worker = fds[3];
		error = adopt(run, number);
	}
	if (error) {
		close(fds[2]);
		close(fds[3]);
	}
	return error;
}

void vk_slots_detach(struct vk_run *run, uint32_t number)
{
	struct vk_run_slot *slot = &run->slots[number];

	if (!slot->attached)
		return;
	for (uint32_t port = 0; port < run->boot->port_count; port++)
		run->tx[port]->ops->tx_flush(run->tx[port]); /* its rings may be lent */
	slot->attached = 0;
	vk_schedule_remove(&run->schedule, number);
	run->counters->gauges[VK_APPS_ATTACHED] = run->schedule.count;
	vk_flows_close_slot(run, number);
	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++)
		vk_lanes_free(run, number, c);
	vk_ends_forget(run, number);
	vk_credit_tell_limits(run, number); /* none is its any more: the list is emptied */
	vk_channel_unmap(slot->self, slot->capacity, 1);
	vk_channel_unmap((struct vk_region *)(uintptr_t)slot->peer, slot->capacity, 1);
	close(slot->bell_app);
	close(slot->bell_worker);
}

void vk_slots_violation(struct vk_run *run, uint32_t slot)
{
	struct vk_order order = {
		.kind = VK_ORDER_VIOLATION,
		.slot = slot,
		.generation = run->slots[slot].generation,
		.result = -EPROTO,
	};

	run->counters->gauges[VK_APP_VIOLATIONS]++;
	if (run->slots[slot].attached)
		vk_slots_detach(run, slot);
	send(run->boot->control_fd, &order, sizeof order, MSG_DONTWAIT | MSG_NOSIGNAL);
}

uint8_t *vk_slots_out(struct vk_run *run, uint32_t number, uint32_t class, uint32_t size)
{
	struct vk_tx *tx = &run->slots[number].out[class];
	uint8_t *body;

	if (!run->slots[number].attached || !tx->capacity)
		return NULL;
	body = vk_tx_reserve(tx, size);
	if (!body && vk_tx_room(tx) == -EPROTO)
		vk_slots_violation(run, number);
	return body;
}

/* Whether a consumer has let its ring fill by half. */
static int behind(struct vk_tx *tx)
{
	if (tx->tail - tx->head < tx->capacity / 2)
		return 0;
	return vk_tx_room(tx) < (int64_t)tx->capacity / 2;
}

void vk_slots_skip(struct vk_run *run, uint32_t number, uint32_t class)
{
	struct vk_run_slot *slot = &run->slots[number];
	struct vk_entry *entry;

	if (vk_ledger_empty(&slot->ledgers[class]))
		return;
	entry = vk_ledger_push(&slot->ledgers[class], slot->in[class].head);
	if (!entry)
		return; /* the record behind it releases it */
	entry->state = VK_ENTRY_DONE;
	entry->flow = VK_NO_FLOW;
}

/* Everything before a FLUSH is done: 0 = its answer has to wait. */
static int flushed(struct vk_run *run, uint32_t number, uint32_t class,
		   const struct vk_entry *entry)
{
	struct vk_run_slot *slot = &run->slots[number];
	const struct vk_rx *in = &slot->in[class];
	struct vk_message message;
	uint8_t *body;

	memcpy(&message, in->data + (entry->at & (in->capacity - 1)) + sizeof(struct vk_record),
	       sizeof message);
	if (vk_ends_owed(run, number, &message))
		return 0; /* or it would be taken for a success */
	body = vk_slots_out(run, number, VK_CLASS_CONTROL, sizeof message);
	if (!body)
		return !slot->capacity[VK_CLASS_CONTROL];
	memcpy(body, &message, sizeof message);
	vk_slots_commit(run, number, VK_CLASS_CONTROL, sizeof message, VK_RECORD_FLUSHED);
	return 1;
}

/* Gives the records at the front of a ring back that are done. Returns 1 when a FLUSH at the front
 * is to be answered later. */
static int release(struct vk_run *run, uint32_t number, uint32_t class)
{
	struct vk_run_slot *slot = &run->slots[number];
	struct vk_ledger *ledger = &slot->ledgers[class];
	uint64_t head = slot->in[class].head;
	int waits = 0;

	while (!vk_ledger_empty(ledger)) {
		const struct vk_entry *entry = vk_ledger_get(ledger, ledger->first);

		waits = entry->state == VK_ENTRY_DONE && entry->kind == VK_RECORD_FLUSH &&
			!flushed(run, number, class, entry);
		if (!slot->attached)
			return 0; /* cut off over the answer */
		if (entry->state != VK_ENTRY_DONE || waits) {
			head = entry->at;
			break;
		}
		ledger->first++;
	}
	VK_STORE_RELEASE(&slot->self->head[class], head);
	return waits;
}

/* Whether a ring that something was released of has the room that its application asked for. */
static int has_room(const struct vk_run_slot *slot)
{
	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++) {
		uint64_t used = VK_LOAD_RELAXED(&slot->peer->tail[c]) - slot->self->head[c];
		uint32_t need = VK_LOAD_RELAXED(&slot->peer->need[c]);

		if (slot->consumed & 1u << c && need && used + need <= slot->capacity[c])
			return 1;
	}
	return 0;
}

/* Wakes an application for records, or for the room that it waits for: one that is woken for less
 * than that only sleeps again. */
static void wake(struct vk_run *run, struct vk_run_slot *slot)
{
	uint32_t rang = slot->rang;

	if (vk_bell_wanted(slot->peer, &rang) && (slot->published || has_room(slot)) &&
	    vk_bell_ring(slot->peer, slot->bell_app, &slot->rang))
		run->counters->gauges[VK_WAKE_BELLS]++;
}

void vk_slots_flush(struct vk_run *run)
{
	for (uint32_t i = 0; i < run->schedule.count; i++) {
		struct vk_run_slot *slot = &run->slots[run->schedule.apps[i]];
		uint32_t waiting = 0;

		if (!(slot->published | slot->consumed | slot->ends))
			continue;
		if (slot->ends)
			vk_ends_flush(run, run->schedule.apps[i]);
		/* Answers to FLUSH go to ring 0. */
		for (uint32_t c = VK_CLASS_COUNT; slot->attached && c-- > 0;) {
			if (slot->consumed & 1u << c && release(run, run->schedule.apps[i], c))
				waiting |= 1u << c;
			if (slot->attached && slot->published & 1u << c) {
				vk_tx_publish(&slot->out[c]);
				run->consumers_behind |= behind(&slot->out[c]);
			}
		}
		if (!slot->attached) {
			i--;
			continue;
		}
		wake(run, slot);
		slot->published = 0;
		slot->consumed = waiting;
	}
}

int vk_slots_pending(struct vk_run *run)
{
	for (uint32_t i = 0; i < run->schedule.count; i++) {
		const struct vk_run_slot *slot = &run->slots[run->schedule.apps[i]];

		for (uint32_t c = 0; c < VK_CLASS_COUNT; c++) {
			uint64_t looked = slot->stays & 1u << c ? slot->behind[c].position :
								  slot->in[c].head;

			if (VK_LOAD_RELAXED(&slot->peer->tail[c]) != looked && slot->capacity[c] &&
			    !(slot->stuck & 1u << c))
				return 1;
		}
	}
	return 0;
}

int vk_slots_asleep(const struct vk_run *run)
{
	for (uint32_t i = 0; i < run->schedule.count; i++) {
		const struct vk_run_slot *slot = &run->slots[run->schedule.apps[i]];
		uint32_t sleeping = VK_LOAD_RELAXED(&slot->peer->sleeping);

		if (!sleeping || sleeping == slot->rang)
			return 0;
	}
	return 1;
}

void vk_slots_sleep(struct vk_run *run)
{
	for (uint32_t i = 0; i < run->schedule.count; i++) {
		struct vk_run_slot *slot = &run->slots[run->schedule.apps[i]];

		if (++slot->sleeps == 0)
			slot->sleeps = 1;
		VK_STORE_RELAXED(&slot->self->sleeping, slot->sleeps);
	}
	VK_FULL_FENCE(); /* pairs with the fence of the applications' vk_bell_wanted */
}

void vk_slots_wake(struct vk_run *run)
{
	for (uint32_t i = 0; i < run->schedule.count; i++) {
		struct vk_run_slot *slot = &run->slots[run->schedule.apps[i]];

		VK_STORE_RELAXED(&slot->self->sleeping, 0);
	}
}

void vk_slots_policy(struct vk_run *run, uint32_t number)
{
	struct vk_run_slot *slot = &run->slots[number];
	const struct vk_app *row = &run->state->apps[number];
	struct vk_app policy;

	if (VK_LOAD_RELAXED(&row->sequence) == slot->policy.sequence ||
	    vk_seqlock_copy(&policy, row, sizeof policy))
		return;
	if (policy.generation != slot->generation)
		return;
	if (policy.range_count > VK_RANGES_MAX)
		policy.range_count = VK_RANGES_MAX;
	if (policy.weight < 1 || policy.weight > 1000)
		policy.weight = 100;
	slot->policy = policy;
	vk_schedule_weigh(&run->schedule, number, policy.weight);
	vk_meter_set(&slot->messages, policy.rate_messages);
	vk_meter_set(&slot->bytes, policy.rate_bytes);
	if (policy.many_peers)
		vk_flows_many_peers(run, number);
}

int vk_slots_reach(const struct vk_run *run, uint32_t slot, uint32_t peer)
{
	const uint8_t *reach = run->state->reach[slot].peers;

	return !!(VK_LOAD_RELAXED(&reach[peer / 8]) & 1u << peer % 8);
}

int vk_slots_allow(const struct vk_run_slot *slot, uint32_t stream)
{
	if (!(slot->policy.class_mask & 1u << vk_stream_class(stream)))
		return 0;
	for (uint32_t i = 0; i < slot->policy.range_count; i++) {
		if (stream >= slot->policy.range_first[i] && stream <= slot->policy.range_last[i])
			return 1;
	}
	return 0;
}
