/* SPDX-License-Identifier: MIT */
/* udp.c: what an application gets from plain kernel UDP sockets, one message a datagram, batches
 * of 64 by sendmmsg and recvmmsg. Prints one line: messages elapsed_ns corrupt | p50_ns p99_ns.
 *
 *   udp receive ADDRESS PORT SIZE COUNT      udp send ADDRESS PORT SIZE COUNT
 *   udp echo ADDRESS PORT SIZE COUNT         udp ping ADDRESS PORT SIZE COUNT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

enum { BATCH = 64, SIZE_MAX_BYTES = 1472, BUFFER = 8 << 20, IDLE_US = 300000 };

static uint8_t memory[BATCH][SIZE_MAX_BYTES];
static struct iovec parts[BATCH];
static struct mmsghdr batch[BATCH];

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void prepare(uint32_t size)
{
	for (int i = 0; i < BATCH; i++) {
		memset(memory[i], 'v', size);
		parts[i] = (struct iovec){ memory[i], size };
		batch[i].msg_hdr.msg_iov = &parts[i];
		batch[i].msg_hdr.msg_iovlen = 1;
	}
}

static void receive(int fd, uint64_t count)
{
	uint64_t got = 0, corrupt = 0, begin = 0, last = 0;

	while (got < count) {
		int n = recvmmsg(fd, batch, BATCH, MSG_WAITFORONE, NULL);

		if (n <= 0) {
			if (got)
				break;
			continue;
		}
		last = now_ns();
		if (!begin)
			begin = last;
		for (int i = 0; i < n; i++)
			corrupt += memory[i][batch[i].msg_len - 1] != 'v';
		got += (uint64_t)n;
	}
	printf("%lu %lu %lu\n", got, last - begin, corrupt);
}

static void send_all(int fd, uint64_t count)
{
	for (uint64_t sent = 0; sent < count;) {
		int n = sendmmsg(fd, batch, BATCH, 0);

		if (n > 0)
			sent += (uint64_t)n;
	}
	printf("%lu 1 0\n", count);
}

static void echo(int fd, uint64_t count)
{
	struct sockaddr_in peer;

	for (uint64_t i = 0; i < count; i++) {
		socklen_t length = sizeof peer;
		ssize_t n = recvfrom(fd, memory[0], SIZE_MAX_BYTES, 0, (void *)&peer, &length);

		if (n > 0)
			sendto(fd, memory[0], (size_t)n, 0, (void *)&peer, length);
	}
	printf("%lu 1 0\n", count);
}

static int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void ping(int fd, uint32_t size, uint64_t count)
{
	uint64_t *times = calloc(count, sizeof *times), n = 0;

	for (uint64_t i = 0; i < count; i++) {
		uint64_t begin = now_ns();

		if (send(fd, memory[0], size, 0) < 0 || recv(fd, memory[1], size, 0) < 0)
			continue;
		times[n++] = now_ns() - begin;
	}
	qsort(times, n, sizeof *times, ascending);
	printf("%lu %lu %lu\n", n, n ? times[n / 2] : 0, n ? times[n * 99 / 100] : 0);
	free(times);
}

int main(int count, char **arguments)
{
	struct timeval idle = { .tv_usec = IDLE_US };
	struct sockaddr_in address = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_DGRAM, 0), buffer = BUFFER, server;
	uint64_t messages;
	uint32_t size;

	if (count != 6 || !inet_aton(arguments[2], &address.sin_addr))
		return 64;
	address.sin_port = htons((uint16_t)atoi(arguments[3]));
	size = (uint32_t)atoi(arguments[4]);
	messages = strtoull(arguments[5], NULL, 10);
	server = !strcmp(arguments[1], "receive") || !strcmp(arguments[1], "echo");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &idle, sizeof idle);
	if (size > SIZE_MAX_BYTES ||
	    (server ? bind : connect)(fd, (void *)&address, sizeof address))
		return 1;
	prepare(size);
	if (server) {
		puts("ready");
		fflush(stdout);
	}
	if (!strcmp(arguments[1], "receive"))
		receive(fd, messages);
	else if (!strcmp(arguments[1], "send"))
		send_all(fd, messages);
	else if (!strcmp(arguments[1], "echo"))
		echo(fd, messages);
	else
		ping(fd, size, messages);
	return 0;
}
