/* SPDX-License-Identifier: MIT */
#ifndef VK_HANDOVER_H
#define VK_HANDOVER_H
/* vk_handover.h: a message that came, on its way into its application's ring.
 */
#include "vk_flows.h"
#include "vk_slots.h"

#include <string.h>

/* vk_handover_describe makes the descriptor of a message. */
static inline struct vk_message vk_handover_describe(const struct vk_run *run,
						     const struct vk_flow *flow,
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

/* vk_handover_put puts a record into the ring of the flow's class; 0: there is no room. */
static inline int vk_handover_put(struct vk_run *run, const struct vk_flow *flow,
				  const struct vk_message *message, uint8_t kind,
				  const uint8_t *payload, uint32_t size)
{
	uint8_t *body;

	/* Ends first: or a peer that opens and resets would take all rows. */
	if (kind == VK_RECORD_OPEN && run->slots[flow->app].ends & 1u << flow->class)
		return 0;
	body = vk_slots_out(run, flow->app, flow->class, sizeof *message + size);
	if (!body)
		return 0;
	memcpy(body, message, sizeof *message);
	if (size)
		memcpy(body + sizeof *message, payload, size);
	vk_slots_commit(run, flow->app, flow->class, sizeof *message + size, kind);
	return 1;
}

/* vk_handover_overrun says whether a new message is one too many for the stream's window. */
static inline int vk_handover_overrun(const struct vk_run *run, const struct vk_flow *flow,
				      uint32_t size)
{
	return flow->class != VK_CLASS_CRITICAL && vk_flow_reliable(flow) &&
	       flow->rx_cost + run->flows[vk_flow_number(run, flow)].landed + size > flow->rx_limit;
}

/* vk_handover_count counts messages that lie in an application's ring now. */
static inline void vk_handover_count(struct vk_run *run, uint32_t app, uint32_t class,
				     uint32_t messages, uint64_t bytes)
{
	struct vk_app_count *own = &run->counters->apps[app][class];
	uint64_t *row = vk_count_row(run, class);

	row[VK_RX_DELIVERED] += messages;
	row[VK_RX_DELIVERED_BYTES] += bytes;
	own->delivered += messages;
	own->delivered_bytes += bytes;
}
#endif
