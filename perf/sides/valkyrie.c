/* SPDX-License-Identifier: MIT */
/* valkyrie.c: a stream of a node, through the application's end of its rings. A library instead of
 * a program: Python opens the stream (valkyrie_c.py), gives its ends and calls main. Messages are
 * handed over many at once where the shape lets them gather.
 */
#include "side.h"
#include "vk_client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 128, HELD_BYTES_MAX = 65536, NS_PER_MS = 1000000 };

static struct vk_client *client;
static struct vk_outlet *outlet;
static struct vk_inlet *inlet;
static struct vk_entry entries[VK_CLIENT_BATCH];
static uint32_t ring, message_size, held, held_max, found, next_found;
static uint8_t *out;

/* valkyrie_ends says over which open stream main is to run. */
void valkyrie_ends(struct vk_client *of, struct vk_outlet *to, struct vk_inlet *from)
{
	client = of;
	outlet = to;
	inlet = from;
}

static void valkyrie_open(const struct side_order *order)
{
	ring = vk_stream_class(outlet->head.stream);
	message_size = order->size;
	held_max = HELD_BYTES_MAX / message_size < BATCH ? HELD_BYTES_MAX / message_size : BATCH;
	held_max = held_max ? held_max : 1;
	out = malloc((size_t)held_max * message_size);
	if (!out)
		side_fail("messages that are held");
}

static void valkyrie_flush(void)
{
	for (uint32_t sent = 0; sent < held;) {
		int n = vk_client_send_many(client, outlet, out + (size_t)sent * message_size, NULL,
					    message_size, held - sent);
		uint32_t paused = client->paused;

		if (n < 0 && n != -EAGAIN) {
			errno = -n;
			side_fail("vk_client_send_many");
		}
		sent += n > 0 ? (uint32_t)n : 0;
		if (sent == held)
			break;
		client->paused = ~0u; /* what came in is not why we wait */
		client->need[ring] = client->tx_capacity[ring] / 8;
		n = vk_client_wait(client, (int64_t)SIDE_BEGIN_MS * NS_PER_MS);
		client->need[ring] = 0;
		client->paused = paused;
		if (n <= 0 && n != -EINTR) {
			errno = n ? -n : ETIMEDOUT;
			side_fail("no room in the ring");
		}
	}
	held = 0;
}

static void valkyrie_send(const void *message, uint32_t size)
{
	memcpy(out + (size_t)held * size, message, size);
	if (++held == held_max)
		valkyrie_flush();
}

static void give_back(void)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < found; i++)
		bytes += entries[i].size;
	if (found) {
		vk_client_release(client, ring, entries[found - 1].end);
		vk_client_taken(client, inlet, bytes, found);
	}
	found = next_found = 0;
}

static const uint8_t *valkyrie_receive(uint32_t *size, int timeout_ms)
{
	const struct vk_entry *entry;

	if (next_found == found)
		give_back();
	while (!found) {
		int n = vk_client_receive(client, ring, outlet->head.flow, VK_CLIENT_ANY_SEQUENCE,
					  entries, VK_CLIENT_BATCH);

		if (n < 0 || (!n && client->rx[ring].head != client->rx[ring].tail))
			return NULL; /* closed, or a record that is no message of ours */
		found = (uint32_t)n;
		if (n)
			break;
		vk_client_idle(client, inlet);
		n = vk_client_wait(client, (int64_t)timeout_ms * NS_PER_MS);
		if (n <= 0 && n != -EINTR)
			return NULL;
	}
	entry = &entries[next_found++];
	*size = entry->size;
	return client->rx[ring].data + entry->offset;
}

const struct side_transport side_transport = {
	.open = valkyrie_open,
	.send = valkyrie_send,
	.receive = valkyrie_receive,
	.flush = valkyrie_flush,
};
