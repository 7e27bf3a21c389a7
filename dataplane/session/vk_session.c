/* SPDX-License-Identifier: MIT */
#include "vk_session.h"

#include "vk_content.h"
#include "vk_credit.h"
#include "vk_fit.h"
#include "vk_flows.h"
#include "vk_pages.h"
#include "vk_probe.h"
#include "vk_rekey.h"
#include "vk_sealing.h"
#include "vk_signals.h"

#include <stdlib.h>
#include <string.h>

enum {
	CREDITS_A_FRAME = 3, /* limits that one vk_sent_run can name */
	CREDIT_SIZE = sizeof(struct vk_ack_credit),
};

uint32_t vk_session_random(struct vk_run *run, uint32_t limit)
{
	run->random = run->random * 6364136223846793005u + 1442695040888963407u; /* Knuth, MMIX */
	return (uint32_t)(run->random >> 33) % limit;
}

static void begin(struct vk_run *run, struct vk_session *session, uint32_t peer)
{
	static const uint32_t streams[] = { VK_FIRST_SYSTEM, VK_FIRST_DATA, VK_FIRST_LOGS };
	const struct vk_peer *row = &run->peers[peer];
	uint32_t delay_us = row->ack_delay_us ? row->ack_delay_us : run->params.ack_delay_us;
	struct vk_recovery_params params = {
		.max_ack_delay_ns = (uint64_t)delay_us * 1000,
		.controller = (enum vk_controller)run->params.controller,
		.datagram_size = vk_fit_payload(run, peer),
		.detect_loss = 1,
	};

	session->peer = peer;
	session->id = row->session_local;
	session->udp_port = row->udp_port;
	vk_recovery_init(&session->recovery, &params, run->now_ns);
	vk_signals_begin(run, session);
	vk_mtu_init(&session->mtu, row->payload_max);
	vk_sealing_begin(run, session);
	for (uint32_t s = 0; s < VK_SPACE_COUNT; s++) {
		uint64_t next = run->work->packets[peer].tx_number[s];

		session->ack_stream[s] = streams[s];
		/* Those before may be acknowledged again, though nobody here waits for it. */
		session->recovery.sent[s].issued = next;
		session->skip[s] = next + 1 + vk_session_random(run, 2 * VK_SKIP_MEAN);
	}
}

struct vk_session *vk_session_of(struct vk_run *run, uint32_t peer)
{
	struct vk_session *session = run->sessions[peer];

	if (session || run->peers[peer].state != VK_ROW_LIVE || !run->peers[peer].joined)
		return session;
	session = vk_lines_alloc(sizeof *session);
	if (!session)
		return NULL;
	begin(run, session, peer);
	run->sessions[peer] = session;
	session->active = run->active_count;
	run->active[run->active_count++] = peer;
	return session;
}

void vk_session_forget(struct vk_run *run, uint32_t peer)
{
	struct vk_session *session = run->sessions[peer];

	if (!session)
		return;
	vk_datagram_close(run);
	vk_recovery_free(&session->recovery);
	vk_rekey_forget(run, session);
	vk_keyring_free(&session->keyring);
	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++)
		vk_resend_free(&session->resend[c]);
	vk_timers_clear(&run->timers, peer);
	for (uint32_t at = session->owing_first; at; at = run->flows[at - 1].owe_next)
		run->flows[at - 1].owing = 0; /* what they owe, they owe the next session */
	for (uint32_t i = 0; i < run->touched_count; i++)
		if (run->touched[i] == peer)
			run->touched[i--] = run->touched[--run->touched_count];
	for (uint32_t i = 0; i < run->busy_count; i++)
		if (run->busy[i] == peer)
			run->busy[i--] = run->busy[--run->busy_count];
	run->active[session->active] = run->active[--run->active_count];
	run->sessions[run->active[session->active]]->active = session->active;
	run->work->packets[peer].flying = 0;
	run->sessions[peer] = NULL;
	free(session);
}

void vk_session_touch(struct vk_run *run, struct vk_session *session)
{
	if (session->touched)
		return;
	session->touched = 1;
	run->touched[run->touched_count++] = session->peer;
}

static void make_busy(struct vk_run *run, struct vk_session *session)
{
	if (!session->busy)
		run->busy[run->busy_count++] = session->peer;
	session->busy = 1;
}

int vk_session_room(struct vk_run *run, struct vk_session *session, uint32_t class, int urgent)
{
	int64_t room;

	/* Where no pacer holds it, only an acknowledgement helps: no timer is set. */
	if (!vk_sent_room(&session->recovery.sent[vk_class_space(class)]))
		return 0;
	if (class == VK_CLASS_CRITICAL)
		return session->recovery.critical < VK_URGENT_RESERVE;
	room = vk_recovery_room(&session->recovery, run->now_ns);
	if (room > 0 || (urgent && room > -(int64_t)VK_URGENT_RESERVE))
		return 1;
	session->waiting = 1;
	vk_recovery_held(&session->recovery, run->now_ns);
	vk_session_touch(run, session);
	return 0;
}

uint64_t vk_session_number(struct vk_run *run, struct vk_session *session, uint32_t space)
{
	uint64_t *next = &run->work->packets[session->peer].tx_number[space];

	/* RFC 9000, 21.4: an endpoint may skip packet numbers to detect a peer that acknowledges
	 * what it has not received. */
	if (*next == session->skip[space]) {
		vk_recovery_skip(&session->recovery, space, (*next)++);
		session->skip[space] = *next + 1 + vk_session_random(run, 2 * VK_SKIP_MEAN);
	}
	vk_recovery_issue(&session->recovery, space, *next);
	return (*next)++;
}

/* ---- What flows owe ---- */

void vk_session_owe(struct vk_run *run, struct vk_flow *flow, uint32_t bits)
{
	uint32_t number = vk_flow_number(run, flow);
	struct vk_flow_run *own = &run->flows[number];
	struct vk_session *session = vk_session_of(run, flow->peer);

	if (flow->state == VK_ROW_TELLING)
		return;
	own->owes |= (uint8_t)bits;
	if (!session || own->owing || !own->owes)
		return;
	own->owing = 1;
	own->owe_next = 0;
	if (session->owing_last)
		run->flows[session->owing_last - 1].owe_next = number + 1;
	else
		session->owing_first = number + 1;
	session->owing_last = number + 1;
	make_busy(run, session);
}

static void owes_no_more(struct vk_run *run, struct vk_session *session)
{
	struct vk_flow_run *own = &run->flows[session->owing_first - 1];

	own->owing = 0;
	session->owing_first = own->owe_next;
	if (!session->owing_first)
		session->owing_last = 0;
}

/* The first flow that still owes something; NULL = none. */
static struct vk_flow *owing(struct vk_run *run, struct vk_session *session)
{
	while (session->owing_first) {
		uint32_t number = session->owing_first - 1;
		struct vk_flow *flow = &run->work->flows[number];

		if (flow->state != VK_ROW_FREE && flow->peer == session->peer &&
		    run->flows[number].owes)
			return flow;
		owes_no_more(run, session);
		if (flow->state != VK_ROW_FREE && run->flows[number].owes)
			vk_session_owe(run, flow, 0); /* another peer's by now */
	}
	return NULL;
}

/* Limits of the flows at the front of the list that owe nothing else. They go in the numbers of
 * their flows: else the peer could not tell whether one is of an older stream with the same id. */
static uint32_t put_credits(struct vk_run *run, struct vk_session *session, uint32_t space,
			    uint8_t *at, struct vk_sent_run *credit)
{
	uint32_t *names[CREDITS_A_FRAME] = { &credit->first, &credit->a, &credit->b };
	uint32_t count = 0;
	struct vk_flow *flow;

	while (count < CREDITS_A_FRAME && (flow = owing(run, session))) {
		uint32_t number = vk_flow_number(run, flow);

		if (run->flows[number].owes != VK_OWE_CREDIT ||
		    vk_class_space(flow->class) != space)
			break;
		vk_put32(at, flow->stream);
		vk_put32(at + 4, (uint32_t)(flow->rx_limit >> 32));
		vk_put32(at + 8, (uint32_t)flow->rx_limit);
		at += CREDIT_SIZE;
		*names[count++] = number + 1;
		run->flows[number].owes = 0;
		owes_no_more(run, session);
	}
	if (count)
		credit->kind = VK_CONTENT_CREDIT;
	return count;
}

uint32_t vk_session_feedback(struct vk_run *run, struct vk_session *session, uint32_t space,
			     uint8_t *at, uint32_t room, struct vk_sent_run *credit)
{
	uint32_t size, count;

	*credit = (struct vk_sent_run){ .kind = VK_CONTENT_NONE };
	size = vk_received_write(&session->received[space], space, at,
				 room - CREDITS_A_FRAME * CREDIT_SIZE, run->now_ns);
	if (!size)
		return 0;
	count = put_credits(run, session, space, at + size, credit);
	at[offsetof(struct vk_ack, credit_count)] = (uint8_t)count;
	vk_session_touch(run, session);
	return size + count * CREDIT_SIZE;
}

/* ---- What came back ---- */

static void on_acked(void *context, uint32_t space, struct vk_sent_packet *packet)
{
	struct vk_run *run = context;

	(void)space;
	vk_fit_acked(run, run->acking, packet);
	for (uint32_t i = 0; i < packet->run_count; i++)
		vk_content_acked(run, &packet->runs[i]);
}

static void on_lost(void *context, uint32_t space, struct vk_sent_packet *packet)
{
	struct vk_run *run = context;

	(void)space;
	vk_fit_lost(run, run->acking, packet);
	for (uint32_t i = 0; i < packet->run_count; i++) {
		const struct vk_sent_run *lost = &packet->runs[i];

		/* Copies of messages are counted, of shards they are not. */
		if (lost->kind != VK_CONTENT_SHARD || !(packet->flags & VK_SENT_COPIED))
			vk_session_lost(run, run->acking, lost);
		if (packet->flags & VK_SENT_REFUSED &&
		    (lost->kind == VK_CONTENT_MESSAGES || lost->kind == VK_CONTENT_SHARD))
			vk_resend_refused(run, run->acking, lost->ring);
	}
}

void vk_session_lost(struct vk_run *run, struct vk_session *session, const struct vk_sent_run *lost)
{
	const uint32_t flows[CREDITS_A_FRAME] = { lost->first, lost->a, lost->b };
	struct vk_flow *flow;

	switch (lost->kind) {
	case VK_CONTENT_MESSAGES:
	case VK_CONTENT_SHARD:
		if (!vk_content_lost(run, lost))
			break;
		vk_resend_push(&session->resend[lost->ring], lost);
		make_busy(run, session);
		break;
	case VK_CONTENT_CONTROL:
		flow = &run->work->flows[lost->first];
		if (flow->state != VK_ROW_FREE && flow->generation == lost->b)
			vk_session_owe(run, flow, lost->a);
		break;
	case VK_CONTENT_CREDIT:
		for (uint32_t i = 0; i < CREDITS_A_FRAME; i++) {
			if (flows[i] && run->work->flows[flows[i] - 1].state == VK_ROW_LIVE)
				vk_session_owe(run, &run->work->flows[flows[i] - 1], VK_OWE_CREDIT);
		}
		break;
	default:
		break;
	}
}

/* Returns 0, or -EAGAIN when a limit may be of an older stream: it has to be told again. */
static int take_credits(struct vk_run *run, struct vk_session *session,
			const struct vk_frame *frame, const struct vk_ack_view *view)
{
	int error = 0;

	for (uint32_t i = 0; i < view->credit_count; i++) {
		const uint8_t *at = view->credits + i * CREDIT_SIZE;
		struct vk_flow *flow = vk_flows_find(run, session->peer, vk_get32(at));

		if (flow && vk_flow_older(flow, frame))
			error = -EAGAIN;
		else if (flow)
			vk_credit_told(run, flow, vk_get64(at + 4));
	}
	return error;
}

int vk_session_acked(struct vk_run *run, struct vk_session *session, const struct vk_frame *frame)
{
	const struct vk_recovery_events events = { run, on_acked, on_lost };
	struct vk_ack_view view;
	int error = vk_ack_parse(&view, frame->payload, frame->length);

	if (error)
		return error;
	run->acking = session;
	if (view.flags & VK_ACK_REFUSED) {
		vk_session_touch(run, session);
		return vk_recovery_refused(&session->recovery, &view, run->came_ns, run->now_ns,
					   &events);
	}
	if (view.flags & VK_ACK_HAS_RANGES) {
		error = vk_recovery_ack(&session->recovery, &view, run->came_ns, run->now_ns,
					&events);
		vk_content_settle(run);
		vk_mtu_settle(&session->mtu);
		vk_session_touch(run, session);
		if (error)
			return error;
	}
	error = take_credits(run, session, frame, &view);
	return error ? error : (int)view.credit_count;
}

/* ---- Sending ---- */

static int send_control(struct vk_run *run, const struct vk_flow *flow, uint8_t type, uint32_t owe,
			const uint8_t *payload, uint32_t size)
{
	struct vk_part part = {
		.frame = {
			.type = type,
			.flags = VK_FLAG_ACK,
			.priority = vk_priority_lowest(flow->class),
			.stream = flow->stream,
			.correlation = flow->token,
		},
		.payload = payload,
		.size = size,
		.peer = flow->peer,
		.class = flow->class,
		.content = {
			.kind = VK_CONTENT_CONTROL,
			.first = vk_flow_number(run, flow),
			.a = owe,
			.b = flow->generation,
		},
	};

	if (!vk_datagram_add(run, &part, 1))
		return 0;
	vk_count_row(run, flow->class)[VK_TX_CONTROL]++;
	return 1;
}

static int send_credits(struct vk_run *run, struct vk_session *session, uint32_t class)
{
	uint8_t payload[sizeof(struct vk_ack) + VK_ACK_RANGES_MAX * sizeof(struct vk_ack_range) +
			CREDITS_A_FRAME * CREDIT_SIZE];
	uint32_t space = vk_class_space(class);
	struct vk_waiting waiting = vk_received_waiting(&session->received[space]);
	struct vk_part part = {
		.frame = { .type = VK_STREAM_ACK,
			   .stream = session->ack_stream[space],
			   .priority = vk_priority_lowest(class) },
		.payload = payload,
		.peer = session->peer,
		.class = vk_stream_class(session->ack_stream[space]),
	};

	if (!vk_session_room(run, session, part.class, 1))
		return 0;
	part.size =
		vk_session_feedback(run, session, space, payload, sizeof payload, &part.content);
	if (!part.size)
		return 0;
	part.quiet = part.content.kind == VK_CONTENT_NONE;
	if (!vk_datagram_add(run, &part, 1)) {
		vk_received_unsaid(&session->received[space], waiting);
		vk_session_lost(run, session, &part.content);
		return 0;
	}
	vk_count_row(run, part.class)[VK_TX_CONTROL]++;
	return 1;
}

/* Sends what flows owe; 0 when it cannot go on now. */
static int send_owed(struct vk_run *run, struct vk_session *session)
{
	struct vk_flow *flow;

	while ((flow = owing(run, session))) {
		struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];
		uint8_t code[4];

		if (own->owes & VK_OWE_RESET) {
			vk_put32(code, own->code);
			if (!send_control(run, flow, VK_STREAM_RESET, VK_OWE_RESET, code,
					  sizeof code))
				return 0;
			own->owes = 0;
		} else if (own->owes & VK_OWE_ACCEPT) {
			if (!send_control(run, flow, VK_STREAM_OPEN, VK_OWE_ACCEPT, NULL, 0))
				return 0;
			own->owes &= (uint8_t)~VK_OWE_ACCEPT;
		} else if (!send_credits(run, session, flow->class)) {
			return 0;
		}
	}
	return 1;
}

void vk_session_send_all(struct vk_run *run)
{
	for (uint32_t i = 0; i < run->busy_count; i++) {
		struct vk_session *session = run->sessions[run->busy[i]];
		int all;

		if (session->probes) /* first: what it finds may be owed again */
			vk_probe_send(run, session);
		all = send_owed(run, session);
		for (uint32_t c = VK_CLASS_CRITICAL; c < VK_CLASS_COUNT; c++)
			all &= vk_resend_send(run, session, c);
		if (!all)
			continue;
		session->busy = 0;
		run->busy[i--] = run->busy[--run->busy_count];
	}
	vk_datagram_close(run);
}

/* ---- Acknowledgements and timers ---- */

int vk_session_ack(struct vk_run *run, struct vk_session *session, uint32_t space,
		   struct vk_received *received, uint8_t flags)
{
	struct vk_waiting waiting = vk_received_waiting(received);
	uint8_t payload[sizeof(struct vk_ack) + VK_ACK_RANGES_MAX * sizeof(struct vk_ack_range)];
	struct vk_part part = {
		.frame = { .type = VK_STREAM_ACK, .stream = session->ack_stream[space] },
		.payload = payload,
		.peer = session->peer,
		.class = vk_stream_class(session->ack_stream[space]),
		.quiet = 1,
	};

	part.frame.priority = vk_priority_lowest(part.class);
	part.size = vk_received_write(received, space, payload, sizeof payload, run->now_ns);
	payload[offsetof(struct vk_ack, flags)] |= flags;
	if (!vk_datagram_add(run, &part, 1)) {
		vk_received_unsaid(received, waiting);
		return 0;
	}
	vk_count_row(run, part.class)[VK_TX_CONTROL]++;
	return 1;
}

static void end_turn(struct vk_run *run, struct vk_session *session)
{
	struct vk_packet *packet = &run->work->packets[session->peer];
	uint64_t delay_ns = session->ack_delay_ns;
	uint64_t due_ns;

	vk_fit_probe(run, session);
	due_ns = vk_recovery_deadline(&session->recovery);
	for (uint32_t s = 0; s < VK_SPACE_COUNT; s++) {
		struct vk_received *received = &session->received[s];
		uint64_t ack_ns;

		if (vk_received_due(received, VK_ACK_EVERY, delay_ns, run->now_ns) &&
		    !vk_session_ack(run, session, s, received, 0))
			ack_ns = run->now_ns + delay_ns; /* the path is full */
		else
			ack_ns = vk_received_deadline(received, delay_ns);
		if (ack_ns < due_ns)
			due_ns = ack_ns;
	}
	vk_signals_limited(run, session);
	vk_recovery_wait(&session->recovery, session->waiting, run->now_ns);
	if (session->waiting) {
		uint64_t next_ns = vk_recovery_next_ns(&session->recovery);

		if (next_ns < due_ns)
			due_ns = next_ns;
		session->waiting = 0;
	}
	packet->flying = session->recovery.in_flight != 0;
	packet->rtt_ns = session->recovery.rtt.latest_ns ? session->recovery.rtt.smoothed_ns : 0;
	vk_timers_set(&run->timers, session->peer, due_ns);
}

void vk_session_end_turn(struct vk_run *run)
{
	for (uint32_t i = 0; i < run->touched_count; i++) {
		struct vk_session *session = run->sessions[run->touched[i]];

		end_turn(run, session);
		session->touched = 0;
	}
	run->touched_count = 0;
	vk_datagram_close(run);
}

void vk_session_expire(struct vk_run *run)
{
	const struct vk_recovery_events events = { run, on_acked, on_lost };
	int peer;

	while ((peer = vk_timers_pop(&run->timers, run->now_ns)) >= 0) {
		struct vk_session *session = run->sessions[peer];
		uint32_t space = 0;
		int probes;

		if (!session)
			continue;
		run->acking = session;
		probes = vk_recovery_expire(&session->recovery, run->now_ns, &events, &space);
		if (probes > 0) {
			session->probes = (uint32_t)probes;
			session->probe_space = space;
			make_busy(run, session);
		}
		vk_session_touch(run, session);
	}
}
