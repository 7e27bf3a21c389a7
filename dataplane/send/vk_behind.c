/* SPDX-License-Identifier: MIT */
#include "vk_behind.h"

#include "vk_flows.h"

#include <string.h>

static int is_of(const struct vk_record *record, const uint8_t *body, uint32_t flow)
{
	uint32_t number;

	if (record->kind != VK_RECORD_DATA || record->size < sizeof(struct vk_message))
		return 0;
	memcpy(&number, body + offsetof(struct vk_message, flow), sizeof number);
	return number == flow;
}

int vk_behind_alike(struct vk_run *run, uint32_t slot, uint32_t ring, const struct vk_flow *flow)
{
	struct vk_behind *behind = &run->slots[slot].behind[ring];
	struct vk_rx *in = &run->slots[slot].in[ring], look = *in;
	uint32_t number = vk_flow_number(run, flow);
	struct vk_record record;
	const uint8_t *body;
	int found;

	if (behind->flow == number && behind->position > look.head)
		look.head = behind->position;
	while ((found = vk_rx_peek(&look, &record, &body)) > 0 && is_of(&record, body, number))
		vk_rx_advance(&look, &record);
	if (look.tail - in->head > in->capacity)
		return 0; /* whoever takes the next record there finds the same */
	in->tail = look.tail;
	*behind = (struct vk_behind){ look.head, number };
	return !found;
}
