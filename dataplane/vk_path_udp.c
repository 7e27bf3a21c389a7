/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
/* The kernel's UDP path. Send: datagrams to one peer and class gather in super-packets of equal
 * segments (UDP_SEGMENT), in the order of their commits. Receive: recvmmsg into a fixed set of
 * buffers a class, super-packets (UDP_GRO) cut into frames. Nothing is allocated per packet. */
#include "vk_packet.h"
#include "vk_udp.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
	SEGMENTS_MAX = 64, /* of one super-packet: the limit of kernels before 6.9 */
	SUPER_SIZE_MAX = VK_UDP_PAYLOAD_MAX,
	SUPERS = 128, /* super-packets being gathered or kept */
	BATCH = 16, /* super-packets of one sendmmsg */
	SLOTS_SIZE = 4194304, /* bytes of datagrams being gathered or kept */
	SLOTS_MIN = 128,
	SLOTS_MAX = 2048,
	BUFFERS = 16, /* super-packets of one recvmmsg */
	BUFFER_SIZE = 65536,
	ERRORS_MAX = 64, /* taken from an error queue at once */
	QUEUES = VK_CLASS_COUNT * VK_UDP_FAMILIES,
	NONE = UINT32_MAX,
};

/* Where a datagram goes, and as what. Compared as memory: no padding. */
struct key {
	uint8_t address[16];
	uint8_t source[16];
	uint16_t udp_port;
	uint8_t family;
	uint8_t class;
};

/* Datagrams that leave in one send. All but the last have, or can be padded to, `segment` bytes. */
struct super {
	struct key key;
	uint32_t next; /* in its queue, or free */
	uint32_t count;
	uint32_t first; /* datagrams before it have left (plain sends) */
	uint32_t segment;
	uint8_t fixed; /* segment is the size of a datagram that cannot grow */
	uint8_t closed;
	uint8_t plain; /* the kernel refuses to segment it */
	struct iovec parts[SEGMENTS_MAX];
};

struct queue {
	uint32_t head;
	uint32_t tail;
};

/* Datagrams received and not handed out, of one class. */
struct inbox {
	uint8_t *buffers;
	struct vk_packet_run runs[BUFFERS];
	struct vk_rx_frame from[BUFFERS];
	uint32_t count;
	uint32_t next;
	uint32_t turn; /* family to look at first */
};

union address {
	struct sockaddr any;
	struct sockaddr_in in4;
	struct sockaddr_in6 in6;
};

union control {
	struct cmsghdr align;
	uint8_t bytes[CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(uint16_t)) + 16];
};

struct udp_path {
	struct vk_path path; /* first: the ops get this */
	int epoll;
	uint32_t ready; /* sockets with something to read: bit class * 2 + family */
	uint32_t asked; /* classes answered since the last look */
	struct inbox inboxes[VK_CLASS_COUNT];
	uint8_t *buffers;
	uint8_t *slots;
	uint32_t slot_size;
	uint32_t slot_count;
	uint32_t *free_slots;
	uint32_t free_slot_count;
	uint32_t free_super; /* list */
	uint32_t free_super_count;
	struct queue queues[QUEUES];
	uint32_t last[VK_CLASS_COUNT]; /* super used last, by class */
	uint32_t kept; /* datagrams in queues */
	uint32_t reserved; /* slot or NONE */
	struct key key; /* of the reservation */
	int refused; /* errno that makes the reservation a loss */
	int segments; /* the kernel segments for us */
	struct super supers[SUPERS];
	/* arguments of one sendmmsg or recvmmsg */
	struct mmsghdr messages[SEGMENTS_MAX];
	struct iovec vectors[SEGMENTS_MAX];
	union address addresses[SEGMENTS_MAX];
	union control controls[SEGMENTS_MAX];
	_Alignas(8) uint8_t scratch[65536]; /* for datagrams that will be lost */
};

static struct udp_path *udp(struct vk_path *path)
{
	return (struct udp_path *)path;
}

static int socket_of(const struct vk_port *port, uint32_t queue)
{
	uint32_t class = queue / VK_UDP_FAMILIES;

	return queue % VK_UDP_FAMILIES ? port->sockets6[class] : port->sockets4[class];
}

/* drain_errors empties a socket's error queue (ICMP, local): it would wake us for ever. */
static void drain_errors(struct udp_path *self, int fd)
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

/* ---- Receive ---- */

/* look asks the kernel which sockets have something, once for all classes. */
static void look(struct udp_path *self)
{
	struct epoll_event events[QUEUES];
	int count;

	self->path.syscalls_rx++;
	count = epoll_wait(self->epoll, events, QUEUES, 0);
	self->ready = 0;
	self->asked = 0;
	for (int i = 0; i < count; i++) {
		if (events[i].events & EPOLLERR)
			drain_errors(self, socket_of(self->path.port, events[i].data.u32));
		if (events[i].events & EPOLLIN)
			self->ready |= 1U << events[i].data.u32;
	}
}

/* sender reads a source address into *frame. */
static void sender(const union address *address, struct vk_rx_frame *frame)
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

static uint32_t segment_of(struct msghdr *message)
{
	for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at; at = CMSG_NXTHDR(message, at)) {
		if (at->cmsg_level == IPPROTO_UDP && at->cmsg_type == UDP_GRO) {
			int size;

			memcpy(&size, CMSG_DATA(at), sizeof size);
			return size > 0 ? (uint32_t)size : 0;
		}
	}
	return 0;
}

/* receive fills a class's inbox from one socket and returns how many packets came. */
static uint32_t receive(struct udp_path *self, uint32_t queue)
{
	uint32_t class = queue / VK_UDP_FAMILIES;
	struct inbox *inbox = &self->inboxes[class];
	int fd = socket_of(self->path.port, queue), count;

	for (int i = 0; i < BUFFERS; i++) {
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
	count = recvmmsg(fd, self->messages, BUFFERS, MSG_DONTWAIT, NULL);
	if (count < BUFFERS)
		self->ready &= ~(1U << queue); /* epoll tells again */
	inbox->count = count > 0 ? (uint32_t)count : 0;
	inbox->next = 0;
	for (uint32_t i = 0; i < inbox->count; i++) {
		struct mmsghdr *message = &self->messages[i];

		inbox->runs[i] = (struct vk_packet_run){
			.data = inbox->buffers + (size_t)i * BUFFER_SIZE,
			.size = message->msg_len,
			.segment = segment_of(&message->msg_hdr),
		};
		if (message->msg_hdr.msg_flags & MSG_TRUNC || !message->msg_len) {
			inbox->runs[i].size = 0;
			self->path.invalid[class]++;
		}
		sender(&self->addresses[i], &inbox->from[i]);
		inbox->from[i].class = (uint16_t)class;
	}
	return inbox->count;
}

/* receive_more looks for packets of a class whose inbox is empty. */
static int receive_more(struct udp_path *self, uint32_t class)
{
	struct inbox *inbox = &self->inboxes[class];
	uint32_t mask = 3U << class * VK_UDP_FAMILIES;

	if (!(self->ready & mask)) {
		if (self->asked & 1U << class)
			look(self);
		self->asked |= 1U << class;
	}
	for (uint32_t i = 0; i < VK_UDP_FAMILIES && self->ready & mask; i++) {
		uint32_t queue = class * VK_UDP_FAMILIES + (inbox->turn++ & 1);

		if (self->ready & 1U << queue && receive(self, queue))
			return 1;
	}
	return 0;
}

static int udp_rx(struct vk_path *path, uint32_t class, struct vk_rx_frame *frames, int max)
{
	struct udp_path *self = udp(path);
	struct inbox *inbox = &self->inboxes[class];
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
	} while (!count && receive_more(self, class));
	return count;
}

static void udp_rx_done(struct vk_path *path, uint32_t class)
{
	(void)path;
	(void)class; /* the buffers are reused when the inbox is empty and rx comes again */
}

/* ---- Send ---- */

static uint32_t queue_of(const struct key *key)
{
	return key->class * (uint32_t)VK_UDP_FAMILIES + (key->family == 6);
}

static uint32_t super_size(const struct super *super)
{
	return super->count - super->first;
}

/* free_super_of gives a super-packet and its slots back. */
static void release(struct udp_path *self, uint32_t index)
{
	struct super *super = &self->supers[index];

	for (uint32_t i = 0; i < super->count; i++) {
		const uint8_t *slot = super->parts[i].iov_base;

		self->free_slots[self->free_slot_count++] =
			(uint32_t)((size_t)(slot - self->slots) / self->slot_size);
	}
	if (self->last[super->key.class] == index)
		self->last[super->key.class] = NONE;
	super->next = self->free_super;
	self->free_super = index;
	self->free_super_count++;
}

/* finish_head takes the first super-packet off a queue: `lost` of its datagrams are lost. */
static void finish_head(struct udp_path *self, struct queue *queue, int error)
{
	uint32_t index = queue->head;
	struct super *super = &self->supers[index];

	if (error) {
		self->path.lost[super->key.class] += super_size(super);
		self->path.error = error;
	} else {
		self->path.sent += super_size(super);
	}
	self->kept -= super_size(super);
	queue->head = super->next;
	if (queue->head == NONE)
		queue->tail = NONE;
	release(self, index);
}

/* put_address writes a key's destination and, as control messages, its source address and the
 * segment size (0: none). */
static void put_address(struct udp_path *self, uint32_t at, const struct key *key, uint32_t segment)
{
	struct msghdr *message = &self->messages[at].msg_hdr;
	union address *to = &self->addresses[at];
	struct cmsghdr *control = &self->controls[at].align;
	size_t size;

	*message = (struct msghdr){ .msg_name = to, .msg_control = control };
	memset(to, 0, sizeof *to);
	if (key->family == 6) {
		struct in6_pktinfo from = { .ipi6_ifindex = self->path.port->ifindex };

		memcpy(&from.ipi6_addr, key->source, 16);
		to->in6.sin6_family = AF_INET6;
		to->in6.sin6_port = htons(key->udp_port);
		to->in6.sin6_scope_id = self->path.port->ifindex;
		memcpy(&to->in6.sin6_addr, key->address, 16);
		message->msg_namelen = sizeof to->in6;
		*control = (struct cmsghdr){ .cmsg_level = IPPROTO_IPV6,
					     .cmsg_type = IPV6_PKTINFO,
					     .cmsg_len = CMSG_LEN(sizeof from) };
		memcpy(CMSG_DATA(control), &from, sizeof from);
		size = CMSG_SPACE(sizeof from);
	} else {
		struct in_pktinfo from = { .ipi_ifindex = (int)self->path.port->ifindex };

		memcpy(&from.ipi_spec_dst, key->source, 4);
		to->in4.sin_family = AF_INET;
		to->in4.sin_port = htons(key->udp_port);
		memcpy(&to->in4.sin_addr, key->address, 4);
		message->msg_namelen = sizeof to->in4;
		*control = (struct cmsghdr){ .cmsg_level = IPPROTO_IP,
					     .cmsg_type = IP_PKTINFO,
					     .cmsg_len = CMSG_LEN(sizeof from) };
		memcpy(CMSG_DATA(control), &from, sizeof from);
		size = CMSG_SPACE(sizeof from);
	}
	if (segment) {
		uint16_t value = (uint16_t)segment;

		control = (void *)(self->controls[at].bytes + size);
		*control = (struct cmsghdr){ .cmsg_level = IPPROTO_UDP,
					     .cmsg_type = UDP_SEGMENT,
					     .cmsg_len = CMSG_LEN(sizeof value) };
		memcpy(CMSG_DATA(control), &value, sizeof value);
		size += CMSG_SPACE(sizeof value);
	}
	message->msg_controllen = size;
}

/* pad makes the segments of a super-packet equal; the last may be shorter. */
static void pad(struct super *super)
{
	for (uint32_t i = 0; i + 1 < super->count; i++) {
		if (super->parts[i].iov_len < super->segment) {
			vk_packet_pad(super->parts[i].iov_base, (uint32_t)super->parts[i].iov_len,
				      super->segment);
			super->parts[i].iov_len = super->segment;
		}
	}
	super->closed = 1;
}

/* send_plain sends what is left of the first super-packet as datagrams of their own. Returns 0 or
 * the errno that the first of the rest met. */
static int send_plain(struct udp_path *self, struct super *super, int fd)
{
	while (super->first < super->count) {
		uint32_t left = super_size(super);
		int sent;

		for (uint32_t i = 0; i < left; i++) {
			put_address(self, i, &super->key, 0);
			self->messages[i].msg_hdr.msg_iov = &super->parts[super->first + i];
			self->messages[i].msg_hdr.msg_iovlen = 1;
		}
		self->path.syscalls_tx++;
		sent = sendmmsg(fd, self->messages, left, MSG_DONTWAIT);
		if (sent < 0)
			return errno;
		super->first += (uint32_t)sent;
		self->path.sent += (uint32_t)sent;
		self->kept -= (uint32_t)sent;
	}
	return 0;
}

/* send_batch sends super-packets from the head of a queue. Returns 0 or the errno that the one
 * now at the head met. */
static int send_batch(struct udp_path *self, struct queue *queue, int fd)
{
	uint32_t index = queue->head, count = 0;
	int sent;

	if (self->supers[index].plain || (!self->segments && self->supers[index].count > 1)) {
		int error = send_plain(self, &self->supers[index], fd);

		if (!error)
			finish_head(self, queue, 0);
		return error;
	}
	for (; index != NONE && count < BATCH; index = self->supers[index].next) {
		struct super *super = &self->supers[index];

		if (super->plain || (!self->segments && super->count > 1))
			break;
		pad(super);
		put_address(self, count, &super->key, super->count > 1 ? super->segment : 0);
		self->messages[count].msg_hdr.msg_iov = super->parts;
		self->messages[count].msg_hdr.msg_iovlen = super->count;
		count++;
	}
	self->path.syscalls_tx++;
	sent = sendmmsg(fd, self->messages, count, MSG_DONTWAIT);
	if (sent < 0)
		return errno;
	for (int i = 0; i < sent; i++)
		finish_head(self, queue, 0);
	return 0;
}

/* handle decides what an errno means for the head of a queue: 0 = go on, else stop and keep. */
static int handle(struct udp_path *self, struct queue *queue, int fd, int error, int *again)
{
	struct super *super = &self->supers[queue->head];

	if (error == EAGAIN || error == ENOBUFS || error == ENOMEM)
		return error;
	if (error == EINTR)
		return 0;
	if (super->count > 1 && !super->plain && self->segments &&
	    (error == EIO || error == EINVAL || error == EMSGSIZE || error == EOPNOTSUPP)) {
		super->plain = 1; /* without checksum offload the kernel does not segment */
		if (error == EIO)
			self->segments = 0;
		drain_errors(self, fd);
		return 0;
	}
	drain_errors(self, fd);
	if (!*again) {
		*again = 1; /* it may have been the echo of an earlier datagram */
		return 0;
	}
	*again = 0;
	if (super->plain || !self->segments) {
		/* one datagram of many: the others may still go */
		self->path.lost[super->key.class]++;
		self->path.error = error;
		self->kept--;
		if (++super->first < super->count)
			return 0;
		finish_head(self, queue, 0);
		return 0;
	}
	finish_head(self, queue, error);
	return 0;
}

static int udp_tx_flush(struct vk_path *path)
{
	struct udp_path *self = udp(path);

	for (uint32_t i = 0; i < QUEUES && self->kept; i++) {
		struct queue *queue = &self->queues[i];
		int fd = socket_of(path->port, i), again = 0;

		while (queue->head != NONE) {
			uint32_t head = queue->head;
			int error = send_batch(self, queue, fd);

			if (!error)
				again = 0;
			else if (handle(self, queue, fd, error, &again))
				break;
			if (queue->head != head)
				again = 0;
		}
	}
	return (int)self->kept;
}

static uint8_t *udp_tx_reserve(struct vk_path *path, const struct vk_peer *peer, uint32_t class)
{
	struct udp_path *self = udp(path);

	memset(&self->key, 0, sizeof self->key);
	memcpy(self->key.address, peer->address, peer->family == 6 ? 16 : 4);
	memcpy(self->key.source, peer->source, peer->family == 6 ? 16 : 4);
	self->key.udp_port = peer->udp_port;
	self->key.family = peer->family;
	self->key.class = (uint8_t)class;
	self->refused = 0;
	if (socket_of(path->port, queue_of(&self->key)) < 0)
		self->refused = EAFNOSUPPORT;
	else if (peer->payload_max > self->slot_size)
		self->refused = EMSGSIZE;
	if (self->refused)
		return self->scratch;
	if (!self->free_super_count || (self->reserved == NONE && !self->free_slot_count)) {
		udp_tx_flush(path);
		if (!self->free_super_count || (self->reserved == NONE && !self->free_slot_count))
			return NULL;
	}
	if (self->reserved == NONE)
		self->reserved = self->free_slots[--self->free_slot_count];
	return self->slots + (size_t)self->reserved * self->slot_size;
}

/* append adds a datagram to a super-packet, or returns 0 when it cannot be made equal. */
static int append(struct super *super, uint8_t *data, uint32_t size, int paddable)
{
	uint32_t segment = size > super->segment ? size : super->segment;

	if (super->closed || super->count == SEGMENTS_MAX ||
	    segment * (super->count + 1) > SUPER_SIZE_MAX)
		return 0;
	if (super->fixed && size > super->segment)
		return 0;
	if (!paddable) {
		if (size < super->segment)
			super->closed = 1; /* only the last may be shorter */
		else
			super->fixed = 1;
	}
	super->segment = segment;
	super->parts[super->count++] = (struct iovec){ data, size };
	return 1;
}

/* gathering returns the newest super-packet of a key in its queue, or NONE. */
static uint32_t gathering(struct udp_path *self, const struct key *key)
{
	uint32_t found = self->last[key->class];

	if (found != NONE && !memcmp(&self->supers[found].key, key, sizeof *key))
		return found;
	found = NONE;
	for (uint32_t i = self->queues[queue_of(key)].head; i != NONE; i = self->supers[i].next)
		if (!memcmp(&self->supers[i].key, key, sizeof *key))
			found = i;
	return found;
}

static void udp_tx_commit(struct vk_path *path, uint32_t size, int paddable)
{
	struct udp_path *self = udp(path);
	struct queue *queue;
	struct super *super;
	uint8_t *data;
	uint32_t index;

	if (self->refused) {
		path->lost[self->key.class]++;
		path->error = self->refused;
		self->refused = 0;
		return;
	}
	assert(self->reserved != NONE && size && size <= self->slot_size);
	data = self->slots + (size_t)self->reserved * self->slot_size;
	self->reserved = NONE;
	self->kept++;
	index = gathering(self, &self->key);
	if (index != NONE && append(&self->supers[index], data, size, paddable)) {
		self->last[self->key.class] = index;
		return;
	}
	index = self->free_super; /* reserve saw to it that there is one */
	super = &self->supers[index];
	self->free_super = super->next;
	self->free_super_count--;
	memset(super, 0, offsetof(struct super, parts));
	super->key = self->key;
	super->next = NONE;
	append(super, data, size, paddable);
	queue = &self->queues[queue_of(&self->key)];
	if (queue->tail == NONE)
		queue->head = index;
	else
		self->supers[queue->tail].next = index;
	queue->tail = index;
	self->last[self->key.class] = index;
}

/* ---- The path ---- */

static int udp_fds(struct vk_path *path, int *fds, int max)
{
	if (max < 1 || !udp(path)->buffers)
		return 0;
	fds[0] = udp(path)->epoll;
	return 1;
}

static void udp_close(struct vk_path *path)
{
	struct udp_path *self = udp(path);

	if (self->slots)
		udp_tx_flush(path);
	if (self->epoll >= 0)
		close(self->epoll);
	if (self->buffers)
		munmap(self->buffers, (size_t)VK_CLASS_COUNT * BUFFERS * BUFFER_SIZE);
	if (self->slots)
		munmap(self->slots, (size_t)self->slot_count * self->slot_size);
	free(self->free_slots);
	free(self);
}

static const struct vk_path_ops udp_ops = {
	.name = "udp",
	.rx = udp_rx,
	.rx_done = udp_rx_done,
	.tx_reserve = udp_tx_reserve,
	.tx_commit = udp_tx_commit,
	.tx_flush = udp_tx_flush,
	.fds = udp_fds,
	.close = udp_close,
};

static uint8_t *map(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

static int open_receive(struct udp_path *self)
{
	self->buffers = map((size_t)VK_CLASS_COUNT * BUFFERS * BUFFER_SIZE);
	if (!self->buffers)
		return -errno;
	self->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (self->epoll < 0)
		return -errno;
	for (uint32_t i = 0; i < QUEUES; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.u32 = i };
		int fd = socket_of(self->path.port, i);

		if (fd >= 0 && epoll_ctl(self->epoll, EPOLL_CTL_ADD, fd, &event))
			return -errno;
	}
	for (uint32_t class = 0; class < VK_CLASS_COUNT; class ++)
		self->inboxes[class].buffers =
			self->buffers + (size_t)class * BUFFERS * BUFFER_SIZE;
	return 0;
}

static int open_send(struct udp_path *self)
{
	uint32_t size = self->path.port->mtu ? self->path.port->mtu : 1500, count;

	self->slot_size = (size + VK_LINE - 1) / VK_LINE * VK_LINE;
	count = SLOTS_SIZE / self->slot_size;
	count = count < SLOTS_MIN ? SLOTS_MIN : count > SLOTS_MAX ? SLOTS_MAX : count;
	self->slots = map((size_t)count * self->slot_size);
	self->free_slots = calloc(count, sizeof *self->free_slots);
	if (!self->slots || !self->free_slots)
		return -ENOMEM;
	self->slot_count = count;
	self->free_slot_count = count;
	for (uint32_t i = 0; i < count; i++)
		self->free_slots[i] = count - 1 - i;
	return 0;
}

struct vk_path *vk_path_udp_open(struct vk_port *port, struct vk_port_state *state)
{
	struct udp_path *self = calloc(1, sizeof *self);
	int error = 0;

	if (!self)
		return NULL;
	self->path = (struct vk_path){ .ops = &udp_ops, .port = port, .state = state };
	self->epoll = -1;
	self->reserved = NONE;
	self->segments = 1;
	self->free_super = NONE;
	for (uint32_t i = 0; i < QUEUES; i++)
		self->queues[i] = (struct queue){ NONE, NONE };
	for (uint32_t i = 0; i < VK_CLASS_COUNT; i++)
		self->last[i] = NONE;
	for (uint32_t i = 0; i < SUPERS; i++) {
		self->supers[i].next = self->free_super;
		self->free_super = i;
	}
	self->free_super_count = SUPERS;
	error = open_send(self);
	if (!error && port->rx_path == VK_PATH_UDP)
		error = open_receive(self);
	if (error) {
		udp_close(&self->path);
		errno = -error;
		return NULL;
	}
	return &self->path;
}
