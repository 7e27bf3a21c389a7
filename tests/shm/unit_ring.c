/* SPDX-License-Identifier: MIT */
/* Cases of the ring, one a function; runs under ASan and UBSan. */
#include "stage.h"

enum { SIZE = VK_RING_CAPACITY_MIN, HEADER = sizeof(struct vk_record) };

static uint8_t *put(struct stage *stage, uint32_t size)
{
	uint8_t *body = vk_tx_reserve(&stage->tx, size);

	if (body) {
		memset(body, 7, size);
		vk_tx_commit(&stage->tx, size, VK_RECORD_RAW);
	}
	return body;
}

static int get(struct stage *stage, uint32_t size)
{
	struct vk_record record;
	const uint8_t *body;
	int found = vk_rx_peek(&stage->rx, &record, &body);

	if (found == 1) {
		must(record.size == size);
		for (uint32_t i = 0; i < size; i++)
			must(body[i] == 7);
		vk_rx_advance(&stage->rx, &record);
	}
	return found;
}

static void what_is_not_published_is_not_seen(void)
{
	struct stage stage = stage_open(SIZE);

	must(get(&stage, 0) == 0);
	must(put(&stage, 10));
	must(get(&stage, 10) == 0);
	vk_tx_publish(&stage.tx);
	must(get(&stage, 10) == 1);
	must(get(&stage, 10) == 0);
	stage_close(&stage);
}

static void what_is_not_released_is_not_written_over(void)
{
	struct stage stage = stage_open(SIZE);
	uint32_t size = SIZE - HEADER;

	must(put(&stage, size));
	vk_tx_publish(&stage.tx);
	must(get(&stage, size) == 1);
	must(!put(&stage, 0) && vk_tx_room(&stage.tx) == 0);
	vk_rx_release(&stage.rx);
	must(vk_tx_room(&stage.tx) == SIZE);
	must(!put(&stage, size + 1) && !put(&stage, UINT32_MAX));
	must(put(&stage, size));
	stage_close(&stage);
}

static void every_record_is_contiguous_at_every_offset(void)
{
	struct stage stage = stage_open(SIZE);

	for (uint32_t round = 0; round < 3 * SIZE; round++) {
		uint32_t size = round * 8 % (SIZE - HEADER) + round % 9 % 8;

		must(put(&stage, size));
		vk_tx_publish(&stage.tx);
		must(get(&stage, size) == 1);
		vk_rx_release(&stage.rx);
	}
	stage_close(&stage);
}

static void less_than_was_reserved_may_be_committed(void)
{
	struct stage stage = stage_open(SIZE);
	uint8_t *body = vk_tx_reserve(&stage.tx, 1000);

	memset(body, 7, 1000);
	vk_tx_commit(&stage.tx, 3, VK_RECORD_RAW);
	vk_tx_publish(&stage.tx);
	must(stage.d->tail[0] == vk_record_span(3));
	must(get(&stage, 3) == 1);
	stage_close(&stage);
}

static void impossible_tails_are_refused(void)
{
	const uint64_t wrong[] = { SIZE + 8, 4, 1, UINT64_MAX, UINT64_MAX - 7, 1ull << 63 };

	for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		struct stage stage = stage_open(SIZE);

		stage.d->tail[0] = wrong[i];
		must(get(&stage, 0) == -EPROTO);
		stage_close(&stage);
	}
}

static void records_that_exceed_what_was_published_are_refused(void)
{
	const uint32_t wrong[] = { 9, 17, SIZE, UINT32_MAX, UINT32_MAX - 7 };

	for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		struct stage stage = stage_open(SIZE);

		must(put(&stage, 8));
		memcpy(vk_channel_data(stage.d, stage.capacity, 0), &wrong[i], 4);
		vk_tx_publish(&stage.tx);
		must(get(&stage, 8) == -EPROTO);
		stage_close(&stage);
	}
}

static void impossible_heads_are_refused(void)
{
	const uint64_t wrong[] = { SIZE + 8, 4, UINT64_MAX - 7, 1ull << 63 };

	for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		struct stage stage = stage_open(SIZE);

		must(put(&stage, SIZE - HEADER));
		vk_tx_publish(&stage.tx);
		stage.a->head[0] = wrong[i];
		must(vk_tx_room(&stage.tx) == -EPROTO && !put(&stage, 8));
		stage_close(&stage);
	}
	struct stage stage = stage_open(SIZE);

	must(put(&stage, 8));
	vk_tx_publish(&stage.tx);
	must(get(&stage, 8) == 1);
	vk_rx_release(&stage.rx);
	must(vk_tx_room(&stage.tx) == SIZE);
	stage.a->head[0] = 0; /* backwards */
	must(vk_tx_room(&stage.tx) == -EPROTO);
	stage_close(&stage);
}

static void ends_resume_where_the_indices_stand(void)
{
	struct stage stage = stage_open(SIZE);
	struct vk_region *d = stage.d, *a = stage.a;

	must(put(&stage, 40) && put(&stage, 40));
	vk_tx_publish(&stage.tx);
	must(put(&stage, 40)); /* not published: lost with its producer */
	must(get(&stage, 40) == 1);
	vk_rx_release(&stage.rx);
	must(get(&stage, 40) == 1); /* not released: seen again by the next consumer */
	must(!vk_tx_open(&stage.tx, d, a, stage.capacity, 0));
	must(!vk_rx_open(&stage.rx, a, d, stage.capacity, 0));
	must(get(&stage, 40) == 1 && get(&stage, 40) == 0);
	must(vk_tx_open(&stage.tx, d, a, stage.capacity, 1) == -EPROTO);
	must(vk_rx_open(&stage.rx, a, d, stage.capacity, VK_RINGS_MAX) == -EPROTO);
	a->head[0] = 4;
	must(vk_tx_open(&stage.tx, d, a, stage.capacity, 0) == -EPROTO);
	must(vk_rx_open(&stage.rx, a, d, stage.capacity, 0) == -EPROTO);
	stage_close(&stage);
}

static void counts_pass_the_end_of_64_bits(void)
{
	struct stage stage = stage_open(SIZE);

	stage.d->tail[0] = stage.a->head[0] = UINT64_MAX - 4095;
	must(!vk_tx_open(&stage.tx, stage.d, stage.a, stage.capacity, 0));
	must(!vk_rx_open(&stage.rx, stage.a, stage.d, stage.capacity, 0));
	for (int i = 0; i < 1000; i++) {
		must(put(&stage, 100));
		vk_tx_publish(&stage.tx);
		must(get(&stage, 100) == 1);
		vk_rx_release(&stage.rx);
	}
	must(stage.d->tail[0] < UINT64_MAX / 2);
	stage_close(&stage);
}

int main(void)
{
	what_is_not_published_is_not_seen();
	what_is_not_released_is_not_written_over();
	every_record_is_contiguous_at_every_offset();
	less_than_was_reserved_may_be_committed();
	impossible_tails_are_refused();
	records_that_exceed_what_was_published_are_refused();
	impossible_heads_are_refused();
	ends_resume_where_the_indices_stand();
	counts_pass_the_end_of_64_bits();
	return 0;
}
