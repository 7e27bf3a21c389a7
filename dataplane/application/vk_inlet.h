/* SPDX-License-Identifier: MIT */
#ifndef VK_INLET_H
#define VK_INLET_H
/* vk_inlet.h: what an application has taken of a stream, and what the worker knows of that. A peer
 * has one pool for all streams that it was never told a limit of (vk_credit.h). So what was taken
 * of young streams is reported as soon as there is much of it in all, though none of them has much,
 * and nobody waits for more of theirs: the pool may be empty.
 *
 * Like all of a client it is for one thread at a time. A young stream's inlet that has something to
 * report is in a list of the client's: it stays where it is until then, or until vk_inlet_forget.
 */
#include "vk_client.h"

enum vk_inlet_const {
	VK_INLET_REPORT = 16384, /* bytes of cost, of one stream or all young ones, that are
				  * reported without being asked to */
	VK_INLET_REPORT_IDLE = 4096, /* likewise of a stream, when the reader has nothing left */
	/* Bytes of cost that were reported of a stream that is young no more. Its peer may have
	 * been told no limit yet; but VK_CREDIT_QUIET allows for few such streams. */
	VK_INLET_YOUNG = 4096,
};

struct vk_inlet {
	struct vk_consumed taken;
	uint64_t reported; /* of taken.cost */
	uint32_t windowed; /* 0: the stream has no window, so nothing is reported */
	uint32_t pad;
	struct vk_inlet *next; /* in the list of the client's */
	struct vk_inlet **link; /* what points to it there; NULL: it is in none */
};

/* vk_inlet_taken notes that the application has taken count messages with bytes of payload in all,
 * and reports when VK_INLET_REPORT of cost have come together, of this stream or of young ones.
 * Returns 0, or like vk_inlet_report: then reports are still to be made (vk_inlet_pay). */
int vk_inlet_taken(struct vk_client *client, struct vk_inlet *inlet, uint64_t bytes,
		   uint32_t count);

#ifndef VK_CDEF
/* vk_inlet_took is vk_inlet_taken of one message; no call where there is nothing to report. */
static inline int vk_inlet_took(struct vk_client *client, struct vk_inlet *inlet, uint64_t bytes)
{
	uint64_t cost = inlet->taken.cost + bytes + VK_MESSAGE_COST;

	if (inlet->reported < VK_INLET_YOUNG || cost - inlet->reported >= VK_INLET_REPORT)
		return vk_inlet_taken(client, inlet, bytes, 1);
	inlet->taken.cost = cost;
	return 0;
}
#endif

/* vk_inlet_idle is to be called when the reader waits: it reports if VK_INLET_REPORT_IDLE have come
 * together, or nothing was ever reported: a peer that waits for room in a window may need what is
 * left. Returns like vk_inlet_taken. */
int vk_inlet_idle(struct vk_client *client, struct vk_inlet *inlet);

/* vk_inlet_report tells the worker, through ring 0, what was taken and is not reported. The record
 * says the sum, so one that finds no room is made good by any later one. Returns 0, -EAGAIN (no
 * room), -EACCES (there is no ring 0), -ESHUTDOWN or -EPROTO. Release pairs with the worker's
 * acquire of tail. */
int vk_inlet_report(struct vk_client *client, struct vk_inlet *inlet);

/* vk_inlet_pay makes the reports that vk_inlet_taken or vk_inlet_idle left to be made. Returns like
 * vk_inlet_report. */
int vk_inlet_pay(struct vk_client *client, struct vk_inlet *inlet);

/* vk_inlet_forget takes an inlet off the client's list: its memory may go. */
void vk_inlet_forget(struct vk_client *client, struct vk_inlet *inlet);
#endif
