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

/* A free row: the search begins where the owner's number points, so that it is short. */
static uint32_t free_row(const struct vk_sequence_runs *pool, uint32_t owner)
{
	for (uint32_t i = 0; i < VK_SEQUENCE_POOL; i++) {
		uint32_t row = (owner + i) % VK_SEQUENCE_POOL;

		if (!pool[row].owner)
			return row + 1;
	}
	return 0;
}

enum vk_sequence vk_sequences_find(const struct vk_sequences *sequences,
				   const struct vk_sequence_runs *pool, uint32_t number)
{
	uint32_t ahead = distance(sequences, number);
	const struct vk_sequence_runs *row;
	uint32_t at;

	if (ahead > INT32_MAX)
		return VK_SEQUENCE_DUPLICATE; /* behind `next` */
	if (ahead > VK_SEQUENCES_AHEAD)
		return VK_SEQUENCE_FULL;
	if (!sequences->runs)
		return free_row(pool, 0) ? VK_SEQUENCE_NEW : VK_SEQUENCE_FULL;
	row = &pool[sequences->runs - 1];
	for (at = row->count; at && distance(sequences, row->runs[at - 1].first) > ahead; at--)
		continue;
	if (at && distance(sequences, row->runs[at - 1].end) > ahead)
		return VK_SEQUENCE_DUPLICATE;
	if (row->count < VK_SEQUENCE_RUNS || (at && row->runs[at - 1].end == number) ||
	    (at < row->count && row->runs[at].first == number + 1))
		return VK_SEQUENCE_NEW;
	return VK_SEQUENCE_FULL;
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
static void swap(struct vk_sequences *sequences, struct vk_sequence_runs *pool, uint32_t owner,
		 uint32_t next, const struct vk_sequence_runs *changed)
{
	uint32_t old = sequences->runs, row = changed->count ? free_row(pool, owner) : 0;

	if (changed->count && !row) {
		if (old) /* else vk_sequences_look said FULL */
			overwrite(sequences, &pool[old - 1], next, changed);
		return;
	}
	if (row) {
		memcpy(pool[row - 1].runs, changed->runs, changed->count * sizeof changed->runs[0]);
		pool[row - 1].count = changed->count;
		pool[row - 1].owner = owner + 1;
	}
	set(sequences, next, row);
	if (old)
		pool[old - 1].owner = 0;
}

static void insert(struct vk_sequences *sequences, struct vk_sequence_runs *pool, uint32_t owner,
		   uint32_t number)
{
	uint32_t ahead = distance(sequences, number), at, count = 0;
	struct vk_sequence_runs changed;
	int before, behind;

	if (sequences->runs) {
		struct vk_sequence_runs *row = &pool[sequences->runs - 1];

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
	swap(sequences, pool, owner, sequences->next, &changed);
}

/* The gap before the first run may be filled: `next` moves behind it then. */
static void close_gap(struct vk_sequences *sequences, struct vk_sequence_runs *pool, uint32_t owner)
{
	const struct vk_sequence_runs *row = &pool[sequences->runs - 1];
	uint32_t next = sequences->next + 1;
	struct vk_sequence_runs changed;

	if (row->runs[0].first != next) {
		VK_STORE_RELAXED(&sequences->next, next);
		return;
	}
	changed.count = row->count - 1;
	memcpy(changed.runs, row->runs + 1, changed.count * sizeof row->runs[0]);
	swap(sequences, pool, owner, row->runs[0].end, &changed);
}

void vk_sequences_insert(struct vk_sequences *sequences, struct vk_sequence_runs *pool,
			 uint32_t owner, uint32_t number)
{
	if (number == sequences->next && sequences->runs)
		close_gap(sequences, pool, owner);
	else
		insert(sequences, pool, owner, number);
}

void vk_sequences_free(struct vk_sequences *sequences, struct vk_sequence_runs *pool)
{
	uint32_t index = sequences->runs;

	set(sequences, 0, 0);
	if (index && index <= VK_SEQUENCE_POOL)
		pool[index - 1].owner = 0;
}

void vk_sequences_check(struct vk_flow *flows, uint32_t count, struct vk_sequence_runs *pool)
{
	for (uint32_t i = 0; i < VK_SEQUENCE_POOL; i++) {
		struct vk_sequence_runs *row = &pool[i];
		struct vk_flow *flow;

		if (!row->owner)
			continue;
		flow = row->owner <= count ? &flows[row->owner - 1] : NULL;
		if (flow && flow->state == VK_ROW_LIVE && flow->rx.runs == i + 1 && row->count &&
		    row->count <= VK_SEQUENCE_RUNS)
			continue;
		if (flow && flow->rx.runs == i + 1)
			flow->rx.runs = 0;
		row->owner = 0;
	}
}
