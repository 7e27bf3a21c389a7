/* SPDX-License-Identifier: MIT */
#include "vk_sequences.h"

#include <string.h>

/* Distances from `next`: they order numbers that wrap. */
static uint32_t distance(const struct vk_sequences *sequences, uint32_t number)
{
	return number - sequences->next;
}

static void barrier(void)
{
	__asm__ volatile("" : : : "memory"); /* a worker may die in between */
}

void vk_sequences_open(struct vk_sequence_pool *pool, struct vk_sequence_runs *rows)
{
	pool->rows = rows;
	pool->free_count = VK_SEQUENCE_POOL;
	for (uint32_t i = 0; i < VK_SEQUENCE_POOL; i++)
		pool->free[i] = (uint16_t)(VK_SEQUENCE_POOL - 1 - i);
}

/* A free row + 1; 0 = there is none. */
static uint32_t take_row(struct vk_sequence_pool *pool)
{
	return pool->free_count ? pool->free[--pool->free_count] + 1u : 0;
}

static void give_back(struct vk_sequence_pool *pool, uint32_t row)
{
	pool->rows[row].owner = 0;
	pool->free[pool->free_count++] = (uint16_t)row;
}

enum vk_sequence vk_sequences_find(const struct vk_sequences *sequences,
				   const struct vk_sequence_pool *pool, uint32_t held,
				   uint32_t number)
{
	uint32_t ahead = distance(sequences, number);
	const struct vk_sequence_runs *row;
	uint32_t at;

	if (ahead > INT32_MAX)
		return VK_SEQUENCE_DUPLICATE; /* behind `next` */
	if (ahead > VK_SEQUENCES_AHEAD)
		return VK_SEQUENCE_FULL;
	if (!sequences->runs)
		return held < pool->free_count ? VK_SEQUENCE_NEW : VK_SEQUENCE_FULL;
	row = &pool->rows[sequences->runs - 1];
	for (at = row->count; at && distance(sequences, row->runs[at - 1].first) > ahead; at--)
		continue;
	if (at && distance(sequences, row->runs[at - 1].end) > ahead)
		return VK_SEQUENCE_DUPLICATE;
	if (row->count < VK_SEQUENCE_RUNS || (at && row->runs[at - 1].end == number) ||
	    (at < row->count && row->runs[at].first == number + 1))
		return VK_SEQUENCE_NEW;
	return VK_SEQUENCE_FULL;
}

uint32_t vk_sequences_end(const struct vk_sequences *sequences, const struct vk_sequence_pool *pool)
{
	const struct vk_sequence_runs *row = sequences->runs ? &pool->rows[sequences->runs - 1] :
							       NULL;

	return row && row->count ? row->runs[row->count - 1].end : sequences->next;
}

/* One store changes both fields: a worker that dies leaves the old pair or the new one. */
static void set(struct vk_sequences *sequences, uint32_t next, uint32_t runs)
{
	const struct vk_sequences pair = { next, runs };
	uint64_t word;

	memcpy(&word, &pair, sizeof word);
	barrier();
	VK_STORE_RELAXED((uint64_t *)(void *)sequences, word);
	barrier();
}

/* Changes runs where they are: a worker that dies in here forgets them, and those messages come
 * again, which their library notices. */
static void overwrite(struct vk_sequences *sequences, struct vk_sequence_runs *row, uint32_t next,
		      const struct vk_sequence_runs *changed)
{
	VK_STORE_RELAXED(&row->count, 0);
	barrier();
	VK_STORE_RELAXED(&sequences->next, next);
	memcpy(row->runs, changed->runs, changed->count * sizeof changed->runs[0]);
	barrier();
	VK_STORE_RELAXED(&row->count, changed->count);
}

/* Changes runs in a free row and swaps it in; with no row free, in their own. */
static void swap(struct vk_sequences *sequences, struct vk_sequence_pool *pool, uint32_t *held,
		 uint32_t owner, uint32_t next, const struct vk_sequence_runs *changed)
{
	uint32_t old = sequences->runs, row = changed->count ? take_row(pool) : 0;

	if (changed->count && !row) {
		if (old) /* else vk_sequences_look said FULL */
			overwrite(sequences, &pool->rows[old - 1], next, changed);
		return;
	}
	if (row) {
		struct vk_sequence_runs *fresh = &pool->rows[row - 1];

		memcpy(fresh->runs, changed->runs, changed->count * sizeof changed->runs[0]);
		fresh->count = changed->count;
		fresh->owner = owner + 1;
		++*held;
	}
	set(sequences, next, row);
	if (old) {
		give_back(pool, old - 1);
		--*held;
	}
}

static void insert(struct vk_sequences *sequences, struct vk_sequence_pool *pool, uint32_t *held,
		   uint32_t owner, uint32_t number)
{
	uint32_t ahead = distance(sequences, number), at, count = 0;
	struct vk_sequence_runs changed;
	int before, behind;

	if (sequences->runs) {
		struct vk_sequence_runs *row = &pool->rows[sequences->runs - 1];

		count = row->count;
		for (at = count; at && distance(sequences, row->runs[at - 1].first) > ahead; at--)
			continue;
		if (at && row->runs[at - 1].end == number &&
		    !(at < count && row->runs[at].first == number + 1)) {
			VK_STORE_RELAXED(&row->runs[at - 1].end, number + 1); /* the usual case */
			return;
		}
		memcpy(changed.runs, row->runs, count * sizeof row->runs[0]);
	} else {
		at = 0;
	}
	before = at && changed.runs[at - 1].end == number;
	behind = at < count && changed.runs[at].first == number + 1;
	if (before) { /* and behind */
		changed.runs[at - 1].end = changed.runs[at].end;
		memmove(&changed.runs[at], &changed.runs[at + 1],
			(count - at - 1) * sizeof changed.runs[0]);
		count--;
	} else if (behind) {
		changed.runs[at].first = number;
	} else {
		memmove(&changed.runs[at + 1], &changed.runs[at],
			(count - at) * sizeof changed.runs[0]);
		changed.runs[at].first = number;
		changed.runs[at].end = number + 1;
		count++;
	}
	changed.count = count;
	swap(sequences, pool, held, owner, sequences->next, &changed);
}

/* The gap before the first run may be filled: `next` moves behind it then. */
static void close_gap(struct vk_sequences *sequences, struct vk_sequence_pool *pool, uint32_t *held,
		      uint32_t owner)
{
	const struct vk_sequence_runs *row = &pool->rows[sequences->runs - 1];
	uint32_t next = sequences->next + 1;
	struct vk_sequence_runs changed;

	if (row->runs[0].first != next) {
		VK_STORE_RELAXED(&sequences->next, next);
		return;
	}
	changed.count = row->count - 1;
	memcpy(changed.runs, row->runs + 1, changed.count * sizeof row->runs[0]);
	swap(sequences, pool, held, owner, row->runs[0].end, &changed);
}

void vk_sequences_insert(struct vk_sequences *sequences, struct vk_sequence_pool *pool,
			 uint32_t *held, uint32_t owner, uint32_t number)
{
	if (number == sequences->next && sequences->runs)
		close_gap(sequences, pool, held, owner);
	else
		insert(sequences, pool, held, owner, number);
}

void vk_sequences_free(struct vk_sequences *sequences, struct vk_sequence_pool *pool,
		       uint32_t *held)
{
	uint32_t row = sequences->runs;

	if (!row)
		return;
	set(sequences, sequences->next, 0);
	give_back(pool, row - 1);
	--*held;
}

void vk_sequences_check(struct vk_flow *flows, uint32_t count, struct vk_sequence_pool *pool)
{
	pool->free_count = 0;
	for (uint32_t i = VK_SEQUENCE_POOL; i-- > 0;) {
		struct vk_sequence_runs *row = &pool->rows[i];
		struct vk_flow *flow;

		if (!row->owner) {
			pool->free[pool->free_count++] = (uint16_t)i;
			continue;
		}
		flow = row->owner <= count ? &flows[row->owner - 1] : NULL;
		if (flow && flow->state == VK_ROW_LIVE && flow->rx.runs == i + 1 && row->count &&
		    row->count <= VK_SEQUENCE_RUNS)
			continue;
		if (flow && flow->rx.runs == i + 1)
			flow->rx.runs = 0;
		give_back(pool, i);
	}
}
