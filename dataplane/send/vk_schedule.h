/* SPDX-License-Identifier: MIT */
#ifndef VK_SCHEDULE_H
#define VK_SCHEDULE_H
/* vk_schedule.h: who sends next. Critical goes first in every round; the other classes share by
 * deficit round robin, and inside a class the applications do, by weight. Deficits are bytes and
 * may become negative by one record: the debt is paid before the next one goes. Who has nothing to
 * send saves nothing up. Where the path stopped a turn, the next one goes on. Token buckets are
 * here too. Sans-IO, time is an argument.
 */
#include "vk_shm.h"
#include "vk_wire.h"

enum vk_schedule_const {
	VK_TURN_BYTES = 131072, /* of all rounds of a turn: then receiving has its turn */
	VK_TURN_BYTES_URGENT = 8192, /* the same while critical messages are about */
	VK_CRITICAL_QUANTUM = 65536, /* bytes; critical goes first, but a round ends */
	VK_APP_QUANTUM = 16384, /* bytes an application of normal weight sends at a time */
	VK_ALONE_QUANTUM = 32768, /* the least of either while there is nobody else to send */
	VK_WEIGHT_NORMAL = 100,
	VK_ROUNDS_MAX = 256, /* of a turn */
	VK_METER_SHIFT = 20,
	VK_METER_BURST_NS = 50000000,
};

/* Why serving an application ended. */
enum vk_served {
	VK_SERVED_ALL = 0, /* nothing is left */
	VK_SERVED_BUDGET = 1, /* the budget is spent and more waits */
	VK_SERVED_RATE = 2, /* over its rate */
	VK_SERVED_PATH = 3, /* the path takes no more now */
	VK_SERVED_GONE = 4, /* it was removed from the schedule meanwhile */
	VK_SERVED_CREDIT = 5, /* all that is left waits for its stream's window */
};

struct vk_schedule {
	uint32_t apps[VK_APPS_MAX]; /* dense */
	uint32_t count;
	uint32_t class_turn; /* class after critical that a round begins with, as an offset */
	uint32_t resume; /* it still has the budget of the turn before */
	uint32_t app_turn[VK_CLASS_COUNT]; /* place in apps that is served next */
	uint8_t app_resume[VK_CLASS_COUNT]; /* it still has its budget */
	int64_t quantum[VK_CLASS_COUNT]; /* bytes a class and round */
	int64_t budget[VK_CLASS_COUNT];
	int64_t app_quantum[VK_APPS_MAX];
	int64_t app_budget[VK_APPS_MAX][VK_CLASS_COUNT];
	int64_t turn_bytes;
	int64_t shared; /* of these, bytes of classes below critical */
	int64_t turn_max; /* bytes; 0 = VK_TURN_BYTES */
	uint32_t cut; /* 1: a turn ends at turn_max, and not at the end of a round */
	uint32_t stopped; /* the path stopped a class in this turn */
	uint32_t place; /* in apps, of the application it stopped first in a class */
	uint8_t place_resume; /* that one had begun its turn */
	uint32_t idle; /* bit class: nothing was there in this turn */
};

/* A token bucket, kept as the time at which it would be full again. */
struct vk_meter {
	uint64_t cost_ns; /* of one unit, fixed point 2^-20; 0 = no limit */
	uint64_t full_ns; /* CLOCK_MONOTONIC */
};

/* vk_schedule_add lets an application take part, with normal weight; it is in no list yet. */
void vk_schedule_add(struct vk_schedule *schedule, uint32_t app);

/* vk_schedule_remove takes it out; allowed while it is being served. */
void vk_schedule_remove(struct vk_schedule *schedule, uint32_t app);

/* vk_schedule_weigh sets an application's weight, 1..1000. */
void vk_schedule_weigh(struct vk_schedule *schedule, uint32_t app, uint32_t weight);

/* vk_schedule_turn lets applications send until nothing can go or VK_TURN_BYTES went. serve sends
 * for one application and class until *bytes, which it counts up from 0, reach the budget, and says
 * why it ended. Returns the bytes sent. */
int64_t vk_schedule_turn(struct vk_schedule *schedule,
			 enum vk_served (*serve)(void *context, uint32_t app, uint32_t class,
						 int64_t budget, int64_t *bytes),
			 void *context);

/* vk_meter_set configures a bucket of units per second and a burst of 50 ms; 0 = no limit. */
void vk_meter_set(struct vk_meter *meter, uint64_t per_second);

#ifndef VK_CDEF
/* vk_meter_ready says whether the bucket has anything. */
static inline int vk_meter_ready(const struct vk_meter *meter, uint64_t now_ns)
{
	return !meter->cost_ns || meter->full_ns <= now_ns + VK_METER_BURST_NS;
}

/* vk_meter_due returns when an empty bucket has something again, as now_ns counts. */
static inline uint64_t vk_meter_due(const struct vk_meter *meter)
{
	return meter->full_ns > VK_METER_BURST_NS ? meter->full_ns - VK_METER_BURST_NS : 0;
}

/* vk_meter_spend takes units, more than the bucket has if need be: so a message larger than the
 * burst still goes, and the next one waits for it. */
static inline void vk_meter_spend(struct vk_meter *meter, uint64_t now_ns, uint64_t units)
{
	uint64_t from_ns = meter->full_ns < now_ns ? now_ns : meter->full_ns;

	if (meter->cost_ns)
		meter->full_ns = from_ns + (units * meter->cost_ns >> VK_METER_SHIFT);
}
#endif
#endif
