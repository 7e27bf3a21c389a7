/* SPDX-License-Identifier: MIT */
/* Many peers in one worker: peers_many COUNT ROUNDS prints what finding one costs (ns), what taking
 * one change of a row costs (ns), and the memory of a peer in the worker's rows (bytes). */
#include "vk_peers.h"
#include "vk_row.h"
#include "vk_session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

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

static void install(struct vk_state *state, uint32_t peer)
{
	struct vk_peer *row = &state->peers[peer];

	vk_row_begin(&row->sequence);
	row->state = VK_ROW_LIVE;
	row->family = 4;
	row->generation = 1;
	row->payload_max = 1472;
	row->joined = 1;
	row->session = row->session_local = peer + 1;
	address_of(peer, row->address);
	vk_row_end(&row->sequence);
	vk_peer_news(state, peer);
}

int main(int argc, char **argv)
{
	uint32_t count = (uint32_t)atoi(argv[1]), rounds = (uint32_t)atoi(argv[2]), wrong = 0;
	struct vk_run *run = map(sizeof *run);
	struct vk_boot *boot = map(sizeof *boot);
	struct vk_state *state = map(sizeof *state);
	uint8_t address[16];
	uint64_t random = 1;
	double begun, find_ns, change_ns;
	long before;

	(void)argc;
	boot->port_count = 1;
	boot->ports[0].mtu = 1500;
	run->boot = boot;
	run->state = state;
	run->work = map(sizeof *run->work);
	run->counters = map(sizeof *run->counters);
	if (vk_peers_open(run))
		return 1;
	before = resident();
	for (uint32_t i = 0; i < count; i++)
		install(state, i);
	vk_peers_refresh(run, 0);
	before = resident() - before;
	begun = now();
	for (uint32_t i = 0; i < rounds; i++) {
		uint32_t peer;

		random = random * 6364136223846793005u + 1442695040888963407u;
		peer = (uint32_t)(random >> 33) % count;
		address_of(peer, address);
		wrong += vk_peers_find(run, 4, address) != (int)peer;
	}
	find_ns = (now() - begun) / rounds;
	address_of(count, address);
	wrong += vk_peers_find(run, 4, address) != -1;
	begun = now();
	for (uint32_t i = 0; i < 1000; i++) {
		state->peers[i % count].ack_delay_us = i;
		vk_peer_news(state, i % count);
		vk_peers_refresh(run, 0);
		wrong += run->peers[i % count].ack_delay_us != i;
	}
	change_ns = (now() - begun) / 1000;
	/* One moves, one leaves. */
	address_of(200000, state->peers[0].address);
	state->peers[1].state = VK_ROW_FREE;
	vk_peer_news(state, 0);
	vk_peer_news(state, 1);
	vk_peers_refresh(run, 0);
	address_of(200000, address);
	wrong += vk_peers_find(run, 4, address) != 0;
	address_of(0, address);
	wrong += vk_peers_find(run, 4, address) != -1;
	address_of(1, address);
	wrong += vk_peers_find(run, 4, address) != -1;
	address_of(2, address);
	wrong += vk_peers_find(run, 4, address) != 2;
	for (uint32_t i = 0; i < run->peer_count; i++)
		vk_session_forget(run, i);
	vk_peers_free(run);
	printf("%.1f %.1f %.0f %u\n", find_ns, change_ns, (double)before / count, wrong);
	return wrong != 0;
}
