/* SPDX-License-Identifier: MIT */
#include "vk_follow.h"

#include "vk_handover.h"

#include <string.h>

/* What a message that follows does not have in common with the one before it. */
struct next {
	uint32_t size; /* bytes of its payload */
	uint32_t stream;
	uint32_t sequence;
	uint32_t correlation;
};

/* The flow, when what follows of a stream is only to be put behind what came; NULL otherwise. */
static struct vk_flow *flow_of(struct vk_run *run, uint32_t peer, uint32_t stream,
			       const struct vk_frame *frame, uint32_t class)
{
	struct vk_flow *flow = vk_flows_find(run, peer, stream);

	if (!flow || flow->state != VK_ROW_LIVE || flow->class != class ||
	    (flow->opener && !flow->opened) || flow->closed & VK_CLOSED_THERE ||
	    vk_flow_older(flow, frame) || !run->slots[flow->app].attached ||
	    !vk_priority_ok(class, frame->priority) || flow->rx.runs)
		return NULL;
	return flow;
}

/* The bytes in front of the next message's payload, and what it is in *next, which is the one
 * before it yet; 0: what is there is another kind. */
static inline uint32_t head_of(const uint8_t *data, uint32_t left, const uint8_t *like,
			       struct next *next)
{
	if (left < sizeof(struct vk_compact))
		return 0;
	if (vk_is_compact(data)) {
		next->size = vk_compact_length(data);
		next->sequence++;
		return sizeof(struct vk_compact);
	}
	if (vk_is_compact_stream(data) && left >= sizeof(struct vk_compact_stream)) {
		next->size = vk_compact_length(data);
		next->stream = vk_get32(data + VK_COMPACT_STREAM_AT);
		next->sequence = vk_get32(data + VK_COMPACT_SEQUENCE_AT);
		return sizeof(struct vk_compact_stream);
	}
	if (left < VK_MESSAGE_HEAD || memcmp(data, like, VK_STREAM_AT) != 0 ||
	    memcmp(data + VK_HEADER_SIZE, like + VK_HEADER_SIZE, sizeof(struct vk_ext)) != 0)
		return 0;
	next->size = vk_get32(data + VK_LENGTH_AT);
	next->stream = vk_get32(data + VK_STREAM_AT);
	next->sequence = vk_get32(data + VK_SEQUENCE_AT);
	next->correlation = vk_get32(data + VK_CORRELATION_AT);
	return VK_MESSAGE_HEAD;
}

/* How much may have come on a stream. */
static uint64_t limit_of(const struct vk_run *run, const struct vk_flow *flow)
{
	uint64_t landed;

	if (flow->class == VK_CLASS_CRITICAL || !vk_flow_reliable(flow))
		return UINT64_MAX;
	landed = run->flows[vk_flow_number(run, flow)].landed;
	return flow->rx_limit > landed ? flow->rx_limit - landed : 0;
}

uint32_t vk_follow(struct vk_run *run, uint32_t peer, const struct vk_frame *outer,
		   struct vk_frame *frame, const uint8_t *like, uint32_t at, uint32_t *inner)
{
	uint32_t most = VK_AGG_MAX - *inner, messages = 0, class = vk_stream_class(frame->stream);
	struct next next = { 0, frame->stream, frame->sequence, frame->correlation };
	uint64_t cost = 0, limit = 0, bytes = 0;
	uint32_t head, app = 0, stream = 0, expected = 0;
	struct vk_flow *flow = NULL, *told = NULL; /* of this message, and of `message` */
	struct vk_message message;
	int reliable = 0;
	struct vk_tx tx;
	uint8_t *body;

	while (at < outer->length && messages < most) {
		const uint8_t *data = outer->payload + at;
		uint32_t left = outer->length - at;

		head = head_of(data, left, like, &next);
		if (!head || next.size > left - head)
			break;
		if (!flow || next.stream != stream) {
			stream = next.stream;
			flow = flow_of(run, peer, next.stream, frame, class);
			if (!flow || (messages && flow->app != app))
				break;
			if (!messages)
				tx = run->slots[app = flow->app].out[class];
			cost = flow->rx_cost;
			limit = limit_of(run, flow);
			reliable = vk_flow_reliable(flow);
			expected = reliable ? flow->rx.next : flow->rx_sequence;
		}
		if (next.sequence != expected++ || cost + next.size > limit || !tx.capacity)
			break;
		body = vk_tx_reserve(&tx, (uint32_t)sizeof message + next.size);
		if (!body)
			break; /* for one of several reasons: the message is looked at by itself */
		if (told != flow)
			message = vk_handover_describe(run, told = flow, frame);
		message.sequence = next.sequence;
		message.correlation = next.correlation;
		memcpy(body, &message, sizeof message);
		memcpy(body + sizeof message, data + head, next.size);
		/* As for a single message, the record is in its ring before anything says so. */
		vk_tx_commit(&tx, (uint32_t)sizeof message + next.size, VK_RECORD_DATA);
		VK_STORE_RELEASE(&run->work->committed[app][class], tx.tail);
		cost += (uint64_t)next.size + VK_MESSAGE_COST;
		flow->rx_cost = cost;
		if (reliable)
			VK_STORE_RELAXED(&flow->rx.next, expected);
		else
			flow->rx_sequence = expected;
		__builtin_prefetch(data + head + next.size + 2 * (size_t)VK_LINE);
		at += vk_align_run(head + next.size);
		messages++;
		bytes += next.size;
	}
	if (!messages)
		return at;
	run->slots[app].out[class] = tx;
	run->slots[app].published |= 1u << class;
	frame->stream = message.stream;
	frame->sequence = message.sequence;
	frame->correlation = message.correlation;
	*inner += messages;
	vk_count_row(run, class)[VK_RX_MESSAGES] += messages;
	vk_handover_count(run, app, class, messages, bytes);
	return at;
}
