/* SPDX-License-Identifier: MIT */
#include "vk_shards.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS_MIN = 64, SPANS_MIN = 4 };

static int grow_table(struct vk_shard_table *table)
{
	uint32_t count = table->count ? 2 * table->count : ROWS_MIN;
	struct vk_shards *rows = realloc(table->rows, count * sizeof *rows);

	if (!rows)
		return 0;
	memset(rows + table->count, 0, (count - table->count) * sizeof *rows);
	for (uint32_t i = table->count; i < count; i++)
		rows[i].next_free = i + 1 < count ? i + 2 : 0;
	table->free = table->count + 1;
	table->rows = rows;
	table->count = count;
	return 1;
}

uint32_t vk_shards_new(struct vk_shard_table *table, uint32_t total)
{
	uint32_t index;
	struct vk_shards *row;

	if (!table->free && !grow_table(table))
		return 0;
	index = table->free;
	row = &table->rows[index - 1];
	table->free = row->next_free;
	row->total = total;
	row->sent = 0;
	row->count = 0;
	return index;
}

void vk_shards_drop(struct vk_shard_table *table, uint32_t index)
{
	struct vk_shards *row;

	if (!index)
		return;
	row = &table->rows[index - 1];
	row->next_free = table->free;
	table->free = index;
}

void vk_shards_free(struct vk_shard_table *table)
{
	for (uint32_t i = 0; i < table->count; i++)
		free(table->rows[i].acked);
	free(table->rows);
	*table = (struct vk_shard_table){ 0 };
}

static int room_for_one(struct vk_shards *shards)
{
	uint32_t capacity = shards->capacity ? 2 * shards->capacity : SPANS_MIN;
	struct vk_span *spans;

	if (shards->count < shards->capacity)
		return 1;
	spans = realloc(shards->acked, capacity * sizeof *spans);
	if (!spans)
		return 0;
	shards->acked = spans;
	shards->capacity = capacity;
	return 1;
}

int vk_shards_acked(struct vk_shards *shards, uint32_t begin, uint32_t end)
{
	struct vk_span *spans = shards->acked;
	uint32_t from = shards->count, to;

	while (from && spans[from - 1].end >= begin)
		from--;
	for (to = from; to < shards->count && spans[to].begin <= end; to++) {
		begin = spans[to].begin < begin ? spans[to].begin : begin;
		end = spans[to].end > end ? spans[to].end : end;
	}
	if (from == to) { /* touches none */
		if (!room_for_one(shards))
			return 0;
		spans = shards->acked;
		memmove(&spans[from + 1], &spans[from], (shards->count - from) * sizeof *spans);
		shards->count++;
	} else {
		memmove(&spans[from + 1], &spans[to], (shards->count - to) * sizeof *spans);
		shards->count -= to - from - 1;
	}
	spans[from] = (struct vk_span){ begin, end };
	return shards->count == 1 && !spans[0].begin && spans[0].end == shards->total;
}

int vk_shards_missing(const struct vk_shards *shards, uint32_t begin, uint32_t end,
		      struct vk_span *missing)
{
	for (uint32_t i = 0; i < shards->count && begin < end; i++) {
		const struct vk_span *span = &shards->acked[i];

		if (span->end <= begin)
			continue;
		if (span->begin > begin) {
			end = span->begin < end ? span->begin : end;
			break;
		}
		begin = span->end;
	}
	*missing = (struct vk_span){ begin, end };
	return begin < end;
}
