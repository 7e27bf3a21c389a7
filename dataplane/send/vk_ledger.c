/* SPDX-License-Identifier: MIT */
#include "vk_ledger.h"

#include <stdlib.h>
#include <string.h>

void vk_ledger_begin(struct vk_ledger *ledger)
{
	ledger->first = ledger->next; /* numbers go on: packets of the one before may still fly */
}

void vk_ledger_free(struct vk_ledger *ledger)
{
	free(ledger->entries);
	ledger->entries = NULL;
	ledger->mask = 0;
	ledger->first = ledger->next;
}

static int grow(struct vk_ledger *ledger)
{
	uint32_t size = ledger->entries ? 2 * (ledger->mask + 1) : VK_LEDGER_MIN;
	struct vk_entry *entries = malloc(size * sizeof *entries);

	if (!entries)
		return 0;
	for (uint32_t i = ledger->first; i != ledger->next; i++)
		entries[i & (size - 1)] = ledger->entries[i & ledger->mask];
	free(ledger->entries);
	ledger->entries = entries;
	ledger->mask = size - 1;
	return 1;
}

struct vk_entry *vk_ledger_push(struct vk_ledger *ledger, uint64_t at)
{
	struct vk_entry *entry;

	if ((!ledger->entries || ledger->next - ledger->first > ledger->mask) && !grow(ledger))
		return NULL;
	entry = &ledger->entries[ledger->next++ & ledger->mask];
	*entry = (struct vk_entry){ .at = at };
	return entry;
}

int vk_content_join(struct vk_sent_run *run, uint32_t number)
{
	uint64_t steps = (uint64_t)run->b << 32 | run->a;
	uint32_t last = run->first, step;

	if (!run->apart && number == run->first + run->a) {
		run->a++;
		return 1;
	}
	if (run->apart == VK_APART_MAX || (!run->apart && run->a != 1))
		return 0;
	if (!run->apart)
		steps = 0;
	for (uint32_t i = 0; i < run->apart; i++)
		last += (uint32_t)(int16_t)(steps >> 16 * i);
	step = number - last;
	if ((uint32_t)(int16_t)step != step)
		return 0;
	steps |= (uint64_t)(uint16_t)step << 16 * run->apart++;
	run->a = (uint32_t)steps;
	run->b = (uint32_t)(steps >> 32);
	return 1;
}
