/* SPDX-License-Identifier: MIT */
#include "vk_out.h"

#include "vk_fit.h"
#include "vk_flows.h"
#include "vk_session.h"

#include <string.h>

enum {
	JOIN_MIN = 64, /* bytes of a shard that fills what another left of its datagram */
};

static uint8_t priority_of(uint32_t class, uint8_t wanted)
{
	return wanted && vk_priority_ok(class, wanted) ? wanted : vk_priority_lowest(class);
}

int vk_out_read(struct vk_run *run, uint32_t slot, uint32_t ring, const struct vk_entry *entry,
		struct vk_message *message, struct vk_out *out)
{
	const uint8_t *body = vk_out_body(run, slot, ring, entry->at);

	memcpy(message, body, sizeof *message);
	message->sequence = entry->sequence;
	*out = (struct vk_out){ .flow = &run->work->flows[entry->flow],
				.message = message,
				.payload = body + sizeof *message,
				.size = entry->size - (uint32_t)sizeof *message,
				.slot = slot,
				.ring = ring };
	if (message->type && !vk_type_message(message->type))
		message->type = 0;
	return out->flow->state == VK_ROW_LIVE;
}

/* On logs `code` is something else: they have no fragments. */
static uint32_t fragment_of(const struct vk_out *out)
{
	return vk_flow_reliable(out->flow) ? out->message->code & VK_FRAGMENT_MASK : 0;
}

struct vk_part vk_out_part(struct vk_run *run, const struct vk_out *out, uint32_t entry, int again)
{
	const struct vk_message *message = out->message;
	struct vk_part part = {
		.frame = {
			.type = message->type ? message->type : VK_STREAM_DATA,
			.flags = message->flags & (VK_FLAG_ACK | VK_FLAG_EOS | VK_FLAG_URG),
			.priority = priority_of(out->ring, message->priority),
			.trace = message->trace,
			.stream = out->flow->stream,
			.correlation = message->correlation,
			.present = 1u << VK_EXT_SEQ,
			.fragment = fragment_of(out),
			.sequence = message->sequence,
			.time_ns = message->time_ns,
		},
		.payload = out->payload,
		.size = out->size,
		.peer = out->flow->peer,
		.class = out->ring,
		.content = {
			.kind = VK_CONTENT_MESSAGES,
			.slot = (uint8_t)out->slot,
			.ring = (uint8_t)out->ring,
			.first = entry,
			.a = 1,
		},
		.stays = 1,
	};

	if (again)
		part.frame.flags |= VK_FLAG_RTX;
	if (run->params.stamp && !part.frame.time_ns)
		part.frame.time_ns = run->real_ns;
	if (part.frame.time_ns)
		part.frame.present |= 1u << VK_EXT_TIME;
	if (!vk_flow_reliable(out->flow))
		part.content.kind = VK_CONTENT_NONE; /* nobody sends it again */
	return part;
}

int vk_out_fits(const struct vk_run *run, const struct vk_part *part)
{
	return vk_part_overhead(&part->frame) + part->size <= vk_fit_payload(run, part->peer);
}

int vk_out_alone(const struct vk_run *run, const struct vk_flow *flow, uint32_t size)
{
	const struct vk_frame largest = { .present = 1u << VK_EXT_SEQ | 1u << VK_EXT_TIME };

	return vk_part_overhead(&largest) + size <= vk_fit_payload(run, flow->peer);
}

int vk_out_affordable(struct vk_run *run, const struct vk_flow *flow, uint64_t cost)
{
	if (flow->class == VK_CLASS_CRITICAL || flow->class == VK_CLASS_LOGS ||
	    flow->tx_cost[flow->tx_sequence & 1] + cost <= flow->tx_limit)
		return 1;
	if (run->sessions[flow->peer])
		run->sessions[flow->peer]->creditless = 1;
	return 0;
}

void vk_out_sent(struct vk_run *run, uint32_t slot, uint32_t ring, uint32_t messages,
		 uint64_t bytes)
{
	struct vk_app_count *own = &run->counters->apps[slot][ring];
	uint64_t *row = vk_count_row(run, ring);

	row[VK_TX_MESSAGES] += messages;
	row[VK_TX_BYTES] += bytes;
	own->sent += messages;
	own->sent_bytes += bytes;
}

int vk_out_late(struct vk_run *run, const struct vk_out *out)
{
	const struct vk_message *message = out->message;

	if (!message->code || !message->time_ns ||
	    run->real_ns <= message->time_ns + (uint64_t)message->code * 1000)
		return 0;
	vk_count_row(run, out->ring)[VK_REFUSED_LATE]++;
	out->flow->tx_sequence += message->sequence == out->flow->tx_sequence;
	return 1;
}

void vk_out_count(struct vk_run *run, const struct vk_out *out)
{
	uint64_t *cost = out->flow->tx_cost;
	uint32_t sequence = out->message->sequence;

	if (sequence != out->flow->tx_sequence) {
		vk_count_row(run, out->ring)[VK_TX_AGAIN]++; /* a worker before this one sent it */
		return;
	}
	cost[(sequence + 1) & 1] = cost[sequence & 1] + vk_out_cost(out->size);
	VK_STORE_RELEASE(&out->flow->tx_sequence, sequence + 1);
	vk_out_sent(run, out->slot, out->ring, 1, out->size);
}

int vk_out_open(struct vk_run *run, const struct vk_out *out, uint32_t entry, int forced)
{
	struct vk_part part = {
		.frame = {
			.type = VK_STREAM_OPEN,
			.priority = vk_priority_lowest(out->ring),
			.stream = out->flow->stream,
			.correlation = out->flow->token,
		},
		.payload = out->payload,
		.size = out->size,
		.peer = out->flow->peer,
		.class = out->ring,
		.content = {
			.kind = VK_CONTENT_MESSAGES,
			.slot = (uint8_t)out->slot,
			.ring = (uint8_t)out->ring,
			.first = entry,
			.a = 1,
		},
		.forced = (uint8_t)forced,
	};

	if (!vk_datagram_add(run, &part, 1))
		return 0;
	vk_count_row(run, out->ring)[VK_TX_CONTROL]++;
	return 1;
}

int vk_out_close(struct vk_run *run, const struct vk_out *out, uint32_t entry, int forced)
{
	struct vk_part part = vk_out_part(run, out, entry, 0);

	part.frame.type = VK_STREAM_CLOSE;
	part.frame.flags = 0;
	part.frame.correlation = out->flow->token;
	part.frame.present = 1u << VK_EXT_SEQ;
	part.frame.fragment = 0;
	part.frame.sequence = out->flow->tx_sequence;
	part.content.kind = VK_CONTENT_MESSAGES; /* the end of logs is told reliably */
	part.payload = NULL;
	part.size = 0;
	part.forced = (uint8_t)forced;
	if (!vk_datagram_add(run, &part, 0))
		return 0;
	/* Not before: the next worker would refuse what is held in front of it. */
	out->flow->closed |= VK_CLOSED_HERE;
	vk_flows_settle(run, out->flow);
	vk_count_row(run, out->ring)[VK_TX_CONTROL]++;
	return 1;
}

struct vk_part vk_out_shard(struct vk_run *run, const struct vk_out *out, uint32_t number,
			    int again, uint32_t *chunk)
{
	struct vk_part part = vk_out_part(run, out, number, again);

	part.frame.present = (part.frame.present & ~(1u << VK_EXT_SEQ)) | 1u << VK_EXT_SHARD;
	part.frame.flags |= VK_FLAG_FRG;
	part.frame.total = out->size;
	if (part.content.kind != VK_CONTENT_NONE)
		part.content.kind = VK_CONTENT_SHARD;
	*chunk = vk_fit_payload(run, part.peer) - vk_part_overhead(&part.frame);
	return part;
}

uint64_t vk_out_whole(struct vk_run *run, const struct vk_out *out, uint32_t number, uint64_t bytes,
		      int up)
{
	uint32_t chunk;
	struct vk_part part = vk_out_shard(run, out, number, 0, &chunk);
	uint32_t room = vk_datagram_room(run, &part);
	uint64_t first = room >= JOIN_MIN && room < chunk ? room : 0;

	if (bytes < first)
		return up && bytes ? first : 0;
	return first + (bytes - first + (up ? chunk - 1 : 0)) / chunk * chunk;
}

/* Whether more of the ring is likely to go behind a message: then nothing is gained by leaving its
 * last datagram half empty. */
static int follows(const struct vk_run *run, const struct vk_out *out, uint32_t number)
{
	const struct vk_run_slot *slot = &run->slots[out->slot];

	return slot->ledgers[out->ring].next - number > 1 ||
	       slot->in[out->ring].head != slot->in[out->ring].tail;
}

uint32_t vk_out_shards(struct vk_run *run, const struct vk_out *out, uint32_t number,
		       uint32_t begin, uint32_t end, int again, int forced)
{
	uint32_t chunk;
	struct vk_part part = vk_out_shard(run, out, number, again, &chunk);

	part.forced = (uint8_t)forced;
	while (begin < end) {
		uint32_t left = end - begin, room = vk_datagram_room(run, &part);
		int joins = room >= JOIN_MIN || room >= left;

		part.frame.offset = begin;
		part.payload = out->payload + begin;
		part.size = joins && room < chunk ? room : chunk;
		if (part.size > left)
			part.size = left;
		part.content.a = begin;
		part.content.b = part.size;
		part.shared = part.size < chunk && follows(run, out, number);
		if (!joins && part.size == chunk && left >= 2 * chunk) {
			uint32_t row = vk_datagram_row(run, &part, left / chunk);

			vk_count_row(run, out->ring)[VK_TX_SHARDS] += row;
			begin += row * chunk;
			if (row)
				continue;
		}
		if (!vk_datagram_add(run, &part, !joins && !part.shared))
			break;
		vk_count_row(run, out->ring)[VK_TX_SHARDS]++;
		begin += part.size;
	}
	return begin;
}
