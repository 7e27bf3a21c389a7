/* SPDX-License-Identifier: MIT */
#ifndef WIRE_H
#define WIRE_H
/* wire.h: what carries the bytes of sockets.c: the socket as it is (plain.c), or TLS (tls.c). */
#include "side.h"

#include <sys/types.h>
#include <sys/uio.h>

/* wire_open takes a connected, blocking socket. */
void wire_open(int fd, const struct side_order *order);

/* wire_write writes all parts, which it may change, or ends the process. */
void wire_write(struct iovec *parts, int count);

/* wire_read waits for bytes as long as the socket does; at most 0: none came, or none will. */
ssize_t wire_read(void *to, size_t room);
#endif
