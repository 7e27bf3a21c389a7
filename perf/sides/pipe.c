/* SPDX-License-Identifier: MIT */
/* pipe.c: Valkyrie's channel between two applications of one host. The sender connects
 * to the receiver's socket, which stays as the bell, and gets both regions through it. pipe
 * publishes each message by itself; pipe-batch up to 32 at once, as vk_ring.h lets an application
 * do.
 */
#define _GNU_SOURCE
#include "side.h"
#include "vk_pipe.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { CAPACITY = 1 << 22, FOUND = 64, BATCH = 32 };

static struct vk_pipe ends;
static const uint8_t *data;
static uint32_t begins[FOUND], ends_at[FOUND], found, next_found, batch, holding;

static struct sockaddr_un address_of(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	strncpy(address.sun_path, path, sizeof address.sun_path - 1);
	return address;
}

/* Gives two descriptors to the peer, or takes them from it. */
static void pass(int bell, int fds[2], int give)
{
	union {
		struct cmsghdr head;
		uint8_t bytes[CMSG_SPACE(2 * sizeof(int))];
	} control = { .head = { .cmsg_len = CMSG_LEN(2 * sizeof(int)),
				.cmsg_level = SOL_SOCKET,
				.cmsg_type = SCM_RIGHTS } };
	uint8_t word = 0;
	struct iovec part = { &word, 1 };
	struct msghdr message = { .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof control };

	if (give)
		memcpy(CMSG_DATA(&control.head), fds, 2 * sizeof(int));
	if ((give ? sendmsg(bell, &message, 0) : recvmsg(bell, &message, 0)) != 1)
		side_fail("descriptors");
	if (!give)
		memcpy(fds, CMSG_DATA(&control.head), 2 * sizeof(int));
}

static int meet(const struct side_order *order, const uint32_t *capacity, int fds[2])
{
	struct sockaddr_un address = address_of(order->address);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0), bell = fd;

	if (order->listens) {
		unlink(order->address);
		if (bind(fd, (void *)&address, sizeof address) || listen(fd, 1))
			side_fail(order->address);
		side_ready();
		bell = accept(fd, NULL, NULL);
		for (int i = 0; i < 2; i++)
			fds[i] = vk_channel_create(capacity, 1, 0);
	} else if (connect(fd, (void *)&address, sizeof address)) {
		side_fail(order->address);
	}
	pass(bell, fds, order->listens);
	return bell;
}

static void pipe_open(const struct side_order *order)
{
	uint32_t capacity[VK_RINGS_MAX] = { CAPACITY };
	struct vk_region *regions[2];
	int fds[2], bell = meet(order, capacity, fds);

	batch = !strcmp(order->transport, "pipe-batch") ? BATCH : 1;
	for (int i = 0; i < 2; i++) {
		regions[i] = vk_channel_map(fds[i], capacity, 1, NULL);
		if (!regions[i])
			side_fail("region");
	}
	data = vk_channel_data(regions[order->listens], capacity, 0);
	if (vk_pipe_open(&ends, regions[!order->listens], regions[order->listens], capacity, bell,
			 vk_wake_bound()))
		side_fail("vk_pipe_open");
}

static void pipe_flush(void)
{
	if (!holding)
		return;
	vk_tx_publish(&ends.tx);
	vk_bell_ring(ends.tx.peer, ends.bell, &ends.rang);
	holding = 0;
}

static void pipe_send(const void *message, uint32_t size)
{
	uint8_t *place;

	if (batch == 1) {
		int sent;

		while (!(sent = vk_pipe_send(&ends, message, size)))
			vk_pipe_wait(&ends, size, -1);
		if (sent < 0)
			side_fail("vk_pipe_send");
		return;
	}
	while (!(place = vk_tx_reserve(&ends.tx, size))) {
		pipe_flush();
		vk_pipe_wait(&ends, size, -1);
	}
	memcpy(place, message, size);
	vk_tx_commit(&ends.tx, size, VK_RECORD_RAW);
	if (++holding == batch)
		pipe_flush();
}

static const uint8_t *pipe_receive(uint32_t *size, int timeout_ms)
{
	while (next_found == found) {
		int64_t n;

		if (found)
			vk_pipe_release(&ends);
		found = next_found = 0;
		n = vk_pipe_recv_many(&ends, FOUND, begins, ends_at);
		if (n < 0)
			return NULL;
		found = (uint32_t)n;
		if (!n && vk_pipe_wait(&ends, 0, (int64_t)timeout_ms * 1000000) <= 0)
			return NULL;
	}
	*size = ends_at[next_found] - begins[next_found];
	return data + begins[next_found++];
}

const struct side_transport side_transport = {
	.open = pipe_open,
	.send = pipe_send,
	.receive = pipe_receive,
	.flush = pipe_flush,
};
