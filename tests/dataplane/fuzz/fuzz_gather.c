/* SPDX-License-Identifier: MIT */
/* libFuzzer: records of one stream in any order, with marks that fit or not. What comes out is made
 * of neighbours that came, each once, in their order, and of their bytes. */
#include "vk_gather.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { RECORDS = 256, PAYLOAD_MAX = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
	if (!condition)
		abort();
}

static uint8_t byte_of(uint32_t number, uint32_t at)
{
	return (uint8_t)(number * 31 + at * 7 + 1);
}

/* A record's size and mark are the first ones that the input gave to its number. */
struct record {
	uint8_t came;
	uint8_t out;
	uint8_t size;
	uint8_t mark;
};

static void look(const struct vk_whole *whole, struct record *records, uint32_t first, int ordered)
{
	uint32_t number = whole->head.sequence - first, at = 0, end = number + whole->records;

	require(whole->records && end <= RECORDS);
	if (ordered && number)
		require(records[number - 1].out);
	for (; number < end; number++) {
		struct record *record = &records[number];

		require(record->came && !record->out);
		require(!!(record->mark & VK_FRAGMENT_MORE) == (number + 1 < end));
		for (uint32_t i = 0; i < record->size; i++)
			require(whole->payload[at + i] == byte_of(number, i));
		at += record->size;
		record->out = 1;
	}
	require(at == whole->size);
}

static int give(struct vk_gather *gather, struct record *records, uint32_t first, uint32_t number,
		int ordered)
{
	struct vk_message head = { .sequence = first + number, .code = records[number].mark };
	uint8_t *payload = malloc(records[number].size + 1u);
	struct vk_whole whole;
	int result;

	for (uint32_t i = 0; i < records[number].size; i++)
		payload[i] = byte_of(number, i);
	records[number].came = 1;
	result = vk_gather_take(gather, &head, payload, records[number].size, &whole);
	while (result > 0) {
		look(&whole, records, first, ordered);
		result = vk_gather_next(gather, &whole);
	}
	if (!result)
		result = vk_gather_next(gather, &whole);
	while (result > 0) {
		look(&whole, records, first, ordered);
		result = vk_gather_next(gather, &whole);
	}
	free(payload);
	return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct record records[RECORDS] = { { 0 } };
	struct vk_gather *gather;
	int ordered, result = 0;
	uint32_t first;

	if (size < 2)
		return 0;
	ordered = data[0] & 1;
	first = data[0] & 2 ? UINT32_MAX - 100 : data[0] & 4 ? 0x7fffff00 : 0;
	gather = vk_gather_new(first, ordered);
	for (size_t i = 1; i + 1 < size && !result; i += 2) {
		struct record *record = &records[data[i]];

		if (!record->came) {
			record->mark = data[i + 1] & VK_FRAGMENT_MASK;
			record->size = (data[i + 1] >> 2) % PAYLOAD_MAX;
		}
		result = give(gather, records, first, data[i], ordered);
		require(!result || result == -EPROTO);
		require(vk_gather_held(gather) <= VK_GATHER_HELD_MAX);
	}
	vk_gather_free(gather);
	return 0;
}
