/* SPDX-License-Identifier: MIT */
#include "vk_lab_app.h"

#include <stdio.h>
#include <string.h>

enum {
	SEND_BURST = 16, /* messages of a stream before the next has its turn */
	OPEN_RETRY_NS = 200000000,
	FULL_RETRY_NS = 1000000,
	NAME_SIZE = 16,
};

static struct vk_message head_of(struct vk_lab_app_run *app, uint32_t ref)
{
	struct vk_lab *lab = app->lab;
	const struct vk_lab_stream *stream = &lab->streams[ref / 2];
	const struct vk_lab_end *end = &stream->ends[ref % 2];

	return (struct vk_message){
		.flow = end->flow,
		.flow_generation = end->generation,
		.peer = lab->apps[vk_lab_app_of(lab, stream, !(ref % 2))].config->node,
		.stream = stream->id,
		.sequence = end->sent,
		.correlation = ref / 2 + 1,
	};
}

static int put(struct vk_lab_app_run *app, uint32_t kind, const struct vk_message *head,
	       const uint8_t *payload, uint32_t size)
{
	int error = vk_client_put(app->client, kind, head, payload, size);

	if (!error)
		app->rung = 1;
	else if (error != -EAGAIN)
		vk_lab_fail(app->lab, "application %u: a record is refused with %d", app->number,
			    error);
	return error;
}

/* Keeps an end back until its ring has room again. */
static void block(struct vk_lab_app_run *app, uint32_t ref)
{
	uint32_t class = vk_stream_class(app->lab->streams[ref / 2].id);

	vk_lab_end_of(app->lab, ref)->queued = (uint8_t)vk_lab_list_add(&app->blocked[class], ref);
}

static void unblock(struct vk_lab_app_run *app)
{
	for (uint32_t c = VK_CLASS_CRITICAL; c < VK_CLASS_COUNT; c++) {
		struct vk_lab_list *list = &app->blocked[c];

		if (!list->count || app->region->head[c] == app->seen_head[c])
			continue;
		for (uint32_t i = 0; i < list->count; i++)
			vk_heap_push(&app->senders, app->lab->now_ns, list->refs[i]);
		list->count = 0;
	}
}

/* Puts the CLOSE of an end that has sent everything. Returns 0 when the ring is full. */
static int close_end(struct vk_lab_app_run *app, uint32_t ref)
{
	struct vk_lab *lab = app->lab;
	const struct vk_lab_traffic *config =
		&lab->scenario.traffics[lab->streams[ref / 2].traffic];
	struct vk_lab_end *end = vk_lab_end_of(lab, ref);
	struct vk_message head = head_of(app, ref);

	if (ref % 2 == VK_LAB_OPENER) {
		if (config->flush && lab->scenario.reliable && !end->flushing) {
			if (put(app, VK_RECORD_FLUSH, &head, NULL, 0))
				return 0;
			end->flushing = 1;
		}
		if (end->flushing == 1)
			return 1; /* the answer goes on */
		if (config->reply && end->answerable < end->whole && !lab->scenario.reliable)
			return 1; /* what answers would close the whole stream */
	} else if (end->total == UINT32_MAX ||
		   (end->came < end->total && vk_lab_promised(lab, &lab->streams[ref / 2]))) {
		return 1;
	}
	if (put(app, VK_RECORD_CLOSE, &head, NULL, 0))
		return 0;
	end->state = VK_LAB_END_CLOSED;
	vk_lab_stream_settle(lab, ref / 2);
	return 1;
}

/* Makes room for what has to be remembered of an end's next record. */
static int remember(struct vk_lab *lab, const struct vk_lab_traffic *config, struct vk_lab_end *end)
{
	size_t count = end->sent ? 2 * (size_t)end->sent : 1;

	if (end->sent & (end->sent - 1))
		return 0; /* there is room for twice as many */
	if (lab->scenario.timed) {
		void *times = realloc(end->sent_ns, count * sizeof *end->sent_ns);

		if (!times)
			return -ENOMEM;
		end->sent_ns = times;
	}
	if (config->size_max > VK_SHARDED_MAX) {
		void *parts = realloc(end->parts, count * sizeof *end->parts);

		if (!parts)
			return -ENOMEM;
		end->parts = parts;
	}
	return 0;
}

/* Which part of its message an end's next record is, as vk_client_send_part would cut it. */
static uint32_t next_part(struct vk_lab_app_run *app, uint32_t ref, uint32_t *code)
{
	const struct vk_lab_stream *stream = &app->lab->streams[ref / 2];
	const struct vk_lab_end *end = &stream->ends[ref % 2];
	uint32_t most =
		vk_client_fragment(app->client, vk_stream_class(stream->id), end->limit != 0);
	uint32_t left = end->left;

	*code = left ? VK_FRAGMENT_CONTINUES : 0;
	if (!left)
		left = vk_lab_message_size(app->lab, stream, ref % 2, end->whole);
	if (left <= VK_SHARDED_MAX && !*code)
		return left;
	if (left > most)
		*code |= VK_FRAGMENT_MORE;
	return left > most ? most : left;
}

/* Counts a record that the ring took. */
static void went(struct vk_lab *lab, struct vk_lab_stream *stream, uint32_t side, uint32_t size,
		 uint32_t code)
{
	struct vk_lab_traffic_report *report = &lab->report.traffics[stream->traffic];
	struct vk_lab_end *end = &stream->ends[side];

	if (end->sent_ns)
		end->sent_ns[end->sent] = lab->now_ns;
	if (end->parts)
		end->parts[end->sent] = size | code << VK_LAB_PART_CODE;
	if (!(code & VK_FRAGMENT_CONTINUES))
		end->left = vk_lab_message_size(lab, stream, side, end->whole);
	end->left -= size;
	end->whole += !(code & VK_FRAGMENT_MORE);
	end->sent++;
	end->spent += (uint64_t)size + VK_MESSAGE_COST;
	report->sent++;
	report->sent_bytes += size;
}

/* Sends one message, or a fragment of a large one. Returns 0, or -errno of the ring. */
static int send_message(struct vk_lab_app_run *app, uint32_t ref)
{
	struct vk_lab *lab = app->lab;
	struct vk_lab_stream *stream = &lab->streams[ref / 2];
	struct vk_lab_end *end = &stream->ends[ref % 2];
	uint32_t code, size = next_part(app, ref, &code);
	uint64_t cost = (uint64_t)size + VK_MESSAGE_COST;
	struct vk_message head = head_of(app, ref);
	int error;

	/* What vk_outlet_short says of a message that nobody cuts. */
	if (end->limit && end->spent + (cost < VK_CLIENT_PAID ? cost : VK_CLIENT_PAID) > end->limit)
		return -ENOBUFS; /* the next limit goes on */
	head.correlation = 0;
	head.code = code;
	error = remember(lab, &lab->scenario.traffics[stream->traffic], end);
	if (error)
		return error;
	vk_lab_message_fill(stream, ref % 2, end->sent, lab->content, size);
	error = put(app, VK_RECORD_DATA, &head, lab->content, size);
	if (!error)
		went(lab, stream, ref % 2, size, code);
	return error;
}

static int may_send(const struct vk_lab_traffic *config, const struct vk_lab_end *end,
		    uint32_t side)
{
	if (end->whole >= end->want)
		return 0;
	return side == VK_LAB_ACCEPTOR || !config->reply || !config->outstanding || end->left ||
	       end->whole - end->answerable < config->outstanding;
}

/* An end's turn: a burst, then whatever comes behind it. */
static void serve(struct vk_lab_app_run *app, uint32_t ref)
{
	struct vk_lab *lab = app->lab;
	const struct vk_lab_stream *stream = &lab->streams[ref / 2];
	const struct vk_lab_traffic *config = &lab->scenario.traffics[stream->traffic];
	struct vk_lab_end *end = vk_lab_end_of(lab, ref);
	int paced = config->interval_ns && ref % 2 == VK_LAB_OPENER;
	uint32_t burst = paced ? config->burst : SEND_BURST;

	if (end->state != VK_LAB_END_OPEN || stream->broken)
		return;
	for (uint32_t i = 0; (i < burst || end->left) && may_send(config, end, ref % 2); i++) {
		int error = send_message(app, ref);

		if (error == -EAGAIN)
			block(app, ref);
		if (error)
			return;
	}
	if (paced)
		end->due_ns = lab->now_ns + config->interval_ns;
	if (may_send(config, end, ref % 2))
		vk_lab_want_to_send(app, ref, paced ? end->due_ns : lab->now_ns);
	else if (end->whole >= end->want && !close_end(app, ref))
		block(app, ref);
}

static void open_more(struct vk_lab_app_run *app, uint32_t traffic)
{
	struct vk_lab *lab = app->lab;
	const struct vk_lab_traffic *config = &lab->scenario.traffics[traffic];
	struct vk_lab_traffic_run *run = &lab->traffics[traffic];

	if (config->from != app->number || app->leaving ||
	    lab->now_ns - vk_lab_start_ns < config->start_ns)
		return;
	while (run->live < config->concurrent && run->opened < config->streams) {
		uint32_t number = vk_lab_stream_new(lab, traffic);

		if (number == VK_LAB_NO_STREAM ||
		    !vk_lab_list_add(&app->opening, number * 2 + VK_LAB_OPENER))
			return;
		lab->streams[number].ends[VK_LAB_OPENER].state = VK_LAB_END_OPENING;
	}
}

/* Puts OPEN records: the first time, and again when no answer came. */
static void open_streams(struct vk_lab_app_run *app)
{
	struct vk_lab *lab = app->lab;
	uint32_t kept = 0;
	int full = 0;

	for (uint32_t i = 0; i < lab->scenario.traffic_count; i++)
		open_more(app, i);
	for (uint32_t i = 0; i < app->opening.count; i++) {
		uint32_t ref = app->opening.refs[i];
		struct vk_lab_stream *stream = &lab->streams[ref / 2];
		struct vk_message head = head_of(app, ref);
		char name[NAME_SIZE];

		if (stream->ends[VK_LAB_OPENER].state != VK_LAB_END_OPENING || stream->broken)
			continue;
		app->opening.refs[kept++] = ref;
		if (full || lab->now_ns < stream->retry_ns)
			continue;
		head.flow = UINT32_MAX;
		snprintf(name, sizeof name, "a%u", vk_lab_app_of(lab, stream, VK_LAB_ACCEPTOR));
		full = put(app, VK_RECORD_OPEN, &head, (const uint8_t *)name,
			   (uint32_t)strlen(name)) != 0;
		stream->retry_ns = lab->now_ns + (full ? FULL_RETRY_NS : OPEN_RETRY_NS);
	}
	app->opening.count = kept;
}

void vk_lab_send_all(struct vk_lab_app_run *app)
{
	struct vk_lab *lab = app->lab;

	unblock(app);
	open_streams(app);
	while (vk_heap_next(&app->senders) <= lab->now_ns) {
		uint32_t ref = (uint32_t)vk_heap_pop(&app->senders);

		vk_lab_end_of(lab, ref)->queued = 0;
		serve(app, ref);
	}
}

uint64_t vk_lab_send_next(const struct vk_lab_app_run *app)
{
	const struct vk_lab *lab = app->lab;
	uint64_t next_ns = vk_heap_next(&app->senders);

	for (uint32_t i = 0; i < app->opening.count; i++) {
		uint64_t retry_ns = lab->streams[app->opening.refs[i] / 2].retry_ns;

		if (retry_ns < next_ns)
			next_ns = retry_ns;
	}
	for (uint32_t i = 0; i < lab->scenario.traffic_count; i++) {
		const struct vk_lab_traffic *config = &lab->scenario.traffics[i];
		uint64_t start_ns = vk_lab_start_ns + config->start_ns;

		if (config->from == app->number && start_ns > lab->now_ns && start_ns < next_ns)
			next_ns = start_ns;
	}
	return next_ns;
}
