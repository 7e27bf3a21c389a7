/* SPDX-License-Identifier: MIT */
#ifndef LEDGER_RIG_H
#define LEDGER_RIG_H
/* ledger_rig.h: vk_ledger.h and vk_sent.h for Python, their inline functions too. */
#include "vk_ledger.h"

/* ledger_get .. content_take: see the functions of the same name. */
struct vk_entry *ledger_get(struct vk_ledger *ledger, uint32_t number);
int ledger_empty(const struct vk_ledger *ledger);
struct vk_sent_packet *sent_get(const struct vk_sent *sent, uint64_t number);
int content_take(struct vk_sent_run *run, uint32_t *number);
#endif
