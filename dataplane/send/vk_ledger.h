/* SPDX-License-Identifier: MIT */
#ifndef VK_LEDGER_H
#define VK_LEDGER_H
/* vk_ledger.h: what became of every record in an application's TX ring. The ring keeps a record
 * until the peer acknowledged it: the ring is the retransmission buffer, and its head is released
 * over the records that are done. A ledger is one ring's, private to the worker; the next worker
 * reads the ring again from its released head.
 */
#include "vk_ring.h"
#include "vk_sent.h"
#include "vk_wire.h"

enum vk_entry_state {
	VK_ENTRY_HELD = 0, /* waits for its stream's credit, or for its turn behind one that does */
	VK_ENTRY_FLYING = 1, /* sent; `copies` packets carry it */
	VK_ENTRY_LOST = 2, /* to be sent again */
	VK_ENTRY_DONE = 3, /* acknowledged, or nothing waits for it */
};

enum vk_ledger_const {
	VK_LEDGER_MIN = 64, /* entries of the first allocation */
	VK_APART_MAX = 4, /* entries behind the first that need not lie one behind the other */
};

/* What a packet carries: the content of vk_sent_run. */
enum vk_content {
	VK_CONTENT_NONE = 0,
	/* slot, ring; first entry, a = how many; or `apart` others, that many steps of 16 bits
	 * behind it in a and b, the lowest first */
	VK_CONTENT_MESSAGES = 1,
	VK_CONTENT_SHARD = 2, /* slot, ring; first = entry, a = offset, b = bytes */
	VK_CONTENT_CONTROL = 3, /* first = flow, a = enum vk_owe bits, b = flow generation */
	VK_CONTENT_CREDIT = 4, /* first, a, b: flows + 1 whose limits were told; 0 = none */
	VK_CONTENT_MTU = 5, /* a = bytes: a probe of the path */
};

/* One record. */
struct vk_entry {
	uint64_t at; /* where it begins, as the ring counts */
	uint32_t flow; /* number; VK_NO_FLOW = none */
	uint32_t sequence;
	uint32_t size; /* bytes of the record's body */
	uint32_t next; /* entry held behind this one, if there is one */
	uint32_t shards; /* index + 1 into the run's shard table; 0 = in one piece */
	uint8_t state;
	uint8_t copies;
	uint8_t kind; /* enum vk_record_kind */
	uint8_t again : 1; /* it was sent before: the next copy is a retransmission */
	uint8_t more : 1; /* a fragment: the next one of its message comes behind it */
};

/* A ring's entries [first, next), by number: any 32 bits are one. Numbers begin anew behind the
 * largest, when packets that carried those before are long settled. */
struct vk_ledger {
	struct vk_entry *entries;
	uint32_t mask;
	uint32_t first;
	uint32_t next;
};

/* vk_ledger_begin starts over an application's ring: nothing of an earlier one remains. */
void vk_ledger_begin(struct vk_ledger *ledger);

/* vk_ledger_free gives the memory back. */
void vk_ledger_free(struct vk_ledger *ledger);

/* vk_ledger_push enters the record at a position and returns its entry, NULL when there is no
 * memory. Entries move when the ledger grows: no pointer outlives a push. */
struct vk_entry *vk_ledger_push(struct vk_ledger *ledger, uint64_t at);

/* vk_ledger_spare returns the next entry, to be written as a whole; NULL: the ledger has to grow,
 * as vk_ledger_push does. */
static inline struct vk_entry *vk_ledger_spare(struct vk_ledger *ledger)
{
	if (!ledger->entries || ledger->next - ledger->first > ledger->mask)
		return NULL;
	return &ledger->entries[ledger->next++ & ledger->mask];
}

/* vk_ledger_get returns an entry that is there, NULL otherwise: packets may outlive their
 * content. */
static inline struct vk_entry *vk_ledger_get(struct vk_ledger *ledger, uint32_t number)
{
	if (number - ledger->first >= ledger->next - ledger->first)
		return NULL;
	return &ledger->entries[number & ledger->mask];
}

/* vk_content_take takes the first entry out of a run of messages; 0 = none is left. */
static inline int vk_content_take(struct vk_sent_run *run, uint32_t *number)
{
	if (!run->apart && !run->a)
		return 0;
	*number = run->first;
	if (!run->apart) {
		run->first++;
		run->a--;
		return 1;
	}
	run->first += (uint32_t)(int16_t)run->a;
	run->a = run->a >> 16 | run->b << 16;
	run->b >>= 16;
	if (!--run->apart)
		run->a = 1;
	return 1;
}

/* vk_content_join has a run of messages name another entry of its ring; 0 = it cannot. */
int vk_content_join(struct vk_sent_run *run, uint32_t number);

/* vk_ledger_empty says whether nothing waits for anything. */
static inline int vk_ledger_empty(const struct vk_ledger *ledger)
{
	return ledger->first == ledger->next;
}
#endif
