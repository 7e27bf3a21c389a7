/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vk_gather.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
	BUCKETS = 1024, /* power of two; sequences that wait are mostly neighbours */
	LARGE_PAGE = 2097152, /* where the kernel has others, memory is only aligned for nothing */
};

/* A record that waits: for its turn if messages are ordered, else for others of its message. */
struct kept {
	struct kept *next; /* in its bucket */
	struct vk_message head;
	uint32_t size;
	uint32_t other; /* of the ends of a run of neighbours: the sequence of the other end ... */
	uint64_t run_size; /* ... and the payload of all */
	uint8_t payload[];
};

/* Sequences [begin, end). */
struct span {
	uint32_t begin;
	uint32_t end;
};

struct vk_gather {
	int ordered;
	int error; /* it cannot go on */
	uint32_t expected; /* first sequence that is missing */
	uint32_t turn; /* ordered: next sequence to be looked at */
	uint32_t span_count;
	uint32_t kept_count;
	uint64_t held;
	uint64_t twice;
	struct span spans[VK_GATHER_SPANS_MAX]; /* that came ahead, sorted, apart from each other */
	struct kept *buckets[BUCKETS];
	/* The message that is written down as it comes. */
	uint8_t *slab; /* VK_MESSAGE_MAX bytes, once they are needed */
	struct vk_message head;
	uint32_t size;
	uint32_t records;
	uint32_t goes_on; /* sequence that comes next */
	int open;
	int lent; /* the reader looks at it */
	struct kept *lent_kept; /* likewise, at a record that had waited */
	uint8_t *lent_joined; /* likewise */
};

struct vk_gather *vk_gather_new(uint32_t sequence, int ordered)
{
	struct vk_gather *gather = calloc(1, sizeof *gather);

	if (!gather)
		return NULL;
	gather->ordered = ordered;
	gather->expected = gather->turn = sequence;
	return gather;
}

/* take_back ends the reader's look at the last message. */
static void take_back(struct vk_gather *gather)
{
	if (gather->lent)
		gather->open = gather->lent = 0;
	free(gather->lent_kept);
	free(gather->lent_joined);
	gather->lent_kept = NULL;
	gather->lent_joined = NULL;
}

void vk_gather_free(struct vk_gather *gather)
{
	if (!gather)
		return;
	take_back(gather);
	for (uint32_t i = 0; i < BUCKETS; i++) {
		struct kept *record = gather->buckets[i], *next;

		for (; record; record = next) {
			next = record->next;
			free(record);
		}
	}
	if (gather->slab)
		munmap(gather->slab, VK_MESSAGE_MAX);
	free(gather);
}

uint32_t vk_gather_expected(const struct vk_gather *gather)
{
	return gather->expected;
}

uint64_t vk_gather_held(const struct vk_gather *gather)
{
	return gather->held + (gather->open && !gather->lent ? gather->size : 0);
}

uint64_t vk_gather_twice(const struct vk_gather *gather)
{
	return gather->twice;
}

static int is_behind(uint32_t sequence, uint32_t other)
{
	return sequence - other > INT32_MAX;
}

/* ---- Which sequences came ---- */

/* place returns the first span that does not end before a sequence that is ahead of expected. */
static uint32_t place(const struct vk_gather *gather, uint32_t sequence)
{
	uint32_t low = 0, high = gather->span_count, ahead = sequence - gather->expected;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (gather->spans[middle].end - gather->expected < ahead)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static int was_here(const struct vk_gather *gather, uint32_t sequence)
{
	uint32_t at;

	if (is_behind(sequence, gather->expected))
		return 1;
	at = place(gather, sequence + 1);
	return at < gather->span_count &&
	       gather->spans[at].begin - gather->expected <= sequence - gather->expected;
}

static void drop_span(struct vk_gather *gather, uint32_t at)
{
	gather->span_count--;
	memmove(&gather->spans[at], &gather->spans[at + 1],
		(gather->span_count - at) * sizeof gather->spans[0]);
}

/* note enters a sequence that came for the first time; -EPROTO when there are too many gaps. */
static int note(struct vk_gather *gather, uint32_t sequence)
{
	struct span *spans = gather->spans;
	uint32_t at;

	if (sequence == gather->expected) {
		gather->expected++;
		if (gather->span_count && spans[0].begin == gather->expected) {
			gather->expected = spans[0].end;
			drop_span(gather, 0);
		}
		return 0;
	}
	at = place(gather, sequence);
	if (at < gather->span_count && spans[at].end == sequence) {
		spans[at].end++;
		if (at + 1 < gather->span_count && spans[at + 1].begin == sequence + 1) {
			spans[at].end = spans[at + 1].end;
			drop_span(gather, at + 1);
		}
	} else if (at < gather->span_count && spans[at].begin == sequence + 1) {
		spans[at].begin--;
	} else {
		if (gather->span_count == VK_GATHER_SPANS_MAX)
			return -EPROTO;
		memmove(&spans[at + 1], &spans[at], (gather->span_count - at) * sizeof spans[0]);
		spans[at] = (struct span){ sequence, sequence + 1 };
		gather->span_count++;
	}
	return 0;
}

/* taken_on says whether a sequence was looked at before. */
static int taken_on(const struct vk_gather *gather, uint32_t sequence)
{
	return gather->ordered ? is_behind(sequence, gather->turn) : was_here(gather, sequence);
}

/* ---- Records that wait ---- */

static struct kept **bucket(struct vk_gather *gather, uint32_t sequence)
{
	struct kept **at = &gather->buckets[sequence & (BUCKETS - 1)];

	while (*at && (*at)->head.sequence != sequence)
		at = &(*at)->next;
	return at;
}

/* find returns the fragment of a sequence that waits for others of its message. */
static struct kept *find(struct vk_gather *gather, uint32_t sequence)
{
	return gather->kept_count && !gather->ordered ? *bucket(gather, sequence) : NULL;
}

static struct kept *take_out(struct vk_gather *gather, uint32_t sequence)
{
	struct kept **at = bucket(gather, sequence), *record = *at;

	if (!record)
		return NULL;
	*at = record->next;
	gather->kept_count--;
	gather->held -= (uint64_t)record->size + VK_GATHER_OVERHEAD;
	return record;
}

/* keep copies a record; its sequence is not there yet. NULL = no memory. */
static struct kept *keep(struct vk_gather *gather, const struct vk_message *head,
			 const uint8_t *payload, uint32_t size)
{
	struct kept *record = malloc(sizeof *record + size), **at;

	if (!record)
		return NULL;
	record->next = NULL;
	record->head = *head;
	record->size = size;
	record->other = head->sequence;
	record->run_size = size;
	memcpy(record->payload, payload, size);
	at = bucket(gather, head->sequence);
	*at = record;
	gather->kept_count++;
	gather->held += (uint64_t)size + VK_GATHER_OVERHEAD;
	return record;
}

static int bounded(const struct vk_gather *gather)
{
	return vk_gather_held(gather) > VK_GATHER_HELD_MAX ? -EPROTO : 0;
}

/* ---- Messages ---- */

/* slab_ready makes the memory in which messages are written down, in large pages if there are any:
 * no page of it is touched before something is written there. */
static int slab_ready(struct vk_gather *gather)
{
	size_t size = (size_t)VK_MESSAGE_MAX + LARGE_PAGE, before;
	uint8_t *at;

	if (gather->slab)
		return 0;
	at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		  -1, 0);
	if (at == MAP_FAILED)
		return -ENOMEM;
	before = -(uintptr_t)at & (LARGE_PAGE - 1);
	if (before)
		munmap(at, before);
	munmap(at + before + VK_MESSAGE_MAX, LARGE_PAGE - before);
	gather->slab = at + before;
	madvise(gather->slab, VK_MESSAGE_MAX, MADV_HUGEPAGE);
	return 0;
}

/* write_down puts a fragment behind what there is of its message. */
static int write_down(struct vk_gather *gather, const struct vk_message *head,
		      const uint8_t *payload, uint32_t size)
{
	int error = slab_ready(gather);

	if (error)
		return error;
	if (size > VK_MESSAGE_MAX - gather->size)
		return -EPROTO;
	memcpy(gather->slab + gather->size, payload, size);
	gather->size += size;
	gather->records++;
	gather->goes_on = head->sequence + 1;
	gather->head.flags |= head->flags & VK_FLAG_EOS;
	return 0;
}

static void begin(struct vk_gather *gather, const struct vk_message *head)
{
	gather->open = 1;
	gather->head = *head;
	gather->head.code = 0;
	gather->size = gather->records = 0;
}

/* go_on writes a fragment down and those that waited for it. */
static int go_on(struct vk_gather *gather, const struct vk_message *head, const uint8_t *payload,
		 uint32_t size, struct vk_whole *whole)
{
	int error = write_down(gather, head, payload, size), more = head->code & VK_FRAGMENT_MORE;

	while (!error && more && gather->kept_count && !gather->ordered) {
		struct kept *record = take_out(gather, gather->goes_on);

		if (!record)
			break;
		error = write_down(gather, &record->head, record->payload, record->size);
		more = record->head.code & VK_FRAGMENT_MORE;
		free(record);
	}
	if (error)
		return error;
	if (more)
		return bounded(gather);
	*whole = (struct vk_whole){ gather->head, gather->slab, gather->size, gather->records };
	gather->lent = 1;
	return 1;
}

/* join puts a run of fragments, a whole message, together in memory of its own. */
static int join(struct vk_gather *gather, const struct kept *first, struct vk_whole *whole)
{
	uint32_t sequence = first->head.sequence, last = first->other;
	uint64_t total = first->run_size, at = 0;
	uint8_t *joined = malloc(total ? total : 1);

	if (!joined)
		return -ENOMEM;
	gather->lent_joined = joined;
	*whole = (struct vk_whole){ first->head, joined, (uint32_t)total, last - sequence + 1 };
	whole->head.code = 0;
	for (; at <= total; sequence++) {
		struct kept *record = take_out(gather, sequence);

		memcpy(joined + at, record->payload, record->size);
		at += record->size;
		whole->head.flags |= record->head.flags & VK_FLAG_EOS;
		free(record);
		if (sequence == last)
			break;
	}
	return 1;
}

/* wait keeps a fragment that cannot be written down yet, and joins it to its neighbours. */
static int wait(struct vk_gather *gather, const struct vk_message *head, const uint8_t *payload,
		uint32_t size, struct vk_whole *whole)
{
	struct kept *left = NULL, *right = NULL, *first, *last;
	struct kept *record;
	int result;

	if (head->code & VK_FRAGMENT_CONTINUES)
		left = find(gather, head->sequence - 1);
	if (head->code & VK_FRAGMENT_MORE)
		right = find(gather, head->sequence + 1);
	record = keep(gather, head, payload, size);
	if (!record)
		return -ENOMEM;
	first = left ? find(gather, left->other) : record;
	last = right ? find(gather, right->other) : record;
	record->run_size += (left ? left->run_size : 0) + (right ? right->run_size : 0);
	first->run_size = last->run_size = record->run_size;
	first->other = last->head.sequence;
	last->other = first->head.sequence;
	if (first->run_size > VK_MESSAGE_MAX)
		return -EPROTO;
	if (first->head.code & VK_FRAGMENT_CONTINUES)
		return bounded(gather);
	if (gather->open)
		return last->head.code & VK_FRAGMENT_MORE ? bounded(gather) :
							    join(gather, first, whole);
	take_out(gather, first->head.sequence);
	begin(gather, &first->head);
	result = go_on(gather, &first->head, first->payload, first->size, whole);
	free(first);
	return result;
}

/* contradicts says whether a record and what is known of those beside it do not fit. */
static int contradicts(struct vk_gather *gather, const struct vk_message *head)
{
	uint32_t sequence = head->sequence;
	const struct kept *left = find(gather, sequence - 1), *right = find(gather, sequence + 1);
	int continues = (head->code & VK_FRAGMENT_CONTINUES) != 0;
	int more = (head->code & VK_FRAGMENT_MORE) != 0;
	int left_open = (gather->open && gather->goes_on == sequence) ||
			(left && left->head.code & VK_FRAGMENT_MORE);
	int right_open = right && right->head.code & VK_FRAGMENT_CONTINUES;

	if (left_open != continues && (left_open || taken_on(gather, sequence - 1)))
		return 1;
	return right_open != more && (right_open || taken_on(gather, sequence + 1));
}

/* accept takes a record on in its turn. */
static int accept(struct vk_gather *gather, const struct vk_message *head, const uint8_t *payload,
		  uint32_t size, struct vk_whole *whole)
{
	uint32_t mark = head->code & VK_FRAGMENT_MASK;

	if ((mark || gather->open || gather->kept_count) && contradicts(gather, head))
		return -EPROTO;
	if (!mark) {
		*whole = (struct vk_whole){ *head, payload, size, 1 };
		whole->head.code = 0;
		return 1;
	}
	if (mark & VK_FRAGMENT_CONTINUES ? !gather->open || gather->goes_on != head->sequence :
					   gather->open)
		return wait(gather, head, payload, size, whole);
	if (!(mark & VK_FRAGMENT_CONTINUES))
		begin(gather, head);
	return go_on(gather, head, payload, size, whole);
}

static int failed(struct vk_gather *gather, int result)
{
	if (result < 0)
		gather->error = result;
	return result;
}

/* take_turns takes on what waited for its turn, until a message is whole. */
static int take_turns(struct vk_gather *gather, struct vk_whole *whole)
{
	int result = 0;

	while (gather->ordered && gather->turn != gather->expected && !result) {
		struct kept *record = take_out(gather, gather->turn++);

		result = accept(gather, &record->head, record->payload, record->size, whole);
		if (result == 1 && whole->payload == record->payload)
			gather->lent_kept = record;
		else
			free(record);
	}
	return result;
}

int vk_gather_take(struct vk_gather *gather, const struct vk_message *head, const uint8_t *payload,
		   uint32_t size, struct vk_whole *whole)
{
	uint32_t sequence = head->sequence;
	int result;

	take_back(gather);
	if (gather->error)
		return gather->error;
	if (was_here(gather, sequence)) {
		gather->twice++;
		return 0;
	}
	if (note(gather, sequence))
		return failed(gather, -EPROTO);
	if (!gather->ordered)
		return failed(gather, accept(gather, head, payload, size, whole));
	if (sequence != gather->turn)
		return failed(gather,
			      keep(gather, head, payload, size) ? bounded(gather) : -ENOMEM);
	gather->turn++;
	result = accept(gather, head, payload, size, whole);
	return failed(gather, result ? result : take_turns(gather, whole));
}

int vk_gather_next(struct vk_gather *gather, struct vk_whole *whole)
{
	take_back(gather);
	if (gather->error)
		return gather->error;
	return failed(gather, take_turns(gather, whole));
}
