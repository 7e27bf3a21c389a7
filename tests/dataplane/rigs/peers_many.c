/* SPDX-License-Identifier: MIT */
/* Many peers in one worker: peers_many COUNT ROUNDS prints what finding one at random costs, alone
 * and in batches as a worker receives them (ns), what taking a row in costs, of all at once and of
 * one change (ns), and the memory of a peer (bytes); the last figure is what went wrong. */
#include "vk_peers.h"
#include "vk_row.h"
#include "vk_seat.h"
#include "vk_session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum {
	BATCH = 16, /* frames of the lower classes that a worker takes at once */
	BATCHES = 64,
	CHANGES = 1000,
	FRAME_SIZE = VK_HEADER_SIZE + sizeof(struct vk_ext_session),
};

static uint64_t random_state = 1;

static void *map(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		abort();
	return at;
}

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &at);
	return (double)at.tv_sec * 1e9 + (double)at.tv_nsec;
}

static long resident(void)
{
	long pages = 0, all;
	FILE *file = fopen("/proc/self/statm", "r");

	if (!file || fscanf(file, "%ld %ld", &all, &pages) != 2)
		abort();
	fclose(file);
	return pages * 4096;
}

static void address_of(uint32_t peer, uint8_t address[16])
{
	memset(address, 0, 16);
	address[0] = 10;
	address[1] = (uint8_t)(peer >> 16);
	address[2] = (uint8_t)(peer >> 8);
	address[3] = (uint8_t)peer;
}

static uint32_t any(uint32_t count)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(random_state >> 33) % count;
}

static uint32_t session_of(const struct vk_state *state, uint32_t peer)
{
	return vk_seat_id(state->seat_keys, peer, 7 * peer + 1);
}

/* A frame as a peer's worker begins it, from its address. */
static void make_frame(const struct vk_state *state, uint32_t peer, uint8_t *data,
		       struct vk_rx_frame *frame)
{
	vk_put_session(data + VK_HEADER_SIZE, session_of(state, peer), 0, VK_SPACE_B, 1);
	frame->data = data;
	frame->size = FRAME_SIZE;
	frame->family = 4;
	address_of(peer, frame->source);
}

static void install(struct vk_state *state, uint32_t peer)
{
	struct vk_peer *row = &state->peers[peer];

	vk_row_begin(&row->sequence);
	row->state = VK_ROW_LIVE;
	row->family = 4;
	row->generation = 1;
	row->payload_max = 1472;
	row->joined = 1;
	row->session = row->session_local = session_of(state, peer);
	address_of(peer, row->address);
	vk_row_end(&row->sequence);
	vk_peer_news(state, peer);
}

static void settle(struct vk_run *run)
{
	while (vk_peers_refresh(run))
		continue;
}

static uint32_t is_at(const struct vk_run *run, uint32_t number, int peer)
{
	uint8_t address[16];

	address_of(number, address);
	return vk_peers_find(run, 4, address) == peer;
}

static double find_alone(struct vk_run *run, uint32_t count, uint32_t rounds, uint32_t *wrong)
{
	double begun, spent, least = 1e9;

	for (uint32_t i = 0; i < rounds; i += BATCHES * BATCH) {
		begun = now();
		for (uint32_t k = 0; k < BATCHES * BATCH; k++) {
			uint32_t peer = any(count);

			*wrong += !is_at(run, peer, (int)peer);
		}
		spent = (now() - begun) / (BATCHES * BATCH);
		least = spent < least ? spent : least;
	}
	return least;
}

/* Finding them in batches; rows: and reading what else receiving needs of each. */
static double find_batches(struct vk_run *run, uint32_t count, uint32_t rounds, int rows,
			   uint32_t *wrong)
{
	static struct vk_rx_frame frames[BATCHES][BATCH];
	static uint8_t data[BATCHES][BATCH][FRAME_SIZE];
	static uint32_t peers[BATCHES][BATCH];
	uint32_t found[BATCH];
	double begun, spent, least = 1e9;

	for (uint32_t i = 0; i < rounds; i += BATCHES * BATCH) {
		for (uint32_t k = 0; k < BATCHES * BATCH; k++) {
			peers[k / BATCH][k % BATCH] = any(count);
			make_frame(run->state, peers[k / BATCH][k % BATCH],
				   data[k / BATCH][k % BATCH], &frames[k / BATCH][k % BATCH]);
		}
		begun = now();
		for (uint32_t at = 0; at < BATCHES; at++) {
			vk_peers_find_batch(run, frames[at], BATCH, found);
			if (rows)
				vk_peers_prefetch(run, found, BATCH);
			for (uint32_t k = 0; k < BATCH; k++) {
				uint32_t peer = peers[at][k];

				*wrong += found[k] != peer;
				if (rows)
					*wrong += run->work->packets[peer].rx_session != 0 ||
						  (run->sessions[peer] && count > 2000);
			}
		}
		spent = (now() - begun) / (BATCHES * BATCH);
		least = spent < least ? spent : least;
	}
	return least;
}

/* Whatever id a frame has, it is from who is at its source. */
static uint32_t find_odd(const struct vk_run *run, uint32_t count)
{
	static uint8_t data[4][FRAME_SIZE];
	struct vk_rx_frame frames[4] = { 0 };
	uint32_t found[4];

	for (uint32_t i = 0; i < 4; i++)
		make_frame(run->state, 0, data[i], &frames[i]);
	address_of(1, frames[0].source); /* another peer's id */
	address_of(count, frames[1].source); /* a stranger's */
	vk_put_session(data[2] + VK_HEADER_SIZE, 0, 0, VK_SPACE_B, 1); /* no id */
	frames[3].size = VK_HEADER_SIZE; /* no room for one */
	vk_peers_find_batch(run, frames, 4, found);
	return (found[0] != 1) + (found[1] != VK_PEER_NOBODY) + (found[2] != 0) + (found[3] != 0);
}

static double change(struct vk_run *run, struct vk_state *state, uint32_t count, uint32_t *wrong)
{
	double begun = now();

	for (uint32_t i = 0; i < CHANGES; i++) {
		uint32_t peer = any(count);

		state->peers[peer].ack_delay_us = i;
		vk_peer_news(state, peer);
		vk_peers_refresh(run);
		*wrong += run->peers[peer].ack_delay_us != i;
	}
	return (now() - begun) / CHANGES;
}

/* One moves, one leaves, one begins another session. */
static uint32_t move_and_leave(struct vk_run *run, struct vk_state *state, uint32_t count)
{
	const uint32_t away = 1 << 22;
	uint32_t wrong;

	address_of(away, state->peers[0].address);
	state->peers[1].state = VK_ROW_FREE;
	state->peers[2].session_local = vk_seat_id(state->seat_keys, 2, 4000);
	for (uint32_t i = 0; i < 3; i++)
		vk_peer_news(state, i);
	settle(run);
	wrong = !is_at(run, away, 0) + !is_at(run, 0, -1) + !is_at(run, 1, -1) + !is_at(run, 2, 2);
	wrong += vk_peers_of_session(run, session_of(state, 0)) != 0;
	wrong += vk_peers_of_session(run, session_of(state, 1)) != -1;
	wrong += vk_peers_of_session(run, session_of(state, 2)) != -1;
	wrong += vk_peers_of_session(run, vk_seat_id(state->seat_keys, 2, 4000)) != 2;
	for (uint32_t i = 3; i < count; i++)
		wrong += !is_at(run, i, (int)i) +
			 (vk_peers_of_session(run, session_of(state, i)) != (int)i);
	return wrong + (run->peer_index.count != count - 1);
}

int main(int argc, char **argv)
{
	uint32_t count = (uint32_t)atoi(argv[1]), rounds = (uint32_t)atoi(argv[2]), wrong = 0;
	struct vk_run *run = map(sizeof *run);
	struct vk_boot *boot = map(sizeof *boot);
	struct vk_state *state = map(sizeof *state);
	double begun, alone_ns, batch_ns, rows_ns, take_ns, change_ns;
	long before;

	(void)argc;
	boot->port_count = 1;
	boot->ports[0].mtu = 1500;
	run->boot = boot;
	for (uint32_t i = 0; i < VK_SEAT_KEYS; i++)
		state->seat_keys[i] = 0x9e3779b9u * (i + 1);
	run->state = state;
	run->work = map(sizeof *run->work);
	run->counters = map(sizeof *run->counters);
	if (vk_peers_open(run))
		return 1;
	before = resident();
	for (uint32_t i = 0; i < count; i++)
		install(state, i);
	begun = now();
	settle(run);
	take_ns = (now() - begun) / count;
	before = resident() - before;
	alone_ns = find_alone(run, count, rounds, &wrong);
	batch_ns = find_batches(run, count, rounds, 0, &wrong);
	rows_ns = find_batches(run, count, rounds, 1, &wrong);
	wrong += !is_at(run, count, -1) + find_odd(run, count);
	change_ns = change(run, state, count, &wrong);
	wrong += move_and_leave(run, state, count);
	for (uint32_t i = 0; i < run->peer_count; i++)
		vk_session_forget(run, i);
	vk_peers_free(run);
	printf("%.1f %.1f %.1f %.1f %.1f %.0f %u\n", alone_ns, batch_ns, rows_ns, take_ns,
	       change_ns, (double)before / count, wrong);
	return wrong != 0;
}
