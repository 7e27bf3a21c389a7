/* SPDX-License-Identifier: MIT */
#include "vk_lab_world.h"

#include "vk_wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	WIRE_MIN = 256, /* packets of a wire's first ring */
	PS_PER_NS = 1000,
	RECORDED_MAX = 1024, /* packets that an eavesdropper keeps */
	FLIPS_MAX = 4, /* bits that a damaged packet has changed */
};

static uint64_t wire_next(const struct vk_lab_wire *wire)
{
	uint64_t next_ns = vk_heap_next(&wire->late);

	if (wire->first != wire->next && wire->ring[wire->first & wire->mask]->at_ns < next_ns)
		next_ns = wire->ring[wire->first & wire->mask]->at_ns;
	return next_ns;
}

static int grow(struct vk_lab_wire *wire)
{
	uint32_t count = wire->next - wire->first,
		 size = wire->ring ? 2 * (wire->mask + 1) : WIRE_MIN;
	struct vk_sim_packet **ring = malloc(size * sizeof(struct vk_sim_packet *));

	if (!ring)
		return 0;
	for (uint32_t i = 0; i < count; i++)
		ring[i] = wire->ring[(wire->first + i) & wire->mask];
	free((void *)wire->ring);
	wire->ring = ring;
	wire->mask = size - 1;
	wire->first = 0;
	wire->next = count;
	return 1;
}

/* Most packets arrive behind those sent before them; the others lie in a heap. */
static void travel(struct vk_lab *lab, uint32_t number, struct vk_sim_packet *packet)
{
	struct vk_lab_wire *wire = &lab->wires[number];
	uint32_t count = wire->next - wire->first;
	int late = count && packet->at_ns < wire->ring[(wire->next - 1) & wire->mask]->at_ns;

	packet->order = lab->order++;
	if (late) {
		if (!vk_heap_push(&wire->late, packet->at_ns, (uint64_t)(uintptr_t)packet))
			vk_sim_give(&lab->pool, packet);
	} else if ((!wire->ring || count > wire->mask) && !grow(wire)) {
		vk_sim_give(&lab->pool, packet);
	} else {
		wire->ring[wire->next++ & wire->mask] = packet;
	}
	lab->wire_ns[number] = wire_next(wire);
}

static void spoil(struct vk_link *link, struct vk_sim_packet *packet)
{
	uint64_t flips = 1 + vk_random_below(&link->random, FLIPS_MAX);

	while (flips--) {
		uint64_t bit = vk_random_below(&link->random, packet->size * 8ull);

		packet->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

int vk_lab_ready(void *context, const struct vk_peer *peer)
{
	const struct vk_lab_node_run *node = context;
	const struct vk_lab *lab = node->lab;
	uint32_t to = peer->address[3] - 1u;
	const struct vk_link *link;
	uint64_t waiting;

	if (!node->config->ready_bytes || to >= lab->scenario.node_count)
		return 1;
	link = &lab->wires[lab->scenario.route[node->number][to]].link;
	if (!link->byte_cost)
		return 1;
	waiting = vk_link_waiting_ns(link, lab->now_ns) * PS_PER_NS;
	waiting = (uint64_t)(((unsigned __int128)waiting << VK_LINK_COST_SHIFT) / link->byte_cost);
	return waiting + node->kernel.kept_bytes < node->config->ready_bytes;
}

static struct vk_sim_packet *copy_of(struct vk_sim_pool *pool, const struct vk_sim_packet *packet)
{
	struct vk_sim_packet *copy = vk_sim_take(pool);

	if (copy)
		memcpy(copy, packet, sizeof *packet + packet->size);
	return copy;
}

void vk_lab_transmit(void *context, const struct vk_peer *peer, struct vk_sim_packet *packet)
{
	struct vk_lab_node_run *node = context;
	struct vk_lab *lab = node->lab;
	uint32_t to = peer->address[3] - 1u, route;
	struct vk_link *link;
	struct vk_fate fate;

	lab->report.packets++;
	if (to >= lab->scenario.node_count || peer->address[2] != (uint8_t)lab->nodes[to].address) {
		vk_sim_give(&lab->pool, packet); /* nobody has that address (any more) */
		return;
	}
	route = lab->scenario.route[node->number][to];
	link = &lab->wires[route].link;
	packet->from = (uint8_t)node->number;
	packet->to = (uint8_t)to;
	packet->source_port = (uint16_t)(VK_PORT + node->address);
	memset(packet->source, 0, sizeof packet->source);
	packet->source[0] = 10;
	packet->source[2] = (uint8_t)node->address;
	packet->source[3] = (uint8_t)(node->number + 1);
	fate = vk_link_send(link, packet->size, lab->now_ns);
	if (!fate.copies) {
		vk_sim_give(&lab->pool, packet);
		return;
	}
	packet->marked = fate.marked;
	packet->corrupt = fate.corrupt;
	for (uint32_t i = 0; i < fate.copies; i++) {
		struct vk_sim_packet *each = i + 1 < fate.copies ? copy_of(&lab->pool, packet) :
								   packet;

		if (!each)
			continue;
		each->at_ns = fate.arrive_ns[i];
		if (each->corrupt && lab->scenario.corrupt_through)
			spoil(link, each);
		travel(lab, route, each);
	}
}

/* Keeps a copy of what an eavesdropper could send again. */
static void record(struct vk_lab *lab, const struct vk_sim_packet *packet)
{
	struct vk_sim_packet **at = &lab->recorded[lab->recorded_next++ % RECORDED_MAX];

	if (*at)
		vk_sim_give(&lab->pool, *at);
	*at = copy_of(&lab->pool, packet);
}

void vk_lab_wire_replay(struct vk_lab *lab, uint32_t node, uint64_t most)
{
	for (uint32_t i = 0; i < RECORDED_MAX && most; i++) {
		const struct vk_sim_packet *old =
			lab->recorded[(lab->recorded_next + i) % RECORDED_MAX];
		struct vk_sim_packet *copy;

		if (!old || old->to != node)
			continue;
		copy = copy_of(&lab->pool, old);
		if (copy)
			copy->at_ns = lab->now_ns;
		if (!copy || !vk_sim_deliver(&lab->nodes[node].kernel, copy))
			continue;
		lab->report.replayed++;
		most--;
	}
	vk_lab_wake_node(lab, node, lab->now_ns);
}

void vk_lab_wire_forget(struct vk_lab *lab)
{
	for (uint32_t i = 0; lab->recorded && i < RECORDED_MAX; i++)
		if (lab->recorded[i])
			vk_sim_give(&lab->pool, lab->recorded[i]);
	free(lab->recorded);
	lab->recorded = NULL;
}

int vk_lab_wire_listen(struct vk_lab *lab)
{
	lab->recorded = calloc(RECORDED_MAX, sizeof(struct vk_sim_packet *));
	lab->recorded_next = 0;
	return lab->recorded ? 0 : -ENOMEM;
}

/* A packet arrives: what its header says goes into the digest. */
static void arrive(struct vk_lab *lab, struct vk_sim_packet *packet)
{
	struct vk_lab_node_run *node = &lab->nodes[packet->to];
	uint64_t words[4];

	memcpy(words, packet->data, sizeof words);
	vk_lab_note(lab, lab->now_ns ^ (uint64_t)packet->to << 56);
	vk_lab_note(lab, words[0] ^ vk_random_rotate(words[1], 16) ^
				 vk_random_rotate(words[2], 32) ^ vk_random_rotate(words[3], 48) ^
				 packet->size);
	if (lab->recorded)
		record(lab, packet);
	if (node->down || (packet->corrupt && !lab->scenario.corrupt_through)) {
		lab->report.checksum_drops += !node->down;
		vk_sim_give(&lab->pool, packet);
	} else if (vk_sim_deliver(&node->kernel, packet)) {
		lab->report.delivered++;
		vk_lab_wake_node(lab, node->number, lab->now_ns + node->config->wake_ns);
	} else {
		lab->report.socket_drops++;
	}
}

void vk_lab_wire_deliver(struct vk_lab *lab, uint32_t number)
{
	struct vk_lab_wire *wire = &lab->wires[number];

	while (wire_next(wire) <= lab->now_ns) {
		struct vk_sim_packet *first = NULL;

		if (wire->first != wire->next)
			first = wire->ring[wire->first & wire->mask];
		if (!first || vk_heap_next(&wire->late) < first->at_ns)
			first = (struct vk_sim_packet *)(uintptr_t)vk_heap_pop(&wire->late);
		else
			wire->first++;
		arrive(lab, first);
	}
	lab->wire_ns[number] = wire_next(wire);
}

void vk_lab_wire_empty(struct vk_lab *lab, uint32_t number)
{
	struct vk_lab_wire *wire = &lab->wires[number];

	while (wire->first != wire->next)
		vk_sim_give(&lab->pool, wire->ring[wire->first++ & wire->mask]);
	while (wire->late.count)
		vk_sim_give(&lab->pool,
			    (struct vk_sim_packet *)(uintptr_t)vk_heap_pop(&wire->late));
}
