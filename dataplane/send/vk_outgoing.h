/* SPDX-License-Identifier: MIT */
#ifndef VK_OUTGOING_H
#define VK_OUTGOING_H
/* vk_outgoing.h: records of applications' rings become frames. A record is checked once, when it
 * is first seen; what of it is read again for a retransmission can only harm its own stream. Every
 * DATA record ends in exactly one counter of its ring's class:
 *
 *   taken = tx_messages + refused_flow + refused_size + refused_policy + refused_late
 *         + drop_tx_unreachable
 */
#include "vk_datagram.h"

enum vk_outcome {
	VK_WENT, /* the record is sent or needs no more: step over it */
	VK_HOLD, /* it has to wait for its stream; others of the ring may go on */
	VK_LATER, /* it stays; stop this ring for this turn (run->refused) */
	VK_STAYS, /* it stays until its stream has credit: all behind it are of that stream */
};

/* vk_outgoing_record handles the record at the scan position of a ring. alone: it is the last one
 * there. Entries are made in the ring's ledger as needed. */
enum vk_outcome vk_outgoing_record(struct vk_run *run, uint32_t slot, uint32_t ring,
				   const struct vk_record *record, const uint8_t *body, int alone);

/* vk_outgoing_flow returns the flow that a message of a ring goes on, NULL if it may not. */
struct vk_flow *vk_outgoing_flow(struct vk_run *run, uint32_t slot, uint32_t ring,
				 const struct vk_message *message);

/* vk_outgoing_ahead says whether records of a ring are looked at though the path refused one before
 * them (run->refused): then they are held, each behind those of its stream. */
int vk_outgoing_ahead(const struct vk_run *run, uint32_t slot, uint32_t ring);
#endif
