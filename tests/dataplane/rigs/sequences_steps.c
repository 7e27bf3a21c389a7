/* SPDX-License-Identifier: MIT */
/* A worker that is killed at every single instruction of vk_sequences_add: a child works on shared
 * memory, one instruction at a time, and after each the parent looks whether the next worker would
 * find what was there before, or that and the number being added. Prints how many instructions and
 * how many different states it looked at.
 *
 *   sequences_steps SEED COUNT     COUNT additions
 */
#include "vk_sequences.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FLOWS = 2, SPAN = 24 };

/* Laid out as in vk_work: the same relative places in every copy. */
struct memory {
	struct vk_flow flows[FLOWS];
	struct vk_sequence_pool pool; /* a worker's own: its successor makes it anew */
	uint32_t held;
	struct vk_sequence_runs rows[VK_SEQUENCE_POOL];
};

struct step {
	uint32_t flow;
	uint32_t number;
};

static struct memory *shared, *before, *after, *seen;
static uint64_t instructions, states;
static uint32_t rows[2]; /* of the pool that an addition may change, + 1 */

static uint32_t draw(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
	return (uint32_t)(*seed >> 33);
}

/* Numbers near the gaps, so that every kind of addition comes. */
static struct step draw_step(uint64_t *seed, const struct memory *memory)
{
	uint32_t flow = draw(seed) % FLOWS, ahead = draw(seed) % 4 ? draw(seed) % SPAN : 0;

	return (struct step){ flow, memory->flows[flow].rx.next + ahead };
}

static void add(struct memory *memory, struct step step)
{
	struct vk_sequences *rx = &memory->flows[step.flow].rx;

	memory->pool.rows = memory->rows;
	if (vk_sequences_look(rx, &memory->pool, &memory->held, step.number) == VK_SEQUENCE_NEW)
		vk_sequences_add(rx, &memory->pool, &memory->held, step.flow, step.number);
}

static void copy_row(struct memory *to, const struct memory *from, uint32_t runs)
{
	if (runs)
		to->rows[runs - 1] = from->rows[runs - 1];
}

static int same_row(const struct memory *a, const struct memory *b, uint32_t runs)
{
	return !runs || !memcmp(&a->rows[runs - 1], &b->rows[runs - 1], sizeof a->rows[0]);
}

static int same_set(const struct memory *a, const struct memory *b, uint32_t flow)
{
	const struct vk_sequences *one = &a->flows[flow].rx, *two = &b->flows[flow].rx;
	const struct vk_sequence_runs *held[2] = { &a->rows[one->runs - 1],
						   &b->rows[two->runs - 1] };

	if (one->next != two->next || !one->runs != !two->runs)
		return 0;
	return !one->runs ||
	       (held[0]->count == held[1]->count && held[0]->owner == flow + 1 &&
		!memcmp(held[0]->runs, held[1]->runs, held[0]->count * sizeof held[0]->runs[0]));
}

/* What the next worker finds: the sets before the step or those after it, and no lost rows. */
static void judge(const struct memory *now, uint32_t flow)
{
	uint32_t owned = 0, wanted = 0;

	memcpy(seen->flows, now->flows, sizeof seen->flows);
	for (uint32_t i = 0; i < FLOWS; i++)
		copy_row(seen, now, now->flows[i].rx.runs);
	for (uint32_t i = 0; i < 2; i++)
		copy_row(seen, now, rows[i]);
	seen->pool.rows = seen->rows;
	vk_sequences_check(seen->flows, FLOWS, &seen->pool);
	assert(same_set(seen, before, flow) || same_set(seen, after, flow));
	for (uint32_t i = 0; i < FLOWS; i++)
		wanted += seen->flows[i].rx.runs != 0;
	for (uint32_t i = 0; i < VK_SEQUENCE_POOL; i++)
		owned += seen->rows[i].owner != 0;
	assert(owned == wanted && seen->pool.free_count == VK_SEQUENCE_POOL - owned);
	states++;
}

static void watch(pid_t child, uint32_t flow)
{
	struct memory *last = malloc(sizeof *last);
	int status;

	assert(last);
	memcpy(last, before, sizeof *last);
	for (;;) {
		assert(!ptrace(PTRACE_SINGLESTEP, child, NULL, NULL));
		assert(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
		if (WSTOPSIG(status) == SIGSTOP)
			break;
		assert(WSTOPSIG(status) == SIGTRAP);
		instructions++;
		if (!memcmp(last->flows, shared->flows, sizeof last->flows) &&
		    same_row(last, shared, rows[0]) && same_row(last, shared, rows[1]))
			continue;
		memcpy(last->flows, shared->flows, sizeof last->flows);
		for (uint32_t i = 0; i < 2; i++)
			copy_row(last, shared, rows[i]);
		judge(shared, flow);
	}
	free(last);
	assert(same_set(shared, after, flow));
}

static void work(uint64_t seed, uint32_t count)
{
	assert(!ptrace(PTRACE_TRACEME, 0, NULL, NULL));
	while (count--) {
		struct step step = draw_step(&seed, shared);

		raise(SIGSTOP);
		add(shared, step);
		raise(SIGSTOP);
	}
	_exit(0);
}

static void wait_stop(pid_t child, int go_on)
{
	int status;

	if (go_on)
		assert(!ptrace(PTRACE_CONT, child, NULL, NULL));
	assert(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
	assert(WSTOPSIG(status) == SIGSTOP);
}

int main(int argc, char **argv)
{
	uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
	uint32_t count = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 100;
	pid_t child;

	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	before = calloc(1, sizeof *before);
	after = calloc(1, sizeof *after);
	seen = calloc(1, sizeof *seen);
	assert(shared != MAP_FAILED && before && after && seen);
	for (uint32_t i = 0; i < FLOWS; i++) {
		shared->flows[i].state = VK_ROW_LIVE;
		shared->flows[i].rx.next = (uint32_t)-40 * i; /* one of them wraps soon */
	}
	vk_sequences_open(&shared->pool, shared->rows);
	child = fork();
	assert(child >= 0);
	if (!child)
		work(seed, count);
	for (uint32_t i = 0; i < count; i++) {
		struct step step;

		wait_stop(child, i > 0);
		assert(!ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)PTRACE_O_EXITKILL));
		step = draw_step(&seed, shared);
		memcpy(before, shared, sizeof *before);
		memcpy(after, shared, sizeof *after);
		memcpy(seen, shared, sizeof *seen);
		add(after, step);
		rows[0] = before->flows[step.flow].rx.runs;
		rows[1] = after->flows[step.flow].rx.runs;
		watch(child, step.flow);
	}
	ptrace(PTRACE_CONT, child, NULL, NULL);
	waitpid(child, NULL, 0);
	printf("%llu %llu\n", (unsigned long long)instructions, (unsigned long long)states);
	return 0;
}
