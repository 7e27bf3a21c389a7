/* SPDX-License-Identifier: MIT */
/* Both ends of a ring whose other party is the fuzzer: it writes indices, record headers and bytes
 * wherever a peer could, between any two calls. Nothing outside the ring is ever read or written.
 */
#include "stage.h"

enum { SIZE = VK_RING_CAPACITY_MIN };

static struct stage stage;

static uint64_t number(const uint8_t **at, const uint8_t *end)
{
	uint64_t value = 0;
	size_t size = (size_t)(end - *at) < 8 ? (size_t)(end - *at) : 8;

	memcpy(&value, *at, size);
	*at += size;
	return value;
}

/* A peer's index: often one that is nearly right. */
static uint64_t index_from(uint64_t value, uint64_t near)
{
	return value & 1 ? value >> 1 : near + (value >> 1) % (2 * SIZE + 64) * (value & 2 ? 8 : 1);
}

static void read_all(void)
{
	uint32_t sum = 0;

	for (int i = 0; i < 1000; i++) {
		struct vk_record record;
		const uint8_t *body;
		uint64_t head = stage.rx.head;
		int found = vk_rx_peek(&stage.rx, &record, &body);

		must(found == 1 || found == 0 || found == -EPROTO);
		if (found != 1)
			break;
		must(body >= stage.rx.data + sizeof record);
		must(body + record.size <= stage.rx.data + 2 * SIZE);
		for (uint32_t byte = 0; byte < record.size; byte++)
			sum += body[byte];
		vk_rx_advance(&stage.rx, &record);
		must(stage.rx.head - head <= SIZE && stage.rx.head % VK_RECORD_ALIGN == 0);
		must(stage.rx.tail - stage.rx.head <= SIZE);
	}
	vk_rx_release(&stage.rx);
	__asm__ volatile("" : : "r"(sum));
}

static void write_some(uint32_t size)
{
	uint8_t *body = vk_tx_reserve(&stage.tx, size);

	if (!body)
		return;
	must(size <= SIZE && body >= stage.tx.data);
	must(body + size <= stage.tx.data + 2 * SIZE);
	memset(body, 1, size);
	vk_tx_commit(&stage.tx, size, VK_RECORD_RAW);
	vk_tx_publish(&stage.tx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *at = data, *end = data + size;
	struct vk_tx tx;
	struct vk_rx rx;

	if (!stage.d)
		stage = stage_open(SIZE);
	stage.d->tail[0] = stage.a->head[0] = index_from(number(&at, end), 0) & ~7ull;
	must(!vk_tx_open(&stage.tx, stage.d, stage.a, stage.capacity, 0));
	must(!vk_rx_open(&stage.rx, stage.a, stage.d, stage.capacity, 0));
	while (at < end) {
		uint8_t what = *at++;
		uint64_t value = number(&at, end);
		size_t bytes = (size_t)(end - at) < what >> 3 ? (size_t)(end - at) : what >> 3;

		switch (what & 7) {
		case 0: /* as producer */
			stage.d->tail[0] = index_from(value, stage.rx.head);
			break;
		case 1: /* as consumer */
			stage.a->head[0] = index_from(value, stage.tx.head);
			break;
		case 2: /* a record header where the reader looks next, or anywhere */
			memcpy(stage.tx.data +
				       (value & 1 ? value >> 1 : stage.rx.head) % SIZE / 8 * 8,
			       &value, 4);
			break;
		case 3:
			memcpy(stage.tx.data + value % SIZE, at, bytes);
			at += bytes;
			break;
		case 4:
			write_some((uint32_t)(value & 1 ? value >> 1 : value % SIZE));
			break;
		case 5: /* ends opened over whatever stands there */
			(void)!vk_tx_open(&tx, stage.d, stage.a, stage.capacity, 0);
			(void)!vk_rx_open(&rx, stage.a, stage.d, stage.capacity, 0);
			break;
		default:
			read_all();
		}
	}
	read_all();
	return 0;
}
