/* SPDX-License-Identifier: MIT */
/* The sending half of the kernel's UDP path. Datagrams to one peer and class gather in
 * super-packets of equal segments (UDP_SEGMENT), in the order of their commits. */
#define _GNU_SOURCE
#include "vk_path_udp.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/udp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

enum {
	SUPER_SIZE_MAX = VK_UDP_PAYLOAD_MAX,
	BATCH = 16, /* super-packets of one sendmmsg */
	SLOTS_SIZE = 4194304, /* bytes of datagrams being gathered or kept */
	SLOTS_MIN = 128,
	SLOTS_MAX = 2048,
};

static uint32_t queue_of(const struct vk_udp_key *key)
{
	return key->class * (uint32_t)VK_UDP_FAMILIES + (key->family == 6);
}

static uint32_t super_size(const struct vk_udp_super *super)
{
	return super->count - super->first;
}

/* release gives a super-packet and its slots back. */
static void release(struct vk_udp_path *self, uint32_t index)
{
	struct vk_udp_super *super = &self->supers[index];

	for (uint32_t i = 0; i < super->count; i++) {
		const uint8_t *slot = super->parts[super->begins[i]].iov_base;

		self->free_slots[self->free_slot_count++] =
			(uint32_t)((size_t)(slot - self->slots) / self->slot_size);
	}
	if (self->last[super->key.class] == index)
		self->last[super->key.class] = VK_UDP_NONE;
	super->next = self->free_super;
	self->free_super = index;
	self->free_super_count++;
}

/* finish_head takes the first super-packet off a queue: `lost` of its datagrams are lost. */
static void finish_head(struct vk_udp_path *self, struct vk_udp_queue *queue, int error)
{
	uint32_t index = queue->head;
	struct vk_udp_super *super = &self->supers[index];

	if (error) {
		self->path.lost[super->key.class] += super_size(super);
		self->path.error = error;
	} else {
		self->path.sent += super_size(super);
	}
	self->kept -= super_size(super);
	queue->head = super->next;
	if (queue->head == VK_UDP_NONE)
		queue->tail = VK_UDP_NONE;
	release(self, index);
}

/* put_address writes a key's destination and, as control messages, its source address and the
 * segment size (0: none). */
static void put_address(struct vk_udp_path *self, uint32_t at, const struct vk_udp_key *key,
			uint32_t segment)
{
	struct msghdr *message = &self->messages[at].msg_hdr;
	union vk_udp_address *to = &self->addresses[at];
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

static uint32_t parts_of(const struct vk_udp_super *super, uint32_t i)
{
	return (i + 1u < super->count ? super->begins[i + 1] : super->parts_count) -
	       super->begins[i];
}

/* pad makes the segments of a super-packet equal; the last may be shorter. */
static void pad(struct vk_udp_super *super)
{
	for (uint32_t i = 0; i + 1 < super->count; i++) {
		struct iovec *part = &super->parts[super->begins[i]];

		/* One in two pieces cannot grow: it has the size of a segment. */
		if (part->iov_len < super->segment && parts_of(super, i) == 1) {
			vk_packet_pad(part->iov_base, (uint32_t)part->iov_len, super->segment);
			part->iov_len = super->segment;
		}
	}
	super->closed = 1;
}

/* keep brings what is lent into the datagrams that wait for another flush. */
static void keep(struct vk_udp_super *super)
{
	for (uint32_t i = super->first; i < super->count; i++) {
		struct iovec *part = &super->parts[super->begins[i]];

		if (parts_of(super, i) == 2) {
			uint8_t *at = (uint8_t *)part->iov_base + part->iov_len;

			if (part[1].iov_base != at)
				memcpy(at, part[1].iov_base, part[1].iov_len);
			part[1].iov_base = at;
		}
	}
}

/* send_plain sends what is left of the first super-packet as datagrams of their own. Returns 0 or
 * the errno that the first of the rest met. */
static int send_plain(struct vk_udp_path *self, struct vk_udp_super *super, int fd)
{
	while (super->first < super->count) {
		uint32_t left = super_size(super);
		int sent;

		for (uint32_t i = 0; i < left; i++) {
			put_address(self, i, &super->key, 0);
			self->messages[i].msg_hdr.msg_iov =
				&super->parts[super->begins[super->first + i]];
			self->messages[i].msg_hdr.msg_iovlen = parts_of(super, super->first + i);
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
static int send_batch(struct vk_udp_path *self, struct vk_udp_queue *queue, int fd)
{
	uint32_t index = queue->head, count = 0;
	int sent;

	if (self->supers[index].plain || (!self->segments && self->supers[index].count > 1)) {
		int error = send_plain(self, &self->supers[index], fd);

		if (!error)
			finish_head(self, queue, 0);
		return error;
	}
	for (; index != VK_UDP_NONE && count < BATCH; index = self->supers[index].next) {
		struct vk_udp_super *super = &self->supers[index];

		if (super->plain || (!self->segments && super->count > 1))
			break;
		pad(super);
		put_address(self, count, &super->key, super->count > 1 ? super->segment : 0);
		self->messages[count].msg_hdr.msg_iov = super->parts;
		self->messages[count].msg_hdr.msg_iovlen = super->parts_count;
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
static int handle(struct vk_udp_path *self, struct vk_udp_queue *queue, int fd, int error,
		  int *again)
{
	struct vk_udp_super *super = &self->supers[queue->head];

	if (error == EAGAIN || error == ENOBUFS || error == ENOMEM)
		return error;
	if (error == EINTR)
		return 0;
	if (super->count > 1 && !super->plain && self->segments &&
	    (error == EIO || error == EINVAL || error == EMSGSIZE || error == EOPNOTSUPP)) {
		super->plain = 1; /* without checksum offload the kernel does not segment */
		if (error == EIO)
			self->segments = 0;
		vk_udp_drain_errors(self, fd);
		return 0;
	}
	vk_udp_drain_errors(self, fd);
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

int vk_udp_tx_flush(struct vk_path *path)
{
	struct vk_udp_path *self = vk_udp(path);

	for (uint32_t i = 0; i < VK_UDP_QUEUES && self->kept; i++) {
		struct vk_udp_queue *queue = &self->queues[i];
		int fd = vk_udp_socket(path->port, i), again = 0;

		while (queue->head != VK_UDP_NONE) {
			uint32_t head = queue->head;
			int error = send_batch(self, queue, fd);

			if (!error)
				again = 0;
			else if (handle(self, queue, fd, error, &again))
				break;
			if (queue->head != head)
				again = 0;
		}
		for (uint32_t k = queue->head; k != VK_UDP_NONE; k = self->supers[k].next)
			keep(&self->supers[k]);
	}
	return (int)self->kept;
}

uint8_t *vk_udp_tx_reserve(struct vk_path *path, const struct vk_peer *peer, uint32_t class)
{
	struct vk_udp_path *self = vk_udp(path);

	memset(&self->key, 0, sizeof self->key);
	memcpy(self->key.address, peer->address, peer->family == 6 ? 16 : 4);
	memcpy(self->key.source, peer->source, peer->family == 6 ? 16 : 4);
	self->key.udp_port = peer->udp_port;
	self->key.family = peer->family;
	self->key.class = (uint8_t)class;
	self->refused = 0;
	self->lent.iov_len = 0;
	if (vk_udp_socket(path->port, queue_of(&self->key)) < 0)
		self->refused = EAFNOSUPPORT;
	else if (peer->payload_max > self->slot_size)
		self->refused = EMSGSIZE;
	if (self->refused)
		return self->scratch;
	if (!self->free_super_count || (self->reserved == VK_UDP_NONE && !self->free_slot_count)) {
		vk_udp_tx_flush(path);
		if (!self->free_super_count ||
		    (self->reserved == VK_UDP_NONE && !self->free_slot_count))
			return NULL;
	}
	if (self->reserved == VK_UDP_NONE)
		self->reserved = self->free_slots[--self->free_slot_count];
	return self->slots + (size_t)self->reserved * self->slot_size;
}

void vk_udp_tx_lend(struct vk_path *path, const uint8_t *body, uint32_t size)
{
	vk_udp(path)->lent = (struct iovec){ (uint8_t *)(uintptr_t)body, size };
}

/* append adds a datagram to a super-packet, or returns 0 when it cannot be made equal. Its end may
 * be lent. */
static int append(struct vk_udp_super *super, uint8_t *data, uint32_t size,
		  const struct iovec *lent, int paddable)
{
	uint32_t segment = size > super->segment ? size : super->segment;

	if (super->closed || super->count == VK_UDP_SEGMENTS_MAX ||
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
	super->begins[super->count++] = super->parts_count;
	super->parts[super->parts_count++] = (struct iovec){ data, size - lent->iov_len };
	if (lent->iov_len)
		super->parts[super->parts_count++] = *lent;
	return 1;
}

/* gathering returns the newest super-packet of a key in its queue, or VK_UDP_NONE. */
static uint32_t gathering(struct vk_udp_path *self, const struct vk_udp_key *key)
{
	uint32_t found = self->last[key->class];

	if (found != VK_UDP_NONE && !memcmp(&self->supers[found].key, key, sizeof *key))
		return found;
	found = VK_UDP_NONE;
	for (uint32_t i = self->queues[queue_of(key)].head; i != VK_UDP_NONE;
	     i = self->supers[i].next)
		if (!memcmp(&self->supers[i].key, key, sizeof *key))
			found = i;
	return found;
}

/* note_full says what a super-packet came to that took no more, unless something cut it short. */
static void note_full(struct vk_path *path, const struct vk_udp_super *super)
{
	if (super->count < VK_UDP_SEGMENTS_MAX &&
	    super->segment * (super->count + 1) <= SUPER_SIZE_MAX)
		return;
	path->super_bytes = super->segment * super->count;
	path->super_datagrams = super->count;
}

void vk_udp_tx_commit(struct vk_path *path, uint32_t size, int paddable)
{
	struct vk_udp_path *self = vk_udp(path);
	struct vk_udp_queue *queue;
	struct vk_udp_super *super;
	uint8_t *data;
	uint32_t index;

	if (self->refused) {
		path->lost[self->key.class]++;
		path->error = self->refused;
		self->refused = 0;
		return;
	}
	assert(self->reserved != VK_UDP_NONE && size && size <= self->slot_size);
	data = self->slots + (size_t)self->reserved * self->slot_size;
	self->reserved = VK_UDP_NONE;
	self->kept++;
	index = gathering(self, &self->key);
	if (index != VK_UDP_NONE) {
		super = &self->supers[index];
		if (append(super, data, size, &self->lent, paddable)) {
			self->last[self->key.class] = index;
			return;
		}
		note_full(path, super);
	}
	index = self->free_super; /* reserve saw to it that there is one */
	super = &self->supers[index];
	self->free_super = super->next;
	self->free_super_count--;
	memset(super, 0, offsetof(struct vk_udp_super, begins));
	super->key = self->key;
	super->next = VK_UDP_NONE;
	append(super, data, size, &self->lent, paddable);
	queue = &self->queues[queue_of(&self->key)];
	if (queue->tail == VK_UDP_NONE)
		queue->head = index;
	else
		self->supers[queue->tail].next = index;
	queue->tail = index;
	self->last[self->key.class] = index;
}

/* How many more datagrams of a size a super-packet takes that has one of them. */
static uint32_t room_of(const struct vk_udp_super *super, uint32_t size)
{
	uint32_t most = SUPER_SIZE_MAX / size;

	if (super->closed || !super->fixed || super->segment != size)
		return 0;
	most = most < VK_UDP_SEGMENTS_MAX ? most : VK_UDP_SEGMENTS_MAX;
	return most > super->count ? most - super->count : 0;
}

uint32_t vk_udp_tx_row(struct vk_path *path, const struct vk_peer *peer, uint32_t class,
		       uint32_t head, const uint8_t *body, uint32_t size, uint32_t count,
		       uint8_t **heads)
{
	struct vk_udp_path *self = vk_udp(path);
	struct vk_udp_super *super;
	uint32_t taken = 1, room;

	heads[0] = vk_udp_tx_reserve(path, peer, class);
	if (!heads[0] || self->refused)
		return 0;
	vk_udp_tx_lend(path, body, size);
	vk_udp_tx_commit(path, head + size, 0);
	super = &self->supers[self->last[class]];
	room = room_of(super, head + size);
	room = room < self->free_slot_count ? room : self->free_slot_count;
	count = count < VK_TX_ROW ? count : VK_TX_ROW;
	for (count = count - 1 < room ? count : room + 1; taken < count; taken++) {
		uint32_t slot = self->free_slots[--self->free_slot_count];
		struct iovec *parts = &super->parts[super->parts_count];

		heads[taken] = self->slots + (size_t)slot * self->slot_size;
		body += size;
		parts[0] = (struct iovec){ heads[taken], head };
		parts[1] = (struct iovec){ (uint8_t *)(uintptr_t)body, size };
		super->begins[super->count++] = super->parts_count;
		super->parts_count += 2;
	}
	self->kept += taken - 1;
	return taken;
}

int vk_udp_tx_open(struct vk_udp_path *self)
{
	uint32_t size = self->path.port->mtu ? self->path.port->mtu : 1500, count;
	void *slots;

	self->free_super = VK_UDP_NONE;
	for (uint32_t i = 0; i < VK_UDP_QUEUES; i++)
		self->queues[i] = (struct vk_udp_queue){ VK_UDP_NONE, VK_UDP_NONE };
	for (uint32_t i = 0; i < VK_CLASS_COUNT; i++)
		self->last[i] = VK_UDP_NONE;
	for (uint32_t i = 0; i < VK_UDP_SUPERS; i++) {
		self->supers[i].next = self->free_super;
		self->free_super = i;
	}
	self->free_super_count = VK_UDP_SUPERS;
	self->reserved = VK_UDP_NONE;
	self->segments = 1;
	self->slot_size = (size + VK_LINE - 1) / VK_LINE * VK_LINE;
	count = SLOTS_SIZE / self->slot_size;
	count = count < SLOTS_MIN ? SLOTS_MIN : count > SLOTS_MAX ? SLOTS_MAX : count;
	slots = mmap(NULL, (size_t)count * self->slot_size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	self->free_slots = calloc(count, sizeof *self->free_slots);
	self->slots = slots == MAP_FAILED ? NULL : slots;
	if (!self->slots || !self->free_slots)
		return -ENOMEM;
	self->slot_count = count;
	self->free_slot_count = count;
	for (uint32_t i = 0; i < count; i++)
		self->free_slots[i] = count - 1 - i;
	return 0;
}

void vk_udp_tx_close(struct vk_udp_path *self)
{
	if (self->slots) {
		vk_udp_tx_flush(&self->path);
		munmap(self->slots, (size_t)self->slot_count * self->slot_size);
	}
	free(self->free_slots);
}
