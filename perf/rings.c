/* SPDX-License-Identifier: MIT */
/* rings.c: two processes on two cores and a channel between them, messages of 64 bytes, contents
 * checked. Prints one line: rate_per_second rtt_p50_ns slot_rtt_p50_ns line_rtt_p50_ns corrupt.
 *
 *   rings MESSAGES PINGS
 *
 * slot is the baseline: one slot each way, the same message beside a number that says it is there.
 * line is the floor of the machine: a number each way, and no message.
 */
#define _GNU_SOURCE
#include "vk_channel.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 64, BATCH = 32, CAPACITY = 1 << 18 };

struct slot {
	_Alignas(64) uint64_t number;
	_Alignas(64) uint64_t message[SIZE / 8];
};

struct shared {
	_Alignas(64) volatile uint64_t request;
	_Alignas(64) volatile uint64_t reply;
	_Alignas(64) uint64_t corrupt;
	struct slot slots[2]; /* there, back */
};

struct end {
	struct vk_tx tx;
	struct vk_rx rx;
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void pin(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	sched_setaffinity(0, sizeof cpus, &cpus);
}

static void produce(struct vk_tx *tx, uint64_t from, uint64_t count)
{
	for (uint64_t i = 0; i < count;) {
		uint64_t end = i + BATCH < count ? i + BATCH : count;

		for (; i < end; i++) {
			uint64_t *body = (void *)vk_tx_reserve(tx, SIZE);

			if (!body)
				break;
			for (int k = 0; k < SIZE / 8; k++)
				body[k] = from + i;
			vk_tx_commit(tx, SIZE, VK_RECORD_RAW);
		}
		vk_tx_publish(tx);
	}
}

static uint64_t consume(struct vk_rx *rx, uint64_t from, uint64_t count)
{
	uint64_t corrupt = 0, since = 0;

	for (uint64_t i = 0; i < count;) {
		struct vk_record record;
		const uint8_t *body;

		if (vk_rx_peek(rx, &record, &body) != 1) {
			if (since)
				vk_rx_release(rx);
			since = 0;
			__builtin_ia32_pause();
			continue;
		}
		corrupt += ((const uint64_t *)(const void *)body)[0] != from + i ||
			   ((const uint64_t *)(const void *)body)[SIZE / 8 - 1] != from + i;
		vk_rx_advance(rx, &record);
		i++;
		if (++since == 4 * BATCH) {
			vk_rx_release(rx);
			since = 0;
		}
	}
	vk_rx_release(rx);
	return corrupt;
}

static int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t median(uint64_t *times, uint64_t count)
{
	qsort(times, count, sizeof *times, ascending);
	return times[count / 2];
}

static void slot_put(struct slot *slot, uint64_t number)
{
	for (int k = 0; k < SIZE / 8; k++)
		slot->message[k] = number;
	VK_STORE_RELEASE(&slot->number, number);
}

static uint64_t slot_take(const struct slot *slot, uint64_t number)
{
	while (VK_LOAD_ACQUIRE(&slot->number) != number)
		__builtin_ia32_pause();
	return slot->message[0] != number || slot->message[SIZE / 8 - 1] != number;
}

/* Round trips of the baselines: median times of slot and line, in ns. */
static void baselines(struct shared *shared, uint64_t pings, uint64_t *times, uint64_t found[2])
{
	for (uint64_t i = 1; i <= pings; i++) {
		uint64_t begin = now_ns();

		slot_put(&shared->slots[0], i);
		shared->corrupt += slot_take(&shared->slots[1], i);
		times[i - 1] = now_ns() - begin;
	}
	found[0] = median(times, pings);
	for (uint64_t i = 1; i <= pings; i++) {
		uint64_t begin = now_ns();

		shared->request = i;
		while (shared->reply != i)
			__builtin_ia32_pause();
		times[i - 1] = now_ns() - begin;
	}
	found[1] = median(times, pings);
}

static void far_side(struct end *end, struct shared *shared, uint64_t messages, uint64_t pings)
{
	pin(1);
	shared->corrupt = consume(&end->rx, 1, messages);
	produce(&end->tx, 7, 1);
	for (uint64_t i = 0; i < pings; i++) {
		shared->corrupt += consume(&end->rx, i, 1);
		produce(&end->tx, i, 1);
	}
	for (uint64_t i = 1; i <= pings; i++) {
		shared->corrupt += slot_take(&shared->slots[0], i);
		slot_put(&shared->slots[1], i);
	}
	for (uint64_t i = 1; i <= pings; i++) {
		while (shared->request != i)
			__builtin_ia32_pause();
		shared->reply = i;
	}
}

int main(int count, char **arguments)
{
	uint32_t capacity[VK_RINGS_MAX] = { CAPACITY };
	struct vk_region *region[2];
	uint64_t messages, pings, *times, begin, rate, ring, base[2];
	struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct end near, far;
	pid_t child;

	if (count != 3)
		return 64;
	messages = strtoull(arguments[1], NULL, 10);
	pings = strtoull(arguments[2], NULL, 10);
	times = calloc(pings, sizeof *times);
	for (int i = 0; i < 2; i++)
		region[i] = vk_channel_map(vk_channel_create(capacity, 1, 0), capacity, 1, NULL);
	if (vk_tx_open(&near.tx, region[0], region[1], capacity, 0) ||
	    vk_rx_open(&near.rx, region[0], region[1], capacity, 0) ||
	    vk_tx_open(&far.tx, region[1], region[0], capacity, 0) ||
	    vk_rx_open(&far.rx, region[1], region[0], capacity, 0))
		return 1;
	child = fork();
	if (!child) {
		far_side(&far, shared, messages, pings);
		_exit(0);
	}
	pin(0);
	begin = now_ns();
	produce(&near.tx, 1, messages);
	shared->corrupt += consume(&near.rx, 7, 1);
	rate = messages * 1000000000 / (now_ns() - begin);
	for (uint64_t i = 0; i < pings; i++) {
		begin = now_ns();
		produce(&near.tx, i, 1);
		consume(&near.rx, i, 1);
		times[i] = now_ns() - begin;
	}
	ring = median(times, pings);
	baselines(shared, pings, times, base);
	waitpid(child, NULL, 0);
	printf("%lu %lu %lu %lu %lu\n", rate, ring, base[0], base[1], shared->corrupt);
	return shared->corrupt != 0;
}
