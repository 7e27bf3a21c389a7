/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vk_send.h"

#include "vk_datagram.h"
#include "vk_flows.h"
#include "vk_slots.h"

#include <poll.h>
#include <string.h>
#include <time.h>

enum {
	DRAIN_TRIES = 64, /* of an application that leaves, when the path is full */
	DRAIN_STEP_NS = 100000,
};

enum outcome {
	WENT, /* the record is done with */
	LATER, /* it stays; stop this ring for this turn */
};

static int port_full(const struct vk_run *run, uint32_t peer)
{
	return run->path_full >> run->peers[peer].port_index & 1;
}

static uint8_t priority_of(uint32_t class, uint8_t wanted)
{
	return wanted && vk_priority_ok(class, wanted) ? wanted : vk_priority_lowest(class);
}

static int add_control(struct vk_run *run, uint32_t peer, struct vk_frame frame,
		       const uint8_t *payload, uint32_t size, int alone)
{
	struct vk_part part = {
		.payload = payload,
		.size = size,
		.peer = peer,
		.class = vk_stream_class(frame.stream),
	};

	frame.priority = vk_priority_lowest(part.class);
	part.frame = frame;
	if (!vk_datagram_add(run, &part, alone))
		return 0;
	vk_count_row(run, part.class)[VK_TX_CONTROL]++;
	return 1;
}

void vk_send_replies(struct vk_run *run)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < run->reply_count; i++) {
		struct vk_reply reply = run->replies[i];
		uint8_t code[4];

		vk_put32(code, reply.code);
		if (run->peers[reply.peer].state != VK_ROW_LIVE)
			continue;
		if (!add_control(run, reply.peer,
				 (struct vk_frame){
					 .type = reply.type,
					 .flags = VK_FLAG_ACK,
					 .stream = reply.stream,
					 .correlation = reply.correlation,
				 },
				 code, reply.code ? sizeof code : 0, 1))
			run->replies[kept++] = reply;
	}
	run->reply_count = kept;
	vk_datagram_close(run);
}

/* Tells an application that its OPEN is refused. */
static void refuse_open(struct vk_run *run, uint32_t slot, uint32_t class,
			const struct vk_message *message, uint32_t code)
{
	struct vk_message reply = *message;
	uint8_t *body = vk_slots_out(run, slot, class, sizeof reply);

	if (!body)
		return;
	reply.code = code;
	memcpy(body, &reply, sizeof reply);
	vk_slots_commit(run, slot, class, sizeof reply, VK_RECORD_OPENED);
}

static enum outcome send_open(struct vk_run *run, uint32_t slot, uint32_t class,
			      const struct vk_message *message, const uint8_t *name, uint32_t size)
{
	struct vk_flow *flow;
	uint32_t code = 0;

	if (message->peer >= VK_PEERS_MAX || run->peers[message->peer].state != VK_ROW_LIVE)
		code = VK_CODE_NO_PEER;
	else if (vk_stream_class(message->stream) != class || size > VK_SERVICE_NAME_MAX ||
		 !vk_slots_allow(&run->slots[slot], message->stream))
		code = VK_CODE_POLICY;
	if (code) {
		refuse_open(run, slot, class, message, code);
		return WENT;
	}
	flow = vk_flows_find(run, message->peer, message->stream);
	if (flow && (!flow->opener || flow->app != slot || flow->token != message->correlation)) {
		refuse_open(run, slot, class, message, VK_CODE_STREAM_IN_USE);
		return WENT;
	}
	if (port_full(run, message->peer))
		return LATER;
	if (!flow)
		flow = vk_flows_open(run, message->peer, message->stream, slot,
				     message->correlation, 1);
	if (!flow) {
		refuse_open(run, slot, class, message, VK_CODE_STREAMS_FULL);
		return WENT;
	}
	return add_control(run, message->peer,
			   (struct vk_frame){
				   .type = VK_STREAM_OPEN,
				   .stream = message->stream,
				   .correlation = message->correlation,
			   },
			   name, size, 1) ?
		       WENT :
		       LATER;
}

/* CLOSE of an open stream, or RESET of one whose opening the application gave up. */
static enum outcome send_end(struct vk_run *run, uint32_t slot, const struct vk_message *message,
			     uint8_t kind)
{
	struct vk_flow *flow = NULL;
	struct vk_frame frame = { .type = VK_STREAM_CLOSE };
	uint32_t peer;

	if (message->flow < VK_FLOWS_MAX) {
		flow = &run->work->flows[message->flow];
		if (flow->state != VK_ROW_LIVE || flow->generation != message->flow_generation)
			flow = NULL;
	} else if (message->peer < VK_PEERS_MAX) {
		flow = vk_flows_find(run, message->peer, message->stream);
		if (flow && flow->token != message->correlation)
			flow = NULL;
	}
	if (!flow || flow->app != slot)
		return WENT; /* gone already: nothing to end */
	peer = flow->peer;
	frame.stream = flow->stream;
	frame.correlation = flow->token;
	if (kind == VK_RECORD_RESET)
		frame.type = VK_STREAM_RESET;
	if (run->peers[peer].state == VK_ROW_LIVE && !add_control(run, peer, frame, NULL, 0, 0))
		return LATER;
	vk_flows_close(run, flow);
	return WENT;
}

static struct vk_flow *own_flow(struct vk_run *run, uint32_t slot, uint32_t class,
				const struct vk_message *message)
{
	struct vk_flow *flow;

	if (message->flow >= VK_FLOWS_MAX)
		return NULL;
	flow = &run->work->flows[message->flow];
	if (flow->state != VK_ROW_LIVE || flow->generation != message->flow_generation ||
	    flow->app != slot || flow->class != class ||
	    flow->app_generation != run->slots[slot].generation)
		return NULL;
	return flow;
}

static int data_type_ok(uint8_t type)
{
	return vk_type_known(type) && type >= VK_TYPE_CONTROL_END &&
	       (type < VK_STREAM_OPEN || type > VK_STREAM_RESET || type == VK_STREAM_DATA);
}

/* Sends the shards of a message from where the last turn stopped. */
static int send_shards(struct vk_run *run, uint32_t slot, struct vk_flow *flow,
		       struct vk_part *part)
{
	struct vk_sending *sending = &run->work->sending[slot][part->class];
	uint32_t total = part->size, chunk;
	const uint8_t *payload = part->payload;

	part->frame.present = (part->frame.present & ~(1u << VK_EXT_SEQ)) | 1u << VK_EXT_SHARD;
	part->frame.flags |= VK_FLAG_FRG;
	part->frame.total = total;
	if (!sending->started) {
		sending->sequence = flow->tx_sequence++;
		sending->offset = 0;
		sending->started = 1;
	}
	part->frame.sequence = sending->sequence;
	chunk = run->peers[part->peer].payload_max - vk_part_overhead(&part->frame);
	while (sending->offset < total) {
		part->frame.offset = sending->offset;
		part->payload = payload + sending->offset;
		part->size = total - sending->offset < chunk ? total - sending->offset : chunk;
		if (!vk_datagram_add(run, part, 1))
			return 0;
		vk_count_row(run, part->class)[VK_TX_SHARDS]++;
		sending->offset += part->size;
	}
	sending->started = 0;
	return 1;
}

/* Why a message cannot be sent at all; VK_COUNTER_COUNT = it can. */
static enum vk_counter refuse_data(const struct vk_run *run, const struct vk_flow *flow,
				   uint8_t type, uint32_t size)
{
	if (!flow)
		return VK_REFUSED_FLOW;
	if (size > VK_SHARDED_MAX)
		return VK_REFUSED_SIZE;
	if (!data_type_ok(type))
		return VK_REFUSED_POLICY;
	return run->peers[flow->peer].state == VK_ROW_LIVE ? VK_COUNTER_COUNT :
							     VK_DROP_TX_UNREACHABLE;
}

static enum outcome send_data(struct vk_run *run, uint32_t slot, uint32_t class,
			      const struct vk_message *message, const uint8_t *payload,
			      uint32_t size, int alone)
{
	struct vk_flow *flow = own_flow(run, slot, class, message);
	uint64_t *row = vk_count_row(run, class);
	struct vk_app_count *count = &run->counters->apps[slot][class];
	struct vk_part part = {
		.frame = {
			.type = message->type ? message->type : VK_STREAM_DATA,
			.flags = message->flags & (VK_FLAG_ACK | VK_FLAG_EOS | VK_FLAG_URG),
			.priority = priority_of(class, message->priority),
			.trace = message->trace,
			.stream = flow ? flow->stream : 0,
			.correlation = message->correlation,
			.present = 1u << VK_EXT_SEQ,
			.time_ns = message->time_ns,
		},
		.payload = payload,
		.size = size,
		.peer = flow ? flow->peer : 0,
		.class = class,
	};

	enum vk_counter refusal = refuse_data(run, flow, part.frame.type, size);

	if (refusal != VK_COUNTER_COUNT) {
		row[refusal]++;
		count->refused++;
		return WENT;
	}
	if (run->params.stamp && !part.frame.time_ns)
		part.frame.time_ns = run->real_ns;
	if (part.frame.time_ns)
		part.frame.present |= 1u << VK_EXT_TIME;
	if (port_full(run, part.peer))
		return LATER;
	if (vk_part_overhead(&part.frame) + size > run->peers[part.peer].payload_max) {
		if (!send_shards(run, slot, flow, &part))
			return LATER;
	} else {
		part.frame.sequence = flow->tx_sequence;
		if (!vk_datagram_add(run, &part, alone))
			return LATER;
		flow->tx_sequence++;
	}
	flow->tx_messages++;
	row[VK_TX_MESSAGES]++;
	row[VK_TX_BYTES] += size;
	count->sent++;
	count->sent_bytes += size;
	return WENT;
}

static enum outcome send_record(struct vk_run *run, uint32_t slot, uint32_t class,
				const struct vk_record *record, const uint8_t *body)
{
	const struct vk_rx *in = &run->slots[slot].in[class];
	int alone = in->head + vk_record_span(record->size) == in->tail;
	struct vk_message message;
	const uint8_t *payload = body + sizeof message;
	uint32_t size = record->size - (uint32_t)sizeof message;

	memcpy(&message, body, sizeof message);
	switch (record->kind) {
	case VK_RECORD_DATA:
		return send_data(run, slot, class, &message, payload, size, alone);
	case VK_RECORD_OPEN:
		return send_open(run, slot, class, &message, payload, size);
	case VK_RECORD_CLOSE:
	case VK_RECORD_RESET:
		return send_end(run, slot, &message, record->kind);
	default:
		vk_count_row(run, class)[VK_REFUSED_POLICY]++;
		return WENT;
	}
}

static int within_rate(const struct vk_run *run, const struct vk_run_slot *slot)
{
	return vk_meter_ready(&slot->messages, run->now_ns) &&
	       vk_meter_ready(&slot->bytes, run->now_ns);
}

/* The worker has to be awake when the bucket has something again. */
static void wait_for_rate(struct vk_run *run, const struct vk_run_slot *slot)
{
	uint64_t due_ns = vk_meter_due(&slot->messages);

	if (slot->bytes.cost_ns && vk_meter_due(&slot->bytes) > due_ns)
		due_ns = vk_meter_due(&slot->bytes);
	if (due_ns < run->due_ns)
		run->due_ns = due_ns;
}

/* Sends the record at the head of a ring; VK_SERVED_BUDGET = it went. */
static enum vk_served send_next(struct vk_run *run, uint32_t number, uint32_t class, int64_t *bytes)
{
	struct vk_run_slot *slot = &run->slots[number];
	struct vk_rx *in = &slot->in[class];
	struct vk_record record;
	const uint8_t *body;
	int found = vk_rx_peek(in, &record, &body);

	if (found < 0 || (found && record.size < sizeof(struct vk_message))) {
		vk_slots_violation(run, number);
		return VK_SERVED_GONE;
	}
	if (!found)
		return VK_SERVED_ALL;
	__builtin_prefetch(body + vk_record_span(record.size));
	__builtin_prefetch(body + vk_record_span(record.size) + VK_LINE);
	if (!within_rate(run, slot)) {
		wait_for_rate(run, slot);
		return VK_SERVED_RATE;
	}
	if (send_record(run, number, class, &record, body) == LATER)
		return VK_SERVED_PATH;
	if (!slot->attached)
		return VK_SERVED_GONE; /* cut off while a refusal was written */
	vk_meter_spend(&slot->messages, run->now_ns, 1);
	vk_meter_spend(&slot->bytes, run->now_ns, record.size);
	vk_rx_advance(in, &record);
	slot->consumed |= 1u << class;
	*bytes += record.size;
	return VK_SERVED_BUDGET;
}

static enum vk_served send_ring(void *context, uint32_t number, uint32_t class, int64_t budget,
				int64_t *bytes)
{
	static const uint8_t reasons[] = {
		[VK_SERVED_RATE] = VK_BLOCKED_POLICY,
		[VK_SERVED_PATH] = VK_BLOCKED_PATH,
	};
	struct vk_run *run = context;
	struct vk_run_slot *slot = &run->slots[number];
	enum vk_served why = VK_SERVED_BUDGET;

	if (!slot->capacity[class])
		return VK_SERVED_ALL;
	while (why == VK_SERVED_BUDGET && *bytes < budget)
		why = send_next(run, number, class, bytes);
	if (why != VK_SERVED_GONE && slot->self->blocked[class] != reasons[why])
		VK_STORE_RELAXED(&slot->self->blocked[class], reasons[why]);
	if (class == VK_CLASS_CRITICAL && *bytes) { /* not behind what the others send this turn */
		run->critical_ns = run->now_ns;
		vk_datagram_close(run);
		vk_send_flush(run);
	}
	return why;
}

uint64_t vk_send_all(struct vk_run *run)
{
	int64_t sent;

	run->path_full = 0;
	run->due_ns = UINT64_MAX;
	vk_send_replies(run);
	for (uint32_t i = 0; i < run->schedule.count; i++)
		vk_slots_policy(run, run->schedule.apps[i]);
	run->schedule.turn_max = vk_urgent(run) ? VK_TURN_BYTES_URGENT : VK_TURN_BYTES;
	sent = vk_schedule_turn(&run->schedule, send_ring, run);
	vk_datagram_close(run);
	return (uint64_t)sent;
}

/* What an application leaves behind in a ring is counted as the reason says. */
static void refuse_rest(struct vk_run *run, uint32_t number, uint32_t class,
			enum vk_counter counter)
{
	struct vk_rx *in = &run->slots[number].in[class];
	struct vk_record record;
	const uint8_t *body;
	uint64_t count = 0;

	for (int64_t left = in->capacity; left > 0 && vk_rx_peek(in, &record, &body) > 0;
	     left -= (int64_t)vk_record_span(record.size)) {
		count += record.kind == VK_RECORD_DATA;
		vk_rx_advance(in, &record);
	}
	vk_count_row(run, class)[counter] += count;
	run->counters->apps[number][class].refused += count;
}

void vk_send_drain(struct vk_run *run, uint32_t number)
{
	const struct timespec step = { .tv_nsec = DRAIN_STEP_NS };
	struct vk_run_slot *slot = &run->slots[number];

	for (uint32_t c = VK_CLASS_CRITICAL; c < VK_CLASS_COUNT; c++) {
		enum vk_served why = VK_SERVED_PATH;

		for (int i = 0; i < DRAIN_TRIES && why == VK_SERVED_PATH && slot->attached; i++) {
			int64_t bytes = 0;

			run->path_full = 0;
			why = send_ring(run, number, c, slot->capacity[c], &bytes);
			vk_datagram_close(run);
			if (vk_send_flush(run) && why == VK_SERVED_PATH)
				ppoll(NULL, 0, &step, NULL);
		}
		if (!slot->attached)
			return;
		if (slot->capacity[c] && why != VK_SERVED_ALL)
			refuse_rest(run, number, c,
				    why == VK_SERVED_PATH ? VK_DROP_TX_UNREACHABLE :
							    VK_REFUSED_POLICY);
	}
}

uint32_t vk_send_flush(struct vk_run *run)
{
	uint32_t kept = 0;

	for (uint32_t port = 0; port < run->boot->port_count; port++) {
		struct vk_path *path = run->tx[port];
		int left = path->ops->tx_flush(path);

		if (left > 0)
			kept += (uint32_t)left;
		for (uint32_t c = 0; c < VK_CLASS_COUNT; c++) {
			vk_count_row(run, c)[VK_DROP_TX_FRAMES] += path->lost[c];
			path->lost[c] = 0;
		}
	}
	return kept;
}
