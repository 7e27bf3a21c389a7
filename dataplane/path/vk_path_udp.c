/* SPDX-License-Identifier: MIT */
/* The receiving half of the kernel's UDP path, and its opening: recvmmsg into a fixed set of
 * buffers a class, super-packets (UDP_GRO) cut into frames. Nothing is allocated per packet. */
#define _GNU_SOURCE
#include "vk_path_udp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
	BUFFER_SIZE = 65536,
	NS_PER_S = 1000000000,
	STAMP_NS_MAX = 1000000000, /* an older one is none: somebody set the clock */
	ERRORS_MAX = 64, /* taken from an error queue at once */
};

void vk_udp_drain_errors(struct vk_udp_path *self, int fd)
{
	uint8_t byte, control[256];

	for (int i = 0; i < ERRORS_MAX; i++) {
		struct iovec vector = { &byte, 1 };
		struct msghdr message = { .msg_iov = &vector,
					  .msg_iovlen = 1,
					  .msg_control = control,
					  .msg_controllen = sizeof control };

		self->path.syscalls_tx++;
		if (recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
			return;
	}
}

/* look asks the kernel which sockets have something, once for all classes. */
static void look(struct vk_udp_path *self)
{
	struct epoll_event events[VK_UDP_QUEUES];
	int count;

	self->path.syscalls_rx++;
	count = epoll_wait(self->epoll, events, VK_UDP_QUEUES, 0);
	self->ready = 0;
	self->asked = 0;
	for (int i = 0; i < count; i++) {
		if (events[i].events & EPOLLERR)
			vk_udp_drain_errors(self,
					    vk_udp_socket(self->path.port, events[i].data.u32));
		if (events[i].events & EPOLLIN)
			self->ready |= 1U << events[i].data.u32;
	}
}

/* sender reads a source address into *frame. */
static void sender(const union vk_udp_address *address, struct vk_rx_frame *frame)
{
	memset(frame->source, 0, sizeof frame->source);
	if (address->any.sa_family == AF_INET6) {
		frame->family = 6;
		frame->source_port = ntohs(address->in6.sin6_port);
		memcpy(frame->source, &address->in6.sin6_addr, 16);
	} else {
		frame->family = 4;
		frame->source_port = ntohs(address->in4.sin_port);
		memcpy(frame->source, &address->in4.sin_addr, 4);
	}
}

/* How far CLOCK_MONOTONIC is behind CLOCK_REALTIME, which the kernel stamps packets by. */
static int64_t wall_ahead_ns(uint64_t now_ns)
{
	struct timespec wall;

	clock_gettime(CLOCK_REALTIME, &wall);
	return (int64_t)wall.tv_sec * NS_PER_S + wall.tv_nsec - (int64_t)now_ns;
}

/* When a packet came, by the kernel's stamp; 0 when somebody set the clock meanwhile. */
static uint64_t stamped(const struct timespec *stamp, int64_t ahead_ns, uint64_t now_ns)
{
	int64_t came_ns = (int64_t)stamp->tv_sec * NS_PER_S + stamp->tv_nsec - ahead_ns;

	return came_ns <= (int64_t)now_ns && came_ns + STAMP_NS_MAX > (int64_t)now_ns ?
		       (uint64_t)came_ns :
		       0;
}

/* read_control reads what came beside a packet: the size of its segments, its mark and when it
 * came. The kernel makes one super-packet only of packets that are marked alike. */
static void read_control(struct msghdr *message, struct vk_packet_run *run,
			 struct vk_rx_frame *from, int64_t ahead_ns, uint64_t now_ns)
{
	from->ce = 0;
	from->came_ns = 0;
	for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at; at = CMSG_NXTHDR(message, at)) {
		int value = 0;

		if (at->cmsg_level == IPPROTO_UDP && at->cmsg_type == UDP_GRO) {
			memcpy(&value, CMSG_DATA(at), sizeof value);
			run->segment = value > 0 ? (uint32_t)value : 0;
		} else if (at->cmsg_level == IPPROTO_IP && at->cmsg_type == IP_TOS) {
			from->ce = (*CMSG_DATA(at) & VK_CE) == VK_CE;
		} else if (at->cmsg_level == IPPROTO_IPV6 && at->cmsg_type == IPV6_TCLASS) {
			memcpy(&value, CMSG_DATA(at), sizeof value);
			from->ce = (value & VK_CE) == VK_CE;
		} else if (at->cmsg_level == SOL_SOCKET && at->cmsg_type == SCM_TIMESTAMPNS) {
			struct timespec stamp;

			memcpy(&stamp, CMSG_DATA(at), sizeof stamp);
			from->came_ns = stamped(&stamp, ahead_ns, now_ns);
		}
	}
}

/* receive fills a class's inbox from one socket, with at most so many packets; returns how many
 * came. */
static uint32_t receive(struct vk_udp_path *self, uint32_t queue, int most)
{
	uint32_t class = queue / VK_UDP_FAMILIES;
	struct vk_udp_inbox *inbox = &self->inboxes[class];
	int fd = vk_udp_socket(self->path.port, queue), count;
	int64_t ahead_ns = 0;

	for (int i = 0; i < most; i++) {
		self->vectors[i] =
			(struct iovec){ inbox->buffers + (size_t)i * BUFFER_SIZE, BUFFER_SIZE };
		self->messages[i].msg_hdr = (struct msghdr){
			.msg_name = &self->addresses[i],
			.msg_namelen = sizeof self->addresses[i],
			.msg_iov = &self->vectors[i],
			.msg_iovlen = 1,
			.msg_control = &self->controls[i],
			.msg_controllen = sizeof self->controls[i],
		};
	}
	self->path.syscalls_rx++;
	count = recvmmsg(fd, self->messages, (unsigned int)most, MSG_DONTWAIT, NULL);
	if (count < most)
		self->ready &= ~(1U << queue); /* epoll tells again */
	inbox->count = count > 0 ? (uint32_t)count : 0;
	if (count > 0) {
		self->path.taken_ns = vk_path_clock();
		ahead_ns = wall_ahead_ns(self->path.taken_ns);
	}
	inbox->next = 0;
	for (uint32_t i = 0; i < inbox->count; i++) {
		struct mmsghdr *message = &self->messages[i];

		inbox->runs[i] = (struct vk_packet_run){
			.data = inbox->buffers + (size_t)i * BUFFER_SIZE,
			.size = message->msg_len,
		};
		read_control(&message->msg_hdr, &inbox->runs[i], &inbox->from[i], ahead_ns,
			     self->path.taken_ns);
		if (message->msg_hdr.msg_flags & MSG_TRUNC || !message->msg_len) {
			inbox->runs[i].size = 0;
			self->path.invalid[class]++;
		}
		sender(&self->addresses[i], &inbox->from[i]);
		inbox->from[i].class = (uint16_t)class;
	}
	return inbox->count;
}

/* receive_more looks for packets of a class whose inbox is empty: no more than frames are asked
 * for, as each takes its time. */
static int receive_more(struct vk_udp_path *self, uint32_t class, int most)
{
	struct vk_udp_inbox *inbox = &self->inboxes[class];
	uint32_t mask = 3U << class * VK_UDP_FAMILIES;

	if (most > VK_UDP_BUFFERS)
		most = VK_UDP_BUFFERS;
	if (!(self->ready & mask)) {
		if (self->asked & 1U << class)
			look(self);
		self->asked |= 1U << class;
	}
	for (uint32_t i = 0; i < VK_UDP_FAMILIES && self->ready & mask; i++) {
		uint32_t queue = class * VK_UDP_FAMILIES + (inbox->turn++ & 1);

		if (self->ready & 1U << queue && receive(self, queue, most))
			return 1;
	}
	return 0;
}

static int udp_rx(struct vk_path *path, uint32_t class, struct vk_rx_frame *frames, int max)
{
	struct vk_udp_path *self = vk_udp(path);
	struct vk_udp_inbox *inbox = &self->inboxes[class];
	int count = 0;

	if (!inbox->buffers)
		return 0;
	do {
		while (inbox->next < inbox->count && count < max) {
			struct vk_packet_run *run = &inbox->runs[inbox->next];

			count += vk_packet_split(run, &inbox->from[inbox->next], frames + count,
						 max - count, &path->invalid[class]);
			if (run->offset >= run->size)
				inbox->next++;
		}
		/* Frames handed out lie in the buffers: nothing is received over them. */
	} while (!count && !path->draining && receive_more(self, class, max));
	return count;
}

static void udp_rx_done(struct vk_path *path, uint32_t class)
{
	(void)path;
	(void)class; /* the buffers are reused when the inbox is empty and rx comes again */
}

static int udp_fds(struct vk_path *path, int *fds, int max)
{
	if (max < 1 || !vk_udp(path)->buffers)
		return 0;
	fds[0] = vk_udp(path)->epoll;
	return 1;
}

static void udp_close(struct vk_path *path)
{
	struct vk_udp_path *self = vk_udp(path);

	vk_udp_tx_close(self);
	if (self->epoll >= 0)
		close(self->epoll);
	if (self->buffers)
		munmap(self->buffers, (size_t)VK_CLASS_COUNT * VK_UDP_BUFFERS * BUFFER_SIZE);
	free(self);
}

static const struct vk_path_ops udp_ops = {
	.name = "udp",
	.rx = udp_rx,
	.rx_done = udp_rx_done,
	.tx_reserve = vk_udp_tx_reserve,
	.tx_lend = vk_udp_tx_lend,
	.tx_row = vk_udp_tx_row,
	.tx_commit = vk_udp_tx_commit,
	.tx_flush = vk_udp_tx_flush,
	.fds = udp_fds,
	.close = udp_close,
};

static uint8_t *map(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

static int open_receive(struct vk_udp_path *self)
{
	self->buffers = map((size_t)VK_CLASS_COUNT * VK_UDP_BUFFERS * BUFFER_SIZE);
	if (!self->buffers)
		return -errno;
	self->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (self->epoll < 0)
		return -errno;
	for (uint32_t i = 0; i < VK_UDP_QUEUES; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.u32 = i };
		int fd = vk_udp_socket(self->path.port, i);

		if (fd >= 0 && epoll_ctl(self->epoll, EPOLL_CTL_ADD, fd, &event))
			return -errno;
	}
	for (uint32_t class = 0; class < VK_CLASS_COUNT; class ++)
		self->inboxes[class].buffers =
			self->buffers + (size_t)class * VK_UDP_BUFFERS * BUFFER_SIZE;
	return 0;
}

struct vk_path *vk_path_udp_open(struct vk_port *port, struct vk_port_state *state)
{
	struct vk_udp_path *self = calloc(1, sizeof *self);
	int error = 0;

	if (!self)
		return NULL;
	self->path = (struct vk_path){ .ops = &udp_ops, .port = port, .state = state };
	self->epoll = -1;
	error = vk_udp_tx_open(self);
	if (!error && port->rx_path == VK_PATH_UDP)
		error = open_receive(self);
	if (error) {
		udp_close(&self->path);
		errno = -error;
		return NULL;
	}
	return &self->path;
}
