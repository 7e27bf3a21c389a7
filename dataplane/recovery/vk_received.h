/* SPDX-License-Identifier: MIT */
#ifndef VK_RECEIVED_H
#define VK_RECEIVED_H
/* vk_received.h: which packets of a space came, and the acknowledgements that say so. Sans-IO, time
 * is an argument (ns). The numbers of what came lie in ranges, highest first; when there are too
 * many the lowest is given up, and everything up to it counts as old.
 */
#include "vk_wire.h"

#include <stdint.h>

enum vk_arrival { VK_ARRIVAL_NEW = 0, VK_ARRIVAL_DUPLICATE = 1, VK_ARRIVAL_OLD = 2 };

enum vk_received_const {
	VK_RECEIVED_RANGES = 64,
};

struct vk_range {
	uint64_t first;
	uint64_t last;
};

struct vk_received {
	uint32_t range_count;
	uint32_t eliciting; /* packets to acknowledge since the last time */
	uint32_t urgent; /* one of them says something about loss: answer at once */
	uint32_t ce_count; /* that came with a congestion mark */
	uint64_t floor; /* numbers below it count as old */
	uint64_t largest_ns; /* when the largest came */
	uint64_t first_ns; /* when the first of `eliciting` came */
	uint64_t refused_end; /* behind all that came and was not taken (vk_refused.h) */
	struct vk_range ranges[VK_RECEIVED_RANGES];
	uint64_t pad[2]; /* whole lines: the first range lies in that of what is before */
};

/* What of it waits to be acknowledged. */
struct vk_waiting {
	uint32_t eliciting;
	uint32_t urgent;
};

/* A parsed acknowledgement. */
struct vk_ack_view {
	uint32_t space;
	uint32_t flags; /* enum vk_ack_flag */
	uint64_t delay_ns;
	uint64_t largest;
	uint32_t ce_count;
	uint64_t session_limit;
	uint32_t range_count;
	uint32_t credit_count;
	const uint8_t *ranges;
	const uint8_t *credits;
};

/* vk_received_find is vk_received_look for a number that is not the next one. */
enum vk_arrival vk_received_find(const struct vk_received *received, uint64_t number);

/* vk_received_add notes a new packet. eliciting: the peer wants to hear of it; ce: it was marked
 * on its way; came_ns: when this host had it, not after now_ns. The acknowledgement's delay counts
 * from then on: that we were late is no queue on the path. */
void vk_received_add(struct vk_received *received, uint64_t number, int eliciting, int ce,
		     uint64_t came_ns, uint64_t now_ns);

/* vk_received_due says whether an acknowledgement should go now: `every` packets wait, one is
 * urgent, or the first has waited delay_ns. */
int vk_received_due(const struct vk_received *received, uint32_t every, uint64_t delay_ns,
		    uint64_t now_ns);

/* vk_received_write writes struct vk_ack and as many ranges as fit into room bytes; nothing waits
 * any more then: if it does not go, give vk_received_unsaid what did before. Credits are the
 * caller's. Returns the bytes, at least sizeof(struct vk_ack). */
uint32_t vk_received_write(struct vk_received *received, uint32_t space, uint8_t *at, uint32_t room,
			   uint64_t now_ns);

/* vk_ack_parse reads the payload of a STREAM_ACK; 0, or -EBADMSG. What it accepts names only
 * numbers from 0 on of VK_NUMBER_BITS, in ranges apart from each other. */
int vk_ack_parse(struct vk_ack_view *view, const uint8_t *payload, uint32_t size);

/* vk_received_look says what a packet number is; notes nothing. */
static inline enum vk_arrival vk_received_look(const struct vk_received *received, uint64_t number)
{
	if (!received->range_count || number > received->ranges[0].last)
		return number < received->floor ? VK_ARRIVAL_OLD : VK_ARRIVAL_NEW;
	return vk_received_find(received, number);
}

/* vk_received_waiting returns what waits to be acknowledged. */
static inline struct vk_waiting vk_received_waiting(const struct vk_received *received)
{
	return (struct vk_waiting){ received->eliciting, received->urgent };
}

/* vk_received_unsaid has what waited before wait again. */
static inline void vk_received_unsaid(struct vk_received *received, struct vk_waiting waiting)
{
	received->eliciting = waiting.eliciting;
	received->urgent = waiting.urgent;
}

/* vk_received_deadline returns when an acknowledgement is due, UINT64_MAX = nothing waits. */
static inline uint64_t vk_received_deadline(const struct vk_received *received, uint64_t delay_ns)
{
	return received->eliciting ? received->first_ns + delay_ns : UINT64_MAX;
}
#endif
