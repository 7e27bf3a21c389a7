/* SPDX-License-Identifier: MIT */
#ifndef RECOVERY_RIG_H
#define RECOVERY_RIG_H
/* recovery_rig.h: vk_recovery with everything that it tells written down, in order: what it tells
 * its caller of packets, and what it tells congestion control, which is not there.
 */
#include "vk_recovery.h"

enum rig_kind {
	RIG_ACKED = 0, /* number, space */
	RIG_LOST = 1, /* number, space */
	RIG_CC_ACKED = 2, /* number = bytes; see `ack` */
	RIG_CC_LOST = 3, /* number = bytes, space = persistent, time_ns = newest_sent_ns */
	RIG_CC_CE = 4, /* time_ns = newest_sent_ns */
	RIG_CC_SPURIOUS = 5,
};

enum rig_const { RIG_EVENTS_MAX = 20000 };

struct rig_event {
	uint32_t kind; /* enum rig_kind */
	uint32_t space;
	uint64_t number;
	uint64_t time_ns;
};

struct rig {
	struct vk_recovery recovery;
	struct vk_congestion_ack ack; /* the last */
	uint32_t count;
	struct rig_event events[RIG_EVENTS_MAX];
};

/* rig_new returns a session, for rig_free. */
struct rig *rig_new(const struct vk_recovery_params *params, uint64_t now_ns);
void rig_free(struct rig *rig);

/* rig_sent .. rig_expire: see vk_recovery_*; payload is that of a STREAM_ACK. */
int rig_sent(struct rig *rig, uint32_t space, uint64_t number, uint32_t size, int ahead,
	     uint64_t now_ns);
int rig_sent_row(struct rig *rig, uint32_t space, uint64_t number, uint32_t count, uint32_t size,
		 uint64_t now_ns);
void rig_skip(struct rig *rig, uint32_t space, uint64_t number);
void rig_issue(struct rig *rig, uint32_t space, uint64_t number);
void rig_quiet(struct rig *rig, uint32_t space, uint64_t number, uint64_t now_ns);
uint64_t rig_deadline(const struct rig *rig);
int rig_ack(struct rig *rig, const uint8_t *payload, uint32_t size, uint64_t came_ns,
	    uint64_t now_ns);
int rig_expire(struct rig *rig, uint64_t now_ns, uint32_t *probe_space);

/* rig_flying counts the records that fly and their bytes, to compare. */
uint64_t rig_flying(const struct rig *rig, uint64_t *bytes);
#endif
