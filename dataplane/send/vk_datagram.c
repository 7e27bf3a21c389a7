/* SPDX-License-Identifier: MIT */
#include "vk_datagram.h"

#include "vk_fit.h"
#include "vk_head.h"
#include "vk_python.h"
#include "vk_sealing.h"
#include "vk_session.h"

#include <string.h>

enum {
	/* STREAM_ACK as an inner frame: header, feedback, all ranges and some limits. */
	FEEDBACK_ROOM = 512,
	/* Payload that is lent to the path instead of copied: a piece more costs about as much. */
	LEND_MIN = 512,
};

_Static_assert((int)VK_TOKEN_BYTES == sizeof(struct vk_ext_token), "rows have room for a token");

/* Writes the beginning of an outer frame, whose extensions take so many bytes besides a token, and
 * returns where they go on. The token and what is in front of it end where data begins plus
 * VK_OUTER_SIZE, so that what lies behind is the same with and without. */
static uint8_t *put_outer(struct vk_run *run, const struct vk_frame *frame, uint32_t extensions,
			  uint64_t number)
{
	const struct vk_datagram *open = &run->datagram;
	const struct vk_peer *peer = &run->peers[open->peer];
	uint8_t *at = vk_put_header(open->data - open->lead, frame,
				    (extensions + open->lead) / VK_EXT_WORD,
				    (uint32_t)(run->real_ns / 1000000000));

	at = vk_put_session(at, peer->session, open->session->keyring.sealing,
			    vk_class_space(open->class), number);
	memcpy(at, peer->token, open->lead);
	return at + open->lead;
}

static uint8_t *put_extensions(uint8_t *at, const struct vk_frame *frame)
{
	if (frame->present & 1u << VK_EXT_SEQ)
		at = vk_put_seq(at, frame);
	if (frame->present & 1u << VK_EXT_SHARD)
		at = vk_put_shard(at, frame);
	if (frame->present & 1u << VK_EXT_TIME)
		at = vk_put_time(at, frame->time_ns);
	return at;
}

/* Seals the datagram, or at least brings it together; returns its size now, 0: it must not go. */
static uint32_t finish(const struct vk_datagram *open, uint64_t number, const uint8_t *from,
		       uint32_t lendable)
{
	struct vk_path *path = open->path;
	uint32_t size = open->used + open->lead;

	if (lendable < LEND_MIN || open->session->keyring.cipher || !path->ops->tx_lend)
		return vk_sealing_seal(open->session, vk_class_space(open->class), number,
				       open->data - open->lead, from, size);
	path->ops->tx_lend(path, from, lendable);
	return size;
}

/* Hands the datagram to the path and enters it among the packets in flight. Its payload lies at
 * `from`, in it or elsewhere; then so many bytes of it stay there. */
static void commit(struct vk_run *run, uint64_t number, const uint8_t *from, uint32_t lendable,
		   int paddable)
{
	struct vk_datagram *open = &run->datagram;
	struct vk_session *session = open->session;
	uint32_t space = vk_class_space(open->class);
	uint32_t flags = VK_SENT_ELICITING;
	struct vk_sent_packet *packet;
	uint32_t whole = open->used + open->lead;
	uint32_t size = finish(open, number, from, lendable);

	if (open->class == VK_CLASS_CRITICAL)
		flags |= VK_SENT_CRITICAL | VK_SENT_AHEAD;
	else if (open->class == VK_CLASS_JOB)
		flags |= VK_SENT_AHEAD;
	if (open->run_count && open->runs[0].kind == VK_CONTENT_MTU)
		flags |= VK_SENT_MTU;
	else
		vk_mtu_sent(&session->mtu, size, run->now_ns);
	if (size) { /* else it is as if it was lost: no frame goes in the clear by mistake */
		open->path->ops->tx_commit(open->path, size, paddable && size == whole);
		vk_count_row(run, open->class)[VK_TX_FRAMES]++;
	}
	open->data = NULL;
	if (!open->eliciting) {
		vk_recovery_quiet(&session->recovery, space, number, run->now_ns);
		return;
	}
	packet = vk_recovery_sent(&session->recovery, space, number, size, flags, run->now_ns);
	vk_session_touch(run, session);
	for (uint32_t i = 0; i < open->run_count; i++) {
		if (packet)
			packet->runs[i] = open->runs[i];
		else
			vk_session_lost(run, session, &open->runs[i]);
	}
	if (packet)
		packet->run_count = (uint8_t)open->run_count;
}

void vk_datagram_close(struct vk_run *run)
{
	struct vk_datagram *open = &run->datagram;
	struct vk_frame outer = {
		.type = VK_STREAM_DATA,
		.priority = open->priority,
		.stream = open->stream,
		.length = open->used - VK_OUTER_SIZE,
		.correlation = open->inner,
	};
	uint64_t number;
	uint8_t *at;

	if (!open->data)
		return;
	outer.flags = VK_FLAG_AGG | vk_sealing_flags(open->session);
	number = vk_session_number(run, open->session, vk_class_space(open->class));
	at = put_outer(run, &outer, sizeof(struct vk_ext_session), number);
	commit(run, number, at, 0, 1);
}

/* What may use the reserve: urgent classes, and what keeps streams going. */
static int urgent(const struct vk_part *part)
{
	return part->class == VK_CLASS_SYSTEM || part->content.kind == VK_CONTENT_CONTROL ||
	       part->content.kind == VK_CONTENT_CREDIT;
}

/* Takes memory for a datagram of a part's peer and class; 0 and run->refused when it cannot go. */
static int begin(struct vk_run *run, const struct vk_part *part)
{
	struct vk_datagram *open = &run->datagram;
	const struct vk_peer *peer = &run->peers[part->peer];
	struct vk_session *session = vk_session_of(run, part->peer);

	vk_datagram_close(run);
	if (!session) {
		vk_python_want(run, part->peer);
		run->refused = VK_BLOCKED_SESSION;
		return 0;
	}
	if (!part->quiet && !part->forced &&
	    !vk_session_room(run, session, part->class, urgent(part))) {
		run->refused = VK_BLOCKED_CONGESTION;
		return 0;
	}
	if (!vk_sealing_ready(run, session)) {
		run->refused = VK_BLOCKED_SESSION;
		return 0;
	}
	open->path = run->tx[peer->port_index];
	open->data = open->path->ops->tx_reserve(open->path, peer, part->class);
	if (!open->data) {
		run->path_full |= 1ull << peer->port_index;
		run->refused = VK_BLOCKED_PATH;
		return 0;
	}
	open->session = session;
	open->lead = vk_fit_token(run, part->peer, part->class);
	open->data += open->lead;
	open->used = VK_OUTER_SIZE;
	open->limit = vk_fit_payload(run, part->peer);
	open->inner = 0;
	open->peer = part->peer;
	open->class = part->class;
	open->stream = part->frame.stream;
	open->priority = 0;
	open->eliciting = 0;
	open->alike = 0;
	open->run_count = 0;
	return 1;
}

/* Has the last run name a part, too; 0 = it cannot. */
static int join(struct vk_sent_run *last, const struct vk_sent_run *content)
{
	return content->kind == VK_CONTENT_MESSAGES && last->kind == content->kind &&
	       last->slot == content->slot && last->ring == content->ring &&
	       vk_content_join(last, content->first);
}

/* Whether what a part carries can be noted. */
static int notable(const struct vk_datagram *open, const struct vk_sent_run *content)
{
	struct vk_sent_run last;

	if (open->run_count < VK_SENT_RUNS_MAX || content->kind == VK_CONTENT_NONE)
		return 1;
	last = open->runs[VK_SENT_RUNS_MAX - 1];
	return join(&last, content);
}

static void carry(struct vk_datagram *open, const struct vk_sent_run *content)
{
	if (content->kind != VK_CONTENT_NONE &&
	    !(open->run_count && join(&open->runs[open->run_count - 1], content)))
		open->runs[open->run_count++] = *content;
}

int vk_datagram_carry(struct vk_datagram *open, uint32_t slot, uint32_t ring, uint32_t entry)
{
	const struct vk_sent_run content = { .kind = VK_CONTENT_MESSAGES,
					     .slot = (uint8_t)slot,
					     .ring = (uint8_t)ring,
					     .first = entry,
					     .a = 1 };

	if (!notable(open, &content))
		return 0;
	carry(open, &content);
	return 1;
}

static void note(struct vk_datagram *open, const struct vk_part *part)
{
	open->eliciting |= !part->quiet;
	carry(open, &part->content);
}

/* Writes the heads of datagrams that differ only in their numbers and in where their shards begin:
 * the first, and the others like it. */
static void put_row(struct vk_run *run, const struct vk_part *part, uint64_t number,
		    uint8_t *const *heads, uint32_t count)
{
	struct vk_datagram *open = &run->datagram;
	struct vk_frame frame = part->frame;
	uint32_t overhead = vk_part_overhead(&frame), size = overhead + open->lead;
	uint32_t offset = frame.offset, place = VK_OUTER_SIZE + open->lead + VK_SHARD_OFFSET_AT;

	open->data = heads[0] + open->lead;
	frame.length = part->size;
	put_extensions(put_outer(run, &frame, overhead - VK_HEADER_SIZE, number), &frame);
	open->data = NULL;
	for (uint32_t i = 1; i < count; i++) {
		uint8_t *head = heads[i];

		memcpy(head, heads[0], size);
		number++;
		offset += part->size;
		vk_put_number(head + VK_HEADER_SIZE, number);
		vk_put16(head + place, (uint16_t)offset);
	}
}

/* Enters them among the packets in flight. */
static void enter_row(struct vk_run *run, const struct vk_part *part, uint64_t number,
		      uint32_t count)
{
	const struct vk_datagram *open = &run->datagram;
	struct vk_session *session = open->session;
	uint32_t space = vk_class_space(open->class), flags = VK_SENT_ELICITING;
	uint32_t size = vk_part_overhead(&part->frame) + open->lead + part->size;
	struct vk_sent_run content = part->content;
	int entered;

	if (open->class == VK_CLASS_JOB)
		flags |= VK_SENT_AHEAD;
	vk_mtu_sent(&session->mtu, size, run->now_ns);
	vk_count_row(run, open->class)[VK_TX_FRAMES] += count;
	entered = vk_recovery_sent_row(&session->recovery, space, number, count, size, flags,
				       run->now_ns);
	vk_session_touch(run, session);
	if (content.kind == VK_CONTENT_NONE)
		return;
	for (uint32_t i = 0; i < count; i++, content.a += part->size) {
		if (entered) {
			struct vk_sent_packet *packet =
				vk_sent_get(&session->recovery.sent[space], number + i);

			packet->runs[0] = content;
			packet->run_count = 1;
		} else {
			vk_session_lost(run, session, &content);
		}
	}
}

uint32_t vk_datagram_row(struct vk_run *run, const struct vk_part *part, uint32_t count)
{
	struct vk_datagram *open = &run->datagram;
	struct vk_session *session = run->sessions[part->peer];
	const struct vk_peer *peer = &run->peers[part->peer];
	const struct vk_path *path = run->tx[peer->port_index];
	uint32_t space = vk_class_space(part->class), head;
	uint8_t *heads[VK_TX_ROW];
	uint64_t number, numbers;
	int64_t room;

	/* Critical and system have more room than the window leaves. */
	if (!session || session->keyring.cipher || !path->ops->tx_row || part->forced ||
	    !part->stays || part->size < LEND_MIN || part->class <= VK_CLASS_SYSTEM ||
	    !begin(run, part))
		return 0;
	open->data = NULL;
	head = vk_part_overhead(&part->frame) + open->lead;
	room = vk_recovery_room(&session->recovery, run->now_ns);
	room = (room + head + part->size - 1) / (head + part->size);
	numbers = vk_session_numbers(run, session, space);
	count = count < room ? count : (uint32_t)room;
	count = count < numbers ? count : (uint32_t)numbers;
	if (count)
		count = open->path->ops->tx_row(open->path, peer, part->class, head, part->payload,
						part->size, count, heads);
	if (!count)
		return 0;
	number = vk_session_number(run, session, space);
	run->work->packets[session->peer].tx_number[space] += count - 1;
	put_row(run, part, number, heads, count);
	enter_row(run, part, number, count);
	return count;
}

static int add_alone(struct vk_run *run, const struct vk_part *part)
{
	struct vk_datagram *open = &run->datagram;
	struct vk_frame frame = part->frame;
	uint32_t overhead = vk_part_overhead(&frame);
	uint64_t number;

	if (!begin(run, part))
		return 0;
	note(open, part);
	frame.length = part->size;
	frame.flags |= vk_sealing_flags(open->session);
	number = vk_session_number(run, open->session, vk_class_space(part->class));
	put_extensions(put_outer(run, &frame, overhead - VK_HEADER_SIZE, number), &frame);
	open->used = overhead + part->size;
	commit(run, number, part->payload, part->stays ? part->size : 0, 0);
	return 1;
}

/* Bytes in front of the payload of an inner frame: no SESSION, but a header of its own. */
static uint32_t inner_head(const struct vk_part *part)
{
	return vk_part_overhead(&part->frame) - (uint32_t)sizeof(struct vk_ext_session);
}

/* The same for the first one. */
static uint32_t first_head(const struct vk_part *part)
{
	return vk_head_shard(&part->frame, part->class) ? sizeof(struct vk_compact_shard) :
							  inner_head(part);
}

/* The same for one behind what is there. A message that is sent again has a header in any case. */
static uint32_t next_head(const struct vk_datagram *open, const struct vk_part *part)
{
	const struct vk_frame *frame = &part->frame;

	if (open->data && open->stream == frame->stream && vk_head_shard(frame, part->class))
		return sizeof(struct vk_compact_shard);
	if (open->data && open->alike && frame->present == 1u << VK_EXT_SEQ && !frame->fragment &&
	    !(frame->flags & VK_FLAG_RTX) && vk_head_alike(open->head, frame))
		return vk_head_short(open->head, frame->stream, frame->sequence);
	return inner_head(part);
}

/* Writes a whole head, and notes it if messages may go on like it. */
static uint8_t *put_head(struct vk_run *run, uint8_t *at, const struct vk_frame *frame,
			 uint32_t head)
{
	struct vk_datagram *open = &run->datagram;
	uint8_t *end =
		put_extensions(vk_put_header(at, frame, (head - VK_HEADER_SIZE) / VK_EXT_WORD,
					     (uint32_t)(run->real_ns / 1000000000)),
			       frame);

	open->alike = frame->present == 1u << VK_EXT_SEQ && !frame->fragment &&
		      vk_type_message(frame->type);
	if (open->alike)
		memcpy(open->head, at, VK_MESSAGE_HEAD);
	return end;
}

static uint8_t *put_shard(struct vk_datagram *open, uint8_t *at, const struct vk_frame *frame)
{
	open->alike = 0;
	return vk_put_compact_shard(at, frame);
}

static void append(struct vk_run *run, const struct vk_part *part, uint32_t head)
{
	struct vk_datagram *open = &run->datagram;
	struct vk_frame frame = part->frame;
	uint32_t at = VK_OUTER_SIZE + vk_align_run(open->used - VK_OUTER_SIZE);
	uint8_t *data = open->data + at;

	memset(open->data + open->used, 0, at - open->used);
	frame.length = part->size;
	if (head < VK_HEADER_SIZE && frame.present & 1u << VK_EXT_SHARD)
		data = put_shard(open, data, &frame);
	else if (head < VK_HEADER_SIZE)
		data = vk_head_put(open->head, data, head, frame.stream, frame.sequence,
				   part->size);
	else
		data = put_head(run, data, &frame, head);
	if (part->size)
		memcpy(data, part->payload, part->size);
	open->used = at + head + part->size;
	open->inner++;
	if (frame.priority > open->priority)
		open->priority = frame.priority;
	note(open, part);
}

/* Bytes that another inner frame may have; 0: none may. */
static uint32_t room(const struct vk_datagram *open, const struct vk_part *part)
{
	uint32_t used;

	if (!open->data || open->peer != part->peer || open->class != part->class ||
	    open->inner == VK_AGG_MAX || !notable(open, &part->content))
		return 0;
	used = VK_OUTER_SIZE + vk_align_run(open->used - VK_OUTER_SIZE);
	return used < open->limit ? open->limit - used : 0;
}

uint32_t vk_datagram_room(const struct vk_run *run, const struct vk_part *part)
{
	uint32_t left = room(&run->datagram, part), head = next_head(&run->datagram, part);

	return left > head ? left - head : 0;
}

/* What the peer waits to hear goes first into a datagram that has room for it beside the part. */
static int feedback(struct vk_run *run, uint32_t size)
{
	struct vk_datagram *open = &run->datagram;
	uint8_t payload[FEEDBACK_ROOM];
	struct vk_part part = {
		.frame = { .type = VK_STREAM_ACK,
			   .stream = open->stream,
			   .priority = vk_priority_lowest(open->class) },
		.payload = payload,
		.peer = open->peer,
		.class = open->class,
	};
	uint32_t spare = open->limit - VK_OUTER_SIZE - VK_AGG_ALIGN;

	if (spare < size + FEEDBACK_ROOM + VK_HEADER_SIZE)
		return 0;
	part.size = vk_session_feedback(run, open->session, vk_class_space(open->class), payload,
					sizeof payload, &part.content);
	if (!part.size)
		return 0;
	part.quiet = part.content.kind == VK_CONTENT_NONE;
	append(run, &part, inner_head(&part));
	vk_count_row(run, open->class)[VK_TX_CONTROL]++;
	return 1;
}

static int feedback_due(const struct vk_run *run, const struct vk_part *part)
{
	const struct vk_session *session = run->sessions[part->peer];

	return session && part->frame.type != VK_STREAM_ACK &&
	       session->received[vk_class_space(part->class)].eliciting;
}

/* The kernel cuts datagrams of one size from one buffer; sealed ones cannot be padded any more when
 * they are gathered. So one that is full, but for less than the next part, is filled before. */
static void fill(struct vk_datagram *open, const struct vk_part *part)
{
	uint32_t left = open->limit - open->used;

	if (!open->data || open->peer != part->peer || open->class != part->class ||
	    !open->session->keyring.cipher || open->path->port->tx_path != VK_PATH_UDP ||
	    left > open->limit / 4)
		return;
	memset(open->data + open->used, 0, left);
	open->used = open->limit;
}

int vk_datagram_add(struct vk_run *run, const struct vk_part *part, int alone)
{
	struct vk_datagram *open = &run->datagram;
	uint32_t head = next_head(open, part);

	if (room(open, part) < head + part->size) {
		const struct vk_session *session = run->sessions[part->peer];
		uint32_t size = first_head(part) + part->size;
		uint32_t payload = vk_fit_payload(run, part->peer);
		int company = feedback_due(run, part) &&
			      VK_OUTER_SIZE + size + FEEDBACK_ROOM + VK_HEADER_SIZE + VK_AGG_ALIGN <
				      payload;

		fill(open, part);
		/* Two of this size must fit, or sharing only costs a header. */
		if (!company &&
		    (alone || !session || !session->aggregate ||
		     VK_OUTER_SIZE + (part->shared ? size : 2 * size + VK_AGG_ALIGN) > payload))
			return add_alone(run, part);
		if (!begin(run, part))
			return 0;
		if (company)
			feedback(run, size);
		head = first_head(part);
	}
	append(run, part, head);
	return 1;
}
