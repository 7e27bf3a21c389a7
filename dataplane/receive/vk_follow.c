/* SPDX-License-Identifier: MIT */
#include "vk_follow.h"

#include "vk_handover.h"

#include <string.h>

/* The flow, when whatever follows is only to be put behind what came; NULL otherwise. */
static struct vk_flow *flow_of(struct vk_run *run, uint32_t peer, const struct vk_frame *frame)
{
	struct vk_flow *flow = vk_flows_find(run, peer, frame->stream);

	if (!flow || flow->state != VK_ROW_LIVE || !vk_flow_reliable(flow) ||
	    (flow->opener && !flow->opened) || flow->closed & VK_CLOSED_THERE ||
	    !run->slots[flow->app].attached || !vk_priority_ok(flow->class, frame->priority) ||
	    flow->rx.runs || flow->rx.next != frame->sequence + 1)
		return NULL;
	return flow;
}

/* The bytes in front of the next message's payload, and in *length how many it has; 0: what is
 * there is another kind. */
static uint32_t head_of(const uint8_t *data, uint32_t left, const uint8_t *like, uint32_t sequence,
			uint32_t *length)
{
	if (left < sizeof(struct vk_compact))
		return 0;
	if (vk_is_compact(data)) {
		*length = vk_compact_length(data);
		return sizeof(struct vk_compact);
	}
	if (left < VK_MESSAGE_HEAD || memcmp(data, like, VK_LENGTH_AT) != 0 ||
	    memcmp(data + VK_HEADER_SIZE, like + VK_HEADER_SIZE, sizeof(struct vk_ext)) != 0 ||
	    vk_get32(data + VK_SEQUENCE_AT) != sequence)
		return 0;
	*length = vk_get32(data + VK_LENGTH_AT);
	return VK_MESSAGE_HEAD;
}

uint32_t vk_follow(struct vk_run *run, uint32_t peer, const struct vk_frame *outer,
		   struct vk_frame *frame, const uint8_t *like, uint32_t at, uint32_t *inner)
{
	uint32_t most = VK_AGG_MAX - *inner, messages = 0, app, class, head, size;
	uint64_t cost, limit = UINT64_MAX, landed, bytes = 0;
	struct vk_message message;
	struct vk_flow *flow;
	struct vk_tx tx;
	uint8_t *body;

	if (!head_of(outer->payload + at, outer->length - at, like, frame->sequence + 1, &size))
		return at; /* streams take turns */
	flow = flow_of(run, peer, frame);
	if (!flow)
		return at;
	app = flow->app;
	class = flow->class;
	tx = run->slots[app].out[class];
	if (!tx.capacity)
		return at;
	cost = flow->rx_cost;
	landed = run->flows[vk_flow_number(run, flow)].landed;
	if (class != VK_CLASS_CRITICAL)
		limit = flow->rx_limit;
	message = vk_handover_describe(run, flow, frame);
	while (at < outer->length && messages < most) {
		const uint8_t *data = outer->payload + at;
		uint32_t left = outer->length - at;

		head = head_of(data, left, like, message.sequence + 1, &size);
		if (!head || size > left - head || cost + landed + size > limit)
			break;
		body = vk_tx_reserve(&tx, (uint32_t)sizeof message + size);
		if (!body)
			break; /* for one of several reasons: the message is looked at by itself */
		if (head == VK_MESSAGE_HEAD)
			message.correlation = vk_get32(data + VK_CORRELATION_AT);
		message.sequence++;
		memcpy(body, &message, sizeof message);
		memcpy(body + sizeof message, data + head, size);
		/* As for a single message, the record is in its ring before anything says so. */
		vk_tx_commit(&tx, (uint32_t)sizeof message + size, VK_RECORD_DATA);
		VK_STORE_RELEASE(&run->work->committed[app][class], tx.tail);
		cost += (uint64_t)size + VK_MESSAGE_COST;
		flow->rx_cost = cost;
		VK_STORE_RELAXED(&flow->rx.next, message.sequence + 1);
		__builtin_prefetch(data + head + size + 2 * (size_t)VK_LINE);
		at += vk_align_run(head + size);
		messages++;
		bytes += size;
	}
	if (!messages)
		return at;
	run->slots[app].out[class] = tx;
	run->slots[app].published |= 1u << class;
	frame->sequence = message.sequence;
	frame->correlation = message.correlation;
	*inner += messages;
	vk_count_row(run, class)[VK_RX_MESSAGES] += messages;
	vk_handover_count(run, app, class, messages, bytes);
	return at;
}
