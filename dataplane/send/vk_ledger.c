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
	*entry = (struct vk_entry){ .at = at, .next = VK_NO_ENTRY };
	return entry;
}
