/* SPDX-License-Identifier: MIT */
/* sockets.c: TCP and Unix stream sockets, a length of 4 bytes before each message. tcp and unix
 * write each message by itself; tcp-buffered holds back up to 64 KiB, as bulk transfers do.
 */
#define _GNU_SOURCE
#include "side.h"
#include "socket_address.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { READ = 262144, HELD_MAX = 65536, LENGTH = 4 };

static int fd, buffered;
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
	buffered = !strcmp(order->transport, "tcp-buffered");
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
}

static void write_all(struct iovec *parts, int count)
{
	while (count) {
		ssize_t n = writev(fd, parts, count);

		if (n < 0 && errno != EINTR)
			side_fail("write");
		for (; n > 0 && count; parts++, count--) {
			if ((size_t)n < parts->iov_len) {
				parts->iov_base = (uint8_t *)parts->iov_base + n;
				parts->iov_len -= (size_t)n;
				break;
			}
			n -= (ssize_t)parts->iov_len;
		}
	}
}

static void sockets_flush(void)
{
	struct iovec part = { held, holding };

	if (holding)
		write_all(&part, 1);
	holding = 0;
}

static void sockets_send(const void *message, uint32_t size)
{
	struct iovec parts[2] = { { &size, LENGTH }, { (void *)(uintptr_t)message, size } };

	if (!buffered || size + LENGTH > HELD_MAX) {
		sockets_flush();
		write_all(parts, 2);
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

static const uint8_t *sockets_receive(uint32_t *size, int timeout_ms)
{
	struct pollfd wait = { fd, POLLIN, 0 };
	const uint8_t *message;

	while (!complete(size)) {
		ssize_t n;

		if (from) {
			memmove(in, in + from, until - from);
			until -= from;
			from = 0;
		}
		n = recv(fd, in + until, room - until, MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN && poll(&wait, 1, timeout_ms) > 0)
			continue;
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
