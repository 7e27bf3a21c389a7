/* SPDX-License-Identifier: MIT */
#ifndef VK_MTU_H
#define VK_MTU_H
/* vk_mtu.h: how large a datagram the path carries (DPLPMTUD, RFC 8899), found with probes that
 * carry nothing else. Sans-IO, time is an argument (ns). Sizes are bytes of UDP payload.
 *
 *   BASE       nothing large was sent yet, so there is nothing to find out
 *   SEARCHING  a probe is out, or due
 *   COMPLETE   found; looked for again after VK_MTU_RAISE_MS
 *   ERROR      not even the base gets through
 *   CONFIRMING only what is small seems to arrive: probes of the size in use tell whether
 *
 *   BASE -> SEARCHING        the first datagram as large as allowed, when more may be possible
 *   SEARCHING -> COMPLETE    the ceiling came close
 *   COMPLETE -> SEARCHING    the raise timer, or a new bound
 *   any but ERROR -> CONFIRMING   bursts of losses of what is large
 *   CONFIRMING -> SEARCHING  it arrives: others are to blame, congestion or a reader's full ring
 *   CONFIRMING -> BASE       a black hole
 *   CONFIRMING -> ERROR      the same at the base
 *   ERROR -> SEARCHING       the raise timer
 *
 * Probes begin with the ceiling: where the interface's MTU is the path's, one is enough.
 */
#ifndef VK_CDEF
#include <stdint.h>
#endif

enum vk_mtu_state {
	VK_MTU_BASE = 0,
	VK_MTU_SEARCHING = 1,
	VK_MTU_COMPLETE = 2,
	VK_MTU_ERROR = 3,
	VK_MTU_CONFIRMING = 4,
};

enum vk_mtu_const {
	/* RFC 8899, 5.1.2: "a default BASE_PLPMTU size of 1200 bytes is RECOMMENDED" */
	VK_MTU_BASE_SIZE = 1200,
	VK_MTU_MIN_SIZE = 512, /* MIN_PLPMTU: every IP path carries that much */
	/* RFC 8899, 5.1.2: "The default value of MAX_PROBES is 3." */
	VK_MTU_PROBES_MAX = 3,
	VK_MTU_STEP = 16, /* bytes that are not worth a probe */
	/* Sizes are of so many grades: a path that narrows goes on carrying what is large, but not
	 * that large. It looks like a black hole when so many bursts in a row lost datagrams of one
	 * grade or above it, younger than the last of those that came. One burst is all that an
	 * ACK shows lost. */
	VK_MTU_GRADES = 16,
	VK_MTU_BURSTS = 2,
	/* RFC 8899, 5.1.1: the period of PMTU_RAISE_TIMER is 600 seconds; and how soon the base is
	 * tried again on a path that did not carry it. */
	VK_MTU_RAISE_MS = 600000,
	VK_MTU_ERROR_MS = 5000,
};

struct vk_mtu {
	uint32_t size; /* PLPMTU: no datagram but a probe is larger */
	uint32_t max; /* what the interface takes */
	uint32_t ceiling; /* larger ones did not get through */
	uint32_t probe; /* being tried; 0 = none */
	uint8_t state; /* enum vk_mtu_state */
	uint8_t tries; /* of this size */
	uint8_t flying; /* the probe is on its way */
	uint8_t bursts; /* in a row: the longest streak */
	uint8_t grain; /* a datagram's grade is its size >> grain */
	uint16_t came; /* since the last burst: bit of each grade of which a large one arrived */
	uint16_t suspect; /* this burst: bit of each grade of which, or above, one was lost */
	uint8_t pad[2];
	uint64_t raise_ns; /* when to search again */
	uint64_t came_ns[VK_MTU_GRADES]; /* when the youngest large one that arrived was sent */
	uint8_t streak[VK_MTU_GRADES]; /* bursts in a row */
};

/* vk_mtu_init begins at the base, on an interface that takes max bytes. */
void vk_mtu_init(struct vk_mtu *mtu, uint32_t max);

/* vk_mtu_bound takes another bound. Returns whether the size changed. */
int vk_mtu_bound(struct vk_mtu *mtu, uint32_t max);

/* vk_mtu_sent notes a datagram that is no probe; large ones say that larger ones are wanted. */
void vk_mtu_sent(struct vk_mtu *mtu, uint32_t size, uint64_t now_ns);

/* vk_mtu_next returns the size of the probe to send now, 0 = none. */
uint32_t vk_mtu_next(const struct vk_mtu *mtu);

/* vk_mtu_probed notes that it was sent. */
void vk_mtu_probed(struct vk_mtu *mtu);

/* vk_mtu_probe_acked and vk_mtu_probe_lost take the fate of a probe. Return whether the size
 * changed. */
int vk_mtu_probe_acked(struct vk_mtu *mtu, uint32_t size, uint64_t now_ns);
int vk_mtu_probe_lost(struct vk_mtu *mtu, uint32_t size, uint64_t now_ns);

/* vk_mtu_acked and vk_mtu_lost take the fate of other datagrams; acknowledged ones first when both
 * come together. */
void vk_mtu_acked(struct vk_mtu *mtu, uint32_t size, uint64_t sent_ns);
void vk_mtu_lost(struct vk_mtu *mtu, uint32_t size, uint64_t sent_ns);

/* vk_mtu_settle is called behind all that one acknowledgement told. */
void vk_mtu_settle(struct vk_mtu *mtu);
#endif
