/* SPDX-License-Identifier: MIT */
#include "vk_lab_world.h"

#include "vk_random.h"
#include "vk_session.h"

#include <string.h>

enum {
	EPOCHS_ENOUGH = 240, /* of a session: its daemons shake hands anew */
};

uint32_t vk_lab_session(const struct vk_lab_node_run *from, const struct vk_lab_node_run *to)
{
	uint64_t turn = from->incarnation + to->incarnation + from->renewals + to->renewals;

	return vk_seat_id(to->state->seat_keys, from->number, (uint32_t)turn);
}

/* What frames from one node to another are sealed with at first. */
static void make_secret(const struct vk_lab_node_run *from, const struct vk_lab_node_run *to,
			struct vk_ratchet *ratchet)
{
	memset(ratchet, 0, sizeof *ratchet);
	for (uint32_t i = 0; i < VK_SECRET_SIZE / 8; i++) {
		uint64_t word = vk_random_mix(((uint64_t)vk_lab_session(from, to) << 8) + i);

		memcpy(ratchet->secrets[0].bytes + 8 * (size_t)i, &word, sizeof word);
	}
}

uint8_t vk_lab_keys(const struct vk_lab_node_run *node, const struct vk_lab_node_run *other,
		    uint32_t session)
{
	uint8_t which = node->state->peers[other->number].keys;
	struct vk_keys *row = &node->secrets->keys[which][other->number];

	if (row->session == session)
		return which;
	row = &node->secrets->keys[!which][other->number];
	make_secret(node, other, &row->seal);
	make_secret(other, node, &row->open);
	row->session = session;
	return !which;
}

/* Whether a worker has asked for new keys, or had enough of these. */
static int spent(struct vk_run *run, uint32_t peer)
{
	const struct vk_session *session = run->sessions[peer];
	int asked = run->want_due_ns[peer] > run->now_ns;

	run->want_due_ns[peer] = 0; /* it is heard */
	return session && session->keyring.row &&
	       (asked || session->keyring.sealing >= EPOCHS_ENOUGH ||
		session->keyring.opening >= EPOCHS_ENOUGH);
}

void vk_lab_keys_look(struct vk_lab *lab, uint32_t number)
{
	struct vk_run *run = lab->nodes[number].run;

	if (!lab->scenario.cipher || lab->rows_ns[number] != UINT64_MAX)
		return;
	for (uint32_t i = 0; i < lab->scenario.node_count; i++) {
		if (spent(run, i)) {
			vk_lab_daemon_renew(lab, number, lab->now_ns);
			return;
		}
	}
}
