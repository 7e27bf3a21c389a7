/* SPDX-License-Identifier: MIT */
#ifndef VK_SLOTS_H
#define VK_SLOTS_H
/* vk_slots.h: attached applications. What an application can write is never trusted: a broken
 * index or record cuts it off, and nobody else notices.
 */
#include "vk_run.h"

/* vk_slots_inherit takes over the slots that were attached when the worker was forked. */
void vk_slots_inherit(struct vk_run *run);

/* vk_slots_attach maps region D (writable) and A (read-only) of an order and opens the rings.
 * fds: D, A, bell of the application, bell of the worker; D and A are closed in any case, the
 * bells are kept. Returns 0 or -errno. */
int vk_slots_attach(struct vk_run *run, uint32_t slot, const int fds[4]);

/* vk_slots_detach ends an application: flows closed, peers told, memory unmapped. */
void vk_slots_detach(struct vk_run *run, uint32_t slot);

/* vk_slots_violation cuts an application off and tells the broker. */
void vk_slots_violation(struct vk_run *run, uint32_t slot);

/* vk_slots_out reserves a record with a body of size bytes in a ring to an application. NULL: the
 * ring is full, or the application was just cut off. */
uint8_t *vk_slots_out(struct vk_run *run, uint32_t slot, uint32_t class, uint32_t size);

/* vk_slots_commit completes it. How far it came is noted where the next worker finds it: it
 * publishes what this one may not. */
static inline void vk_slots_commit(struct vk_run *run, uint32_t slot, uint32_t class, uint32_t size,
				   uint8_t kind)
{
	struct vk_tx *tx = &run->slots[slot].out[class];

	vk_tx_commit(tx, size, kind);
	VK_STORE_RELEASE(&run->work->committed[slot][class], tx->tail);
	run->slots[slot].published |= 1u << class;
}

/* vk_slots_skip enters the record at a ring's scan position as done, if it has to wait for others
 * before it until its bytes are released. */
void vk_slots_skip(struct vk_run *run, uint32_t slot, uint32_t class);

/* vk_slots_flush publishes and releases what the turn did, and rings the bells that are wanted. */
void vk_slots_flush(struct vk_run *run);

/* vk_slots_pending says whether any application has a record for the worker. */
int vk_slots_pending(struct vk_run *run);

/* vk_slots_asleep says whether all applications sleep, and none was woken. */
int vk_slots_asleep(const struct vk_run *run);

/* vk_slots_sleep and vk_slots_wake announce to all applications that the worker sleeps, or not. */
void vk_slots_sleep(struct vk_run *run);
void vk_slots_wake(struct vk_run *run);

/* vk_slots_policy copies the slot's policy row again if the daemon changed it. */
void vk_slots_policy(struct vk_run *run, uint32_t slot);

/* vk_slots_reach says whether the policy lets an application open streams to a peer. */
int vk_slots_reach(const struct vk_run *run, uint32_t slot, uint32_t peer);

/* vk_slots_allow says whether the policy lets an application use a stream. */
int vk_slots_allow(const struct vk_run_slot *slot, uint32_t stream);
#endif
