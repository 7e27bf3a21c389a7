/* SPDX-License-Identifier: MIT */
#include "vk_schedule.h"

enum { SHARING = VK_CLASS_COUNT - VK_CLASS_SYSTEM }; /* classes that share: all below critical */

/* What the functions of a turn need to know. */
struct turn {
	struct vk_schedule *schedule;
	enum vk_served (*serve)(void *context, uint32_t app, uint32_t class, int64_t budget,
				int64_t *bytes);
	void *context;
};

void vk_schedule_add(struct vk_schedule *schedule, uint32_t app)
{
	schedule->apps[schedule->count++] = app;
	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++)
		schedule->app_budget[app][c] = 0;
	vk_schedule_weigh(schedule, app, VK_WEIGHT_NORMAL);
}

void vk_schedule_remove(struct vk_schedule *schedule, uint32_t app)
{
	uint32_t at = 0;

	while (at < schedule->count && schedule->apps[at] != app)
		at++;
	if (at == schedule->count)
		return;
	schedule->count--;
	for (uint32_t i = at; i < schedule->count; i++)
		schedule->apps[i] = schedule->apps[i + 1];
	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++) {
		if (schedule->app_turn[c] == at)
			schedule->app_resume[c] = 0;
		if (schedule->app_turn[c] > at)
			schedule->app_turn[c]--;
		if (schedule->app_turn[c] >= schedule->count)
			schedule->app_turn[c] = 0;
	}
}

void vk_schedule_weigh(struct vk_schedule *schedule, uint32_t app, uint32_t weight)
{
	schedule->app_quantum[app] = (int64_t)VK_APP_QUANTUM * weight / VK_WEIGHT_NORMAL;
}

/* A budget for a new share, or (resumed) the rest of the one before. */
static void top_up(int64_t *budget, int64_t quantum, int resumed)
{
	if (!resumed)
		*budget += quantum;
	if (*budget > quantum)
		*budget = quantum; /* nobody hoards */
}

/* What is sent at a time while nobody else has anything: more, but a short turn stays short. */
static int64_t alone_quantum(const struct vk_schedule *schedule, int64_t quantum)
{
	int64_t most = VK_ALONE_QUANTUM;

	if (schedule->turn_max && schedule->turn_max < most)
		most = schedule->turn_max;
	return quantum < most ? most : quantum;
}

/* What a class, or an application, sends at a time. */
static int64_t class_quantum(const struct vk_schedule *schedule, uint32_t class)
{
	const uint32_t others = (1u << VK_CLASS_COUNT) - (1u << VK_CLASS_SYSTEM);
	int64_t quantum = schedule->quantum[class];
	int alone = !(~schedule->idle & others & ~(1u << class));

	return alone ? alone_quantum(schedule, quantum) : quantum;
}

static int64_t app_quantum(const struct vk_schedule *schedule, uint32_t app)
{
	int64_t quantum = schedule->app_quantum[app];

	return schedule->count == 1 ? alone_quantum(schedule, quantum) : quantum;
}

static void pass_on(struct vk_schedule *schedule, uint32_t class)
{
	schedule->app_resume[class] = 0;
	if (++schedule->app_turn[class] >= schedule->count)
		schedule->app_turn[class] = 0;
}

/* Whether a turn that is to be short has had its bytes. */
static int is_over(const struct vk_schedule *schedule)
{
	return schedule->cut && schedule->shared >= schedule->turn_max;
}

/* What an application may send now: of its own and its class's budget, within a short turn. */
static int64_t budget_of(const struct vk_schedule *schedule, uint32_t class, int64_t own,
			 int64_t all)
{
	int64_t budget = own < all ? own : all, left = schedule->turn_max - schedule->shared;

	if (schedule->cut && class != VK_CLASS_CRITICAL && left < budget)
		budget = left;
	return budget;
}

/* Serves the application whose turn it is in a class. Returns 1 when more waits that only needs
 * another turn. What the path stopped before its first byte has had no turn. */
static int serve_app(struct turn *turn, uint32_t class, int *stopped)
{
	struct vk_schedule *schedule = turn->schedule;
	uint32_t place = schedule->app_turn[class], app = schedule->apps[place];
	int64_t *own = &schedule->app_budget[app][class], *all = &schedule->budget[class];
	int64_t bytes = 0, before = *own;
	int resumed = schedule->app_resume[class];
	enum vk_served why;

	top_up(own, app_quantum(schedule, app), resumed);
	if (*own <= 0) {
		if (*stopped)
			*own = before; /* no debt is paid while nobody can send */
		pass_on(schedule, class);
		return !*stopped;
	}
	schedule->app_resume[class] = 1;
	why = turn->serve(turn->context, app, class, budget_of(schedule, class, *own, *all),
			  &bytes);
	*all -= bytes;
	schedule->turn_bytes += bytes;
	if (class != VK_CLASS_CRITICAL)
		schedule->shared += bytes;
	if (why == VK_SERVED_GONE)
		return 0;
	*own -= bytes;
	if (why == VK_SERVED_BUDGET && *own > 0)
		return 1; /* the class's budget is spent: this one goes on next time */
	if (why == VK_SERVED_PATH) {
		if (!bytes)
			*own = before;
		if (!*stopped) {
			schedule->place = place;
			schedule->place_resume = (uint8_t)(bytes || resumed);
		}
		*stopped = 1;
	} else if (why != VK_SERVED_BUDGET && *own > 0) {
		*own = 0;
	}
	pass_on(schedule, class);
	return why == VK_SERVED_BUDGET;
}

/* The next turn begins where the path stopped this one. */
static void stop_here(struct vk_schedule *schedule, uint32_t class, int resume)
{
	schedule->stopped = 1;
	schedule->class_turn = class - VK_CLASS_SYSTEM;
	schedule->resume = resume != 0;
	schedule->app_turn[class] = schedule->place < schedule->count ? schedule->place : 0;
	schedule->app_resume[class] = schedule->place_resume;
}

/* The next turn begins where this one was cut. */
static void cut_here(struct vk_schedule *schedule, uint32_t class)
{
	uint32_t past = schedule->budget[class] <= 0; /* the next class, then */

	schedule->class_turn = (class - VK_CLASS_SYSTEM + past) % SHARING;
	schedule->resume = !past;
}

/* Serves a class while it has budget. Returns 1 when more waits. */
static int serve_class(struct turn *turn, uint32_t class, int resumed)
{
	struct vk_schedule *schedule = turn->schedule;
	int64_t *budget = &schedule->budget[class], before = *budget;
	int64_t sent = schedule->turn_bytes;
	int more = 0, stopped = 0;

	if (!schedule->count || schedule->idle & 1u << class)
		return 0;
	top_up(budget, class_quantum(schedule, class), resumed);
	if (*budget <= 0) {
		if (schedule->stopped)
			*budget = before;
		return !schedule->stopped;
	}
	do {
		uint32_t visits = schedule->count;

		for (more = 0; visits && schedule->count && *budget > 0; visits--) {
			more |= serve_app(turn, class, &stopped);
			if (stopped) /* others get past whom the path stopped, but not by more */
				top_up(budget, schedule->quantum[class], 1);
			if (is_over(schedule)) {
				cut_here(schedule, class);
				return 1;
			}
		}
	} while (more && *budget > 0);
	sent = schedule->turn_bytes - sent;
	if (stopped && !sent)
		*budget = before;
	if (stopped && !schedule->stopped && class != VK_CLASS_CRITICAL)
		stop_here(schedule, class, sent || resumed);
	if (!more && !stopped) {
		if (*budget > 0)
			*budget = 0;
		if (class != VK_CLASS_CRITICAL)
			schedule->idle |= 1u << class;
	}
	return more;
}

int64_t vk_schedule_turn(struct vk_schedule *schedule,
			 enum vk_served (*serve)(void *context, uint32_t app, uint32_t class,
						 int64_t budget, int64_t *bytes),
			 void *context)
{
	struct turn turn = { schedule, serve, context };
	int64_t turn_max = schedule->turn_max ? schedule->turn_max : VK_TURN_BYTES;
	int more = 1;

	schedule->quantum[VK_CLASS_CRITICAL] = VK_CRITICAL_QUANTUM;
	schedule->turn_bytes = schedule->shared = 0;
	schedule->stopped = 0;
	schedule->idle = 0;
	for (uint32_t round = 0; more && round < VK_ROUNDS_MAX; round++) {
		uint32_t first = schedule->class_turn, resume = schedule->resume;

		schedule->resume = 0;
		more = serve_class(&turn, VK_CLASS_CRITICAL, 0);
		for (uint32_t i = 0; i < SHARING && !is_over(schedule); i++)
			more |= serve_class(&turn, VK_CLASS_SYSTEM + (first + i) % SHARING,
					    resume && !i);
		if (schedule->stopped || schedule->turn_bytes >= turn_max)
			break;
	}
	return schedule->turn_bytes;
}

void vk_meter_set(struct vk_meter *meter, uint64_t per_second)
{
	meter->cost_ns = per_second ? (1000000000ull << VK_METER_SHIFT) / per_second : 0;
	if (per_second && !meter->cost_ns)
		meter->cost_ns = 1;
}
