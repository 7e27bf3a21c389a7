/* SPDX-License-Identifier: MIT */
#include "vk_receive.h"

#include "vk_credit.h"
#include "vk_follow.h"
#include "vk_handover.h"
#include "vk_python.h"
#include "vk_reassembly.h"
#include "vk_refused.h"
#include "vk_rekey.h"
#include "vk_sealing.h"
#include "vk_session.h"
#include "vk_tokens.h"

enum {
	RESET_EVERY_NS = 1000000, /* one reset a millisecond to streams that nobody knows */
	AHEAD = 32, /* streams of a datagram that are looked for together */
	SEQUENCED = 1u << VK_EXT_SEQ | 1u << VK_EXT_SHARD,
};

/* Tells the opener of a stream that it is open, before anything else of it; 0 = no room. */
static int tell_opened(struct vk_run *run, struct vk_flow *flow)
{
	struct vk_message message = {
		.flow = vk_flow_number(run, flow),
		.flow_generation = flow->generation,
		.peer = flow->peer,
		.stream = flow->stream,
		.correlation = flow->token,
	};

	if (!flow->opener || flow->opened)
		return 1;
	flow->answered = 1;
	flow->opened = (uint8_t)vk_handover_put(run, flow, &message, VK_RECORD_OPENED, NULL, 0);
	if (flow->opened)
		vk_credit_limit(run, flow);
	return flow->opened;
}

/* Hands a message over; 0 when there is no room for it, and the peer has to send it again. */
static int deliver(struct vk_run *run, struct vk_flow *flow, const struct vk_frame *frame,
		   const uint8_t *payload, uint32_t size)
{
	struct vk_message message = vk_handover_describe(run, flow, frame);
	uint64_t *row = vk_count_row(run, flow->class);

	if (vk_flow_reliable(flow))
		message.code = frame->fragment;
	if (!run->slots[flow->app].attached) {
		row[VK_DROP_APP_GONE]++;
		return 0;
	}
	if (!vk_handover_put(run, flow, &message, VK_RECORD_DATA, payload, size)) {
		row[VK_DROP_APP_RING]++;
		run->counters->apps[flow->app][flow->class].dropped++;
		return 0;
	}
	flow->rx_cost += (uint64_t)size + VK_MESSAGE_COST;
	vk_handover_count(run, flow->app, flow->class, 1, size);
	return 1;
}

/* Notes that a message came. The record is in its ring first: a worker that dies in between makes
 * the application see it twice, which its library notices. */
static void note_message(struct vk_run *run, struct vk_flow *flow, uint32_t sequence)
{
	vk_sequences_add(&flow->rx, &run->gaps, &run->pools[flow->peer].gaps,
			 vk_flow_number(run, flow), sequence);
	if (flow->closed & VK_CLOSED_THERE)
		vk_flows_settle(run, flow);
}

static int receive_shard(struct vk_run *run, struct vk_flow *flow, struct vk_frame *frame)
{
	struct vk_shard shard = {
		.flow = vk_flow_number(run, flow),
		.flow_generation = flow->generation,
		.sequence = frame->sequence,
		.offset = frame->offset,
		.total = frame->total,
		.size = frame->length,
		.data = frame->payload,
		.party = { flow->peer, flow->app, flow->class, (uint8_t)vk_flow_reliable(flow) },
	};
	struct vk_flow_run *own = &run->flows[shard.flow];
	uint64_t *row = vk_count_row(run, flow->class);
	enum vk_shard_result result;
	const uint8_t *message;
	uint32_t landed, stored;
	int delivered;

	result = vk_reassembly_add(run->reassembly, &shard, run->now_ns, &message);
	stored = vk_reassembly_stored(run->reassembly);
	switch (result) {
	case VK_SHARD_CONTRADICTS:
		if (vk_flow_reliable(flow)) /* what came of it does not come again */
			vk_flows_break(run, flow, VK_CODE_SHARDS);
		/* fall through */
	case VK_SHARD_REFUSED:
		row[VK_DROP_REASSEMBLY]++;
		return 0;
	case VK_SHARD_KNOWN:
		row[VK_DROP_STALE]++;
		return 1;
	case VK_SHARD_TAKEN:
	case VK_SHARD_COMPLETE:
		break;
	}
	if (vk_handover_overrun(run, flow, stored)) {
		row[VK_DROP_REASSEMBLY]++;
		vk_flows_break(run, flow, VK_CODE_FLOW_CONTROL);
		return 0;
	}
	if (result == VK_SHARD_TAKEN) {
		row[VK_RX_SHARDS]++;
		vk_credit_grow(run, flow, stored);
		return 1;
	}
	frame->flags &= (uint8_t)~VK_FLAG_FRG;
	delivered = deliver(run, flow, frame, message, frame->total);
	if (!delivered && vk_flow_reliable(flow)) {
		vk_credit_hold(run, flow, vk_reassembly_wait(run->reassembly));
		return 0; /* this shard has to come again, when there is room */
	}
	own->undelivered -= vk_reassembly_done(run->reassembly);
	row[VK_RX_SHARDS]++;
	row[VK_RX_REASSEMBLED]++;
	if (!vk_flow_reliable(flow)) {
		vk_flows_came(run, flow, frame->sequence);
		return 1;
	}
	landed = frame->total - stored;
	own->landed -= own->landed < landed ? own->landed : landed;
	note_message(run, flow, frame->sequence);
	return 1;
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
				  .peer = peer,
				  .stream = frame->stream,
				  .code = VK_CODE_STREAM_UNKNOWN,
			  });
}

static int receive_log(struct vk_run *run, struct vk_flow *flow, struct vk_frame *frame)
{
	if (frame->present & 1u << VK_EXT_SHARD) {
		receive_shard(run, flow, frame);
	} else {
		vk_flows_came(run, flow, frame->sequence);
		deliver(run, flow, frame, frame->payload, frame->length);
	}
	return 1;
}

/* Whether a message lies beyond the end that the peer has said its stream has. */
static int beyond_end(const struct vk_flow *flow, uint32_t sequence)
{
	return flow->closed & VK_CLOSED_THERE && (int32_t)(sequence - flow->rx_final) >= 0;
}

static int receive_reliable(struct vk_run *run, struct vk_flow *flow, struct vk_frame *frame)
{
	uint64_t *row = vk_count_row(run, flow->class);

	if (beyond_end(flow, frame->sequence)) {
		row[VK_DROP_REASSEMBLY]++;
		vk_flows_break(run, flow, VK_CODE_FLOW_CONTROL);
		return 0;
	}
	switch (vk_sequences_look(&flow->rx, &run->gaps, &run->pools[flow->peer].gaps,
				  frame->sequence)) {
	case VK_SEQUENCE_DUPLICATE:
		row[VK_DROP_STALE]++;
		return 1;
	case VK_SEQUENCE_FULL:
		row[VK_DROP_REASSEMBLY]++;
		return 0;
	case VK_SEQUENCE_NEW:
		break;
	}
	if (frame->present & 1u << VK_EXT_SHARD)
		return receive_shard(run, flow, frame);
	if (vk_handover_overrun(run, flow, frame->length)) {
		row[VK_DROP_REASSEMBLY]++;
		vk_flows_break(run, flow, VK_CODE_FLOW_CONTROL);
		return 0;
	}
	if (!deliver(run, flow, frame, frame->payload, frame->length))
		return 0;
	note_message(run, flow, frame->sequence);
	return 1;
}

/* Returns whether the message was accepted: 0 = the peer has to send it again. */
static int receive_message(struct vk_run *run, uint32_t peer, struct vk_frame *frame)
{
	struct vk_flow *flow = vk_flows_find(run, peer, frame->stream);
	uint64_t *row = vk_count_row(run, vk_stream_class(frame->stream));

	row[VK_RX_MESSAGES]++;
	if (!flow) {
		unknown_stream(run, peer, frame);
		return 0;
	}
	if (flow->state == VK_ROW_CLOSING || !(frame->present & SEQUENCED)) {
		row[VK_DROP_STALE]++; /* a late copy; or no message of a stream */
		return 1;
	}
	if (!vk_priority_ok(flow->class, frame->priority))
		row[VK_RX_QOS_VIOLATIONS]++;
	if (vk_flow_older(flow, frame)) {
		row[VK_DROP_STALE]++;
		return 0;
	}
	if (!tell_opened(run, flow)) {
		row[VK_DROP_APP_RING]++;
		return 0;
	}
	return vk_flow_reliable(flow) ? receive_reliable(run, flow, frame) :
					receive_log(run, flow, frame);
}

/* What the peer sent on an older stream with this id had lower numbers. */
static void begins(struct vk_flow *flow, const struct vk_frame *frame)
{
	flow->since = frame->number;
	flow->since_session = frame->session;
}

static void answer(struct vk_run *run, uint32_t peer, const struct vk_frame *frame, uint8_t type,
		   uint32_t code)
{
	vk_reply_put(run, (struct vk_reply){
				  .type = type,
				  .class = (uint8_t)vk_stream_class(frame->stream),
				  .peer = peer,
				  .stream = frame->stream,
				  .correlation = frame->correlation,
				  .code = code,
			  });
}

static int receive_open(struct vk_run *run, uint32_t peer, const struct vk_frame *frame)
{
	struct vk_flow *flow = vk_flows_find(run, peer, frame->stream);
	struct vk_message message;
	uint32_t code;
	int slot;

	if (flow && ((flow->state == VK_ROW_CLOSING && flow->token == frame->correlation) ||
		     (!flow->opener && vk_flow_older(flow, frame))))
		return 1; /* a late copy, or of an older stream */
	if (flow && flow->state == VK_ROW_CLOSING) {
		vk_flows_close(run, flow);
		flow = NULL;
	}
	if (flow && !flow->opener && flow->token == frame->correlation) {
		vk_session_owe(run, flow, VK_OWE_ACCEPT); /* asked again */
		return 1;
	}
	if (flow && flow->opener) {
		answer(run, peer, frame, VK_STREAM_RESET, VK_CODE_STREAM_IN_USE);
		return 1;
	}
	if (flow) /* the peer forgot it: it or its application started anew */
		vk_flows_reset(run, flow, VK_CODE_STREAM_UNKNOWN);
	slot = vk_services_find(run, peer, frame, &code);
	if (slot < 0) {
		if (code == VK_CODE_POLICY)
			vk_count_row(run, vk_stream_class(frame->stream))[VK_REFUSED_OPEN]++;
		answer(run, peer, frame, VK_STREAM_RESET, code);
		return 0; /* the answer may be lost: it asks again */
	}
	flow = vk_flows_open(run, peer, frame->stream, (uint32_t)slot, frame->correlation, 0);
	if (!flow) {
		answer(run, peer, frame, VK_STREAM_RESET, VK_CODE_STREAMS_FULL);
		return 0;
	}
	begins(flow, frame);
	message = vk_handover_describe(run, flow, frame);
	if (!vk_handover_put(run, flow, &message, VK_RECORD_OPEN, frame->payload, frame->length)) {
		if (flow->state == VK_ROW_LIVE)
			vk_flows_close(run, flow); /* the opener asks again */
		return 0;
	}
	vk_session_owe(run, flow, VK_OWE_ACCEPT);
	return 1;
}

/* The answer to our STREAM_OPEN. */
static int receive_accept(struct vk_run *run, uint32_t peer, const struct vk_frame *frame)
{
	struct vk_flow *flow = vk_flows_find(run, peer, frame->stream);

	if (!flow || flow->state != VK_ROW_LIVE || flow->token != frame->correlation)
		return 1;
	if (!flow->answered)
		begins(flow, frame);
	return tell_opened(run, flow);
}

static int receive_reset(struct vk_run *run, uint32_t peer, const struct vk_frame *frame)
{
	struct vk_flow *flow = vk_flows_find(run, peer, frame->stream);
	uint32_t code = frame->length >= 4 ? vk_get32(frame->payload) : 0;

	/* Without a token it answers a message, which a stream being opened never sent. */
	if (!flow ||
	    (frame->correlation ? frame->correlation != flow->token : vk_flow_opening(flow)))
		return 1;
	/* A peer forgets a stream without a word when both directions came to their ends, ours too:
	 * it has all, and only its acknowledgements were lost. */
	if (flow->state == VK_ROW_CLOSING ||
	    (code == VK_CODE_STREAM_UNKNOWN && !frame->correlation && vk_flows_ended(flow)))
		vk_flows_close(run, flow);
	else if (!flow->opener && frame->correlation)
		vk_flows_gone(run, flow, code ? code : VK_CODE_STREAM_UNKNOWN);
	else
		vk_flows_reset(run, flow, code ? code : VK_CODE_STREAM_UNKNOWN);
	return 1;
}

/* Whether more messages came than the peer says there were. */
static int more_came(const struct vk_run *run, const struct vk_flow *flow, uint32_t final)
{
	return vk_flow_reliable(flow) &&
	       (int32_t)(final - vk_sequences_end(&flow->rx, &run->gaps)) < 0;
}

/* The peer sends no more; SEQ says how many messages there were. */
static int receive_close(struct vk_run *run, uint32_t peer, const struct vk_frame *frame)
{
	struct vk_flow *flow = vk_flows_find(run, peer, frame->stream);
	struct vk_message message;

	if (!flow || flow->state != VK_ROW_LIVE || flow->closed & VK_CLOSED_THERE ||
	    frame->correlation != flow->token)
		return 1;
	if (more_came(run, flow, frame->sequence)) {
		vk_flows_break(run, flow, VK_CODE_FLOW_CONTROL);
		return 0;
	}
	message = vk_handover_describe(run, flow, frame);
	if (vk_flow_opening(flow) || !tell_opened(run, flow) ||
	    !vk_handover_put(run, flow, &message, VK_RECORD_CLOSE, NULL, 0))
		return 0;
	flow->rx_final = frame->sequence;
	flow->closed |= VK_CLOSED_THERE;
	vk_flows_settle(run, flow);
	return 1;
}

/* Returns whether the frame was accepted: 0 = the peer has to send it again. */
static int receive_inner(struct vk_run *run, uint32_t peer, struct vk_frame *frame, int *eliciting)
{
	if (vk_type_message(frame->type)) {
		*eliciting = 1;
		return receive_message(run, peer, frame);
	}
	vk_count_row(run, vk_stream_class(frame->stream))[VK_RX_CONTROL]++;
	if (frame->type == VK_STREAM_ACK) {
		int credits = vk_session_acked(run, run->sessions[peer], frame);

		*eliciting |= credits > 0;
		return credits >= 0;
	}
	*eliciting = 1;
	switch (frame->type) {
	case VK_STREAM_OPEN:
		return frame->flags & VK_FLAG_ACK ? receive_accept(run, peer, frame) :
						    receive_open(run, peer, frame);
	case VK_STREAM_CLOSE:
		return receive_close(run, peer, frame);
	case VK_STREAM_RESET:
		return receive_reset(run, peer, frame);
	case VK_PING:
		answer(run, peer, frame, VK_PONG, 0);
		return 1;
	default: /* PONG and the like: nobody waits for them */
		return 1;
	}
}

/* Of many streams none is in a cache: the misses of a datagram's overlap. One whose second message
 * is of the same stream as the first is taken for one stream's. */
static void look_ahead(const struct vk_run *run, uint32_t peer, const struct vk_frame *outer)
{
	uint32_t streams[AHEAD], count = 0;

	for (uint32_t at = 0; outer->length - at >= VK_HEADER_SIZE && count < AHEAD;) {
		const uint8_t *data = outer->payload + at;
		uint32_t left = outer->length - at, size;

		if (vk_is_compact(data)) {
			if (count == 1)
				return;
			size = (uint32_t)sizeof(struct vk_compact) + vk_compact_length(data);
		} else if (vk_is_compact_stream(data)) {
			size = (uint32_t)sizeof(struct vk_compact_stream) + vk_compact_length(data);
			streams[count++] = vk_get32(data + VK_COMPACT_STREAM_AT);
		} else if (vk_is_compact_shard(data)) {
			size = (uint32_t)sizeof(struct vk_compact_shard) + vk_compact_length(data);
		} else {
			size = vk_frame_head(data) + vk_get32(data + VK_LENGTH_AT);
			streams[count++] = vk_get32(data + VK_STREAM_AT);
		}
		if (size >= left) /* the last one, or malformed */
			break;
		at += vk_align_run(size);
		if (at > outer->length)
			break;
	}
	vk_flows_look_ahead(run, peer, streams, count);
}

static int receive_run(struct vk_run *run, uint32_t peer, uint32_t class,
		       const struct vk_frame *outer, int *eliciting)
{
	uint32_t at = 0, inner = 0;
	const uint8_t *like = NULL;
	struct vk_frame frame;
	int accepted = 1;

	if (vk_flows_many(run))
		look_ahead(run, peer, outer);
	while (at < outer->length) {
		const uint8_t *data = outer->payload + at;

		if (!data[0] && (outer->length - at < 2 || !data[1]))
			return accepted; /* padding */
		if (inner++ == VK_AGG_MAX ||
		    !vk_frame_inner(&frame, &like, outer->stream, data, outer->length - at) ||
		    vk_stream_class(frame.stream) != class) {
			vk_count_row(run, class)[VK_DROP_INNER_INVALID]++;
			return 0;
		}
		frame.number = outer->number;
		frame.session = outer->session;
		at += vk_align_run(frame.size);
		if (at < outer->length)
			__builtin_prefetch(outer->payload + at + VK_LINE);
		accepted &= receive_inner(run, peer, &frame, eliciting);
		if (like && at < outer->length)
			at = vk_follow(run, peer, outer, &frame, like, at, &inner);
	}
	return accepted;
}

/* Whether the frames of a peer may have a session's id. */
static int known_session(const struct vk_run *run, uint32_t peer, uint32_t id)
{
	struct vk_session *session = run->sessions[peer];
	const struct vk_peer *row = &run->peers[peer];

	if (session)
		return vk_rekey_keyring(session, id) != NULL;
	return row->joined && row->session_local == id;
}

/* Whether a packet is new, and of a session that is ours; counts it if not. */
static struct vk_session *admit(struct vk_run *run, uint32_t peer, uint32_t class,
				const struct vk_frame *frame)
{
	uint64_t *row = vk_count_row(run, class);
	struct vk_session *session;

	if (!(frame->present & 1u << VK_EXT_SESSION) || frame->space != vk_class_space(class) ||
	    !known_session(run, peer, frame->session)) {
		row[VK_DROP_FRAME_SESSION]++;
		if (frame->present & 1u << VK_EXT_SESSION && frame->space == vk_class_space(class))
			vk_python_refuse(run, peer, frame->session);
		return NULL;
	}
	session = vk_session_of(run, peer);
	if (session &&
	    (vk_received_look(&session->received[frame->space], frame->number) != VK_ARRIVAL_NEW ||
	     vk_refused_look(session, frame->space, frame->number))) {
		row[VK_DROP_FRAME_TWICE]++;
		return NULL;
	}
	return session;
}

static void receive_packet(struct vk_run *run, uint32_t peer, uint32_t class,
			   struct vk_frame *frame, int ce)
{
	struct vk_session *session = admit(run, peer, class, frame);
	struct vk_packet *packet = &run->work->packets[peer];
	int eliciting = 0, accepted;

	if (!session || !vk_sealing_open(run, session, class, frame))
		return;
	if (vk_rekey_opened(run, session, frame->session))
		packet->heard_ns = run->now_ns;
	packet->rx_packets[frame->space]++;
	if (frame->number >= packet->rx_number[frame->space])
		packet->rx_number[frame->space] = frame->number + 1;
	if (frame->flags & VK_FLAG_AGG)
		accepted = receive_run(run, peer, class, frame, &eliciting);
	else
		accepted = receive_inner(run, peer, frame, &eliciting);
	if (!accepted) {
		vk_refused_note(run, session, frame);
		return;
	}
	vk_received_add(&session->received[frame->space], frame->number, eliciting, ce,
			run->came_ns, run->now_ns);
	if (!eliciting)
		return;
	session->ack_stream[frame->space] = frame->stream;
	vk_session_touch(run, session);
}

/* The UDP port that a peer sends from. */
static uint16_t port_of(const struct vk_run *run, uint32_t peer)
{
	const struct vk_session *session = run->sessions[peer];

	return session ? session->udp_port : run->peers[peer].udp_port;
}

void vk_receive_frame(struct vk_run *run, uint32_t port, uint32_t class,
		      const struct vk_rx_frame *datagram, uint32_t peer)
{
	uint64_t *row = vk_count_row(run, class);
	struct vk_frame frame;

	run->came_ns = run->now_ns;
	if (datagram->came_ns && datagram->came_ns < run->now_ns)
		run->came_ns = datagram->came_ns;
	if (vk_frame_parse(&frame, datagram->data, datagram->size, 1) ||
	    vk_frame_class(&frame) != class || frame.number >> VK_NUMBER_BITS) {
		row[VK_DROP_FRAME_INVALID]++;
		return;
	}
	if (!vk_tokens_let_in(run, port, class, datagram))
		return;
	if (class == VK_CLASS_CONTROL) {
		if (frame.flags & VK_FLAG_ENC) {
			row[VK_DROP_FRAME_INVALID]++;
			return;
		}
		if (peer == VK_PEER_NOBODY || !vk_python_pong(run, peer, &frame))
			vk_python_frame(run, port, datagram);
		return;
	}
	if (peer == VK_PEER_NOBODY) {
		row[VK_DROP_FRAME_UNKNOWN_PEER]++;
		vk_python_elsewhere(run, port, datagram, &frame);
		return;
	}
	if (datagram->source_port != port_of(run, peer))
		vk_python_elsewhere(run, port, datagram, &frame);
	row[VK_RX_FRAMES]++;
	row[VK_RX_BYTES] += datagram->size;
	receive_packet(run, peer, class, &frame, datagram->ce);
}
