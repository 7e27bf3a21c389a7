/* SPDX-License-Identifier: MIT */
#include "vk_ends.h"

#include "vk_flows.h"
#include "vk_slots.h"

#include <string.h>

/* Puts the record; 0 = no room. */
static int put(struct vk_run *run, const struct vk_flow *flow, uint32_t code)
{
	struct vk_message message = {
		.flow = vk_flow_number(run, flow),
		.flow_generation = flow->generation,
		.peer = flow->peer,
		.stream = flow->stream,
		.correlation = flow->token,
		.code = code,
	};
	uint8_t *body = vk_slots_out(run, flow->app, flow->class, sizeof message);

	if (!body)
		return 0;
	memcpy(body, &message, sizeof message);
	vk_slots_commit(run, flow->app, flow->class, sizeof message,
			flow->opener && !flow->opened ? VK_RECORD_OPENED : VK_RECORD_RESET);
	return 1;
}

static void note(struct vk_run *run, struct vk_flow *flow, uint32_t code)
{
	struct vk_run_slot *slot = &run->slots[flow->app];
	uint32_t number = vk_flow_number(run, flow), *last = &slot->end_last[flow->class];

	VK_STORE_RELEASE(&flow->end_code, code);
	run->flows[number].end_next = 0;
	if (*last)
		run->flows[*last - 1].end_next = number + 1;
	else
		slot->end_first[flow->class] = number + 1;
	*last = number + 1;
	slot->ends |= 1u << flow->class;
}

/* Takes the first of a list off it: there is nothing to tell of it any more. */
static void take_off(struct vk_run *run, struct vk_run_slot *slot, uint32_t class)
{
	uint32_t number = slot->end_first[class] - 1;
	struct vk_flow *flow = &run->work->flows[number];

	slot->end_first[class] = run->flows[number].end_next;
	if (!slot->end_first[class]) {
		slot->end_last[class] = 0;
		slot->ends &= ~(1u << class);
	}
	VK_STORE_RELEASE(&flow->end_code, 0);
	if (flow->state == VK_ROW_TELLING)
		vk_flows_free(run, flow);
}

void vk_ends_tell(struct vk_run *run, struct vk_flow *flow, uint32_t code)
{
	const struct vk_run_slot *slot = &run->slots[flow->app];

	if (!(slot->ends & 1u << flow->class) && put(run, flow, code))
		return;
	if (slot->attached && slot->capacity[flow->class])
		note(run, flow, code);
}

void vk_ends_load(struct vk_run *run, struct vk_flow *flow)
{
	const struct vk_run_slot *slot;

	if (!flow->end_code)
		return;
	slot = flow->app < VK_APPS_MAX && flow->class < VK_CLASS_COUNT ? &run->slots[flow->app] :
									 NULL;
	if (slot && slot->attached && slot->generation == flow->app_generation &&
	    slot->capacity[flow->class])
		note(run, flow, flow->end_code);
	else
		flow->end_code = 0;
}

void vk_ends_flush(struct vk_run *run, uint32_t number)
{
	struct vk_run_slot *slot = &run->slots[number];

	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++) {
		while (slot->end_first[c]) {
			const struct vk_flow *flow = &run->work->flows[slot->end_first[c] - 1];

			if (!put(run, flow, flow->end_code))
				break; /* cut off, the lists are empty */
			take_off(run, slot, c);
		}
	}
}

void vk_ends_forget(struct vk_run *run, uint32_t number)
{
	struct vk_run_slot *slot = &run->slots[number];

	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++)
		while (slot->end_first[c])
			take_off(run, slot, c);
}

int vk_ends_owed(const struct vk_run *run, uint32_t slot, const struct vk_message *message)
{
	const struct vk_flow *flow;

	if (!run->slots[slot].ends || message->flow >= VK_FLOWS_MAX)
		return 0;
	flow = &run->work->flows[message->flow];
	return flow->end_code && flow->generation == message->flow_generation && flow->app == slot;
}
