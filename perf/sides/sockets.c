/* SPDX-License-Identifier: MIT */
/* sockets.c: TCP, TLS over TCP, and Unix stream sockets, a length of 4 bytes before each message.
 * tcp, tls and unix write each message by itself; tcp-buffered and tls-buffered hold back up to
 * 64 KiB, as bulk transfers do.
 */
#define _GNU_SOURCE
#include "side.h"
#include "socket_address.h"
#include "wire.h"

#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { READ = 262144, HELD_MAX = 65536, LENGTH = 4 };

static int fd, buffered, waits_ms;
static uint8_t *in, held[HELD_MAX];
static size_t room, from, until, holding;

static int listening(const struct side_order *order)
{
	struct sockaddr_un local = { .sun_family = AF_UNIX };
	struct sockaddr_in address;
	int one = 1, listener, failed;

	if (!strcmp(order->transport, "unix")) {
		strncpy(local.sun_path, order->address, sizeof local.sun_path - 1);
		unlink(local.sun_path);
		listener = socket(AF_UNIX, SOCK_STREAM, 0);
		failed = bind(listener, (void *)&local, sizeof local);
	} else {
		address = socket_address(order->address);
		listener = socket(AF_INET, SOCK_STREAM, 0);
		setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
		failed = bind(listener, (void *)&address, sizeof address);
	}
	if (failed || listen(listener, 1))
		side_fail(order->address);
	return listener;
}

static int connected(const struct side_order *order)
{
	struct sockaddr_un local = { .sun_family = AF_UNIX };
	struct sockaddr_in address;
	int made, failed;

	if (!strcmp(order->transport, "unix")) {
		strncpy(local.sun_path, order->address, sizeof local.sun_path - 1);
		made = socket(AF_UNIX, SOCK_STREAM, 0);
		failed = connect(made, (void *)&local, sizeof local);
	} else {
		address = socket_address(order->address);
		made = socket(AF_INET, SOCK_STREAM, 0);
		failed = connect(made, (void *)&address, sizeof address);
	}
	if (failed)
		side_fail(order->address);
	return made;
}

static void sockets_open(const struct side_order *order)
{
	int one = 1;

	room = order->size + LENGTH > READ ? order->size + LENGTH : READ;
	in = side_memory(room);
	buffered = !!strstr(order->transport, "-buffered");
	if (order->listens) {
		int listener = listening(order);

		side_ready();
		fd = accept(listener, NULL, NULL);
	} else {
		fd = connected(order);
	}
	if (fd < 0)
		side_fail("accept");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* refused by Unix sockets */
	wire_open(fd, order);
}

static void sockets_flush(void)
{
	struct iovec part = { held, holding };

	if (holding)
		wire_write(&part, 1);
	holding = 0;
}

static void sockets_send(const void *message, uint32_t size)
{
	struct iovec parts[2] = { { &size, LENGTH }, { (void *)(uintptr_t)message, size } };

	if (!buffered || size + LENGTH > HELD_MAX) {
		sockets_flush();
		wire_write(parts, 2);
		return;
	}
	if (holding + LENGTH + size > HELD_MAX)
		sockets_flush();
	memcpy(held + holding, &size, LENGTH);
	memcpy(held + holding + LENGTH, message, size);
	holding += LENGTH + size;
}

/* Whether a whole message lies in the buffer. */
static int complete(uint32_t *size)
{
	if (until - from < LENGTH)
		return 0;
	memcpy(size, in + from, LENGTH);
	return until - from >= LENGTH + *size;
}

/* Bounds how long a read waits, which then is one system call. */
static void wait_at_most(int timeout_ms)
{
	struct timeval bound = { timeout_ms / 1000, timeout_ms % 1000 * 1000L };

	if (timeout_ms == waits_ms)
		return;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound))
		side_fail("SO_RCVTIMEO");
	waits_ms = timeout_ms;
}

static const uint8_t *sockets_receive(uint32_t *size, int timeout_ms)
{
	const uint8_t *message;

	wait_at_most(timeout_ms);
	while (!complete(size)) {
		ssize_t n;

		if (from) {
			memmove(in, in + from, until - from);
			until -= from;
			from = 0;
		}
		n = wire_read(in + until, room - until);
		if (n <= 0)
			return NULL;
		until += (size_t)n;
	}
	message = in + from + LENGTH;
	from += LENGTH + *size;
	return message;
}

const struct side_transport side_transport = {
	.open = sockets_open,
	.send = sockets_send,
	.receive = sockets_receive,
	.flush = sockets_flush,
};
