/* SPDX-License-Identifier: MIT */
/* aeron.c: Aeron through its client in C, one publication each way, with a media driver a host. The
 * address is THERE,BACK,STREAM#DIRECTORY: two channels, the first of two stream ids, and the
 * drivers' directory but for "-" and the role.
 */
#include "side.h"

#include <aeronc.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	FRAGMENTS = 64, /* of one poll */
	LOOK = 64, /* polls between two looks at the clock */
	YIELDS = 1000, /* polls without anything before it sleeps */
	NAP_US = 50,
	NS_PER_MS = 1000000,
};

static aeron_t *client;
static aeron_exclusive_publication_t *publication;
static aeron_subscription_t *subscription;
static aeron_fragment_assembler_t *assembler;
static uint8_t *in;
static uint32_t sizes[FRAGMENTS], found, next_found, room;

static void need(int fine, const char *what)
{
	if (!fine) {
		fprintf(stderr, "%s: %s\n", what, aeron_errmsg());
		exit(1);
	}
}

static void take(void *unused, const uint8_t *message, size_t size, aeron_header_t *header)
{
	(void)unused;
	(void)header;
	need(size <= room && found < FRAGMENTS, "a message of another size");
	memcpy(in + (size_t)found * room, message, size);
	sizes[found++] = (uint32_t)size;
}

static void publish(const char *channel, int32_t stream)
{
	aeron_async_add_exclusive_publication_t *adding;
	int done;

	need(!aeron_async_add_exclusive_publication(&adding, client, channel, stream), channel);
	while (!(done = aeron_async_add_exclusive_publication_poll(&publication, adding)))
		usleep(NAP_US);
	need(done > 0, channel);
}

static void subscribe(const char *channel, int32_t stream)
{
	aeron_async_add_subscription_t *adding;
	int done;

	need(!aeron_async_add_subscription(&adding, client, channel, stream, NULL, NULL, NULL,
					   NULL),
	     channel);
	while (!(done = aeron_async_add_subscription_poll(&subscription, adding)))
		usleep(NAP_US);
	need(done > 0, channel);
}

static void connect_driver(const char *directory)
{
	aeron_context_t *context;

	need(!aeron_context_init(&context), "context");
	need(!aeron_context_set_dir(context, directory), directory);
	need(!aeron_context_set_pre_touch_mapped_memory(context, 1), "pre-touch");
	need(!aeron_init(&client, context) && !aeron_start(client), directory);
	need(!aeron_fragment_assembler_create(&assembler, take, NULL), "assembler");
}

static void aeron_open(const struct side_order *order)
{
	char address[512], directory[512], *back, *base, *number;
	int32_t there;
	uint64_t until_ns = side_now_ns() + (uint64_t)SIDE_BEGIN_MS * NS_PER_MS;

	snprintf(address, sizeof address, "%s", order->address);
	back = strchr(address, ',');
	base = back ? strchr(back, '#') : NULL;
	number = back ? strchr(back + 1, ',') : NULL;
	if (!base || !number) {
		errno = EINVAL;
		side_fail(order->address);
	}
	*back++ = *base++ = *number++ = '\0';
	there = atoi(number);
	snprintf(directory, sizeof directory, "%s-%s", base,
		 order->listens ? "receiver" : "sender");
	connect_driver(directory);
	room = order->size;
	in = malloc((size_t)FRAGMENTS * room);
	need(in != NULL, "messages");
	if (order->listens || order->two_way)
		subscribe(order->listens ? address : back, there + !order->listens);
	if (!order->listens || order->two_way)
		publish(order->listens ? back : address, there + order->listens);
	while (!order->listens && !aeron_exclusive_publication_is_connected(publication)) {
		usleep(NAP_US);
		need(side_now_ns() < until_ns, "no subscriber");
	}
}

static void aeron_send(const void *message, uint32_t size)
{
	for (;;) {
		int64_t position =
			aeron_exclusive_publication_offer(publication, message, size, NULL, NULL);

		if (position >= 0)
			return;
		need(position == AERON_PUBLICATION_BACK_PRESSURED ||
			     position == AERON_PUBLICATION_ADMIN_ACTION ||
			     position == AERON_PUBLICATION_NOT_CONNECTED,
		     "offer");
		sched_yield();
	}
}

static const uint8_t *aeron_receive(uint32_t *size, int timeout_ms)
{
	uint64_t until_ns = 0;

	if (next_found == found)
		found = next_found = 0;
	for (uint32_t idle = 0; !found; idle++) {
		need(aeron_subscription_poll(subscription, aeron_fragment_assembler_handler,
					     assembler, FRAGMENTS) >= 0,
		     "poll");
		if (found)
			break;
		if (idle % LOOK == LOOK - 1) {
			uint64_t now_ns = side_now_ns();

			until_ns = until_ns ? until_ns : now_ns + (uint64_t)timeout_ms * NS_PER_MS;
			if (now_ns > until_ns)
				return NULL;
		}
		if (idle < YIELDS)
			sched_yield();
		else
			usleep(NAP_US);
	}
	*size = sizes[next_found];
	return in + (size_t)next_found++ * room;
}

static void aeron_flush(void)
{
}

/* The driver would take what ends without a word for alive for another ten seconds. */
static void aeron_leave(void)
{
	if (publication)
		aeron_exclusive_publication_close(publication, NULL, NULL);
	if (subscription)
		aeron_subscription_close(subscription, NULL, NULL);
	aeron_close(client);
}

const struct side_transport side_transport = {
	.open = aeron_open,
	.send = aeron_send,
	.receive = aeron_receive,
	.flush = aeron_flush,
	.close = aeron_leave,
};
