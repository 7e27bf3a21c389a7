/* SPDX-License-Identifier: MIT */
#include "vk_receive.h"

#include "vk_flows.h"
#include "vk_peers.h"
#include "vk_reassembly.h"
#include "vk_slots.h"

#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum {
	CRITICAL_EVERY = 16, /* frames of lower classes between two looks at critical */
	RESET_EVERY_NS = 1000000, /* one reset a millisecond to streams that nobody knows */
};

static struct vk_message describe(const struct vk_run *run, const struct vk_flow *flow,
				  const struct vk_frame *frame)
{
	return (struct vk_message){
		.flow = vk_flow_number(run, flow),
		.flow_generation = flow->generation,
		.peer = flow->peer,
		.stream = flow->stream,
		.sequence = frame->sequence,
		.correlation = frame->correlation,
		.type = frame->type,
		.flags = frame->flags,
		.priority = frame->priority,
		.trace = frame->trace,
		.time_ns = frame->time_ns,
	};
}

/* Puts a record into the ring of the flow's class; 1 = it is there. */
static int put(struct vk_run *run, const struct vk_flow *flow, const struct vk_message *message,
	       uint8_t kind, const uint8_t *payload, uint32_t size)
{
	uint8_t *body = vk_slots_out(run, flow->app, flow->class, sizeof *message + size);

	if (!body)
		return 0;
	memcpy(body, message, sizeof *message);
	if (size)
		memcpy(body + sizeof *message, payload, size);
	vk_slots_commit(run, flow->app, flow->class, sizeof *message + size, kind);
	return 1;
}

static void deliver(struct vk_run *run, const struct vk_flow *flow, const struct vk_frame *frame,
		    const uint8_t *payload, uint32_t size)
{
	struct vk_message message = describe(run, flow, frame);
	struct vk_app_count *count = &run->counters->apps[flow->app][flow->class];
	uint64_t *row = vk_count_row(run, flow->class);

	if (!run->slots[flow->app].attached) {
		row[VK_DROP_APP_GONE]++;
		return;
	}
	if (!put(run, flow, &message, VK_RECORD_DATA, payload, size)) {
		row[VK_DROP_APP_RING]++;
		count->dropped++;
		return;
	}
	row[VK_RX_DELIVERED]++;
	row[VK_RX_DELIVERED_BYTES] += size;
	count->delivered++;
	count->delivered_bytes += size;
}

static void receive_shard(struct vk_run *run, struct vk_flow *flow, struct vk_frame *frame)
{
	struct vk_shard shard = {
		.flow = vk_flow_number(run, flow),
		.flow_generation = flow->generation,
		.sequence = frame->sequence,
		.offset = frame->offset,
		.total = frame->total,
		.size = frame->length,
		.data = frame->payload,
	};
	uint64_t *row = vk_count_row(run, flow->class);
	const uint8_t *message;

	switch (vk_reassembly_add(run->reassembly, &shard, run->now_ns, &message)) {
	case VK_SHARD_REFUSED:
		row[VK_DROP_REASSEMBLY]++;
		return;
	case VK_SHARD_TAKEN:
		row[VK_RX_SHARDS]++;
		return;
	case VK_SHARD_COMPLETE:
		row[VK_RX_SHARDS]++;
		row[VK_RX_REASSEMBLED]++;
		vk_flows_accept(run, flow, frame->sequence);
		frame->flags &= (uint8_t)~VK_FLAG_FRG;
		deliver(run, flow, frame, message, frame->total);
	}
}

static void unknown_stream(struct vk_run *run, uint32_t peer, const struct vk_frame *frame)
{
	vk_count_row(run, vk_stream_class(frame->stream))[VK_DROP_UNKNOWN_STREAM]++;
	if (run->now_ns < run->reset_due_ns)
		return;
	run->reset_due_ns = run->now_ns + RESET_EVERY_NS;
	vk_reply_put(run, (struct vk_reply){
				  .type = VK_STREAM_RESET,
				  .class = (uint8_t)vk_stream_class(frame->stream),
				  .peer = (uint16_t)peer,
				  .stream = frame->stream,
				  .code = VK_CODE_STREAM_UNKNOWN,
			  });
}

static void receive_message(struct vk_run *run, uint32_t peer, struct vk_frame *frame)
{
	struct vk_flow *flow = vk_flows_find(run, peer, frame->stream);
	uint64_t *row;

	if (!flow) {
		vk_count_row(run, vk_stream_class(frame->stream))[VK_RX_MESSAGES]++;
		unknown_stream(run, peer, frame);
		return;
	}
	row = vk_count_row(run, flow->class);
	row[VK_RX_MESSAGES]++;
	if (!vk_priority_ok(flow->class, frame->priority))
		row[VK_RX_QOS_VIOLATIONS]++;
	flow->answered = 1;
	if (frame->present & 1u << VK_EXT_SHARD) {
		if (vk_flows_seen(flow, frame->sequence))
			row[VK_DROP_STALE]++;
		else
			receive_shard(run, flow, frame);
		return;
	}
	if (frame->present & 1u << VK_EXT_SEQ && !vk_flows_accept(run, flow, frame->sequence)) {
		row[VK_DROP_STALE]++;
		return;
	}
	deliver(run, flow, frame, frame->payload, frame->length);
}

static void answer(struct vk_run *run, uint32_t peer, const struct vk_frame *frame, uint8_t type,
		   uint32_t code)
{
	vk_reply_put(run, (struct vk_reply){
				  .type = type,
				  .class = (uint8_t)vk_stream_class(frame->stream),
				  .peer = (uint16_t)peer,
				  .stream = frame->stream,
				  .correlation = frame->correlation,
				  .code = code,
			  });
}

static void receive_open(struct vk_run *run, uint32_t peer, const struct vk_frame *frame)
{
	struct vk_flow *flow = vk_flows_find(run, peer, frame->stream);
	struct vk_message message;
	int slot;

	if (flow && !flow->opener && flow->token == frame->correlation) {
		answer(run, peer, frame, VK_STREAM_ACK, 0); /* asked again */
		return;
	}
	if (flow && flow->opener) {
		answer(run, peer, frame, VK_STREAM_RESET, VK_CODE_STREAM_IN_USE);
		return;
	}
	if (flow) /* the peer forgot it: it or its application started anew */
		vk_flows_reset(run, flow, VK_CODE_STREAM_UNKNOWN);
	slot = vk_services_find(run, frame->payload, frame->length);
	if (slot < 0 || !vk_slots_allow(&run->slots[slot], frame->stream)) {
		answer(run, peer, frame, VK_STREAM_RESET,
		       slot < 0 ? VK_CODE_NO_SERVICE : VK_CODE_POLICY);
		return;
	}
	flow = vk_flows_open(run, peer, frame->stream, (uint32_t)slot, frame->correlation, 0);
	if (!flow) {
		answer(run, peer, frame, VK_STREAM_RESET, VK_CODE_STREAMS_FULL);
		return;
	}
	message = describe(run, flow, frame);
	if (!put(run, flow, &message, VK_RECORD_OPEN, frame->payload, frame->length)) {
		if (flow->state == VK_ROW_LIVE)
			vk_flows_close(run, flow); /* the opener asks again */
		return;
	}
	answer(run, peer, frame, VK_STREAM_ACK, 0);
}

static void receive_ack(struct vk_run *run, uint32_t peer, const struct vk_frame *frame)
{
	struct vk_flow *flow = vk_flows_find(run, peer, frame->stream);
	struct vk_message message;

	if (!flow || !flow->opener || flow->token != frame->correlation || flow->opened)
		return;
	message = describe(run, flow, frame);
	message.correlation = flow->token;
	flow->answered = 1;
	flow->opened = (uint8_t)put(run, flow, &message, VK_RECORD_OPENED, NULL, 0);
}

static void receive_end(struct vk_run *run, uint32_t peer, const struct vk_frame *frame)
{
	struct vk_flow *flow = vk_flows_find(run, peer, frame->stream);
	struct vk_message message;

	if (!flow)
		return;
	if (frame->type == VK_STREAM_RESET) {
		uint32_t code = frame->length >= 4 ? vk_get32(frame->payload) : 0;

		/* Without a token it answers a message, which a stream being opened never sent. */
		if (frame->correlation == flow->token ||
		    (!frame->correlation && (!flow->opener || flow->answered)))
			vk_flows_reset(run, flow, code ? code : VK_CODE_STREAM_UNKNOWN);
		return;
	}
	message = describe(run, flow, frame);
	if (!(flow->closed & 2) && put(run, flow, &message, VK_RECORD_CLOSE, NULL, 0))
		flow->closed |= 2;
}

static void receive_inner(struct vk_run *run, uint32_t peer, struct vk_frame *frame)
{
	uint64_t *row = vk_count_row(run, vk_stream_class(frame->stream));

	if (frame->type >= VK_TYPE_CONTROL_END &&
	    (frame->type < VK_STREAM_OPEN || frame->type == VK_STREAM_DATA ||
	     frame->type > VK_STREAM_RESET)) {
		receive_message(run, peer, frame);
		return;
	}
	row[VK_RX_CONTROL]++;
	switch (frame->type) {
	case VK_STREAM_OPEN:
		receive_open(run, peer, frame);
		break;
	case VK_STREAM_ACK:
		receive_ack(run, peer, frame);
		break;
	case VK_STREAM_CLOSE:
	case VK_STREAM_RESET:
		receive_end(run, peer, frame);
		break;
	case VK_PING:
		answer(run, peer, frame, VK_PONG, 0);
		break;
	default: /* PONG and the like: nobody waits for them yet */
		break;
	}
}

static void receive_run(struct vk_run *run, uint32_t peer, uint32_t class,
			const struct vk_frame *outer)
{
	enum { ALONE = VK_FLAG_AGG | VK_FLAG_ENC };
	uint32_t at = 0, inner = 0;

	while (outer->length - at >= VK_HEADER_SIZE) {
		const uint8_t *data = outer->payload + at;
		struct vk_frame frame;

		if (!data[0] && !data[1])
			return; /* padding */
		if (inner++ == VK_AGG_MAX || vk_frame_parse(&frame, data, outer->length - at, 0) ||
		    frame.flags & ALONE || frame.present & 1u << VK_EXT_SESSION ||
		    vk_frame_class(&frame) != class) {
			vk_count_row(run, class)[VK_DROP_INNER_INVALID]++;
			return;
		}
		at += vk_align_run(frame.size);
		if (at < outer->length)
			__builtin_prefetch(outer->payload + at + VK_LINE);
		receive_inner(run, peer, &frame);
		if (at > outer->length)
			return;
	}
}

static void track_number(struct vk_run *run, uint32_t peer, const struct vk_frame *frame)
{
	struct vk_packet *packet = &run->work->packets[peer];

	if (!(frame->present & 1u << VK_EXT_SESSION))
		return;
	packet->rx_packets[frame->space]++;
	if (frame->number >= packet->rx_number[frame->space])
		packet->rx_number[frame->space] = frame->number + 1;
}

/* Handshakes belong to Python: the only frames it ever sees. */
static void to_python(struct vk_run *run, uint32_t port, const struct vk_rx_frame *datagram)
{
	struct vk_control_frame head = {
		.port = port,
		.family = datagram->family,
		.udp_port = datagram->source_port,
	};
	struct iovec parts[2] = {
		{ .iov_base = &head, .iov_len = sizeof head },
		{ .iov_base = (void *)(uintptr_t)datagram->data, .iov_len = datagram->size },
	};
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };

	memcpy(head.address, datagram->source, sizeof head.address);
	if (sendmsg(run->boot->python_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		vk_count_row(run, VK_CLASS_CONTROL)[VK_DROP_APP_RING]++;
	else
		vk_count_row(run, VK_CLASS_CONTROL)[VK_RX_CONTROL]++;
}

void vk_receive_frame(struct vk_run *run, uint32_t port, uint32_t class,
		      const struct vk_rx_frame *datagram)
{
	uint64_t *row = vk_count_row(run, class);
	struct vk_frame frame;
	int peer;

	if (vk_frame_parse(&frame, datagram->data, datagram->size, 1) ||
	    vk_frame_class(&frame) != class || frame.flags & VK_FLAG_ENC) {
		row[VK_DROP_FRAME_INVALID]++;
		return;
	}
	if (class == VK_CLASS_CONTROL) {
		to_python(run, port, datagram);
		return;
	}
	peer = vk_peers_find(run, datagram->family, datagram->source);
	if (peer < 0) {
		row[VK_DROP_FRAME_UNKNOWN_PEER]++;
		return;
	}
	row[VK_RX_FRAMES]++;
	row[VK_RX_BYTES] += datagram->size;
	track_number(run, (uint32_t)peer, &frame);
	if (frame.flags & VK_FLAG_AGG)
		receive_run(run, (uint32_t)peer, class, &frame);
	else
		receive_inner(run, (uint32_t)peer, &frame);
}

int vk_receive_port(struct vk_run *run, uint32_t port, uint32_t class, int budget)
{
	struct vk_rx_frame frames[VK_RX_BATCH];
	struct vk_path *path = run->rx[port];
	int count = path->ops->rx(path, class, frames, budget < VK_RX_BATCH ? budget : VK_RX_BATCH);

	if (path->invalid[class]) {
		vk_count_row(run, class)[VK_DROP_FRAME_INVALID] += path->invalid[class];
		path->invalid[class] = 0;
	}
	for (int i = 0; i < count; i++) {
		if (i + 1 < count)
			__builtin_prefetch(frames[i + 1].data);
		/* The socket's class is what the kernel found; it is checked again. */
		vk_receive_frame(run, port, class, &frames[i]);
	}
	if (count > 0)
		path->ops->rx_done(path, class);
	vk_count_row(run, class)[VK_DROP_FRAME_INVALID] += path->invalid[class];
	path->invalid[class] = 0;
	return count;
}

void vk_receive_rest(struct vk_run *run)
{
	for (uint32_t port = 0; port < run->boot->port_count; port++) {
		run->rx[port]->draining = 1;
		for (uint32_t c = 0; c < VK_CLASS_COUNT; c++) {
			while (vk_receive_port(run, port, c, VK_RX_BATCH) > 0)
				continue;
		}
	}
}

static int receive_class(struct vk_run *run, uint32_t class, int budget)
{
	int taken = 0;

	for (uint32_t port = 0; port < run->boot->port_count; port++) {
		int count = vk_receive_port(run, port, class, budget);

		if (count < 0)
			return count;
		taken += count;
	}
	return taken;
}

/* Critical messages are handed over at once, not behind what the other classes bring this turn. */
static int receive_critical(struct vk_run *run)
{
	int taken = receive_class(run, VK_CLASS_CRITICAL, VK_RX_BATCH);

	if (taken > 0) {
		run->critical_ns = run->now_ns;
		vk_slots_flush(run);
		sched_yield(); /* the applications may share our core: let them have it now */
	}
	return taken;
}

int vk_receive_all(struct vk_run *run)
{
	static const uint8_t order[] = { VK_CLASS_CONTROL, VK_CLASS_SYSTEM, VK_CLASS_JOB,
					 VK_CLASS_DATA, VK_CLASS_LOGS };
	int budget = vk_urgent(run) ? CRITICAL_EVERY : (int)run->params.budget_frames;
	int taken, total;

	total = receive_critical(run);
	if (total < 0)
		return total;
	for (uint32_t i = 0; i < sizeof order; i++) {
		for (int left = budget; left > 0; left -= CRITICAL_EVERY) {
			taken = receive_class(run, order[i],
					      left < CRITICAL_EVERY ? left : CRITICAL_EVERY);
			if (taken < 0)
				return taken;
			if (!taken)
				break;
			total += taken;
			taken = receive_critical(run);
			if (taken < 0)
				return taken;
			total += taken;
		}
	}
	return total;
}
