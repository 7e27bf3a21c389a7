/* SPDX-License-Identifier: MIT */
#include "ledger_rig.h"

struct vk_entry *ledger_get(struct vk_ledger *ledger, uint32_t number)
{
	return vk_ledger_get(ledger, number);
}

int ledger_empty(const struct vk_ledger *ledger)
{
	return vk_ledger_empty(ledger);
}

struct vk_sent_packet *sent_get(const struct vk_sent *sent, uint64_t number)
{
	return vk_sent_get(sent, number);
}

int content_take(struct vk_sent_run *run, uint32_t *number)
{
	return vk_content_take(run, number);
}
