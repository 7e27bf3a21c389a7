/* SPDX-License-Identifier: MIT */
/* datagrams.c: kernel UDP, a message a datagram, in batches of 64: udp by sendmmsg and recvmmsg,
 * udp-gso with UDP_SEGMENT and UDP_GRO, where one system call carries one train of datagrams.
 */
#define _GNU_SOURCE
#include "side.h"
#include "socket_address.h"

#include <netinet/udp.h>
#include <poll.h>
#include <sys/socket.h>

enum {
	BATCH = 64,
	DATAGRAM_MAX = 8972,
	TRAIN_MAX = 65000, /* bytes of a train: below what an IP packet carries */
	BUFFER = 8 << 20,
};

static int fd, gso, unconnected;
static uint8_t out[BATCH * DATAGRAM_MAX], in[BATCH * DATAGRAM_MAX], train[65536];
static struct iovec out_parts[BATCH], in_parts[BATCH];
static struct mmsghdr out_batch[BATCH], in_batch[BATCH];
static struct sockaddr_in sender;
static uint32_t held, held_max, datagram, came, next_in, train_size, train_at, segment;

static void datagrams_open(const struct side_order *order)
{
	struct sockaddr_in address = socket_address(order->address);
	int buffer = BUFFER, one = 1, size = (int)order->size;

	gso = !strcmp(order->transport, "udp-gso");
	datagram = order->size;
	held_max = gso && TRAIN_MAX / datagram < BATCH ? TRAIN_MAX / datagram : BATCH;
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer);
	if (gso && (setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size) ||
		    setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof one)))
		side_fail("UDP_SEGMENT");
	if ((order->listens ? bind : connect)(fd, (void *)&address, sizeof address))
		side_fail(order->address);
	unconnected = order->listens && order->two_way;
	for (int i = 0; i < BATCH; i++) {
		out_parts[i] = (struct iovec){ out + (size_t)i * datagram, datagram };
		out_batch[i].msg_hdr.msg_iov = &out_parts[i];
		out_batch[i].msg_hdr.msg_iovlen = 1;
		in_parts[i] = (struct iovec){ in + (size_t)i * datagram, datagram };
		in_batch[i].msg_hdr.msg_iov = &in_parts[i];
		in_batch[i].msg_hdr.msg_iovlen = 1;
	}
}

static void datagrams_flush(void)
{
	for (uint32_t sent = 0; !gso && sent < held;) {
		int n = sendmmsg(fd, out_batch + sent, held - sent, 0);

		if (n < 0 && errno != ENOBUFS && errno != ECONNREFUSED)
			side_fail("sendmmsg");
		sent += n > 0 ? (uint32_t)n : 0;
	}
	while (gso && held && send(fd, out, (size_t)held * datagram, 0) < 0) {
		if (errno != ENOBUFS && errno != ECONNREFUSED)
			side_fail("send of a train");
	}
	held = 0;
}

static void datagrams_send(const void *message, uint32_t size)
{
	memcpy(out + (size_t)held * datagram, message, size);
	if (++held == held_max)
		datagrams_flush();
}

static int arrived(int timeout_ms)
{
	struct pollfd wait = { fd, POLLIN, 0 };

	return poll(&wait, 1, timeout_ms) > 0;
}

/* The first datagram says where answers go. */
static void learn(void)
{
	socklen_t size = sizeof sender;

	recvfrom(fd, NULL, 0, MSG_PEEK, (void *)&sender, &size);
	if (connect(fd, (void *)&sender, sizeof sender))
		side_fail("connect");
	unconnected = 0;
}

static const uint8_t *next_of_train(uint32_t *size, int timeout_ms)
{
	if (train_at == train_size) {
		uint8_t control[CMSG_SPACE(sizeof(int))];
		struct iovec part = { train, sizeof train };
		struct msghdr head = { .msg_iov = &part,
				       .msg_iovlen = 1,
				       .msg_control = control,
				       .msg_controllen = sizeof control };
		struct cmsghdr *option;
		ssize_t n;

		if (!arrived(timeout_ms) || (n = recvmsg(fd, &head, 0)) <= 0)
			return NULL;
		option = CMSG_FIRSTHDR(&head);
		segment = (uint32_t)n;
		if (option && option->cmsg_type == UDP_GRO) {
			int value;

			memcpy(&value, CMSG_DATA(option), sizeof value);
			segment = (uint32_t)value;
		}
		train_at = 0;
		train_size = (uint32_t)n;
	}
	*size = train_size - train_at < segment ? train_size - train_at : segment;
	train_at += *size;
	return train + train_at - *size;
}

static const uint8_t *datagrams_receive(uint32_t *size, int timeout_ms)
{
	if (gso)
		return next_of_train(size, timeout_ms);
	if (next_in == came) {
		int n;

		if (unconnected && arrived(timeout_ms))
			learn();
		n = recvmmsg(fd, in_batch, BATCH, MSG_DONTWAIT, NULL);
		if (n <= 0 && arrived(timeout_ms))
			n = recvmmsg(fd, in_batch, BATCH, MSG_DONTWAIT, NULL);
		if (n <= 0)
			return NULL;
		came = (uint32_t)n;
		next_in = 0;
	}
	*size = in_batch[next_in].msg_len;
	return in + (size_t)next_in++ * datagram;
}

const struct side_transport side_transport = {
	.open = datagrams_open,
	.send = datagrams_send,
	.receive = datagrams_receive,
	.flush = datagrams_flush,
};
