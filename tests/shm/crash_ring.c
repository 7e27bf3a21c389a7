/* SPDX-License-Identifier: MIT */
/* Kills one end of a ring with SIGKILL at random moments, again and again; the other end survives.
 *
 *   crash_ring producer KILLS SEED   what the survivor receives is whole, in order, each once, and
 *                                    all that was published
 *   crash_ring consumer KILLS SEED   each new consumer goes on exactly where the last release was
 *
 * Prints: kills, messages.
 */
#include "stage.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { SIZE = 16384, BODY_MAX = 600, PATIENCE_NS = 20000000 };

static struct stage stage;
static uint64_t seed;

/* What a child tells after it is dead. */
static struct witness {
	uint64_t published; /* messages the producer had published when it last looked back */
	uint64_t consumed; /* messages released, likewise */
	uint64_t wrong;
} *witness;

static void produce_for_ever(uint64_t next)
{
	must(!vk_tx_open(&stage.tx, stage.d, stage.a, stage.capacity, 0));
	for (uint64_t burst = 1;; next++) {
		uint32_t size = stage_size(next, BODY_MAX);
		uint8_t *body = vk_tx_reserve(&stage.tx, size);

		for (; !body; body = vk_tx_reserve(&stage.tx, size)) {
			vk_tx_publish(&stage.tx);
			VK_STORE_RELEASE(&witness->published, next);
		}
		stage_fill(body, size, next, stage.tx.tail);
		vk_tx_commit(&stage.tx, size, VK_RECORD_RAW);
		if (--burst == 0) {
			vk_tx_publish(&stage.tx);
			VK_STORE_RELEASE(&witness->published, next + 1);
			burst = 1 + draw(&seed) % 7;
		}
	}
}

/* Takes what is there; returns the number of the message expected next. */
static uint64_t drain(uint64_t next)
{
	struct vk_record record;
	const uint8_t *body;
	int found;

	while ((found = vk_rx_peek(&stage.rx, &record, &body)) == 1) {
		must(stage_whole(body, record.size, next, stage.rx.head, BODY_MAX));
		vk_rx_advance(&stage.rx, &record);
		next++;
		if (next % 5 == 0)
			vk_rx_release(&stage.rx);
	}
	must(found == 0);
	vk_rx_release(&stage.rx);
	return next;
}

static void consume_for_ever(uint64_t next)
{
	uint64_t expected_after = 0;

	must(!vk_rx_open(&stage.rx, stage.a, stage.d, stage.capacity, 0));
	for (;;) {
		struct vk_record record;
		const uint8_t *body;
		int found = vk_rx_peek(&stage.rx, &record, &body);

		if (found < 0)
			witness->wrong++;
		if (found != 1)
			continue;
		if (!next && record.size >= 8) /* the first one says where we are */
			memcpy(&next, body, 8);
		if (!stage_whole(body, record.size, next, stage.rx.head, BODY_MAX))
			witness->wrong++;
		vk_rx_advance(&stage.rx, &record);
		next++;
		if (++expected_after % 3 == 0) {
			vk_rx_release(&stage.rx);
			VK_STORE_RELEASE(&witness->consumed, next);
		}
	}
}

static pid_t child_of(void (*work)(uint64_t), uint64_t next)
{
	pid_t child = fork();

	must(child >= 0);
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		work(next);
	}
	return child;
}

static void bury(pid_t child)
{
	int status;

	kill(child, SIGKILL);
	must(waitpid(child, &status, 0) == child);
	must(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); /* not of a failed check */
}

/* Kills producers; this process receives. */
static uint64_t kill_producers(uint64_t kills)
{
	uint64_t next = 0;

	for (uint64_t i = 0; i < kills; i++) {
		pid_t child = child_of(produce_for_ever, next);
		int64_t end = vk_spin_clock() + (int64_t)(draw(&seed) % 300000);
		int64_t patience = vk_spin_clock() + PATIENCE_NS;
		uint64_t before = next;

		do
			next = drain(next);
		while (vk_spin_clock() < end || (next == before && vk_spin_clock() < patience));
		bury(child);
		next = drain(next);
		must(next >= VK_LOAD_ACQUIRE(&witness->published));
		must(stage.rx.head == stage.d->tail[0]);
	}
	return next;
}

/* Kills consumers; this process sends. */
static uint64_t kill_consumers(uint64_t kills)
{
	uint64_t next = 1, positions[SIZE / 24 + 1] = { 0 };
	const uint64_t window = sizeof positions / sizeof *positions;

	for (uint64_t i = 0; i < kills; i++) {
		pid_t child = child_of(consume_for_ever, 0);
		int64_t end = vk_spin_clock() + (int64_t)(draw(&seed) % 300000);
		int64_t patience = vk_spin_clock() + PATIENCE_NS;
		uint64_t before = witness->consumed, first;

		while (vk_spin_clock() < end || (VK_LOAD_ACQUIRE(&witness->consumed) == before &&
						 vk_spin_clock() < patience)) {
			uint32_t size = stage_size(next, BODY_MAX);
			uint8_t *body = vk_tx_reserve(&stage.tx, size);

			must(vk_tx_room(&stage.tx) >= 0);
			if (!body)
				continue;
			positions[next % window] = stage.tx.tail;
			stage_fill(body, size, next++, stage.tx.tail);
			vk_tx_commit(&stage.tx, size, VK_RECORD_RAW);
			vk_tx_publish(&stage.tx);
		}
		bury(child);
		must(witness->wrong == 0);
		/* The release and the note of it are two stores: one release may be unnoted. */
		for (first = witness->consumed; first < next; first++) {
			if (first && positions[first % window] == stage.a->head[0])
				break;
		}
		must(first - witness->consumed <= 3 || stage.a->head[0] == stage.tx.tail);
	}
	return next - 1;
}

int main(int argc, char **argv)
{
	uint64_t kills, messages;

	must(argc == 4);
	kills = strtoull(argv[2], NULL, 10);
	seed = strtoull(argv[3], NULL, 10) | 1;
	witness = mmap(NULL, sizeof *witness, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);
	must(witness != MAP_FAILED);
	stage = stage_open(SIZE);
	messages = strcmp(argv[1], "producer") ? kill_consumers(kills) : kill_producers(kills);
	printf("%llu %llu\n", (unsigned long long)kills, (unsigned long long)messages);
	stage_close(&stage);
	return 0;
}
