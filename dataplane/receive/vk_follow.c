/* SPDX-License-Identifier: MIT */
#include "vk_follow.h"

#include "vk_handover.h"

#include <string.h>

/* The flow, when whatever follows is only to be put behind what came; NULL otherwise. */
static struct vk_flow *flow_of(struct vk_run *run, uint32_t peer, const struct vk_frame *frame,
			       const uint8_t *like)
{
	struct vk_flow *flow;

	if (frame->present != 1u << VK_EXT_SEQ || vk_frame_head(like) != VK_MESSAGE_HEAD ||
	    frame->fragment || !vk_type_message(frame->type))
		return NULL;
	flow = vk_flows_find(run, peer, frame->stream);
	if (!flow || flow->state != VK_ROW_LIVE || !vk_flow_reliable(flow) ||
	    (flow->opener && !flow->opened) || flow->closed & VK_CLOSED_THERE ||
	    !run->slots[flow->app].attached || !vk_priority_ok(flow->class, frame->priority) ||
	    flow->rx.runs || flow->rx.next != frame->sequence + 1)
		return NULL;
	return flow;
}

/* How many bytes of payload the next frame has; -1: it is another kind, or has no room. */
static int64_t next_size(const struct vk_run *run, const struct vk_flow *flow,
			 const struct vk_frame *outer, const uint8_t *like, uint32_t at)
{
	const uint8_t *data = outer->payload + at;
	uint32_t size;

	if (at + VK_MESSAGE_HEAD > outer->length || memcmp(data, like, VK_LENGTH_AT) != 0 ||
	    memcmp(data + VK_HEADER_SIZE, like + VK_HEADER_SIZE, sizeof(struct vk_ext)) != 0 ||
	    vk_get32(data + VK_SEQUENCE_AT) != flow->rx.next)
		return -1;
	size = vk_get32(data + VK_LENGTH_AT);
	if (size > outer->length - at - VK_MESSAGE_HEAD || vk_handover_overrun(run, flow, size))
		return -1;
	return size;
}

/* As for a single message, the record is in its ring before anything says so. */
static int hand_over(struct vk_run *run, struct vk_flow *flow, const struct vk_message *message,
		     const uint8_t *payload, uint32_t size)
{
	if (!vk_handover_put(run, flow, message, VK_RECORD_DATA, payload, size))
		return 0;
	flow->rx_cost += (uint64_t)size + VK_MESSAGE_COST;
	VK_STORE_RELAXED(&flow->rx.next, message->sequence + 1);
	flow->rx_messages++;
	return 1;
}

uint32_t vk_follow(struct vk_run *run, uint32_t peer, const struct vk_frame *outer,
		   const struct vk_frame *frame, const uint8_t *like, uint32_t at, uint32_t *inner)
{
	struct vk_flow *flow = flow_of(run, peer, frame, like);
	struct vk_message message;
	uint32_t messages = 0, app, class;
	uint64_t bytes = 0;
	int64_t size;

	if (!flow)
		return at;
	app = flow->app;
	class = flow->class;
	message = vk_handover_describe(run, flow, frame);
	while (*inner < VK_AGG_MAX && (size = next_size(run, flow, outer, like, at)) >= 0) {
		const uint8_t *data = outer->payload + at;

		message.sequence = flow->rx.next;
		message.correlation = vk_get32(data + VK_CORRELATION_AT);
		if (!hand_over(run, flow, &message, data + VK_MESSAGE_HEAD, (uint32_t)size))
			break;
		__builtin_prefetch(data + VK_MESSAGE_HEAD + size + 2 * (size_t)VK_LINE);
		at += vk_align_run(VK_MESSAGE_HEAD + (uint32_t)size);
		(*inner)++;
		messages++;
		bytes += (uint64_t)size;
		if (at >= outer->length)
			break;
	}
	vk_count_row(run, class)[VK_RX_MESSAGES] += messages;
	vk_handover_count(run, app, class, messages, bytes);
	return at;
}
