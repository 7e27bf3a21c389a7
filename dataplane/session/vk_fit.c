/* SPDX-License-Identifier: MIT */
#include "vk_fit.h"

#include "vk_datagram.h"

static void resize(struct vk_session *session)
{
	vk_congestion_datagram(&session->recovery.congestion, session->mtu.size);
	session->recovery.pacer.datagram_size = session->mtu.size;
}

void vk_fit_bound(struct vk_run *run, struct vk_session *session)
{
	uint32_t most = run->peers[session->peer].payload_max;

	if (session->mtu_max && most > session->mtu_max)
		most = session->mtu_max;
	if (vk_mtu_bound(&session->mtu, most))
		resize(session);
}

void vk_fit_acked(struct vk_run *run, struct vk_session *session,
		  const struct vk_sent_packet *packet)
{
	if (!(packet->flags & VK_SENT_MTU))
		vk_mtu_acked(&session->mtu, packet->size, packet->sent_ns);
	else if (vk_mtu_probe_acked(&session->mtu, packet->size, run->now_ns))
		resize(session);
}

void vk_fit_lost(struct vk_run *run, struct vk_session *session,
		 const struct vk_sent_packet *packet)
{
	if (packet->flags & VK_SENT_REFUSED)
		return; /* the path carried it */
	if (!(packet->flags & VK_SENT_MTU))
		vk_mtu_lost(&session->mtu, packet->size, packet->sent_ns);
	else if (vk_mtu_probe_lost(&session->mtu, packet->size, run->now_ns))
		resize(session);
}

/* RFC 8899, 4.1: a probe that carries no application data: a PING, and padding. */
void vk_fit_probe(struct vk_run *run, struct vk_session *session)
{
	static uint8_t zeros[UINT16_MAX];
	uint32_t size = vk_mtu_next(&session->mtu);
	struct vk_part part = {
		.frame = { .type = VK_PING, .stream = session->ack_stream[VK_SPACE_B] },
		.payload = zeros,
		.peer = session->peer,
		.class = vk_stream_class(session->ack_stream[VK_SPACE_B]),
		.content = { .kind = VK_CONTENT_MTU, .a = size },
		/* RFC 8899, 3: it "does not need to be limited by the congestion controller" as
		 * long as a round trip lies between two: one is on its way at a time. */
		.forced = 1,
	};

	/* One that could not be entered would never be settled. */
	if (!size || !vk_sent_room(&session->recovery.sent[VK_SPACE_B]))
		return;
	part.frame.priority = vk_priority_lowest(part.class);
	part.size = size - vk_part_overhead(&part.frame) - vk_fit_tag(run, session->peer) -
		    vk_fit_token(run, session->peer, part.class);
	if (!vk_datagram_add(run, &part, 1))
		return;
	vk_mtu_probed(&session->mtu);
	vk_count_row(run, part.class)[VK_TX_CONTROL]++;
	if (session->mtu.state != VK_MTU_CONFIRMING)
		return;
	/* What is small, and behind it, shows soon that it is lost: nothing else may arrive. */
	part.size = 0;
	part.content.kind = VK_CONTENT_NONE;
	if (vk_datagram_add(run, &part, 1))
		vk_count_row(run, part.class)[VK_TX_CONTROL]++;
}
