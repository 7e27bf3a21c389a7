/* SPDX-License-Identifier: MIT */
/* tcp.c: flows of the kernel's TCP, with what they saw over time. Times are CLOCK_MONOTONIC, ns.
 *
 *   tcp sink ADDRESS PORT                          prints: at_ns bytes            every 50 ms
 *   tcp pour ADDRESS PORT CONTROLLER SECONDS       prints: at_ns srtt_us min_us cwnd resent
 *   tcp echo ADDRESS PORT
 *   tcp ping ADDRESS PORT CONTROLLER SECONDS       prints: at_ns rtt_ns           every 10 ms
 *
 * Servers print "ready" first, serve one connection and end with it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum {
	SAMPLE_NS = 50000000,
	PING_NS = 10000000,
	PING_BYTES = 64,
	CHUNK = 1 << 18,
	NOT_SENT = 1 << 17, /* bytes that wait in the socket beyond what the window lets out */
	RECEIVE_BUFFER = 64 << 20, /* never the limit */
	SAMPLES_MAX = 1 << 17,
};

struct sample {
	uint64_t at_ns, value[4];
};

static struct sample samples[SAMPLES_MAX];
static uint32_t sample_count;
static uint8_t chunk[CHUNK];

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void add(struct sample sample)
{
	if (sample_count < SAMPLES_MAX)
		samples[sample_count++] = sample;
}

static void print(uint32_t values)
{
	for (uint32_t i = 0; i < sample_count; i++) {
		printf("%lu", samples[i].at_ns);
		for (uint32_t j = 0; j < values; j++)
			printf(" %lu", samples[i].value[j]);
		putchar('\n');
	}
}

static int interrupted(void)
{
	return errno == EINTR || errno == EAGAIN;
}

static void sink(int fd)
{
	uint64_t due = now_ns() + SAMPLE_NS, bytes = 0;

	for (;;) {
		ssize_t n = recv(fd, chunk, CHUNK, 0);
		uint64_t now = now_ns();

		if (n > 0)
			bytes += (uint64_t)n;
		if (now >= due || n == 0) {
			add((struct sample){ now, { bytes } });
			bytes = 0;
			due = now + SAMPLE_NS;
		}
		if (n == 0 || (n < 0 && !interrupted()))
			break;
	}
	print(1);
}

static void look(int fd, uint64_t now)
{
	struct tcp_info info = { .tcpi_rtt = 0 };
	socklen_t size = sizeof info;

	getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size);
	add((struct sample){ now,
			     { info.tcpi_rtt, info.tcpi_min_rtt, info.tcpi_snd_cwnd,
			       info.tcpi_total_retrans } });
}

static void pour(int fd, uint64_t duration_ns)
{
	uint64_t begin = now_ns(), due = begin, now;

	while ((now = now_ns()) < begin + duration_ns) {
		if (now >= due) {
			look(fd, now);
			due = now + SAMPLE_NS;
		}
		if (send(fd, chunk, CHUNK, MSG_NOSIGNAL) < 0 && !interrupted())
			break;
	}
	look(fd, now);
	print(4);
}

static int all(int fd, uint8_t *bytes, int receiving)
{
	for (size_t done = 0; done < PING_BYTES;) {
		ssize_t n = receiving ? recv(fd, bytes + done, PING_BYTES - done, 0) :
					send(fd, bytes + done, PING_BYTES - done, MSG_NOSIGNAL);

		if (n == 0 || (n < 0 && !interrupted()))
			return 0;
		done += n > 0 ? (size_t)n : 0;
	}
	return 1;
}

static void echo(int fd)
{
	while (all(fd, chunk, 1) && all(fd, chunk, 0))
		;
}

static void ping(int fd, uint64_t duration_ns)
{
	uint64_t begin = now_ns(), sent = begin;

	while (sent < begin + duration_ns) {
		uint64_t came, next;

		if (!all(fd, chunk, 0) || !all(fd, chunk, 1))
			break;
		came = now_ns();
		add((struct sample){ sent, { came - sent } });
		next = sent + PING_NS > came ? sent + PING_NS : came;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME,
				&(struct timespec){ (time_t)(next / 1000000000),
						    (long)(next % 1000000000) },
				NULL);
		sent = now_ns();
	}
	print(1);
}

static int serve(struct sockaddr_in address)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1, buffer = RECEIVE_BUFFER;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer);
	if (bind(fd, (void *)&address, sizeof address) || listen(fd, 1))
		return -1;
	puts("ready");
	fflush(stdout);
	return accept(fd, NULL, NULL);
}

static int call(struct sockaddr_in address, const char *controller)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), waiting = NOT_SENT, buffer = RECEIVE_BUFFER;

	if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, controller, (socklen_t)strlen(controller)))
		return -1;
	setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &waiting, sizeof waiting);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer);
	return connect(fd, (void *)&address, sizeof address) ? -1 : fd;
}

int main(int count, char **arguments)
{
	struct timeval patience = { .tv_usec = SAMPLE_NS / 1000 };
	struct sockaddr_in address = { .sin_family = AF_INET };
	int client = count == 6, one = 1, fd;
	const char *mode = arguments[1];

	if ((count != 4 && count != 6) || !inet_aton(arguments[2], &address.sin_addr))
		return 64;
	address.sin_port = htons((uint16_t)atoi(arguments[3]));
	fd = client ? call(address, arguments[4]) : serve(address);
	if (fd < 0) {
		perror(mode);
		return 1;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (!strcmp(mode, "sink"))
		sink(fd);
	else if (!strcmp(mode, "echo"))
		echo(fd);
	else if (client && !strcmp(mode, "pour"))
		pour(fd, (uint64_t)(atof(arguments[5]) * 1e9));
	else if (client && !strcmp(mode, "ping"))
		ping(fd, (uint64_t)(atof(arguments[5]) * 1e9));
	else
		return 64;
	return 0;
}
