/* SPDX-License-Identifier: MIT */
#include "vk_probe.h"

#include "vk_content.h"
#include "vk_fit.h"

#include <string.h>

static void send_ping(struct vk_run *run, const struct vk_session *session, uint32_t space)
{
	uint32_t stream = session->ack_stream[space];
	struct vk_part part = {
		.frame = { .type = VK_PING, .stream = stream },
		.peer = session->peer,
		.class = vk_stream_class(stream),
		.forced = 1,
	};

	part.frame.priority = vk_priority_lowest(part.class);
	if (vk_datagram_add(run, &part, 1))
		vk_count_row(run, part.class)[VK_TX_CONTROL]++;
	vk_datagram_close(run);
}

void vk_probe_ask(struct vk_run *run, const struct vk_session *session)
{
	send_ping(run, session, VK_SPACE_E);
}

static void ping(struct vk_run *run, struct vk_session *session)
{
	session->probes--;
	send_ping(run, session, session->probe_space);
}

/* A PING as small as it is, and first: a path may carry nothing large now, or one packet. */
static void ping_small(struct vk_run *run, struct vk_session *session)
{
	struct vk_path *path = run->tx[run->peers[session->peer].port_index];

	ping(run, session);
	path->ops->tx_flush(path); /* or it would be padded to the size of what follows */
}

/* Whether something flies that has to arrive. */
static int content_flies(const struct vk_sent *sent)
{
	for (uint64_t n = sent->oldest; n != sent->next; n++) {
		struct vk_sent_packet *packet = vk_sent_get(sent, n);

		if (packet && packet->state == VK_SENT_FLYING && packet->run_count)
			return 1;
	}
	return 0;
}

/* Sends the oldest content in flight once more. */
static void repeat(struct vk_run *run, struct vk_session *session)
{
	const struct vk_sent *sent = &session->recovery.sent[session->probe_space];

	for (uint64_t n = sent->oldest; n != sent->next && session->probes; n++) {
		struct vk_sent_packet *packet = vk_sent_get(sent, n);
		struct vk_sent_run runs[VK_SENT_RUNS_MAX];
		uint64_t before = sent->issued;
		uint32_t count;
		int all = 1;

		if (!packet || packet->state != VK_SENT_FLYING || !packet->run_count)
			continue;
		count = packet->run_count; /* sending may move the packets */
		memcpy(runs, packet->runs, sizeof runs);
		for (uint32_t i = 0; i < count; i++)
			all &= vk_content_probe(run, session, &runs[i]);
		vk_datagram_close(run);
		if (all && sent->issued != before)
			sent->packets[n & sent->mask].flags |= VK_SENT_COPIED;
		/* What it carried may be known by now: then it takes another. */
		session->probes -= sent->issued != before;
	}
}

void vk_probe_send(struct vk_run *run, struct vk_session *session)
{
	const struct vk_recovery *recovery = &session->recovery;

	if (!content_flies(&recovery->sent[session->probe_space]))
		session->probes = 1;
	else if (session->mtu.bursts || (recovery->pto_count > 1 && vk_session_random(run, 2)))
		ping_small(run, session);
	/* What is sent again may take all of the path each time, and never fit it. */
	vk_fit_probe(run, session);
	repeat(run, session);
	while (session->probes)
		ping(run, session);
}
