/* SPDX-License-Identifier: MIT */
#include "vk_reassembly.h"

#include "vk_wire.h"

#include <stdlib.h>
#include <string.h>

struct run_of_bytes {
	uint32_t begin;
	uint32_t end;
};

struct partial {
	uint32_t flow;
	uint32_t flow_generation;
	uint32_t sequence;
	uint32_t total; /* 0 = free */
	uint32_t run_count;
	uint64_t begin_ns;
	uint8_t *data;
	struct run_of_bytes runs[VK_PARTIAL_GAPS_MAX]; /* sorted, apart from each other */
};

struct vk_reassembly {
	uint64_t bytes;
	uint64_t bytes_max;
	uint8_t *complete; /* handed out by the last call */
	uint32_t live;
	struct partial partials[VK_PARTIALS_MAX];
};

struct vk_reassembly *vk_reassembly_new(uint64_t bytes)
{
	struct vk_reassembly *table = calloc(1, sizeof *table);

	if (table)
		table->bytes_max = bytes;
	return table;
}

static void drop(struct vk_reassembly *table, struct partial *partial)
{
	table->bytes -= partial->total;
	table->live--;
	free(partial->data);
	partial->data = NULL;
	partial->total = 0;
}

void vk_reassembly_free(struct vk_reassembly *table)
{
	if (!table)
		return;
	for (uint32_t i = 0; i < VK_PARTIALS_MAX; i++)
		free(table->partials[i].data);
	free(table->complete);
	free(table);
}

void vk_reassembly_limit(struct vk_reassembly *table, uint64_t bytes)
{
	table->bytes_max = bytes;
}

uint64_t vk_reassembly_bytes(const struct vk_reassembly *table)
{
	return table->bytes;
}

/* Messages of a flow complete mostly in order, so a direct-mapped place by flow and sequence is
 * free again when it is needed; a collision takes the next places. */
enum { PROBES = 8 };

static uint32_t home(const struct vk_shard *shard)
{
	return (shard->flow * 31 + shard->sequence) % VK_PARTIALS_MAX;
}

static struct partial *find(struct vk_reassembly *table, const struct vk_shard *shard)
{
	for (uint32_t i = 0; i < PROBES; i++) {
		struct partial *partial = &table->partials[(home(shard) + i) % VK_PARTIALS_MAX];

		if (partial->total && partial->flow == shard->flow &&
		    partial->flow_generation == shard->flow_generation &&
		    partial->sequence == shard->sequence)
			return partial;
	}
	return NULL;
}

static struct partial *start(struct vk_reassembly *table, const struct vk_shard *shard,
			     uint64_t now_ns)
{
	if (table->bytes + shard->total > table->bytes_max)
		return NULL;
	for (uint32_t i = 0; i < PROBES; i++) {
		struct partial *partial = &table->partials[(home(shard) + i) % VK_PARTIALS_MAX];

		if (partial->total)
			continue;
		partial->data = malloc(shard->total);
		if (!partial->data)
			return NULL;
		partial->flow = shard->flow;
		partial->flow_generation = shard->flow_generation;
		partial->sequence = shard->sequence;
		partial->total = shard->total;
		partial->run_count = 0;
		partial->begin_ns = now_ns;
		table->bytes += shard->total;
		table->live++;
		return partial;
	}
	return NULL;
}

/* Adds [begin, end) to the runs; 0 when it overlaps one or there are too many. */
static int add_run(struct partial *partial, uint32_t begin, uint32_t end)
{
	struct run_of_bytes *runs = partial->runs;
	uint32_t at = partial->run_count;

	while (at && runs[at - 1].begin > begin)
		at--;
	if ((at && runs[at - 1].end > begin) || (at < partial->run_count && runs[at].begin < end))
		return 0;
	if (at && runs[at - 1].end == begin) {
		runs[at - 1].end = end;
		if (at < partial->run_count && runs[at].begin == end) {
			runs[at - 1].end = runs[at].end;
			memmove(&runs[at], &runs[at + 1],
				(--partial->run_count - at) * sizeof *runs);
		}
		return 1;
	}
	if (at < partial->run_count && runs[at].begin == end) {
		runs[at].begin = begin;
		return 1;
	}
	if (partial->run_count == VK_PARTIAL_GAPS_MAX)
		return 0;
	memmove(&runs[at + 1], &runs[at], (partial->run_count++ - at) * sizeof *runs);
	runs[at] = (struct run_of_bytes){ begin, end };
	return 1;
}

enum vk_shard_result vk_reassembly_add(struct vk_reassembly *table, const struct vk_shard *shard,
				       uint64_t now_ns, const uint8_t **message)
{
	struct partial *partial;

	if (!shard->size || shard->total > VK_SHARDED_MAX || shard->offset >= shard->total ||
	    shard->size > shard->total - shard->offset)
		return VK_SHARD_REFUSED;
	partial = find(table, shard);
	if (!partial)
		partial = start(table, shard, now_ns);
	if (!partial)
		return VK_SHARD_REFUSED;
	if (partial->total != shard->total) {
		drop(table, partial);
		return VK_SHARD_REFUSED;
	}
	if (!add_run(partial, shard->offset, shard->offset + shard->size))
		return VK_SHARD_REFUSED;
	memcpy(partial->data + shard->offset, shard->data, shard->size);
	if (partial->run_count > 1 || partial->runs[0].begin ||
	    partial->runs[0].end != partial->total)
		return VK_SHARD_TAKEN;
	free(table->complete);
	table->complete = partial->data;
	partial->data = NULL;
	drop(table, partial);
	*message = table->complete;
	return VK_SHARD_COMPLETE;
}

uint32_t vk_reassembly_expire(struct vk_reassembly *table, uint64_t now_ns, uint64_t age_ns)
{
	uint32_t gone = 0;

	for (uint32_t i = 0; table->live && i < VK_PARTIALS_MAX; i++) {
		struct partial *partial = &table->partials[i];

		if (!partial->total || now_ns - partial->begin_ns < age_ns)
			continue;
		drop(table, partial);
		gone++;
	}
	return gone;
}
