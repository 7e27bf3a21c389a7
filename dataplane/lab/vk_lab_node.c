/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vk_lab_world.h"

#include "vk_engine.h"
#include "vk_pages.h"
#include "vk_random.h"
#include "vk_row.h"
#include "vk_session.h"
#include "vk_slots.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	MAP_SIZE = 64 << 20, /* address space of a region */
	ENTRIES_LEFT = 256, /* of a ledger, before its numbers begin anew */
};

static const uint64_t real_offset_ns = 1700000000000000000; /* CLOCK_REALTIME - CLOCK_MONOTONIC */

static const uint64_t forever_ns = UINT64_MAX / 2; /* a daemon that never goes silent */

/* Zeroes such memory: what was touched goes back. */
static void blank(void *at, size_t size)
{
	madvise(at, size, MADV_DONTNEED);
}

static int make_memory(struct vk_lab_node_run *node)
{
	node->boot = calloc(1, sizeof *node->boot);
	node->state = vk_pages_map(sizeof *node->state);
	node->work = vk_pages_map(sizeof *node->work);
	node->counters = vk_pages_map(sizeof *node->counters);
	node->secrets = vk_pages_map(sizeof *node->secrets);
	node->flows = vk_pages_map(VK_FLOWS_MAX * sizeof *node->flows);
	if (!node->boot || !node->state || !node->work || !node->counters || !node->secrets ||
	    !node->flows)
		return -ENOMEM;
	for (uint32_t i = 0; i < VK_LAB_APPS_MAX; i++) {
		struct vk_slot *slot = &node->boot->slots[i];

		slot->map_size = MAP_SIZE;
		slot->region_d = vk_channel_reserve(MAP_SIZE);
		slot->region_a = vk_channel_reserve(MAP_SIZE);
		if (!slot->region_d || !slot->region_a)
			return -ENOMEM;
	}
	return 0;
}

void vk_lab_node_free(struct vk_lab *lab, uint32_t number)
{
	struct vk_lab_node_run *node = &lab->nodes[number];

	if (!node->boot)
		return;
	for (uint32_t i = 0; i < VK_LAB_APPS_MAX; i++) {
		if (node->boot->slots[i].region_d)
			munmap(node->boot->slots[i].region_d, MAP_SIZE);
		if (node->boot->slots[i].region_a)
			munmap(node->boot->slots[i].region_a, MAP_SIZE);
	}
	free(node->boot);
	vk_pages_unmap(node->state, sizeof *node->state);
	vk_pages_unmap(node->work, sizeof *node->work);
	vk_pages_unmap(node->counters, sizeof *node->counters);
	vk_pages_unmap(node->secrets, sizeof *node->secrets);
	vk_pages_unmap(node->flows, VK_FLOWS_MAX * sizeof *node->flows);
	node->boot = NULL;
}

static void begin_memory(struct vk_lab_node_run *node)
{
	node->state->magic = VK_SHM_MAGIC;
	node->state->abi = VK_WORKER_ABI;
	node->state->daemon_heartbeat_ns = forever_ns;
	vk_lab_daemon_tune(node->state, &node->config->params, &node->config->tuning);
	for (uint32_t i = 0; i < VK_SEAT_KEYS; i++)
		node->state->seat_keys[i] =
			(uint32_t)vk_random_mix(node->number * VK_SEAT_KEYS + i);
	node->boot->port_count = 1;
	node->boot->ports[0] = (struct vk_port){
		.rx_path = VK_PATH_UDP,
		.tx_path = VK_PATH_UDP,
		.udp_port = VK_PORT,
		.mtu = (uint16_t)node->config->mtu,
	};
	node->boot->state = node->state;
	node->boot->work = node->work;
	node->boot->counters = node->counters;
	node->boot->secrets = node->secrets;
	node->boot->control_fd = -1;
	node->boot->python_fd = -1;
	node->boot->cpu = -1;
	node->incarnation++;
}

static void die(void *context)
{
	struct vk_lab_node_run *node = context;

	longjmp(*(jmp_buf *)node->death, 1);
}

int vk_lab_node_open(struct vk_lab *lab, uint32_t number)
{
	struct vk_lab_node_run *node = &lab->nodes[number];
	int error = node->boot ? 0 : make_memory(node);

	node->lab = lab;
	node->number = number;
	node->config = &lab->scenario.nodes[number];
	node->address = node->incarnation = node->renewals = 0;
	node->busy_ns = node->start_ns = 0;
	node->killed = node->leaving = node->recover = node->down = 0;
	memset(node->apps, 0, sizeof node->apps);
	node->kernel = (struct vk_sim_kernel){
		.pool = &lab->pool,
		.socket_frames = node->config->socket_frames,
		.ready = vk_lab_ready,
		.transmit = vk_lab_transmit,
		.die = die,
		.context = node,
	};
	if (error) {
		vk_lab_node_free(lab, number);
		return error;
	}
	begin_memory(node);
	return vk_lab_node_start(lab, number, 0);
}

/* Ledgers number their entries in 32 bits: the numbers of all begin anew soon. */
static void advance_ledgers(struct vk_lab_node_run *node)
{
	uint64_t seed = node->lab->scenario.seed * VK_LAB_NODES_MAX + node->number;

	for (uint32_t i = 0; i < VK_LAB_APPS_MAX * VK_CLASS_COUNT; i++) {
		struct vk_ledger *ledger =
			&node->run->slots[i / VK_CLASS_COUNT].ledgers[i % VK_CLASS_COUNT];

		seed += 0x9e3779b97f4a7c15u;
		ledger->next = 0 - (uint32_t)(vk_random_mix(seed) % ENTRIES_LEFT);
		ledger->first = ledger->next;
	}
}

int vk_lab_node_start(struct vk_lab *lab, uint32_t number, int recover)
{
	struct vk_lab_node_run *node = &lab->nodes[number];
	int error;

	node->begun_ns = node->promised = node->partial = 0;
	node->boot->recover = (uint32_t)recover;
	node->run = vk_pages_map(sizeof *node->run);
	if (!node->run)
		return -ENOMEM;
	advance_ledgers(node);
	node->run->rx[0] =
		vk_path_sim_open(&node->kernel, &node->boot->ports[0], &node->work->ports[0]);
	node->run->tx[0] = node->run->rx[0];
	if (!node->run->rx[0])
		error = -ENOMEM;
	else
		error = vk_engine_start(node->run, node->boot, lab->now_ns);
	vk_lab_wake_node(lab, number, lab->now_ns);
	return error;
}

/* Takes back what a worker had for itself. */
static void end_worker(struct vk_lab_node_run *node)
{
	struct vk_path *path;

	if (!node->run)
		return;
	path = node->run->rx[0];
	node->kernel.die_after = 0;
	vk_engine_free(node->run);
	if (path)
		path->ops->close(path);
	vk_pages_unmap(node->run, sizeof *node->run);
	node->run = NULL;
	node->leaving = 0;
}

void vk_lab_node_kill(struct vk_lab *lab, uint32_t number)
{
	struct vk_lab_node_run *node = &lab->nodes[number];

	if (!node->run)
		return;
	vk_lab_note(lab, ~(uint64_t)number);
	end_worker(node);
	node->killed++;
	node->recover = 1;
}

void vk_lab_node_doom(struct vk_lab *lab, uint32_t number, uint32_t calls)
{
	lab->nodes[number].kernel.die_after = calls;
}

/* ---- Applications ---- */

static void unmap_slot(struct vk_slot *slot)
{
	uint32_t capacity[VK_RINGS_MAX];

	if (!slot->attached)
		return;
	memcpy(capacity, ((struct vk_region *)slot->region_d)->capacity, sizeof capacity);
	vk_channel_unmap((struct vk_region *)slot->region_d, capacity, 1);
	vk_channel_unmap((struct vk_region *)slot->region_a, capacity, 1);
	slot->attached = 0;
}

static void write_app(struct vk_lab_node_run *node, const struct vk_lab_app_run *app)
{
	struct vk_app *row = &node->state->apps[app->slot];
	struct vk_service *service = &node->state->services[app->slot];
	char name[VK_NAME_MAX];

	*row = (struct vk_app){
		.sequence = row->sequence + 2,
		.state = VK_ROW_LIVE,
		.class_mask = UINT8_MAX,
		.weight = 100,
		.generation = app->generation,
		.range_count = 1,
		.range_last = { UINT32_MAX },
	};
	memset(node->state->reach[app->slot].peers, UINT8_MAX, VK_LAB_NODES_MAX / 8 + 1);
	*service = (struct vk_service){
		.sequence = service->sequence + 2,
		.state = VK_ROW_LIVE,
		.app = (uint16_t)app->slot,
		.app_generation = app->generation,
	};
	service->name_size = (uint8_t)snprintf(name, sizeof name, "a%u", app->number);
	memcpy(service->name, name, service->name_size);
}

/* What a broker does for a worker that is still to begin: it finds the slot taken. */
static int give(struct vk_lab_node_run *node, const struct vk_lab_app_run *app,
		const uint32_t capacity[VK_RINGS_MAX], int region_d, int region_a)
{
	struct vk_slot *slot = &node->boot->slots[app->slot];

	if (!vk_channel_map(region_d, capacity, 1, slot->region_d) ||
	    !vk_channel_map(region_a, capacity, 0, slot->region_a))
		return -errno;
	memset(node->work->committed[app->slot], 0, sizeof node->work->committed[0]);
	memset(node->work->looked[app->slot], 0, sizeof node->work->looked[0]);
	slot->generation = app->generation;
	slot->bell_app = slot->bell_worker = -1;
	return 0;
}

int vk_lab_node_attach(struct vk_lab *lab, uint32_t number)
{
	struct vk_lab_app_run *app = &lab->apps[number];
	struct vk_lab_node_run *node = &lab->nodes[app->config->node];
	uint32_t capacity[VK_RINGS_MAX] = { [VK_CLASS_CONTROL] = VK_CONTROL_RING };
	int fds[2], error = 0;

	while (node->apps[app->slot])
		app->slot++;
	if (node->down || (node->run && node->run->slots[app->slot].attached))
		return -EBUSY;
	node->apps[app->slot] = number + 1;
	app->generation++;
	write_app(node, app);
	for (uint32_t c = VK_CLASS_CRITICAL; c < VK_CLASS_COUNT; c++)
		capacity[c] = app->config->ring_bytes;
	for (int i = 0; i < 2; i++) {
		fds[i] = vk_channel_create(capacity, VK_CLASS_COUNT, app->generation);
		if (fds[i] < 0 || (error = vk_channel_seal(fds[i], 0)))
			return error ? error : fds[i];
	}
	if (node->run)
		error = vk_slots_attach(node->run, app->slot,
					(int[4]){ dup(fds[0]), dup(fds[1]), -1, -1 });
	else
		error = give(node, app, capacity, fds[0], fds[1]);
	node->boot->slots[app->slot].attached = !error;
	if (!error)
		error = vk_lab_app_connect(app, fds[0], fds[1]);
	close(fds[0]);
	close(fds[1]);
	vk_lab_wake_app(lab, number, lab->now_ns);
	return error;
}

void vk_lab_node_withdraw(struct vk_lab *lab, uint32_t number)
{
	const struct vk_lab_app_run *app = &lab->apps[number];
	struct vk_service *service = &lab->nodes[app->config->node].state->services[app->slot];

	if (!app->client)
		return;
	service->state = VK_ROW_FREE;
	service->sequence += 2;
}

void vk_lab_node_detach(struct vk_lab *lab, uint32_t number)
{
	struct vk_lab_app_run *app = &lab->apps[number];
	struct vk_lab_node_run *node = &lab->nodes[app->config->node];

	if (!app->client)
		return;
	vk_lab_node_withdraw(lab, number);
	node->apps[app->slot] = 0;
	if (node->run)
		vk_engine_detach(node->run, app->slot, app->generation);
	else
		unmap_slot(&node->boot->slots[app->slot]);
	node->boot->slots[app->slot].attached = 0;
	vk_lab_app_leave(app);
	vk_lab_app_die(app);
	vk_lab_wake_node(lab, node->number, lab->now_ns + node->config->wake_ns);
}

/* ---- The node ---- */

void vk_lab_node_forget(struct vk_lab *lab, uint32_t number)
{
	struct vk_lab_node_run *node = &lab->nodes[number];

	end_worker(node);
	vk_sim_empty(&node->kernel);
	for (uint32_t i = 0; i < VK_LAB_APPS_MAX; i++) {
		if (node->apps[i]) {
			vk_lab_app_leave(&lab->apps[node->apps[i] - 1]);
			vk_lab_app_end(&lab->apps[node->apps[i] - 1]);
		}
		node->apps[i] = 0;
		unmap_slot(&node->boot->slots[i]);
	}
	blank(node->state, sizeof *node->state);
	blank(node->work, sizeof *node->work);
	blank(node->counters, sizeof *node->counters);
	blank(node->flows, VK_FLOWS_MAX * sizeof *node->flows);
	blank(node->secrets, sizeof *node->secrets);
	node->recover = 0;
	node->down = 1;
}

int vk_lab_node_come_up(struct vk_lab *lab, uint32_t number)
{
	struct vk_lab_node_run *node = &lab->nodes[number];
	int error;

	begin_memory(node);
	node->down = 0;
	error = vk_lab_node_start(lab, number, 0);
	for (uint32_t i = 0; i < lab->scenario.app_count && !error; i++) {
		if (lab->apps[i].config->node != number)
			continue;
		lab->apps[i].slot = 0;
		error = vk_lab_node_attach(lab, i);
	}
	return error;
}

void vk_lab_node_close(struct vk_lab *lab, uint32_t number)
{
	if (lab->nodes[number].boot)
		vk_lab_node_forget(lab, number);
}

/* Ends a worker that leaves, when nothing waits for its path any more. */
static void leave(struct vk_lab_node_run *node)
{
	struct vk_lab *lab = node->lab;

	if (vk_engine_leave(node->run, lab->now_ns))
		vk_lab_wake_node(lab, node->number, lab->now_ns + VK_KEPT_NS);
	else
		end_worker(node);
}

static void begin(struct vk_lab_node_run *node)
{
	struct vk_lab *lab = node->lab;
	int error;

	if (!node->start_ns || lab->now_ns < node->start_ns)
		return;
	node->start_ns = 0;
	error = node->down ? vk_lab_node_come_up(lab, node->number) :
			     vk_lab_node_start(lab, node->number, (int)node->recover);
	if (error)
		vk_lab_fail(lab, "node %u: it does not start (%d)", node->number, error);
	node->recover = 0;
}

static void ring_apps(struct vk_lab_node_run *node, uint64_t at_ns)
{
	struct vk_lab *lab = node->lab;

	for (uint32_t i = 0; i < VK_LAB_APPS_MAX; i++) {
		uint32_t app = node->apps[i] - 1;

		if (node->apps[i] && vk_lab_app_news(&lab->apps[app]))
			vk_lab_wake_app(lab, app, at_ns + lab->apps[app].config->wake_ns);
	}
}

/* Takes from an engine, for a turn, what a scenario wants it to be without. */
static void rob(struct vk_run *run, uint32_t without)
{
	if (without == VK_LAB_WITHOUT_BUDGET)
		run->params.memory_kib = UINT32_MAX;
	for (uint32_t i = 0; without == VK_LAB_WITHOUT_CREDIT && i < run->flow_high; i++)
		run->work->flows[i].tx_limit = UINT64_MAX / 2;
	for (uint32_t i = 0; i < run->active_count; i++)
		run->sessions[run->active[i]]->recovery.params.detect_loss =
			without != VK_LAB_WITHOUT_RECOVERY;
}

/* Where a core is shared a worker may lose it with the time in its hand: it goes on later. */
static int stalls(struct vk_lab *lab, struct vk_lab_node_run *node)
{
	if (node->begun_ns || !vk_random_chance(&lab->random, node->config->stall_ppb))
		return 0;
	node->begun_ns = lab->now_ns;
	node->busy_ns = lab->now_ns + node->config->stall_ns;
	vk_lab_wake_node(lab, node->number, node->busy_ns);
	return 1;
}

void vk_lab_node_turn(struct vk_lab *lab, uint32_t number)
{
	struct vk_lab_node_run *node = &lab->nodes[number];
	uint64_t moved = node->kernel.moved, begun_ns, next_ns;
	uint32_t memory_kib, kept = 0;
	jmp_buf death;
	int done;

	if (!node->run)
		begin(node);
	if (!node->run) {
		vk_lab_wake_node(lab, number, node->start_ns ? node->start_ns : UINT64_MAX);
		return;
	}
	lab->report.turns++;
	node->death = death;
	if (setjmp(death)) {
		vk_lab_node_kill(lab, number);
		vk_lab_wake_node(lab, number, node->start_ns);
		return;
	}
	if (node->leaving) {
		leave(node);
		ring_apps(node, lab->now_ns);
		if (!node->run)
			vk_lab_wake_node(lab, number, node->start_ns);
		return;
	}
	if (stalls(lab, node))
		return;
	memory_kib = node->run->params.memory_kib;
	if (lab->scenario.without)
		rob(node->run, lab->scenario.without);
	begun_ns = node->begun_ns ? node->begun_ns : lab->now_ns;
	node->begun_ns = 0;
	node->kernel.now_ns = lab->now_ns;
	done = vk_engine_turn(node->run, begun_ns, begun_ns + real_offset_ns, &kept);
	if (done < 0)
		vk_lab_fail(lab, "node %u: its worker ends with %d", number, done);
	if (node->run->params.memory_kib == UINT32_MAX)
		node->run->params.memory_kib = memory_kib;
	vk_lab_check_budget(lab, number);
	vk_lab_keys_look(lab, number);
	node->run->consumers_behind = 0;
	node->busy_ns = lab->now_ns + node->config->turn_ns +
			node->config->packet_ns * (node->kernel.moved - moved);
	next_ns = done ? node->busy_ns : vk_engine_deadline(node->run, kept);
	vk_lab_wake_node(lab, number, next_ns);
	ring_apps(node, node->busy_ns);
}

void vk_lab_node_sample(struct vk_lab *lab, uint32_t node, uint32_t peer,
			struct vk_lab_sample *sample)
{
	const struct vk_run *run = lab->nodes[node].run;
	const struct vk_session *session = run ? run->sessions[peer] : NULL;

	if (!session)
		return;
	sample->srtt_ns = session->recovery.rtt.smoothed_ns;
	sample->window_bytes = session->recovery.congestion.window;
	sample->flight_bytes = session->recovery.in_flight;
}

void vk_lab_params(struct vk_params *params)
{
	*params = *vk_engine_params();
}
