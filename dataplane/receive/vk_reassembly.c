/* SPDX-License-Identifier: MIT */
#include "vk_reassembly.h"

#include "vk_ring.h"
#include "vk_wire.h"

#include <stdlib.h>
#include <string.h>

_Static_assert((int)VK_PARTIAL_SIZE == (int)VK_SHARDED_MAX, "a buffer holds the largest message");

enum { BUCKETS = 2 * VK_PARTIALS_MAX };

/* Beside a partial. */
struct row {
	uint32_t flow;
	uint32_t sequence;
	uint32_t waiting; /* bytes of it, when only its application's ring has no room */
	uint16_t next; /* partial + 1 behind it in its bucket, or among those that are free */
};

struct vk_reassembly {
	struct vk_partial *partials;
	uint8_t (*buffers)[VK_PARTIAL_SIZE];
	uint32_t free_count;
	uint32_t stored; /* bytes of the last shard that were new */
	struct vk_partial *whole; /* all of it is there, but for what was just copied */
	uint16_t free[VK_PARTIALS_MAX]; /* buffers; the one used last is used next */
	uint16_t first_free; /* partial + 1, likewise */
	uint16_t buckets[BUCKETS]; /* partial + 1, by flow and sequence */
	struct row rows[VK_PARTIALS_MAX];
	struct vk_shares shares; /* of all but room for one message, which the spare has */
	uint32_t spare; /* partial + 1 beyond the shares; 0 = none */
};

/* A place in the sorted runs of a partial, and whether a new run joins its neighbours there. */
struct place {
	uint32_t at; /* first run behind */
	int joins_before;
	int joins_behind;
};

static int partial_ok(const struct vk_partial *partial, const uint8_t *used)
{
	uint32_t end = 0;

	if (partial->total > VK_PARTIAL_SIZE || partial->run_count > VK_PARTIAL_RUNS_MAX ||
	    partial->buffer >= VK_PARTIALS_MAX || used[partial->buffer])
		return 0;
	for (uint32_t i = 0; i < partial->run_count; i++) {
		if (partial->runs[i].begin < end || partial->runs[i].end <= partial->runs[i].begin)
			return 0;
		end = partial->runs[i].end;
	}
	return end <= partial->total;
}

/* Messages of a flow complete mostly in order: those of one are seldom in each other's way. */
static uint16_t *bucket_of(struct vk_reassembly *table, uint32_t flow, uint32_t sequence)
{
	return &table->buckets[(flow * 31 + sequence) % BUCKETS];
}

static uint32_t index_of(const struct vk_reassembly *table, const struct vk_partial *partial)
{
	return (uint32_t)(partial - table->partials);
}

/* Makes a partial one that is looked for. */
static void enter(struct vk_reassembly *table, const struct vk_partial *partial)
{
	uint16_t *bucket = bucket_of(table, partial->flow, partial->sequence);
	uint32_t index = index_of(table, partial);

	table->rows[index] = (struct row){ partial->flow, partial->sequence, 0, *bucket };
	*bucket = (uint16_t)(index + 1);
}

struct vk_reassembly *vk_reassembly_new(struct vk_partial *partials,
					uint8_t (*buffers)[VK_PARTIAL_SIZE], uint64_t bytes)
{
	struct vk_reassembly *table = calloc(1, sizeof *table);
	uint8_t used[VK_PARTIALS_MAX] = { 0 };

	if (!table)
		return NULL;
	table->partials = partials;
	table->buffers = buffers;
	vk_reassembly_limit(table, bytes);
	for (uint32_t i = VK_PARTIALS_MAX; i-- > 0;) {
		struct vk_partial *partial = &partials[i];
		struct vk_party party = { .kept = partial->begin_ns == UINT64_MAX };

		if (partial->total && !partial_ok(partial, used))
			partial->total = 0;
		if (!partial->total) {
			table->rows[i].next = table->first_free;
			table->first_free = (uint16_t)(i + 1);
			continue;
		}
		used[partial->buffer] = 1;
		enter(table, partial);
		vk_shares_take(&table->shares, i, &party, partial->total);
	}
	for (uint32_t i = VK_PARTIALS_MAX; i-- > 0;) {
		if (!used[i])
			table->free[table->free_count++] = (uint16_t)i;
	}
	return table;
}

void vk_reassembly_free(struct vk_reassembly *table)
{
	free(table);
}

void vk_reassembly_limit(struct vk_reassembly *table, uint64_t bytes)
{
	vk_shares_limit(&table->shares, bytes > VK_PARTIAL_SIZE ? bytes - VK_PARTIAL_SIZE : 0);
}

uint64_t vk_reassembly_bytes(const struct vk_reassembly *table)
{
	return table->shares.all.bytes;
}

static void drop(struct vk_reassembly *table, struct vk_partial *partial)
{
	uint32_t index = index_of(table, partial);
	struct row *row = &table->rows[index];
	uint16_t *at = bucket_of(table, row->flow, row->sequence);

	while (*at != index + 1)
		at = &table->rows[*at - 1].next;
	*at = row->next;
	row->next = table->first_free;
	table->first_free = (uint16_t)(index + 1);
	table->free[table->free_count++] = (uint16_t)partial->buffer;
	vk_shares_give(&table->shares, index);
	if (table->spare == index + 1)
		table->spare = 0;
	if (table->whole == partial)
		table->whole = NULL;
	VK_STORE_RELEASE(&partial->total, 0);
}

static struct vk_partial *find(struct vk_reassembly *table, const struct vk_shard *shard)
{
	uint32_t at = *bucket_of(table, shard->flow, shard->sequence);

	for (; at; at = table->rows[at - 1].next) {
		struct vk_partial *partial = &table->partials[at - 1];

		if (table->rows[at - 1].flow == shard->flow &&
		    table->rows[at - 1].sequence == shard->sequence &&
		    partial->flow_generation == shard->flow_generation)
			return partial;
	}
	return NULL;
}

/* Whether a message is before one of its stream that is here. That one's rest may come only when
 * its reader has taken this one, which would give the sender credit for it. */
static int is_before(const struct vk_reassembly *table, const struct vk_shard *shard)
{
	for (uint32_t i = 0; i < VK_PARTIALS_MAX; i++) {
		const struct vk_partial *partial = &table->partials[i];

		if (table->shares.holdings[i].bytes && table->rows[i].flow == shard->flow &&
		    partial->flow_generation == shard->flow_generation &&
		    (int32_t)(table->rows[i].sequence - shard->sequence) > 0)
			return 1;
	}
	return 0;
}

static struct vk_partial *start(struct vk_reassembly *table, const struct vk_shard *shard,
				uint64_t now_ns)
{
	uint32_t index = table->first_free - 1u;
	struct vk_partial *partial;

	if (!table->first_free)
		return NULL;
	if (!vk_shares_may(&table->shares, &shard->party, shard->total)) {
		if (!shard->party.kept || table->spare || !is_before(table, shard))
			return NULL;
		table->spare = index + 1;
	}
	partial = &table->partials[index];
	table->first_free = table->rows[index].next;
	partial->flow = shard->flow;
	partial->flow_generation = shard->flow_generation;
	partial->sequence = shard->sequence;
	partial->buffer = table->free[--table->free_count];
	partial->run_count = 0;
	partial->begin_ns = shard->party.kept ? UINT64_MAX : now_ns;
	VK_STORE_RELEASE(&partial->total, shard->total);
	enter(table, partial);
	vk_shares_take(&table->shares, index, &shard->party, shard->total);
	return partial;
}

/* Finds where [begin, end) goes; 0 when it overlaps a run or there are too many. */
static int find_place(const struct vk_partial *partial, uint32_t begin, uint32_t end,
		      struct place *place)
{
	uint32_t at = partial->run_count;

	while (at && partial->runs[at - 1].begin > begin)
		at--;
	if ((at && partial->runs[at - 1].end > begin) ||
	    (at < partial->run_count && partial->runs[at].begin < end))
		return 0;
	place->at = at;
	place->joins_before = at && partial->runs[at - 1].end == begin;
	place->joins_behind = at < partial->run_count && partial->runs[at].begin == end;
	return place->joins_before || place->joins_behind ||
	       partial->run_count < VK_PARTIAL_RUNS_MAX;
}

/* A worker may die in here: the count is impossible meanwhile, so that the next one gives the
 * partial up. */
static void insert(struct vk_partial *partial, uint32_t begin, uint32_t end,
		   const struct place *place)
{
	uint32_t at = place->at, count = partial->run_count;

	partial->run_count = UINT32_MAX;
	__asm__ volatile("" : : : "memory");
	if (place->joins_before && place->joins_behind) {
		partial->runs[at - 1].end = partial->runs[at].end;
		memmove(&partial->runs[at], &partial->runs[at + 1],
			(count - at - 1) * sizeof partial->runs[0]);
		count--;
	} else if (place->joins_before) {
		partial->runs[at - 1].end = end;
	} else if (place->joins_behind) {
		partial->runs[at].begin = begin;
	} else {
		memmove(&partial->runs[at + 1], &partial->runs[at],
			(count - at) * sizeof partial->runs[0]);
		partial->runs[at].begin = begin;
		partial->runs[at].end = end;
		count++;
	}
	__asm__ volatile("" : : : "memory");
	partial->run_count = count;
}

/* Bytes of a partial that are there. */
static uint32_t present(const struct vk_partial *partial)
{
	uint32_t bytes = 0;

	for (uint32_t i = 0; i < partial->run_count; i++)
		bytes += partial->runs[i].end - partial->runs[i].begin;
	return bytes;
}

/* The first bytes of [begin, end) that are not there yet; 0 = all are. */
static int first_gap(const struct vk_partial *partial, uint32_t *begin, uint32_t *end)
{
	for (uint32_t i = 0; i < partial->run_count && *begin < *end; i++) {
		if (partial->runs[i].end <= *begin)
			continue;
		if (partial->runs[i].begin > *begin) {
			if (partial->runs[i].begin < *end)
				*end = partial->runs[i].begin;
			break;
		}
		*begin = partial->runs[i].end;
	}
	return *begin < *end;
}

/* Takes what is new of a shard: a path's MTU may change between two copies of the same bytes. */
static enum vk_shard_result take(struct vk_reassembly *table, struct vk_partial *partial,
				 const struct vk_shard *shard)
{
	uint32_t stop = shard->offset + shard->size, begin = shard->offset, end = stop;
	enum vk_shard_result result = VK_SHARD_KNOWN;
	struct place place;

	for (; first_gap(partial, &begin, &end); begin = end, end = stop) {
		if (!find_place(partial, begin, end, &place))
			return VK_SHARD_REFUSED;
		memcpy(table->buffers[partial->buffer] + begin,
		       shard->data + (begin - shard->offset), end - begin);
		table->stored += end - begin;
		if (present(partial) + (end - begin) == partial->total) {
			table->whole = partial;
			return VK_SHARD_COMPLETE;
		}
		__asm__ volatile("" : : : "memory"); /* bytes first: a worker may die in between */
		insert(partial, begin, end, &place);
		result = VK_SHARD_TAKEN;
	}
	return result;
}

enum vk_shard_result vk_reassembly_add(struct vk_reassembly *table, const struct vk_shard *shard,
				       uint64_t now_ns, const uint8_t **message)
{
	struct vk_partial *partial;
	enum vk_shard_result result;

	table->whole = NULL;
	table->stored = 0;
	if (!shard->size || shard->total > VK_PARTIAL_SIZE || shard->offset >= shard->total ||
	    shard->size > shard->total - shard->offset)
		return VK_SHARD_REFUSED;
	partial = find(table, shard);
	if (!partial)
		partial = start(table, shard, now_ns);
	if (!partial)
		return VK_SHARD_REFUSED;
	if (partial->total != shard->total) {
		drop(table, partial);
		return VK_SHARD_CONTRADICTS;
	}
	result = take(table, partial, shard);
	*message = table->buffers[partial->buffer];
	return result;
}

uint32_t vk_reassembly_stored(const struct vk_reassembly *table)
{
	return table->stored;
}

uint32_t vk_reassembly_done(struct vk_reassembly *table)
{
	uint32_t waiting;

	if (!table->whole)
		return 0; /* its flow has ended */
	waiting = table->rows[index_of(table, table->whole)].waiting;
	drop(table, table->whole);
	return waiting;
}

uint32_t vk_reassembly_wait(struct vk_reassembly *table)
{
	struct row *row;

	if (!table->whole)
		return 0;
	if (!table->whole->run_count) { /* what comes again is all of it */
		drop(table, table->whole);
		return 0;
	}
	row = &table->rows[index_of(table, table->whole)];
	if (row->waiting)
		return 0;
	return row->waiting = present(table->whole);
}

void vk_reassembly_adopt(struct vk_reassembly *table, uint32_t partial,
			 const struct vk_party *party)
{
	vk_shares_give(&table->shares, partial);
	vk_shares_take(&table->shares, partial, party, table->partials[partial].total);
}

void vk_reassembly_lose(struct vk_reassembly *table, uint32_t partial)
{
	drop(table, &table->partials[partial]);
}

void vk_reassembly_forget(struct vk_reassembly *table, uint32_t flow)
{
	for (uint32_t i = 0; table->shares.all.count && i < VK_PARTIALS_MAX; i++) {
		if (table->shares.holdings[i].bytes && table->rows[i].flow == flow)
			drop(table, &table->partials[i]);
	}
}

uint32_t vk_reassembly_expire(struct vk_reassembly *table, uint64_t now_ns, uint64_t age_ns)
{
	uint32_t gone = 0;

	for (uint32_t i = 0; table->shares.all.count && i < VK_PARTIALS_MAX; i++) {
		const struct vk_holding *holding = &table->shares.holdings[i];
		struct vk_partial *partial = &table->partials[i];

		if (!holding->bytes || holding->party.kept || now_ns - partial->begin_ns < age_ns)
			continue;
		drop(table, partial);
		gone++;
	}
	return gone;
}
