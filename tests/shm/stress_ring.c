/* SPDX-License-Identifier: MIT */
/* Two threads, one ring, a bell each: every message whole, in order, and nobody sleeps for ever.
 * Runs under TSan and under ASan with UBSan.   stress_ring MESSAGES
 */
#include "stage.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

enum { SIZE_MAX_BYTES = 700, WAIT_MS = 20000 };

static struct stage stage;
static int bell[2]; /* rung for the producer, a socket: its end, the consumer's end */
static int event; /* rung for the consumer */
static uint64_t messages, naps[2];

/* Sleeps until a look at the ring says that it is worth going on. */
static void nap(int who, struct vk_region *self, uint32_t *sleeps, uint32_t size)
{
	struct pollfd wake = { .fd = who ? event : bell[0], .events = POLLIN };
	int ready, n = 0;

	vk_sleep_begin(self, sleeps);
	ready = who ? VK_LOAD_ACQUIRE(&stage.d->tail[0]) != stage.rx.head :
		      vk_tx_room(&stage.tx) >= (int64_t)vk_record_span(size);
	if (!ready) {
		n = poll(&wake, 1, WAIT_MS);
		naps[who]++;
		must(n > 0); /* a lost wake-up */
	}
	vk_sleep_end(self);
	if (n > 0 && who)
		vk_event_empty(event);
	else if (n > 0)
		must(vk_bell_empty(bell[0]) == 1);
}

static void *produce(void *unused)
{
	uint64_t seed = 42, burst = 1;
	uint32_t sleeps = 0, rang = 0;

	(void)unused;
	for (uint64_t i = 0; i < messages; i++) {
		uint32_t size = stage_size(i, SIZE_MAX_BYTES);
		uint8_t *body = vk_tx_reserve(&stage.tx, size);

		while (!body) {
			vk_tx_publish(&stage.tx);
			vk_event_ring(stage.a, event, &rang);
			nap(0, stage.d, &sleeps, size);
			body = vk_tx_reserve(&stage.tx, size);
		}
		stage_fill(body, size, i, stage.tx.tail);
		vk_tx_commit(&stage.tx, size, VK_RECORD_RAW);
		if (--burst == 0 || i + 1 == messages) {
			vk_tx_publish(&stage.tx);
			vk_event_ring(stage.a, event, &rang);
			burst = 1 + draw(&seed) % 20;
		}
	}
	return NULL;
}

static void consume(void)
{
	uint32_t sleeps = 0, rang = 0;

	for (uint64_t i = 0; i < messages;) {
		struct vk_record record;
		const uint8_t *body;
		uint64_t before = i;

		while (i < messages && vk_rx_peek(&stage.rx, &record, &body) == 1) {
			must(stage_whole(body, record.size, i, stage.rx.head, SIZE_MAX_BYTES));
			vk_rx_advance(&stage.rx, &record);
			i++;
		}
		vk_rx_release(&stage.rx);
		vk_bell_ring(stage.d, bell[1], &rang);
		if (i == before)
			nap(1, stage.a, &sleeps, 0);
	}
}

int main(int argc, char **argv)
{
	pthread_t producer;

	messages = argc > 1 ? strtoull(argv[1], NULL, 10) : 100000;
	stage = stage_open(8192);
	must(!socketpair(AF_UNIX, SOCK_STREAM, 0, bell));
	event = eventfd(0, 0); /* whether it would block must not matter */
	must(event >= 0);
	must(!pthread_create(&producer, NULL, produce, NULL));
	consume();
	must(!pthread_join(producer, NULL));
	printf("%llu %llu\n", (unsigned long long)naps[0], (unsigned long long)naps[1]);
	stage_close(&stage);
	return 0;
}
