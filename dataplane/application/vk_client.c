/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vk_client.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "vk_bell.h"

enum {
	NS_PER_S = 1000000000,
};

/* map_region checks what region a descriptor is, of which everything afterwards relies on a copy,
 * and maps it. */
static int map_region(int fd, uint32_t generation, int writable, uint32_t *capacity,
		      struct vk_region **region)
{
	uint32_t found;
	int error = vk_channel_check(fd, 1, capacity, &found);

	if (error)
		return error;
	if (found != generation)
		return -EPROTO;
	*region = vk_channel_map(fd, capacity, writable, NULL);
	return *region ? 0 : -errno;
}

static int open_rings(struct vk_client *client)
{
	int error = 0;

	for (uint32_t r = 0; r < VK_RINGS_MAX && !error; r++) {
		if (client->tx_capacity[r])
			error = vk_tx_open(&client->tx[r], client->self, client->peer,
					   client->tx_capacity, r);
		if (client->rx_capacity[r] && !error)
			error = vk_rx_open(&client->rx[r], client->self, client->peer,
					   client->rx_capacity, r);
	}
	return error;
}

int vk_client_open(struct vk_client *client, int region_d, int region_a, int bell_self,
		   int bell_peer, uint32_t generation)
{
	struct vk_region *peer = NULL;
	int error;

	*client = (struct vk_client){ .bell_self = bell_self,
				      .bell_peer = bell_peer,
				      .lease = -1,
				      .generation = generation };
	error = map_region(region_d, generation, 0, client->rx_capacity, &peer);
	client->peer = peer;
	if (!error)
		error = map_region(region_a, generation, 1, client->tx_capacity, &client->self);
	if (!error)
		error = open_rings(client);
	if (error)
		vk_client_close(client);
	return error;
}

void vk_client_close(struct vk_client *client)
{
	if (client->peer)
		vk_channel_unmap((struct vk_region *)client->peer, client->rx_capacity, 0);
	if (client->self)
		vk_channel_unmap(client->self, client->tx_capacity, 0);
	*client = (struct vk_client){ .bell_self = -1, .bell_peer = -1, .lease = -1 };
}

static int gone(const struct vk_client *client)
{
	return client->ended || VK_LOAD_ACQUIRE(&client->peer->closed) ||
	       VK_LOAD_RELAXED(&client->peer->generation) != client->generation;
}

static void ring_bell(struct vk_client *client)
{
	client->bells += (uint64_t)vk_event_ring(client->peer, client->bell_peer, &client->rang);
}

int vk_client_gone(const struct vk_client *client)
{
	return gone(client);
}

void vk_client_alert(struct vk_client *client, uint32_t ring)
{
	vk_tx_publish(&client->tx[ring]);
	ring_bell(client);
}

/* why says why a record of size bytes of payload could not be reserved. */
static int why(struct vk_tx *tx, uint32_t size)
{
	if (vk_record_span(size + sizeof(struct vk_message)) > tx->capacity)
		return -EMSGSIZE;
	return vk_tx_room(tx) < 0 ? -EPROTO : -EAGAIN;
}

static int put(struct vk_tx *tx, uint32_t kind, const struct vk_message *head,
	       const uint8_t *payload, uint32_t size)
{
	uint8_t *body;

	if (size > VK_SHARDED_MAX)
		return -EMSGSIZE;
	body = vk_tx_reserve(tx, sizeof *head + size);
	if (!body)
		return why(tx, size);
	memcpy(body, head, sizeof *head);
	memcpy(body + sizeof *head, payload, size);
	vk_tx_commit(tx, sizeof *head + size, (uint8_t)kind);
	return 0;
}

int vk_client_put(struct vk_client *client, uint32_t kind, const struct vk_message *head,
		  const uint8_t *payload, uint32_t size)
{
	struct vk_tx *tx = &client->tx[vk_stream_class(head->stream)];
	int error;

	if (gone(client))
		return -ESHUTDOWN;
	if (!tx->capacity)
		return -EACCES;
	error = put(tx, kind, head, payload, size);
	if (error)
		return error;
	vk_tx_publish(tx);
	ring_bell(client);
	return 0;
}

/* enter notices, without a lock's price, when two threads send or wait at a time: -EDEADLK. Python
 * gives its own lock away for longer than it takes another core to see the store. */
static int enter(struct vk_client *client)
{
	if (VK_LOAD_RELAXED(&client->busy))
		return -EDEADLK;
	VK_STORE_RELAXED(&client->busy, 1);
	return 0;
}

static void leave(struct vk_client *client)
{
	VK_STORE_RELAXED(&client->busy, 0);
}

/* unready says why no message may begin; 0 = one may. */
static int unready(const struct vk_outlet *outlet)
{
	if (outlet->closed)
		return -EPIPE;
	return outlet->within ? -EBUSY : 0;
}

int vk_client_send(struct vk_client *client, struct vk_outlet *outlet, const uint8_t *payload,
		   uint32_t size)
{
	int error = unready(outlet);

	if (enter(client))
		return -EDEADLK;
	if (!error)
		error = vk_outlet_short(outlet, size) ?
				-ENOBUFS :
				vk_client_put(client, VK_RECORD_DATA, &outlet->head, payload, size);
	if (!error) {
		outlet->head.sequence++;
		outlet->spent += (uint64_t)size + VK_MESSAGE_COST;
		outlet->sent++;
		outlet->sent_bytes += size;
	}
	leave(client);
	return error;
}

static int send_many(struct vk_client *client, struct vk_outlet *outlet, const uint8_t *payloads,
		     const uint32_t *sizes, uint32_t size, uint32_t count)
{
	struct vk_tx *tx = &client->tx[vk_stream_class(outlet->head.stream)];
	uint64_t bytes = 0;
	uint32_t sent;
	int error = unready(outlet);

	if (error)
		return error;
	if (gone(client))
		return -ESHUTDOWN;
	if (!tx->capacity)
		return -EACCES;
	for (sent = 0; sent < count && sent < INT32_MAX; sent++) {
		if (sizes)
			size = sizes[sent];
		error = vk_outlet_short(outlet, size) ?
				-ENOBUFS :
				put(tx, VK_RECORD_DATA, &outlet->head, payloads + bytes, size);
		if (error)
			break;
		outlet->head.sequence++;
		outlet->spent += (uint64_t)size + VK_MESSAGE_COST;
		bytes += size;
	}
	if (!sent)
		return error;
	outlet->sent += sent;
	outlet->sent_bytes += bytes;
	vk_tx_publish(tx);
	ring_bell(client);
	return (int)sent;
}

int vk_client_send_many(struct vk_client *client, struct vk_outlet *outlet, const uint8_t *payloads,
			const uint32_t *sizes, uint32_t size, uint32_t count)
{
	int result = enter(client);

	if (!result) {
		result = send_many(client, outlet, payloads, sizes, size, count);
		leave(client);
	}
	return result;
}

int vk_client_publish(struct vk_client *client, const struct vk_outlet *outlet)
{
	struct vk_tx *tx = &client->tx[vk_stream_class(outlet->head.stream)];

	if (gone(client))
		return -ESHUTDOWN;
	if (!tx->capacity)
		return -EACCES;
	vk_tx_publish(tx);
	ring_bell(client);
	return 0;
}

/* fragment_of returns the head of the fragment that is [at, end) of size bytes. */
static struct vk_message fragment_of(const struct vk_outlet *outlet, uint32_t size, uint32_t at,
				     uint32_t end)
{
	struct vk_message head = outlet->head;

	head.code = 0;
	if (at) {
		head.code |= VK_FRAGMENT_CONTINUES;
		head.time_ns = 0;
	}
	if (end < size) {
		head.code |= VK_FRAGMENT_MORE;
		head.flags &= (uint8_t)~VK_FLAG_EOS;
	}
	return head;
}

uint32_t vk_client_fragment(const struct vk_client *client, uint32_t ring, int limited)
{
	uint32_t most = client->tx_capacity[ring] / VK_CLIENT_FRAGMENTS_A_RING -
			(uint32_t)(sizeof(struct vk_record) + sizeof(struct vk_message));

	if (limited && most > VK_CLIENT_PAID - VK_MESSAGE_COST) /* none is begun unpaid */
		most = VK_CLIENT_PAID - VK_MESSAGE_COST;
	return most < VK_CLIENT_FRAGMENT ? most : VK_CLIENT_FRAGMENT;
}

static int64_t send_part(struct vk_client *client, struct vk_outlet *outlet, const uint8_t *payload,
			 uint32_t size, uint32_t at)
{
	uint32_t ring = vk_stream_class(outlet->head.stream), begin = at;
	int error = 0;

	if (at ? !outlet->within : outlet->closed)
		return -EPIPE;
	if (!at && outlet->within)
		return -EBUSY;
	if (at >= size)
		return -EINVAL;
	if (ring == VK_CLASS_LOGS || size > VK_MESSAGE_MAX)
		return -EMSGSIZE;
	if (!client->tx_capacity[ring])
		return gone(client) ? -ESHUTDOWN : -EACCES;
	while (begin < size) {
		uint32_t most = vk_client_fragment(client, ring, outlet->limit != 0);
		uint32_t end = size - begin > most ? begin + most : size;
		struct vk_message head = fragment_of(outlet, size, begin, end);

		if (vk_outlet_short(outlet, end - begin)) {
			error = -ENOBUFS;
			break;
		}
		error = vk_client_put(client, VK_RECORD_DATA, &head, payload + begin, end - begin);
		if (error)
			break;
		outlet->head.sequence++;
		outlet->spent += (uint64_t)(end - begin) + VK_MESSAGE_COST;
		outlet->within = end < size;
		begin = end;
	}
	outlet->sent_bytes += begin - at;
	outlet->sent += begin == size;
	return begin > at ? (int64_t)(begin - at) : error;
}

int64_t vk_client_send_part(struct vk_client *client, struct vk_outlet *outlet,
			    const uint8_t *payload, uint32_t size, uint32_t at)
{
	int64_t result = enter(client);

	if (!result) {
		result = send_part(client, outlet, payload, size, at);
		leave(client);
	}
	return result;
}

int64_t vk_client_room(struct vk_client *client, uint32_t ring)
{
	return ring < VK_RINGS_MAX ? vk_tx_room(&client->tx[ring]) : -EPROTO;
}

/* kind_fits says whether a worker may put a kind of record into a ring. */
static int kind_fits(uint32_t ring, uint8_t kind)
{
	if (ring == VK_CLASS_CONTROL)
		return kind == VK_RECORD_FLUSHED || kind == VK_RECORD_LIMIT;
	return kind >= VK_RECORD_DATA && kind <= VK_RECORD_RESET;
}

/* describe checks a record and copies what Python needs of it: 1, or -EPROTO. */
static int describe(const struct vk_rx *rx, const struct vk_record *record, const uint8_t *body,
		    struct vk_entry *entry)
{
	if (!kind_fits(rx->ring, record->kind) || record->size < sizeof entry->message ||
	    record->size - sizeof entry->message > VK_SHARDED_MAX)
		return -EPROTO;
	memcpy(&entry->message, body, sizeof entry->message);
	if (entry->message.flow >= VK_FLOWS_MAX)
		return -EPROTO;
	entry->offset = (uint64_t)(body - rx->data) + sizeof entry->message;
	entry->end = rx->head + vk_record_span(record->size);
	entry->size = record->size - sizeof entry->message;
	entry->kind = record->kind;
	return 1;
}

/* wanted says whether a described record is the next of a flow and sequence, if they matter. */
static int wanted(const struct vk_entry *entry, int64_t flow, int64_t sequence)
{
	if (flow == VK_CLIENT_ANY_FLOW)
		return 1;
	return entry->kind == VK_RECORD_DATA && vk_client_flow(&entry->message) == flow &&
	       !entry->message.code &&
	       (sequence == VK_CLIENT_ANY_SEQUENCE ||
		entry->message.sequence == (uint32_t)sequence);
}

int vk_client_receive(struct vk_client *client, uint32_t ring, int64_t flow, int64_t sequence,
		      struct vk_entry *entries, uint32_t max)
{
	struct vk_rx *rx = &client->rx[ring < VK_RINGS_MAX ? ring : 0];
	struct vk_record record;
	const uint8_t *body;
	uint32_t count = 0;
	int found = 0;

	if (!rx->capacity)
		return 0;
	while (count < max && (found = vk_rx_peek(rx, &record, &body)) > 0) {
		struct vk_entry *entry = &entries[count];

		found = describe(rx, &record, body, entry);
		if (found < 0)
			break;
		if (!wanted(entry, flow, sequence))
			break;
		if (sequence != VK_CLIENT_ANY_SEQUENCE)
			sequence = (uint32_t)sequence + 1u;
		vk_rx_advance(rx, &record);
		count++;
	}
	if (count)
		return (int)count; /* an error meets the next call at the same record */
	if (found == 0 && gone(client) && !vk_rx_peek(rx, &record, &body))
		return -ESHUTDOWN;
	return found < 0 ? found : 0;
}

uint32_t vk_client_collect(const struct vk_client *client, uint32_t ring,
			   const struct vk_entry *entries, uint32_t count,
			   const struct vk_message *first, uint8_t *memory, uint64_t room,
			   uint64_t *bytes)
{
	uint32_t taken;

	*bytes = 0;
	for (taken = 0; taken < count; taken++) {
		const struct vk_entry *entry = &entries[taken];

		if (entry->kind != VK_RECORD_DATA || entry->message.flow != first->flow ||
		    entry->message.flow_generation != first->flow_generation ||
		    entry->message.sequence != first->sequence + taken ||
		    entry->message.code != VK_FRAGMENT_MASK || entry->message.flags ||
		    entry->size > room - *bytes)
			break;
		memcpy(memory + *bytes, client->rx[ring].data + entry->offset, entry->size);
		*bytes += entry->size;
	}
	return taken;
}

void vk_client_spread(void *memory, uint64_t size)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t skipped = -(uintptr_t)memory & (page - 1);

	if (size <= skipped || size - skipped < page)
		return;
	madvise((char *)memory + skipped, (size - skipped) & ~(page - 1), MADV_HUGEPAGE);
}

void vk_client_rewind(struct vk_client *client, uint32_t ring, uint64_t position)
{
	struct vk_rx *rx = &client->rx[ring];
	uint64_t released = client->self->head[ring];

	rx->head = rx->head - position <= rx->head - released ? position : released;
}

void vk_client_hold(int held)
{
	static const int ours[] = { SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP };
	static _Thread_local sigset_t before;
	static _Thread_local int holds;
	sigset_t others;

	if (held && !holds) {
		sigfillset(&others);
		for (uint32_t i = 0; i < sizeof ours / sizeof *ours; i++)
			sigdelset(&others, ours[i]);
		holds = !pthread_sigmask(SIG_BLOCK, &others, &before);
	} else if (!held && holds) {
		holds = 0;
		pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
}

void vk_client_release(struct vk_client *client, uint32_t ring, uint64_t position)
{
	VK_STORE_RELEASE(&client->self->head[ring], position);
}

int vk_client_ready(struct vk_client *client)
{
	for (uint32_t r = 0; r < VK_RINGS_MAX; r++) {
		const struct vk_rx *rx = &client->rx[r];

		if (rx->capacity && !(client->paused & 1u << r) &&
		    (rx->head != rx->tail || VK_LOAD_ACQUIRE(&client->peer->tail[r]) != rx->tail))
			return 1;
		if (client->need[r]) {
			int64_t room = vk_tx_room(&client->tx[r]);

			if (room < 0 || room >= client->need[r])
				return 1;
		}
	}
	return gone(client);
}

int vk_client_arm(struct vk_client *client)
{
	for (uint32_t r = 0; r < VK_RINGS_MAX; r++)
		VK_STORE_RELAXED(&client->self->need[r], client->need[r]);
	vk_sleep_begin(client->self, &client->sleeps);
	if (!vk_client_ready(client))
		return 0;
	vk_client_disarm(client, 0);
	return 1;
}

void vk_client_disarm(struct vk_client *client, int rang)
{
	vk_sleep_end(client->self);
	if (rang && vk_bell_empty(client->bell_self) == -EPIPE)
		client->ended = 1;
}

static int is_ready(void *client)
{
	return vk_client_ready(client);
}

/* sleep_on_bell waits once: 1 = rung (or ready), 0 = timeout, -errno. */
static int sleep_on_bell(struct vk_client *client, int64_t timeout_ns)
{
	struct pollfd fds[2] = { { .fd = client->bell_self, .events = POLLIN },
				 { .fd = client->lease } };
	struct timespec timeout = { .tv_sec = timeout_ns / NS_PER_S,
				    .tv_nsec = timeout_ns % NS_PER_S };
	int n;

	if (vk_client_arm(client))
		return 1;
	client->waits++;
	n = ppoll(fds, 2, timeout_ns < 0 ? NULL : &timeout, NULL);
	if (n < 0)
		n = -errno;
	vk_client_disarm(client, n > 0 && fds[0].revents);
	if (n > 0 && fds[1].revents)
		client->ended = 1;
	return n;
}

static int wait_ready(struct vk_client *client, int64_t timeout_ns)
{
	int64_t begin, end;
	int n;

	if (vk_client_ready(client))
		return 1;
	begin = vk_spin_clock();
	end = begin + timeout_ns;
	if (timeout_ns && vk_spin_until(&client->spin, is_ready, client))
		return 1;
	while (!vk_client_ready(client)) {
		int64_t left = timeout_ns;

		if (timeout_ns > 0)
			left = end > vk_spin_clock() ? end - vk_spin_clock() : 0;
		n = sleep_on_bell(client, left);
		if (n < 0)
			return n;
		if (n == 0)
			return vk_client_ready(client);
	}
	vk_spin_slept(&client->spin, vk_spin_clock() - begin);
	return 1;
}

int vk_client_wait(struct vk_client *client, int64_t timeout_ns)
{
	int result = enter(client);

	if (!result) {
		result = wait_ready(client, timeout_ns);
		leave(client);
	}
	return result;
}
