/* SPDX-License-Identifier: MIT */
/* plain.c: bytes over a socket as they are. */
#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <sys/socket.h>

static int fd;

void wire_open(int connected, const struct side_order *order)
{
	(void)order;
	fd = connected;
}

void wire_write(struct iovec *parts, int count)
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

ssize_t wire_read(void *to, size_t room)
{
	return recv(fd, to, room, 0);
}
