/* SPDX-License-Identifier: MIT */
#include "vk_lab_world.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
	POOL_ROUND = 64,
	RING_BYTES_MAX = 16 << 20, /* each, so that a region's mappings fit its reservation */
	CALLS_MAX = 64, /* of its path, in which a worker dies */
};

const uint64_t vk_lab_start_ns = 1000000000000;

void vk_lab_fail(struct vk_lab *lab, const char *format, ...)
{
	uint32_t room = (uint32_t)sizeof lab->failures - lab->failures_used;
	va_list args;
	int size;

	lab->report.failed++;
	if (room < 2)
		return;
	va_start(args, format);
	size = vsnprintf(lab->failures + lab->failures_used, room - 1, format, args);
	va_end(args);
	if (size < 0 || (uint32_t)size + 2 > room) {
		lab->failures[lab->failures_used] = 0; /* a line that does not fit is left out */
		return;
	}
	lab->failures_used += (uint32_t)size;
	lab->failures[lab->failures_used++] = '\n';
	lab->failures[lab->failures_used] = 0;
}

void vk_lab_wake_node(struct vk_lab *lab, uint32_t node, uint64_t at_ns)
{
	if (at_ns < lab->nodes[node].busy_ns)
		at_ns = lab->nodes[node].busy_ns;
	if (at_ns < lab->node_ns[node])
		lab->node_ns[node] = at_ns;
}

void vk_lab_wake_app(struct vk_lab *lab, uint32_t app, uint64_t at_ns)
{
	if (at_ns < lab->app_ns[app])
		lab->app_ns[app] = at_ns;
}

/* ---- Faults ---- */

static void pause_app(struct vk_lab_app_run *app, uint32_t kind)
{
	if (kind == VK_LAB_FREEZE || kind == VK_LAB_THAW)
		app->frozen = kind == VK_LAB_FREEZE;
	else
		app->holding = kind == VK_LAB_HOLD;
}

static void strike(struct vk_lab *lab, const struct vk_lab_fault *fault)
{
	struct vk_lab_node_run *node = &lab->nodes[fault->target % VK_LAB_NODES_MAX];
	struct vk_lab_app_run *app = &lab->apps[fault->target % VK_LAB_APPS_MAX];
	uint32_t target = fault->target;

	vk_lab_note(lab, (uint64_t)fault->kind << 32 | target);
	switch ((enum vk_lab_fault_kind)fault->kind) {
	case VK_LAB_KILL_WORKER:
		node->start_ns = lab->now_ns + fault->value + 1;
		if (node->run && vk_random_chance(&lab->random, VK_PPB / 2)) {
			vk_lab_node_doom(lab, target,
					 1 + (uint32_t)vk_random_below(&lab->random, CALLS_MAX));
			break;
		}
		vk_lab_node_kill(lab, target);
		vk_lab_wake_node(lab, target, node->start_ns);
		break;
	case VK_LAB_STOP_WORKER:
		node->start_ns = lab->now_ns + fault->value + 1;
		node->leaving = node->run != NULL;
		vk_lab_wake_node(lab, target, lab->now_ns);
		break;
	case VK_LAB_RESTART_NODE:
		vk_lab_node_forget(lab, target);
		node->start_ns = lab->now_ns + fault->value + 1;
		lab->rows_ns[target] = node->start_ns + 1;
		lab->node_ns[target] = node->start_ns;
		break;
	case VK_LAB_FREEZE:
	case VK_LAB_THAW:
	case VK_LAB_HOLD:
	case VK_LAB_TAKE:
		pause_app(app, fault->kind);
		vk_lab_wake_app(lab, target, lab->now_ns);
		break;
	case VK_LAB_DETACH:
		vk_lab_node_detach(lab, target);
		break;
	case VK_LAB_LEAVE:
		app->leaving = 1;
		vk_lab_node_withdraw(lab, target);
		vk_lab_wake_app(lab, target, lab->now_ns);
		break;
	case VK_LAB_ATTACH:
		app->returning = 1;
		vk_lab_node_detach(lab, target);
		vk_lab_wake_app(lab, target, lab->now_ns);
		break;
	case VK_LAB_LINK:
		vk_link_configure(&lab->wires[target].link, &fault->link);
		break;
	case VK_LAB_REBIND:
		node->address++;
		lab->rows_ns[target] = lab->now_ns + fault->value;
		break;
	case VK_LAB_RENEW:
		vk_lab_daemon_renew(lab, target, lab->now_ns + fault->value);
		break;
	case VK_LAB_REPLAY:
		vk_lab_wire_replay(lab, target, fault->value);
		break;
	case VK_LAB_TUNE:
		vk_lab_daemon_tune(node->state, &fault->params, &fault->tuning);
		break;
	case VK_LAB_FAULT_COUNT:
		break;
	}
}

/* ---- Samples ---- */

static uint64_t arrived_bytes(const struct vk_lab_report *report, uint32_t traffics)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < traffics; i++)
		bytes += report->traffics[i].arrived_bytes;
	return bytes;
}

static uint64_t lost_packets(const struct vk_lab_report *report, uint32_t links)
{
	uint64_t lost = report->socket_drops + report->checksum_drops;

	for (uint32_t i = 0; i < links; i++) {
		const struct vk_link_count *count = &report->links[i];

		lost += count->lost + count->policed + count->overflowed + count->oversized;
	}
	return lost;
}

static void take_counts(struct vk_lab *lab)
{
	lab->report.now_ns = lab->now_ns - vk_lab_start_ns;
	for (uint32_t i = 0; i < lab->scenario.link_count; i++)
		lab->report.links[i] = lab->wires[i].link.count;
}

static void sample(struct vk_lab *lab)
{
	const struct vk_lab_scenario *scenario = &lab->scenario;
	struct vk_lab_sample *at;

	lab->sampled_ns += scenario->sample_ns;
	if (lab->sample_count == lab->sample_capacity) {
		uint32_t capacity = lab->sample_capacity ? 2 * lab->sample_capacity : 64;
		void *samples = realloc(lab->samples, capacity * sizeof *lab->samples);

		if (!samples)
			return;
		lab->samples = samples;
		lab->sample_capacity = capacity;
	}
	take_counts(lab);
	at = &lab->samples[lab->sample_count++];
	*at = (struct vk_lab_sample){
		.at_ns = lab->report.now_ns,
		.arrived_bytes = arrived_bytes(&lab->report, scenario->traffic_count) -
				 arrived_bytes(&lab->sampled, scenario->traffic_count),
		.packets = lab->report.packets - lab->sampled.packets,
		.lost = lost_packets(&lab->report, scenario->link_count) -
			lost_packets(&lab->sampled, scenario->link_count),
		.link_waiting_ns =
			vk_link_waiting_ns(&lab->wires[scenario->route[0][1]].link, lab->now_ns),
	};
	vk_lab_node_sample(lab, 0, 1, at);
	lab->sampled = lab->report;
}

/* ---- Loading and running ---- */

static int sound(const struct vk_lab_scenario *scenario)
{
	if (scenario->node_count < 2 || scenario->node_count > VK_LAB_NODES_MAX ||
	    scenario->app_count > VK_LAB_APPS_MAX || scenario->link_count > VK_LAB_LINKS_MAX ||
	    !scenario->link_count || scenario->traffic_count > VK_LAB_TRAFFICS_MAX ||
	    scenario->fault_count > VK_LAB_FAULTS_MAX)
		return 0;
	for (uint32_t i = 0; i < scenario->node_count; i++) {
		for (uint32_t k = 0; k < scenario->node_count; k++) {
			if (scenario->route[i][k] >= scenario->link_count)
				return 0;
		}
	}
	for (uint32_t i = 0; i < scenario->app_count; i++) {
		const struct vk_lab_app *app = &scenario->apps[i];

		if (app->node >= scenario->node_count || app->ring_bytes > RING_BYTES_MAX)
			return 0;
	}
	for (uint32_t i = 0; i < scenario->traffic_count; i++) {
		const struct vk_lab_traffic *traffic = &scenario->traffics[i];

		if (traffic->from >= scenario->app_count || traffic->to >= scenario->app_count ||
		    scenario->apps[traffic->from].node == scenario->apps[traffic->to].node ||
		    !traffic->stream_span || traffic->size_max > VK_MESSAGE_MAX ||
		    traffic->size_min > traffic->size_max || !traffic->messages)
			return 0;
	}
	for (uint32_t i = 0; i < scenario->fault_count; i++) {
		const struct vk_lab_fault *fault = &scenario->faults[i];
		uint32_t limit = scenario->node_count;

		if ((fault->kind >= VK_LAB_FREEZE && fault->kind <= VK_LAB_DETACH) ||
		    fault->kind == VK_LAB_LEAVE || fault->kind == VK_LAB_ATTACH)
			limit = scenario->app_count;
		else if (fault->kind == VK_LAB_LINK)
			limit = scenario->link_count;
		if (fault->target >= limit || fault->kind >= VK_LAB_FAULT_COUNT)
			return 0;
	}
	return 1;
}

struct vk_lab *vk_lab_new(void)
{
	return calloc(1, sizeof(struct vk_lab));
}

/* Ends what is there; memory that the next scenario needs again stays. */
static void unload(struct vk_lab *lab)
{
	for (uint32_t i = 0; i < VK_LAB_LINKS_MAX; i++)
		vk_lab_wire_empty(lab, i);
	vk_lab_wire_forget(lab);
	for (uint32_t i = 0; i < VK_LAB_NODES_MAX; i++)
		vk_lab_node_close(lab, i);
	vk_lab_streams_free(lab);
}

void vk_lab_free(struct vk_lab *lab)
{
	if (!lab)
		return;
	unload(lab);
	for (uint32_t i = 0; i < VK_LAB_NODES_MAX; i++)
		vk_lab_node_free(lab, i);
	for (uint32_t i = 0; i < VK_LAB_LINKS_MAX; i++) {
		free((void *)lab->wires[i].ring);
		vk_heap_free(&lab->wires[i].late);
	}
	for (uint32_t i = 0; i < VK_LAB_APPS_MAX; i++) {
		struct vk_lab_app_run *app = &lab->apps[i];

		vk_heap_free(&app->senders);
		free(app->consumers.refs);
		free(app->opening.refs);
		for (uint32_t c = 0; c < VK_CLASS_COUNT; c++)
			free(app->blocked[c].refs);
	}
	vk_sim_pool_free(&lab->pool);
	free(lab->samples);
	free(lab->content);
	free(lab);
}

/* Readies what does not depend on memory: clocks, counts, links. */
static void begin(struct vk_lab *lab)
{
	const struct vk_lab_scenario *scenario = &lab->scenario;

	lab->now_ns = vk_lab_start_ns;
	lab->order = 0;
	lab->fault_next = lab->ended = 0;
	lab->ended_ns = 0;
	lab->sampled_ns = vk_lab_start_ns + scenario->sample_ns;
	lab->sample_count = 0;
	lab->failures_used = 0;
	lab->failures[0] = 0;
	lab->unfinished = 0;
	memset(&lab->report, 0, sizeof lab->report);
	memset(&lab->sampled, 0, sizeof lab->sampled);
	memset(lab->traffics, 0, sizeof lab->traffics);
	memset(lab->wire_ns, 0xff, sizeof lab->wire_ns);
	memset(lab->node_ns, 0xff, sizeof lab->node_ns);
	memset(lab->app_ns, 0xff, sizeof lab->app_ns);
	memset(lab->rows_ns, 0xff, sizeof lab->rows_ns);
	vk_random_seed(&lab->random, scenario->seed);
	for (uint32_t i = 0; i < scenario->link_count; i++)
		vk_link_init(&lab->wires[i].link, &scenario->links[i],
			     vk_random_next(&lab->random));
	for (uint32_t i = 0; i < scenario->traffic_count; i++)
		lab->unfinished += scenario->traffics[i].streams;
}

/* Makes room for the largest datagram and the largest message. */
static int make_room(struct vk_lab *lab)
{
	uint32_t room = 0, size = 0;

	for (uint32_t i = 0; i < lab->scenario.node_count; i++)
		room = lab->scenario.nodes[i].mtu > room ? lab->scenario.nodes[i].mtu : room;
	for (uint32_t i = 0; i < lab->scenario.traffic_count; i++)
		size = lab->scenario.traffics[i].size_max > size ?
			       lab->scenario.traffics[i].size_max :
			       size;
	room += POOL_ROUND - room % POOL_ROUND;
	if (room != lab->pool.room) {
		vk_sim_pool_free(&lab->pool);
		lab->pool.room = room;
	}
	free(lab->content);
	lab->content = malloc(size + sizeof(uint64_t));
	return lab->content ? 0 : -ENOMEM;
}

int vk_lab_load(struct vk_lab *lab, const struct vk_lab_scenario *scenario)
{
	int error;

	if (!sound(scenario))
		return -EINVAL;
	unload(lab);
	lab->scenario = *scenario;
	begin(lab);
	error = make_room(lab);
	for (uint32_t i = 0; i < scenario->fault_count && !error; i++)
		if (scenario->faults[i].kind == VK_LAB_REPLAY && !lab->recorded)
			error = vk_lab_wire_listen(lab);
	for (uint32_t i = 0; i < scenario->node_count && !error; i++)
		error = vk_lab_node_open(lab, i);
	for (uint32_t i = 0; i < scenario->node_count && !error; i++)
		vk_lab_daemon_learn(lab, i);
	for (uint32_t i = 0; i < scenario->app_count && !error; i++) {
		struct vk_lab_app_run *app = &lab->apps[i];

		app->lab = lab;
		app->config = &lab->scenario.apps[i];
		app->number = i;
		app->slot = app->generation = 0;
		error = vk_lab_node_attach(lab, i);
	}
	return error;
}

/* Finds the earliest of times; *which says whose. */
static uint64_t earliest(const uint64_t *times, uint32_t count, uint32_t *which)
{
	uint64_t first_ns = UINT64_MAX;

	for (uint32_t i = 0; i < count; i++) {
		if (times[i] < first_ns) {
			first_ns = times[i];
			*which = i;
		}
	}
	return first_ns;
}

static uint64_t under_way(const struct vk_lab *lab)
{
	uint32_t which;

	return earliest(lab->wire_ns, lab->scenario.link_count, &which);
}

/* Whether it is over: everything has come, and what lingers has had its time. */
static int over(struct vk_lab *lab, uint64_t next_ns)
{
	uint64_t end_ns = vk_lab_start_ns + lab->scenario.limit_ns;

	if (!lab->scenario.reliable && under_way(lab) != UINT64_MAX)
		lab->ended_ns = 0; /* nobody waits for what is on its way */
	else if (!lab->unfinished && !lab->ended_ns && lab->fault_next == lab->scenario.fault_count)
		lab->ended_ns = lab->now_ns;
	if (lab->ended_ns && lab->ended_ns + lab->scenario.linger_ns < end_ns)
		end_ns = lab->ended_ns + lab->scenario.linger_ns;
	if (next_ns <= end_ns)
		return 0;
	lab->now_ns = end_ns;
	lab->report.finished = lab->ended_ns != 0;
	return 1;
}

/* Lets the next thing happen that is due by until_ns. Returns 0 when nothing is. */
static int step(struct vk_lab *lab, uint64_t until_ns)
{
	const struct vk_lab_scenario *scenario = &lab->scenario;
	uint32_t wire = 0, node = 0, app = 0, row = 0;
	uint64_t wire_ns = earliest(lab->wire_ns, scenario->link_count, &wire);
	uint64_t node_ns = earliest(lab->node_ns, scenario->node_count, &node);
	uint64_t app_ns = earliest(lab->app_ns, scenario->app_count, &app);
	uint64_t row_ns = earliest(lab->rows_ns, scenario->node_count, &row);
	uint64_t fault_ns = lab->fault_next < scenario->fault_count ?
				    vk_lab_start_ns + scenario->faults[lab->fault_next].at_ns :
				    UINT64_MAX;
	uint64_t sample_ns = scenario->sample_ns ? lab->sampled_ns : UINT64_MAX;
	uint64_t all[] = { fault_ns, row_ns, wire_ns, node_ns, app_ns, sample_ns };
	uint32_t kind = 0;
	uint64_t next_ns = earliest(all, sizeof all / sizeof all[0], &kind);

	if (over(lab, next_ns)) {
		lab->ended = 1;
		return 0;
	}
	if (next_ns > until_ns)
		return 0;
	if (next_ns > lab->now_ns)
		lab->now_ns = next_ns;
	lab->report.events++;
	if (kind == 0) {
		strike(lab, &scenario->faults[lab->fault_next++]);
	} else if (kind == 1) {
		vk_lab_daemon_learn(lab, row);
	} else if (kind == 2) {
		vk_lab_wire_deliver(lab, wire);
	} else if (kind == 3) {
		lab->node_ns[node] = UINT64_MAX;
		vk_lab_node_turn(lab, node);
	} else if (kind == 4) {
		lab->app_ns[app] = UINT64_MAX;
		vk_lab_app_run(&lab->apps[app]);
	} else {
		sample(lab);
	}
	return 1;
}

int vk_lab_run(struct vk_lab *lab, uint64_t until_ns)
{
	until_ns = until_ns < UINT64_MAX - vk_lab_start_ns ? until_ns + vk_lab_start_ns :
							     UINT64_MAX;
	while (!lab->ended && step(lab, until_ns))
		continue;
	take_counts(lab);
	if (lab->ended == 1) {
		lab->ended = 2;
		vk_lab_check(lab);
	}
	return lab->ended != 0;
}

const struct vk_lab_report *vk_lab_report_of(const struct vk_lab *lab)
{
	return &lab->report;
}

const char *vk_lab_failures(const struct vk_lab *lab)
{
	return lab->failures;
}

uint32_t vk_lab_samples(const struct vk_lab *lab, uint32_t first, struct vk_lab_sample *samples,
			uint32_t max)
{
	uint32_t count = first < lab->sample_count ? lab->sample_count - first : 0;

	if (count > max)
		count = max;
	if (count)
		memcpy(samples, lab->samples + first, count * sizeof *samples);
	return count;
}

const struct vk_counters *vk_lab_counters(const struct vk_lab *lab, uint32_t node)
{
	return node < lab->scenario.node_count ? lab->nodes[node].counters : NULL;
}
