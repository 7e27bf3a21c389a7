/* SPDX-License-Identifier: MIT */
#include "vk_lab_app.h"

#include <string.h>

enum {
	ENTRIES = 64, /* of one receive call */
	REFUSED_RETRY_NS = 20000000, /* an id may be in use for a while when its stream is over */
	FULL_RETRY_NS = 1000000,
};

static const uint64_t s_ns = 1000000000;

int vk_lab_app_connect(struct vk_lab_app_run *app, int region_d, int region_a)
{
	int error;

	app->client = calloc(1, sizeof *app->client);
	if (!app->client)
		return -ENOMEM;
	error = vk_client_open(app->client, region_d, region_a, -1, -1, app->generation);
	if (error) {
		free(app->client);
		app->client = NULL;
		return error;
	}
	app->region = app->client->peer;
	app->frozen = app->holding = app->leaving = app->returning = 0;
	app->consumed_ns = app->lab->now_ns;
	memset(app->seen_tail, 0, sizeof app->seen_tail);
	memset(app->seen_head, 0, sizeof app->seen_head);
	return 0;
}

void vk_lab_app_leave(struct vk_lab_app_run *app)
{
	if (app->client)
		vk_client_close(app->client);
	free(app->client);
	app->client = NULL;
	app->region = NULL;
	app->senders.count = 0;
	app->consumers.count = 0;
	app->opening.count = 0;
	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++)
		app->blocked[c].count = 0;
}

/* The side of a stream that an application is at, or -1. */
static int side_of(const struct vk_lab_app_run *app, uint32_t number)
{
	const struct vk_lab_stream *stream = &app->lab->streams[number];

	for (uint32_t side = 0; side < 2; side++)
		if (vk_lab_app_of(app->lab, stream, side) == app->number)
			return (int)side;
	return -1;
}

/* Whether an application has a part in a stream that is under way. */
static int has(const struct vk_lab_app_run *app, uint32_t number)
{
	const struct vk_lab_stream *stream = &app->lab->streams[number];
	int side = side_of(app, number);

	return side >= 0 && !stream->broken && !stream->finished &&
	       stream->ends[side].state != VK_LAB_END_NONE &&
	       stream->ends[side].attachment == app->generation;
}

void vk_lab_app_end(struct vk_lab_app_run *app)
{
	for (uint32_t i = 0; i < app->lab->stream_count; i++)
		if (side_of(app, i) >= 0)
			vk_lab_stream_break(app->lab, i, VK_CODE_APPLICATION_GONE);
}

int vk_lab_app_returns(const struct vk_lab_app_run *app)
{
	const struct vk_lab_scenario *scenario = &app->lab->scenario;

	if (app->returning)
		return 1;
	for (uint32_t i = app->lab->fault_next; i < scenario->fault_count; i++)
		if (scenario->faults[i].kind == VK_LAB_ATTACH &&
		    scenario->faults[i].target == app->number)
			return 1;
	return 0;
}

/* Whether the opener of a stream that an application accepted does not know of it: its OPEN is for
 * the next one then, which is as if it had not come. */
static int unanswered(struct vk_lab_stream *stream, int side)
{
	struct vk_lab_end *end = &stream->ends[side];

	if (side == VK_LAB_OPENER || stream->ends[VK_LAB_OPENER].state != VK_LAB_END_OPENING)
		return 0;
	end->state = VK_LAB_END_NONE;
	end->queued = end->consuming = 0;
	return 1;
}

void vk_lab_app_die(struct vk_lab_app_run *app)
{
	struct vk_lab *lab = app->lab;
	int returns = vk_lab_app_returns(app);

	for (uint32_t i = 0; i < lab->stream_count; i++) {
		if (!has(app, i))
			continue;
		if (lab->streams[i].orphan) { /* nobody is left */
			vk_lab_stream_break(lab, i, VK_CODE_APPLICATION_GONE);
			continue;
		}
		if (unanswered(&lab->streams[i], side_of(app, i)))
			continue;
		lab->traffics[lab->streams[i].traffic].opened -= (uint32_t)returns;
		lab->unfinished += (uint32_t)returns;
		vk_lab_stream_orphan(lab, i, (uint32_t)side_of(app, i));
	}
	for (uint32_t i = 0; !returns && i < lab->scenario.traffic_count; i++) {
		const struct vk_lab_traffic *config = &lab->scenario.traffics[i];

		if (config->from != app->number)
			continue;
		lab->unfinished -= config->streams - lab->traffics[i].opened;
		lab->traffics[i].opened = config->streams;
	}
}

int vk_lab_app_news(struct vk_lab_app_run *app)
{
	if (!app->client)
		return 0;
	if (memcmp(app->seen_tail, app->region->tail, sizeof app->seen_tail))
		return 1;
	if (!memcmp(app->seen_head, app->region->head, sizeof app->seen_head))
		return 0;
	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++) {
		if (app->blocked[c].count)
			return 1;
	}
	return 0;
}

/* ---- Receiving ---- */

static void begin_flow(struct vk_lab_app_run *app, uint32_t ref, const struct vk_message *message)
{
	struct vk_lab_end *end = vk_lab_end_of(app->lab, ref);

	end->flow = message->flow;
	end->generation = message->flow_generation;
	end->state = VK_LAB_END_OPEN;
	end->attachment = app->generation;
	app->lab->nodes[app->config->node].flows[message->flow] = ref + 1;
	vk_lab_want_to_send(app, ref, app->lab->now_ns);
}

/* A stream that a peer opened, named by the token of its OPEN. */
static void came_open(struct vk_lab_app_run *app, const struct vk_message *message)
{
	struct vk_lab *lab = app->lab;
	uint32_t number = message->correlation - 1, ref = number * 2 + VK_LAB_ACCEPTOR;

	if (number >= lab->stream_count || lab->streams[number].id != message->stream ||
	    vk_lab_app_of(lab, &lab->streams[number], VK_LAB_ACCEPTOR) != app->number) {
		vk_lab_fail(lab, "application %u: a stream %u that nobody opened", app->number,
			    message->stream);
		return;
	}
	if (vk_lab_end_of(lab, ref)->state != VK_LAB_END_NONE && lab->scenario.reliable)
		vk_lab_fail(lab, "stream %u was accepted twice", message->stream);
	begin_flow(app, ref, message);
}

static void came_opened(struct vk_lab_app_run *app, const struct vk_message *message)
{
	struct vk_lab *lab = app->lab;
	uint32_t number = message->correlation - 1, ref = number * 2 + VK_LAB_OPENER;
	struct vk_lab_stream *stream;

	if (number >= lab->stream_count || vk_lab_end_of(lab, ref)->state != VK_LAB_END_OPENING)
		return;
	stream = &lab->streams[number];
	if (stream->ends[VK_LAB_OPENER].attachment != app->generation) {
		vk_lab_fail(lab, "application %u: an answer to who was there before", app->number);
		return;
	}
	if (!message->code) {
		begin_flow(app, ref, message);
		return;
	}
	if (message->code == VK_CODE_STREAM_IN_USE ||
	    (message->code == VK_CODE_NO_SERVICE &&
	     vk_lab_app_returns(&lab->apps[vk_lab_app_of(lab, stream, VK_LAB_ACCEPTOR)]))) {
		stream->retry_ns = lab->now_ns + REFUSED_RETRY_NS;
		return;
	}
	vk_lab_stream_break(lab, number, message->code);
}

/* The end that a record is about, by its flow; VK_LAB_NO_STREAM if it is no stream's now. */
static uint32_t ref_of(struct vk_lab_app_run *app, const struct vk_message *message)
{
	uint32_t ref = app->lab->nodes[app->config->node].flows[message->flow] - 1;
	const struct vk_lab_end *end;

	if (ref == VK_LAB_NO_STREAM)
		return ref;
	end = vk_lab_end_of(app->lab, ref);
	if (end->flow != message->flow || end->generation != message->flow_generation ||
	    end->attachment != app->generation ||
	    vk_lab_app_of(app->lab, &app->lab->streams[ref / 2], ref % 2) != app->number)
		return VK_LAB_NO_STREAM;
	return ref;
}

/* A message lets the other direction go on: an answer is due, or the next request may go. */
static void answer(struct vk_lab_app_run *app, uint32_t ref)
{
	const struct vk_lab_stream *stream = &app->lab->streams[ref / 2];
	struct vk_lab_end *end = vk_lab_end_of(app->lab, ref);

	if (app->lab->scenario.traffics[stream->traffic].reply && ref % 2 == VK_LAB_ACCEPTOR)
		end->want = end->answerable;
	vk_lab_want_to_send(app, ref,
			    end->due_ns > app->lab->now_ns ? end->due_ns : app->lab->now_ns);
}

static void came_end(struct vk_lab_app_run *app, uint32_t ref, const struct vk_message *message,
		     uint32_t kind)
{
	struct vk_lab *lab = app->lab;
	struct vk_lab_end *end = vk_lab_end_of(lab, ref);
	struct vk_lab_stream *stream = &lab->streams[ref / 2];

	if (kind == VK_RECORD_RESET) {
		if (lab->scenario.reliable && !stream->broken && !lab->scenario.fault_count)
			vk_lab_fail(lab, "stream %u was reset with %u", stream->id, message->code);
		vk_lab_stream_break(lab, ref / 2, message->code);
		return;
	}
	end->total = lab->scenario.reliable ? message->sequence : end->came;
	if (lab->scenario.reliable && end->total != stream->ends[!(ref % 2)].sent)
		vk_lab_fail(lab, "stream %u: %u messages by its CLOSE, %u were sent", stream->id,
			    end->total, stream->ends[!(ref % 2)].sent);
	answer(app, ref);
	vk_lab_stream_settle(lab, ref / 2);
}

static void came_data(struct vk_lab_app_run *app, uint32_t ref, const struct vk_entry *entry,
		      const uint8_t *data)
{
	struct vk_lab_end *end = vk_lab_end_of(app->lab, ref);

	if (!vk_lab_message_came(app->lab, ref, entry->message.sequence, data, entry->size,
				 entry->message.code))
		return;
	if (!end->consuming)
		end->consuming = (uint8_t)vk_lab_list_add(&app->consumers, ref);
	answer(app, ref);
	if (end->total != UINT32_MAX)
		vk_lab_stream_settle(app->lab, ref / 2);
}

/* Messages of a stream that lie in an application's ring and were not read yet. It may not have
 * read the OPEN either: no flow is known then. */
static uint32_t unread(const struct vk_lab_app_run *app, uint32_t ref, uint32_t peer)
{
	const struct vk_lab_stream *stream = &app->lab->streams[ref / 2];
	uint32_t count = 0;
	struct vk_record record;
	const uint8_t *body;
	struct vk_rx rx;

	if (!app->client)
		return 0;
	rx = app->client->rx[vk_stream_class(stream->id)];
	while (vk_rx_peek(&rx, &record, &body) > 0) {
		struct vk_message message;

		memcpy(&message, body, sizeof message);
		count += record.kind == VK_RECORD_DATA && message.stream == stream->id &&
			 message.peer == peer;
		vk_rx_advance(&rx, &record);
	}
	return count;
}

/* What was sent before a FLUSH lies in the other application's memory when it is answered. */
static void came_flushed(struct vk_lab_app_run *app, const struct vk_message *message)
{
	struct vk_lab *lab = app->lab;
	uint32_t ref = (message->correlation - 1) * 2 + VK_LAB_OPENER;
	const struct vk_lab_app_run *peer;
	struct vk_lab_end *end;

	if (ref / 2 >= lab->stream_count || vk_lab_end_of(lab, ref)->flushing != 1 ||
	    vk_lab_end_of(lab, ref)->attachment != app->generation) {
		vk_lab_fail(lab, "application %u: FLUSHED that nobody asked for", app->number);
		return;
	}
	end = vk_lab_end_of(lab, ref);
	end->flushing = 2;
	peer = &lab->apps[vk_lab_app_of(lab, &lab->streams[ref / 2], VK_LAB_ACCEPTOR)];
	if (vk_lab_promised(lab, &lab->streams[ref / 2]) && !lab->streams[ref / 2].broken &&
	    peer->client && peer->generation == vk_lab_end_of(lab, ref + 1)->attachment) {
		uint32_t there = vk_lab_end_of(lab, ref + 1)->came +
				 unread(peer, ref + 1, app->config->node);

		if (there < end->sent)
			vk_lab_fail(lab, "stream %u: FLUSHED, but %u of %u messages are there",
				    lab->streams[ref / 2].id, there, end->sent);
	}
	vk_lab_want_to_send(app, ref, lab->now_ns);
}

/* What may be put for a stream has changed. */
static void came_limit(struct vk_lab_app_run *app, const struct vk_message *message)
{
	uint32_t ref = ref_of(app, message);

	if (ref == VK_LAB_NO_STREAM)
		return; /* it has ended */
	vk_lab_end_of(app->lab, ref)->limit = message->time_ns;
	vk_lab_want_to_send(app, ref, app->lab->now_ns);
}

static void came(struct vk_lab_app_run *app, const struct vk_entry *entry, const uint8_t *ring)
{
	uint32_t ref;

	if (entry->kind == VK_RECORD_OPEN) {
		came_open(app, &entry->message);
		return;
	}
	if (entry->kind == VK_RECORD_OPENED) {
		came_opened(app, &entry->message);
		return;
	}
	if (entry->kind == VK_RECORD_LIMIT) {
		came_limit(app, &entry->message);
		return;
	}
	if (entry->kind == VK_RECORD_FLUSHED) {
		came_flushed(app, &entry->message);
		return;
	}
	ref = ref_of(app, &entry->message);
	if (ref == VK_LAB_NO_STREAM) {
		vk_lab_fail(app->lab, "application %u: a record of kind %u on a flow that is none",
			    app->number, entry->kind);
		return;
	}
	if (entry->kind == VK_RECORD_DATA)
		came_data(app, ref, entry, ring + entry->offset);
	else
		came_end(app, ref, &entry->message, entry->kind);
}

static void receive(struct vk_lab_app_run *app)
{
	struct vk_client *client = app->client;
	struct vk_entry entries[ENTRIES];

	for (uint32_t c = VK_CLASS_COUNT; c-- > 0;) { /* FLUSHED last: a RESET before it counts */
		int count;

		while ((count = vk_client_receive(client, c, VK_CLIENT_ANY_FLOW,
						  VK_CLIENT_ANY_SEQUENCE, entries, ENTRIES)) > 0) {
			for (int i = 0; i < count; i++)
				came(app, &entries[i], client->rx[c].data);
			vk_client_release(client, c, entries[count - 1].end);
			app->rung = 1;
		}
		if (count < 0 && count != -ESHUTDOWN)
			vk_lab_fail(app->lab, "application %u: its ring breaks the rules (%d)",
				    app->number, count);
	}
}

/* ---- Consuming ---- */

/* Tells the worker what an end has consumed, when the library would. Returns 0, or nonzero when
 * that has to be tried again. */
static int report(struct vk_lab_app_run *app, uint32_t ref)
{
	struct vk_lab_end *end = vk_lab_end_of(app->lab, ref);
	uint32_t class = vk_stream_class(app->lab->streams[ref / 2].id);
	struct vk_inlet inlet = {
		.taken = { end->flow, end->generation, end->consumed_cost },
		.reported = end->reported_cost,
		.windowed = class != VK_CLASS_CRITICAL && class != VK_CLASS_LOGS,
	};
	int error = vk_inlet_taken(app->client, &inlet, 0, 0);

	if (!error && end->consumed_cost == end->arrived_cost)
		error = vk_inlet_idle(app->client, &inlet);
	vk_inlet_forget(app->client, &inlet);
	app->rung |= inlet.reported != end->reported_cost;
	end->reported_cost = inlet.reported;
	return error == -EAGAIN;
}

/* Lets the application's code take what its library has, as fast as it does. */
static void consume(struct vk_lab_app_run *app)
{
	struct vk_lab *lab = app->lab;
	uint64_t rate = app->config->consume_bps, budget = UINT64_MAX;
	uint32_t kept = 0;

	if (rate && app->consumed_ns < lab->now_ns)
		budget = (uint64_t)((unsigned __int128)(lab->now_ns - app->consumed_ns) * rate /
				    s_ns);
	app->consumed_ns = lab->now_ns;
	if (app->holding)
		return;
	for (uint32_t i = 0; i < app->consumers.count; i++) {
		uint32_t ref = app->consumers.refs[i];
		struct vk_lab_end *end = vk_lab_end_of(lab, ref);
		uint64_t bytes = end->arrived_cost - end->consumed_cost;

		if (bytes > budget)
			bytes = budget;
		end->consumed_cost += bytes;
		budget -= rate ? bytes : 0;
		if (report(app, ref) || end->consumed_cost < end->arrived_cost)
			app->consumers.refs[kept++] = ref;
		else
			end->consuming = 0;
	}
	app->consumers.count = kept;
}

/* When the application has something to do though nothing comes. */
static uint64_t next_run(const struct vk_lab_app_run *app)
{
	const struct vk_lab *lab = app->lab;
	uint64_t next_ns = vk_lab_send_next(app);

	if (app->consumers.count && !app->holding) {
		uint64_t pause_ns = FULL_RETRY_NS;

		if (app->config->consume_bps)
			pause_ns = VK_INLET_REPORT * s_ns / app->config->consume_bps + 1;
		if (lab->now_ns + pause_ns < next_ns)
			next_ns = lab->now_ns + pause_ns;
	}
	return next_ns;
}

/* Whether an application that leaves has nothing more to do. */
static int done(const struct vk_lab_app_run *app)
{
	for (uint32_t i = 0; app->leaving && i < app->lab->stream_count; i++)
		if (has(app, i))
			return 0;
	return app->leaving;
}

/* The next application attaches when nobody has the slot any more. */
static void come_back(struct vk_lab_app_run *app)
{
	struct vk_lab *lab = app->lab;
	int error = app->returning ? vk_lab_node_attach(lab, app->number) : 0;

	if (error == -EBUSY)
		vk_lab_wake_app(lab, app->number, lab->now_ns + FULL_RETRY_NS);
	else if (error)
		vk_lab_fail(lab, "application %u does not attach (%d)", app->number, error);
}

void vk_lab_app_run(struct vk_lab_app_run *app)
{
	struct vk_lab *lab = app->lab;

	app->rung = 0;
	lab->report.app_runs++;
	if (!app->client)
		come_back(app);
	if (!app->client || app->frozen)
		return;
	receive(app);
	consume(app);
	vk_lab_send_all(app);
	memcpy(app->seen_tail, app->region->tail, sizeof app->seen_tail);
	memcpy(app->seen_head, app->region->head, sizeof app->seen_head);
	if (app->rung)
		vk_lab_wake_node(lab, app->config->node,
				 lab->now_ns + lab->nodes[app->config->node].config->wake_ns);
	vk_lab_wake_app(lab, app->number, next_run(app));
	if (done(app))
		vk_lab_node_detach(lab, app->number);
}
