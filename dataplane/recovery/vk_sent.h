/* SPDX-License-Identifier: MIT */
#ifndef VK_SENT_H
#define VK_SENT_H
/* vk_sent.h: the packets of one space that were sent and are not settled, by number. What they
 * carry is opaque here. Memory grows by doubling as more are in flight.
 */
#include <stddef.h>
#include <stdint.h>

enum vk_sent_const {
	VK_SENT_RUNS_MAX = 5,
	VK_SENT_MIN = 64, /* packets of the first allocation */
	VK_SENT_MAX = 131072, /* packets: 190 MB in flight at an MTU of 1500 */
	VK_SENT_SPARE = 1024, /* of them, for what does not wait for room: probes */
};

enum vk_sent_state {
	VK_SENT_FREE = 0, /* settled, or never sent */
	VK_SENT_FLYING = 1,
	VK_SENT_LOST = 2, /* declared lost; an ACK may still show that it was not */
};

enum vk_sent_flag {
	VK_SENT_ELICITING = 1,
	VK_SENT_APP_LIMITED = 2, /* there was no more to send */
	VK_SENT_SKIPPED = 4, /* the number was left out on purpose */
	VK_SENT_CRITICAL = 8, /* beside the window: others do not wait for it */
	VK_SENT_MTU = 16, /* a probe of the path: its loss says nothing about congestion */
	VK_SENT_REFUSED = 32, /* it came, and its reader had no room: neither does this */
	VK_SENT_AHEAD = 64, /* of the class that readers take before the other of its space */
	VK_SENT_COPIED = 128, /* a probe carries the same: this one's loss loses nothing */
};

/* A part of what a packet carries; see enum vk_content. */
struct vk_sent_run {
	uint8_t kind;
	uint8_t slot;
	uint8_t ring;
	uint8_t apart; /* see vk_ledger.h */
	uint32_t first;
	uint32_t a;
	uint32_t b;
};

struct vk_sent_packet {
	uint64_t sent_ns;
	uint64_t delivered; /* bytes acknowledged on the session when it was sent */
	uint64_t delivered_ns; /* when they were */
	uint64_t first_ns; /* when the newest packet of those was sent */
	uint32_t size; /* bytes */
	uint8_t state;
	uint8_t flags;
	uint8_t run_count;
	uint8_t pad[9];
	struct vk_sent_run runs[VK_SENT_RUNS_MAX];
};

struct vk_sent {
	struct vk_sent_packet *packets; /* ring of mask + 1 */
	uint32_t mask;
	uint32_t eliciting; /* packets flying that want an answer */
	uint64_t oldest; /* numbers [oldest, next) are looked at */
	uint64_t next;
	uint64_t issued; /* all numbers in use are below it; those nobody answers are not entered */
	uint64_t acked_next; /* largest number acknowledged, + 1; 0 = none */
	uint64_t told_next[2]; /* the same, [1] of those that are VK_SENT_AHEAD, [0] of others */
	uint64_t loss_ns; /* when the next one counts as lost by time; UINT64_MAX = none */
	uint64_t last_ns; /* when the last eliciting one was sent */
	uint64_t quiet; /* the last one that nobody answers */
	uint64_t quiet_ns; /* when it was sent; 0 = its acknowledgement is no news */
	uint32_t ce_count; /* last count of marks the peer told */
};

/* vk_sent_put makes room for a number that is not below `next`, and returns its packet (FREE); NULL
 * when too many are unsettled, or without memory. */
struct vk_sent_packet *vk_sent_put(struct vk_sent *sent, uint64_t number);

/* vk_sent_make_room is the rare part of vk_sent_room. */
int vk_sent_make_room(struct vk_sent *sent);

/* vk_sent_room says whether the next number can be entered, and one left out before it. When too
 * many are unsettled, the oldest that are lost or left out are forgotten: of one that comes after
 * all nobody hears. */
static inline int vk_sent_room(struct vk_sent *sent)
{
	return (sent->packets && sent->issued - sent->oldest < sent->mask &&
		sent->issued - sent->oldest < VK_SENT_MAX - VK_SENT_SPARE) ||
	       vk_sent_make_room(sent);
}

/* vk_sent_settle moves `oldest` over packets that are free. */
void vk_sent_settle(struct vk_sent *sent);

/* vk_sent_free gives the memory back. */
void vk_sent_free(struct vk_sent *sent);

/* vk_sent_get returns the packet of a number in [oldest, next), else NULL. */
static inline struct vk_sent_packet *vk_sent_get(const struct vk_sent *sent, uint64_t number)
{
	if (number - sent->oldest >= sent->next - sent->oldest)
		return NULL;
	return &sent->packets[number & sent->mask];
}
#endif
