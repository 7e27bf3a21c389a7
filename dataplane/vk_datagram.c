/* SPDX-License-Identifier: MIT */
#include "vk_datagram.h"

#include <string.h>

static uint64_t next_number(struct vk_run *run, uint32_t peer, uint32_t class)
{
	/* Stored before the frame can leave: a number is never used twice, not even by the
	 * worker that follows a crash. */
	return run->work->packets[peer].tx_number[vk_class_space(class)]++;
}

static uint8_t *put_session(struct vk_run *run, uint8_t *at, uint32_t peer, uint32_t class)
{
	return vk_put_session(at, run->peers[peer].session, vk_class_space(class),
			      next_number(run, peer, class));
}

static uint8_t *put_extensions(uint8_t *at, const struct vk_frame *frame)
{
	if (frame->present & 1u << VK_EXT_SEQ)
		at = vk_put_seq(at, frame->sequence);
	if (frame->present & 1u << VK_EXT_SHARD)
		at = vk_put_shard(at, frame->sequence, frame->offset, frame->total);
	if (frame->present & 1u << VK_EXT_TIME)
		at = vk_put_time(at, frame->time_ns);
	return at;
}

void vk_datagram_close(struct vk_run *run)
{
	struct vk_datagram *open = &run->datagram;
	struct vk_frame outer = {
		.type = VK_STREAM_DATA,
		.flags = VK_FLAG_AGG,
		.priority = open->priority,
		.stream = open->stream,
		.length = open->used - VK_OUTER_SIZE,
		.correlation = open->inner,
	};
	uint8_t *at;

	if (!open->data)
		return;
	at = vk_put_header(open->data, &outer, sizeof(struct vk_ext_session) / VK_EXT_WORD,
			   (uint32_t)(run->real_ns / 1000000000));
	put_session(run, at, open->peer, open->class);
	open->path->ops->tx_commit(open->path, open->used, 1);
	vk_count_row(run, open->class)[VK_TX_FRAMES]++;
	open->data = NULL;
}

static uint8_t *reserve(struct vk_run *run, const struct vk_part *part)
{
	const struct vk_peer *peer = &run->peers[part->peer];
	struct vk_path *path = run->tx[peer->port_index];
	uint8_t *data = path->ops->tx_reserve(path, peer, part->class);

	if (!data)
		run->path_full |= 1ull << peer->port_index;
	return data;
}

static int add_alone(struct vk_run *run, const struct vk_part *part)
{
	struct vk_frame frame = part->frame;
	struct vk_path *path = run->tx[run->peers[part->peer].port_index];
	uint32_t overhead = vk_part_overhead(&frame);
	uint8_t *data, *at;

	vk_datagram_close(run);
	data = reserve(run, part);
	if (!data)
		return 0;
	frame.length = part->size;
	at = vk_put_header(data, &frame, (overhead - VK_HEADER_SIZE) / VK_EXT_WORD,
			   (uint32_t)(run->real_ns / 1000000000));
	at = put_extensions(put_session(run, at, part->peer, part->class), &frame);
	if (part->size)
		memcpy(at, part->payload, part->size);
	path->ops->tx_commit(path, overhead + part->size, 0);
	vk_count_row(run, part->class)[VK_TX_FRAMES]++;
	return 1;
}

static int begin(struct vk_run *run, const struct vk_part *part)
{
	struct vk_datagram *open = &run->datagram;

	vk_datagram_close(run);
	open->data = reserve(run, part);
	if (!open->data)
		return 0;
	open->path = run->tx[run->peers[part->peer].port_index];
	open->used = VK_OUTER_SIZE;
	open->limit = run->peers[part->peer].payload_max;
	open->inner = 0;
	open->peer = part->peer;
	open->class = part->class;
	open->stream = part->frame.stream;
	open->priority = 0;
	return 1;
}

/* Bytes of an inner frame: no SESSION, but a header of its own. */
static uint32_t inner_size(const struct vk_part *part)
{
	return vk_part_overhead(&part->frame) - (uint32_t)sizeof(struct vk_ext_session) +
	       part->size;
}

static void append(struct vk_run *run, const struct vk_part *part, uint32_t size)
{
	struct vk_datagram *open = &run->datagram;
	struct vk_frame frame = part->frame;
	uint32_t at = VK_OUTER_SIZE + vk_align_run(open->used - VK_OUTER_SIZE);
	uint8_t *data = open->data + at;

	memset(open->data + open->used, 0, at - open->used);
	frame.length = part->size;
	data = vk_put_header(data, &frame, (size - part->size - VK_HEADER_SIZE) / VK_EXT_WORD,
			     (uint32_t)(run->real_ns / 1000000000));
	data = put_extensions(data, &frame);
	if (part->size)
		memcpy(data, part->payload, part->size);
	open->used = at + size;
	open->inner++;
	if (frame.priority > open->priority)
		open->priority = frame.priority;
}

int vk_datagram_add(struct vk_run *run, const struct vk_part *part, int alone)
{
	struct vk_datagram *open = &run->datagram;
	uint32_t size = inner_size(part);
	int same = open->data && open->peer == part->peer && open->class == part->class;
	int fits = same && open->inner < VK_AGG_MAX &&
		   VK_OUTER_SIZE + vk_align_run(open->used - VK_OUTER_SIZE) + size <= open->limit;

	if (!fits) {
		/* Two of this size must fit, or sharing only costs a header. */
		if (alone || !run->params.aggregate ||
		    VK_OUTER_SIZE + 2 * size + VK_AGG_ALIGN > run->peers[part->peer].payload_max)
			return add_alone(run, part);
		if (!begin(run, part))
			return 0;
	}
	append(run, part, size);
	return 1;
}
