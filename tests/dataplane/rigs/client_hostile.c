/* SPDX-License-Identifier: MIT */
/* A worker gone mad: scribbles over region D and the application's own indices while vk_client
 * reads. Whatever comes out must lie inside the ring. Built with ASan and UBSan. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "vk_inlet.h"

enum { RING = VK_CLASS_JOB, CAPACITY = 8192, ENTRIES = 64, PAYLOAD_MAX = 4096 };

struct stage {
	struct vk_client client;
	struct vk_region *d; /* the worker's writable mapping */
	uint8_t *data;
	uint64_t random;
	struct vk_inlet inlet;
	uint64_t received, refused, sent, reported;
};

static uint64_t draw(struct stage *stage)
{
	stage->random ^= stage->random << 13;
	stage->random ^= stage->random >> 7;
	stage->random ^= stage->random << 17;
	return stage->random;
}

static void must(int ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "broken: %s\n", what);
	abort();
}

static void open_stage(struct stage *stage)
{
	uint32_t capacity[VK_RINGS_MAX] = { [VK_CLASS_CONTROL] = CAPACITY, [RING] = CAPACITY };
	int d = vk_channel_create(capacity, VK_CLASS_COUNT, 7);
	int a = vk_channel_create(capacity, VK_CLASS_COUNT, 7);
	int event = eventfd(0, EFD_NONBLOCK), bell[2];

	must(event >= 0 && !socketpair(AF_UNIX, SOCK_STREAM, 0, bell), "bells");
	must(d >= 0 && a >= 0, "create");
	must(vk_client_open(&stage->client, d, a, bell[0], event, 7) == -EPERM,
	     "a region that can shrink is refused");
	stage->d = vk_channel_map(d, capacity, 1, NULL);
	must(stage->d != NULL, "map");
	must(!vk_channel_seal(d, 1) && !vk_channel_seal(a, 0), "seal");
	must(vk_client_open(&stage->client, d, a, bell[0], event, 8) == -EPROTO,
	     "another generation is refused");
	must(vk_client_open(&stage->client, a, d, bell[0], event, 7) < 0,
	     "a sealed region D cannot be mapped writable as A");
	must(!vk_client_open(&stage->client, d, a, bell[0], event, 7), "open");
	stage->data = vk_channel_data(stage->d, capacity, RING);
}

/* scribble writes something plausible or absurd where the worker may write. */
static void scribble(struct stage *stage)
{
	uint64_t at = draw(stage) % CAPACITY, word = draw(stage);
	uint64_t tail = stage->client.rx[RING].head + draw(stage) % (CAPACITY + 64) / 8 * 8;
	struct vk_record record = { .size = (uint32_t)(draw(stage) % 512),
				    .kind = (uint8_t)(draw(stage) % 8) };

	switch (draw(stage) % 9) {
	case 0:
		memcpy(stage->data + at, &word, 8);
		break;
	case 1:
		stage->d->tail[RING] = draw(stage) % 4 ? tail : word;
		break;
	case 2:
		stage->d->head[RING] = word;
		break;
	case 3:
		stage->d->head[RING] = stage->client.tx[RING].tail;
		break;
	case 4:
		stage->d->sleeping = (uint32_t)word;
		break;
	case 5:
		memset(stage->data, (int)(word & 1), CAPACITY);
		stage->d->tail[RING] = tail;
		break;
	case 6:
		stage->d->head[VK_CLASS_CONTROL] =
			draw(stage) % 4 ? stage->client.tx[VK_CLASS_CONTROL].tail : word;
		break;
	default: /* a record that may even be good */
		at = stage->client.rx[RING].head % CAPACITY;
		memcpy(stage->data + at, &record, sizeof record);
		if (at + sizeof record + sizeof(struct vk_message) <= CAPACITY)
			memset(stage->data + at + sizeof record, 0, sizeof(struct vk_message));
		stage->d->tail[RING] = stage->client.rx[RING].head + vk_record_span(record.size);
	}
}

/* attach_again puts both sides where a new attachment would find them. */
static void attach_again(struct stage *stage)
{
	struct vk_rx *rx = &stage->client.rx[RING];

	rx->head = rx->tail = stage->d->tail[RING] = draw(stage) / 8 * 8;
	stage->client.self->head[RING] = rx->head;
}

static void receive(struct stage *stage)
{
	static struct vk_entry entries[ENTRIES];
	static uint8_t copy[VK_SHARDED_MAX];
	uint64_t before = stage->client.rx[RING].head;
	uint64_t taken;
	int64_t flow = draw(stage) % 2 ? 0 : VK_CLIENT_ANY_FLOW;
	int n = vk_client_receive(&stage->client, RING, flow, VK_CLIENT_ANY_SEQUENCE, entries,
				  ENTRIES);

	must(n <= ENTRIES, "count");
	taken = stage->client.rx[RING].head - before;
	must(taken <= CAPACITY, "no more than a ring at once");
	if (n < 0) {
		must(n == -EPROTO, "only a broken rule fails here");
		stage->refused++;
		attach_again(stage);
	}
	for (int i = 0; i < n; i++) {
		must(entries[i].offset + entries[i].size <= 2ull * CAPACITY, "inside the ring");
		must(entries[i].size <= CAPACITY, "no larger than the ring");
		must(entries[i].message.flow < VK_FLOWS_MAX, "flow is an index");
		memcpy(copy, stage->client.rx[RING].data + entries[i].offset, entries[i].size);
		stage->received++;
	}
	if (draw(stage) % 4 == 0)
		vk_client_rewind(&stage->client, RING, draw(stage));
	if (n > 0)
		vk_client_release(&stage->client, RING, entries[n - 1].end);
}

static void send_some(struct stage *stage)
{
	static uint8_t payloads[8 * PAYLOAD_MAX];
	struct vk_outlet outlet = { .head.stream = VK_FIRST_JOB };
	uint32_t sizes[8];
	int n;

	for (int i = 0; i < 8; i++)
		sizes[i] = (uint32_t)(draw(stage) % PAYLOAD_MAX);
	n = draw(stage) % 2 ? vk_client_send(&stage->client, &outlet, payloads, sizes[0]) :
			      vk_client_send_many(&stage->client, &outlet, payloads, sizes, 0, 8);
	if (draw(stage) % 4 == 0)
		n = vk_client_write(&stage->client, &outlet, payloads, sizes[1]);
	if (draw(stage) % 4 == 0)
		vk_client_publish(&stage->client, &outlet);
	must(n >= 0 || n == -EAGAIN || n == -EPROTO, "sent, full or broken");
	must(stage->client.tx[RING].tail - stage->client.tx[RING].head <= CAPACITY,
	     "never more in the ring than fits");
	stage->sent += n > 0;
}

static void report(struct stage *stage)
{
	struct vk_tx *tx = &stage->client.tx[VK_CLASS_CONTROL];
	int n = vk_inlet_taken(&stage->client, &stage->inlet, draw(stage) % CAPACITY, 1);

	must(!n || n == -EAGAIN || n == -EPROTO, "reported, full or broken");
	must(tx->tail - tx->head <= CAPACITY, "never more in ring 0 than fits");
	stage->reported += stage->inlet.reported == stage->inlet.taken.cost;
	if (n == -EPROTO) /* as a new attachment would find it */
		stage->d->head[VK_CLASS_CONTROL] = tx->head;
}

int main(int count, char **arguments)
{
	struct stage stage = { .random = count > 1 ? strtoull(arguments[1], NULL, 0) : 1,
			       .inlet.windowed = 1 };

	open_stage(&stage);
	for (int turn = 0; turn < 200000; turn++) {
		scribble(&stage);
		receive(&stage);
		send_some(&stage);
		report(&stage);
		must(vk_client_wait(&stage.client, 0) >= 0, "wait");
	}
	stage.d->closed = 1;
	must(vk_client_send(&stage.client, &(struct vk_outlet){ .head.stream = VK_FIRST_JOB },
			    stage.data, 1) == -ESHUTDOWN,
	     "a closed channel takes nothing");
	vk_client_close(&stage.client);
	printf("%llu %llu %llu %llu\n", (unsigned long long)stage.received,
	       (unsigned long long)stage.refused, (unsigned long long)stage.sent,
	       (unsigned long long)stage.reported);
	return 0;
}
