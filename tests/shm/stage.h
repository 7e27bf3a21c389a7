/* SPDX-License-Identifier: MIT */
#ifndef VK_TESTS_STAGE_H
#define VK_TESTS_STAGE_H
/* stage.h: a channel of one ring and what the C tests of rings need around it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "vk_bell.h"
#include "vk_channel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct stage {
	uint32_t capacity[VK_RINGS_MAX];
	struct vk_region *d; /* the producer's */
	struct vk_region *a; /* the consumer's */
	struct vk_tx tx;
	struct vk_rx rx;
};

static inline void must_at(int fine, const char *what, int line)
{
	if (fine)
		return;
	fprintf(stderr, "line %d: %s\n", line, what);
	abort();
}

#define must(fine) must_at(!!(fine), #fine, __LINE__)

static inline struct stage stage_open(uint32_t size)
{
	struct stage stage = { .capacity = { size } };
	struct vk_region **regions[] = { &stage.d, &stage.a };

	for (int i = 0; i < 2; i++) {
		int fd = vk_channel_create(stage.capacity, 1, 0);

		must(fd >= 0);
		*regions[i] = vk_channel_map(fd, stage.capacity, 1, NULL);
		must(*regions[i]);
		close(fd);
	}
	must(!vk_tx_open(&stage.tx, stage.d, stage.a, stage.capacity, 0));
	must(!vk_rx_open(&stage.rx, stage.a, stage.d, stage.capacity, 0));
	return stage;
}

static inline void stage_close(struct stage *stage)
{
	vk_channel_unmap(stage->d, stage->capacity, 0);
	vk_channel_unmap(stage->a, stage->capacity, 0);
}

/* A fast generator; never 0. */
static inline uint64_t draw(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

enum { STAGE_HEAD = 16 };

/* Sizes and bytes of message `sequence` follow from its number: whoever reads it can check it. */
static inline uint32_t stage_size(uint64_t sequence, uint32_t size_max)
{
	uint64_t state = sequence * 0x9e3779b97f4a7c15 + 1;

	return STAGE_HEAD + (uint32_t)(draw(&state) % (size_max - STAGE_HEAD + 1));
}

static inline void stage_fill(uint8_t *body, uint32_t size, uint64_t sequence, uint64_t position)
{
	memcpy(body, &sequence, 8);
	memcpy(body + 8, &position, 8);
	memset(body + STAGE_HEAD, (int)(sequence * 31 % 251), size - STAGE_HEAD);
}

static inline int stage_whole(const uint8_t *body, uint32_t size, uint64_t sequence,
			      uint64_t position, uint32_t size_max)
{
	uint64_t head[2];

	if (size != stage_size(sequence, size_max))
		return 0;
	memcpy(head, body, sizeof head);
	for (uint32_t i = STAGE_HEAD; i < size; i++) {
		if (body[i] != sequence * 31 % 251)
			return 0;
	}
	return head[0] == sequence && head[1] == position;
}
#endif
