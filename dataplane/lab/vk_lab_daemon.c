/* SPDX-License-Identifier: MIT */
#include "vk_lab_world.h"

#include "vk_row.h"

#include <string.h>

enum {
	HEADS_SIZE = 28, /* IPv4 + UDP, bytes */
};

static void address_of(const struct vk_lab_node_run *node, uint8_t address[16])
{
	memset(address, 0, 16);
	address[0] = 10;
	address[2] = (uint8_t)node->address;
	address[3] = (uint8_t)(node->number + 1);
}

/* Which session a new one continues: the one that the other has. */
static uint32_t continues(const struct vk_lab_node_run *node, const struct vk_lab_node_run *other,
			  uint32_t local)
{
	const struct vk_peer *row = &node->state->peers[other->number];
	uint32_t theirs = other->state->peers[node->number].session;

	if (row->session_local == local)
		return row->before_local;
	return theirs == local ? row->session_local : theirs;
}

/* Writes what a node knows of another; `known`: of a new session, that the other has it. */
static void write_row(const struct vk_lab_node_run *node, const struct vk_lab_node_run *other,
		      int known)
{
	struct vk_peer *row = &node->state->peers[other->number];
	uint32_t local = vk_lab_session(other, node);
	uint32_t mtu = node->config->mtu < other->config->mtu ? node->config->mtu :
								other->config->mtu;

	*row = (struct vk_peer){
		.sequence = row->sequence + 2,
		.state = VK_ROW_LIVE,
		.family = 4,
		.resolved = 1,
		.udp_port = VK_PORT,
		.payload_max = (uint16_t)(mtu - HEADS_SIZE),
		.generation = (uint32_t)other->incarnation,
		.joined = 1,
		.session = vk_lab_session(node, other),
		.session_local = local,
		.cipher = (uint8_t)node->lab->scenario.cipher,
		.keys = vk_lab_keys(node, other, local),
		.before_local = continues(node, other, local),
		.known = row->session_local == local ? row->known : (uint8_t)known,
		.ack_delay_us = other->config->ack_delay_us,
		.window_start = other->config->window_start,
		.session_window = other->config->session_window,
	};
	address_of(other, row->address);
	address_of(node, row->source);
	vk_peer_news(node->state, other->number);
}

void vk_lab_daemon_learn(struct vk_lab *lab, uint32_t number)
{
	struct vk_lab_node_run *node = &lab->nodes[number];

	lab->rows_ns[number] = UINT64_MAX;
	for (uint32_t i = 0; i < lab->scenario.node_count; i++) {
		if (i == number || lab->nodes[i].down || node->down)
			continue;
		write_row(&lab->nodes[i], node, 1);
		write_row(node, &lab->nodes[i], 1);
		vk_lab_wake_node(lab, i, lab->now_ns);
	}
	vk_lab_wake_node(lab, number, lab->now_ns);
}

void vk_lab_daemon_renew(struct vk_lab *lab, uint32_t number, uint64_t known_ns)
{
	struct vk_lab_node_run *node = &lab->nodes[number];

	if (node->down)
		return;
	node->renewals++;
	for (uint32_t i = 0; i < lab->scenario.node_count; i++)
		if (i != number && !lab->nodes[i].down)
			write_row(node, &lab->nodes[i], 0);
	lab->rows_ns[number] = known_ns;
	vk_lab_wake_node(lab, number, lab->now_ns);
}

void vk_lab_daemon_tune(struct vk_state *state, const struct vk_params *params,
			const struct vk_tuning *tuning)
{
	uint32_t sequence = state->params.sequence + 2;

	state->params = *params;
	state->params.sequence = sequence;
	for (uint32_t i = 0; i < VK_LAB_NODES_MAX; i++) {
		struct vk_tuning *row = &state->tunings[i];

		sequence = row->sequence + 2;
		*row = *tuning;
		row->sequence = sequence;
		row->version = sequence / 2;
	}
}
