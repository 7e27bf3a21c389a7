/* SPDX-License-Identifier: MIT */
/* valkyrie.c: streams of a node, through the application's end of its rings. A library instead of
 * a program: Python opens the streams (valkyrie_c.py), gives their ends and calls main. Messages
 * are published many at once where the shape lets them gather, but one by one with the transport
 * "single"; with the shape "streams" or "logs" each goes on a stream drawn at random.
 */
#include "side.h"
#include "vk_reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	BATCH = 128,
	HELD_BYTES_MAX = 65536,
	NS_PER_MS = 1000000,
	DRAWN = 8, /* streams, of which none is in a near cache, that are drawn ahead */
	LINE = 64,
};

/* An end of a stream; waits: something was taken of it that the worker may have to hear. */
struct stream {
	struct vk_outlet *outlet;
	struct vk_inlet *inlet;
	uint32_t first; /* sequence that comes next */
	uint32_t waits;
};

static struct vk_client *client;
static struct stream *streams, *by_flow[VK_FLOWS_MAX], **waiting;
static uint32_t count, added, waits, scattered, large;
static uint64_t dice = 88172645463325252; /* any but 0 */
static struct stream *drawn[DRAWN];
static uint32_t next_drawn;
static struct vk_entry entries[VK_CLIENT_BATCH];
static uint32_t ring, held, held_max, found, next_found;
static struct vk_reader reader;

/* valkyrie_streams says over how many open streams main is to run, valkyrie_stream gives one. */
void valkyrie_streams(struct vk_client *of, uint32_t how_many)
{
	client = of;
	count = how_many;
	streams = calloc(count, sizeof *streams);
	waiting = calloc(count, sizeof *waiting);
	if (!streams || !waiting)
		side_fail("streams");
}

void valkyrie_stream(struct vk_outlet *to, struct vk_inlet *from, uint32_t first)
{
	struct stream *stream = &streams[added++];

	*stream = (struct stream){ .outlet = to, .inlet = from, .first = first };
	by_flow[to->head.flow] = stream;
}

/* An outlet or inlet lies in two lines. */
static void fetch(const void *end)
{
	__builtin_prefetch(end);
	__builtin_prefetch((const char *)end + LINE);
}

static struct stream *draw(void)
{
	dice ^= dice << 13;
	dice ^= dice >> 7;
	dice ^= dice << 17;
	return &streams[dice % count];
}

/* The next stream; the one that comes DRAWN / 2 behind it, whose row is here by now, has its outlet
 * fetched, and the row of one more is. */
static struct stream *next_stream(void)
{
	struct stream **place = &drawn[next_drawn % DRAWN], *stream = *place;

	*place = draw();
	__builtin_prefetch(*place);
	fetch(drawn[(next_drawn + DRAWN / 2) % DRAWN]->outlet);
	next_drawn++;
	return stream;
}

static void valkyrie_open(const struct side_order *order)
{
	ring = vk_stream_class(streams->outlet->head.stream);
	scattered = !strcmp(order->shape, "streams") || !strcmp(order->shape, "logs");
	for (uint32_t i = 0; i < DRAWN; i++)
		drawn[i] = draw();
	held_max = HELD_BYTES_MAX / order->size < BATCH ? HELD_BYTES_MAX / order->size : BATCH;
	if (!held_max || !strcmp(order->transport, "single"))
		held_max = 1;
	large = order->size > VK_SHARDED_MAX;
	if (large && vk_reader_open(&reader, client, streams->inlet, &streams->outlet->head,
				    streams->first, 0))
		side_fail("reader");
}

static void check(int code, const char *what)
{
	if (code < 0 && code != -EAGAIN && code != -EINTR) {
		errno = -code;
		side_fail(what);
	}
}

static void wait_for_room(void)
{
	uint32_t paused = client->paused;
	int ready;

	client->paused = ~0u; /* what came in is not why we wait */
	client->need[ring] = client->tx_capacity[ring] / (large ? 4 : 8);
	ready = vk_client_wait(client, (int64_t)SIDE_BEGIN_MS * NS_PER_MS);
	client->need[ring] = 0;
	client->paused = paused;
	check(ready ? ready : -ETIMEDOUT, "no room in the ring");
}

static void send_large(const uint8_t *message, uint32_t size)
{
	for (uint32_t sent = 0; sent < size;) {
		int64_t n = vk_client_send_part(client, streams->outlet, message, size, sent);

		check((int)n, "vk_client_send_part");
		sent += n > 0 ? (uint32_t)n : 0;
		if (sent < size)
			wait_for_room();
	}
}

static void valkyrie_flush(void)
{
	if (held)
		check(vk_client_publish(client, streams->outlet), "vk_client_publish");
	held = 0;
}

static void valkyrie_send(const void *message, uint32_t size)
{
	struct vk_outlet *outlet = scattered ? next_stream()->outlet : streams->outlet;
	int error;

	if (large) {
		send_large(message, size);
		return;
	}
	while ((error = vk_client_write(client, outlet, message, size)) < 0) {
		check(error, "vk_client_write");
		wait_for_room();
	}
	if (++held == held_max)
		valkyrie_flush();
}

static void take(const struct vk_entry *entry)
{
	struct stream *stream = by_flow[entry->message.flow % VK_FLOWS_MAX];

	if (!stream)
		side_fail("a message of a stream that was not opened");
	vk_inlet_taken(client, stream->inlet, entry->size, 1);
	if (stream->inlet->windowed && !stream->waits) {
		stream->waits = 1;
		waiting[waits++] = stream;
	}
}

static void give_back(void)
{
	uint64_t bytes = 0;

	if (!found)
		return;
	for (uint32_t i = 0; i < found; i++) {
		bytes += entries[i].size;
		if (scattered && entries[i].kind == VK_RECORD_DATA)
			take(&entries[i]);
	}
	vk_client_release(client, ring, entries[found - 1].end);
	if (!scattered)
		vk_inlet_taken(client, streams->inlet, bytes, found);
	found = next_found = 0;
}

/* Peers that wait for room are told of all that was taken before this side sleeps. */
static void idle(void)
{
	uint32_t left = 0;

	if (!scattered)
		vk_inlet_idle(client, streams->inlet);
	for (uint32_t i = 0; i < waits; i++) {
		if (vk_inlet_idle(client, waiting[i]->inlet) == -EAGAIN)
			waiting[left++] = waiting[i];
		else
			waiting[i]->waits = 0;
	}
	waits = left;
}

/* Describes the next records in entries; returns how many, 0 if none came in time, or -errno. */
static int look(int timeout_ms)
{
	int64_t one = vk_client_flow(&streams->outlet->head);
	int64_t flow = scattered ? VK_CLIENT_ANY_FLOW : one;

	for (;;) {
		int n = vk_client_receive(client, ring, flow, VK_CLIENT_ANY_SEQUENCE, entries,
					  VK_CLIENT_BATCH);

		if (n)
			return n;
		if (client->rx[ring].head != client->rx[ring].tail)
			return -EPROTO; /* a record that is no message of ours */
		idle();
		n = vk_client_wait(client, (int64_t)timeout_ms * NS_PER_MS);
		if (n <= 0 && n != -EINTR)
			return n;
	}
}

static const uint8_t *receive_large(uint32_t *size, int timeout_ms)
{
	struct vk_whole whole;
	int n;

	while (!(n = vk_reader_next(&reader, &whole))) {
		n = vk_client_wait(client, (int64_t)timeout_ms * NS_PER_MS);
		check(n, "vk_client_wait");
		if (!n)
			return NULL;
	}
	check(n, "vk_reader_next");
	*size = whole.size;
	return whole.payload;
}

static const uint8_t *valkyrie_receive(uint32_t *size, int timeout_ms)
{
	if (large)
		return receive_large(size, timeout_ms);
	for (;;) {
		const struct vk_entry *entry;

		if (next_found == found) {
			int n;

			give_back();
			n = look(timeout_ms);
			if (n <= 0)
				return NULL;
			found = (uint32_t)n;
		}
		entry = &entries[next_found++];
		if (entry->kind != VK_RECORD_DATA)
			continue;
		*size = entry->size;
		return client->rx[ring].data + entry->offset;
	}
}

const struct side_transport side_transport = {
	.open = valkyrie_open,
	.send = valkyrie_send,
	.receive = valkyrie_receive,
	.flush = valkyrie_flush,
};
