/* SPDX-License-Identifier: MIT */
#ifndef VK_CLIENT_H
#define VK_CLIENT_H
/* vk_client.h: the application's end of its channel (vk_region.h): one call moves one message or a
 * batch of them between Python and the rings. Region D is read-only here and never trusted: what
 * is read from it is copied once and checked, and a broken rule is -EPROTO. One thread at a time:
 * whoever sends or waits while another one does gets -EDEADLK where it is noticed.
 */
#include "vk_channel.h"
#include "vk_spin.h"
#include "vk_wire.h"

enum vk_client_const {
	VK_CLIENT_BATCH = 256, /* entries of one receive call */
	VK_CLIENT_ANY_FLOW = -1,
	VK_CLIENT_ANY_SEQUENCE = -1,
	/* Payload of the largest fragment: its record is 64 KiB, its cost in windows too. */
	VK_CLIENT_FRAGMENT = VK_SHARDED_MAX - VK_MESSAGE_COST,
	/* A message goes when its stream's limit pays for so much of it: a peer always lets that
	 * come to a reader who has taken everything. */
	VK_CLIENT_PAID = 32768,
	VK_CLIENT_FRAGMENTS_A_RING = 4, /* so many fit, or they are cut smaller */
};

/* A received record: the positions of its payload and end, and a copy of its descriptor. 64 bytes
 * of naturally aligned fields, so that Python sees a batch as strided arrays. */
struct vk_entry {
	uint64_t offset; /* of the payload, bytes from the ring's data */
	uint64_t end; /* consumer index behind the record, for release and rewind */
	uint32_t size; /* bytes of the payload */
	uint32_t kind; /* enum vk_record_kind */
	struct vk_message message;
};

/* A stream to send on, and what was sent: counted here, where it costs nothing. */
struct vk_outlet {
	struct vk_message head; /* descriptor of the next message, its sequence too */
	uint32_t closed; /* 1: nothing more is sent, but for the rest of what was begun */
	uint32_t within; /* 1: a message was begun, and more fragments of it must come next */
	uint64_t sent;
	uint64_t sent_bytes;
	uint64_t spent; /* cost, as windows count */
	uint64_t limit; /* of spent; 0 = the worker told none */
};

struct vk_inlet; /* what the application has taken of a stream (vk_inlet.h) */

struct vk_client {
	struct vk_tx tx[VK_RINGS_MAX]; /* by class; capacity 0 = class not allowed */
	struct vk_rx rx[VK_RINGS_MAX];
	struct vk_region *self; /* region A */
	const struct vk_region *peer; /* region D */
	uint32_t tx_capacity[VK_RINGS_MAX]; /* of region A's rings, as checked */
	uint32_t rx_capacity[VK_RINGS_MAX];
	int bell_self; /* socket, wakes this application; -1 = none */
	int bell_peer; /* eventfd, wakes the worker */
	int lease; /* socket to the node: its end is the end of the attachment; -1 = none */
	uint32_t ended; /* 1: the lease has ended */
	uint32_t
		generation; /* of the slot; another one in region D means it is not ours any more */
	uint32_t rang; /* the worker's sleep that was rung last */
	uint32_t sleeps; /* counts our sleeps */
	uint32_t paused; /* bit r: records in ring r do not count as something to wake for */
	uint32_t need[VK_RINGS_MAX]; /* bytes of room in TX ring r to wake for; 0 = do not care */
	uint32_t busy; /* 1: a thread sends or waits */
	uint64_t engaged; /* the thread within a call that may wait, from its begin to its end, as
			   * its language counts threads; 0 = none. Not looked at here */
	struct vk_spin spin;
	struct vk_inlet *young; /* those of young streams that have something to report ... */
	uint64_t untold; /* ... and how much, in bytes of cost */
	uint64_t bells; /* rung */
	uint64_t waits; /* that ended in a sleep */
};

/* vk_client_open checks and maps regions D and A and readies *client. Keeps the bells (still the
 * caller's to close), not the memfds; nothing is mapped after a failure. Returns 0 or -errno:
 * -EPROTO, -EPROTONOSUPPORT or -EPERM if the regions are none of ours (vk_channel_check). */
int vk_client_open(struct vk_client *client, int region_d, int region_a, int bell_self,
		   int bell_peer, uint32_t generation);

/* vk_client_close unmaps both regions. No pointer into them may be used afterwards. */
void vk_client_close(struct vk_client *client);

/* vk_client_put publishes one record of a kind in the ring of head->stream's class and rings the
 * bell if the worker sleeps. Returns 0, or -EAGAIN (no room: vk_client_room tells how much is
 * there), -EMSGSIZE (over VK_SHARDED_MAX, or more than the whole ring), -EACCES (no such class),
 * -ESHUTDOWN (closed, or the slot is another's now), -EPROTO. Release pairs with the worker's
 * acquire of tail. */
int vk_client_put(struct vk_client *client, uint32_t kind, const struct vk_message *head,
		  const uint8_t *payload, uint32_t size);

/* vk_client_send is vk_client_put of a DATA record on a stream; -EPIPE if the outlet is closed,
 * -ENOBUFS if its limit does not pay for it (the peer's application is behind),
 * -EBUSY if it is within a message of fragments. The message takes the outlet's sequence, and the
 * next one follows it (u32, wraps). */
int vk_client_send(struct vk_client *client, struct vk_outlet *outlet, const uint8_t *payload,
		   uint32_t size);

/* vk_client_send_many publishes count DATA records with descriptors that differ in the sequence
 * only, payloads one behind the other: message i has sizes[i] bytes, or size bytes each if sizes
 * is NULL. One publication, at most one bell. Returns how many went (fewer than count: the ring is
 * full, or the next one is oversized), or -errno like vk_client_send if none did. */
int vk_client_send_many(struct vk_client *client, struct vk_outlet *outlet, const uint8_t *payloads,
			const uint32_t *sizes, uint32_t size, uint32_t count);

/* vk_client_send_part publishes what there is room for of a message of size bytes, from byte `at`
 * on, as fragments; each is published when it is written. A message begins with at = 0 and must be
 * brought to its end before anything else is sent on the stream. EOS goes on the last fragment, the
 * time on the first. Returns how many bytes went, or -errno like vk_client_send if none did:
 * -EMSGSIZE also on logs and over VK_MESSAGE_MAX, -EPIPE also when the stream was reset. */
int64_t vk_client_send_part(struct vk_client *client, struct vk_outlet *outlet,
			    const uint8_t *payload, uint32_t size, uint32_t at);

/* vk_client_fragment returns the payload of the fragments that messages are cut into, at most;
 * limited: the worker tells the stream's limit. */
uint32_t vk_client_fragment(const struct vk_client *client, uint32_t ring, int limited);

/* vk_client_publish lets the worker see what vk_client_write has put into the ring of an outlet's
 * class, and rings the bell if it sleeps. Returns 0, -ESHUTDOWN or -EACCES. Release pairs with the
 * worker's acquire of tail. */
int vk_client_publish(struct vk_client *client, const struct vk_outlet *outlet);

#ifndef VK_CDEF
/* vk_outlet_short says whether a stream's limit does not pay for a message of size bytes. */
static inline int vk_outlet_short(const struct vk_outlet *outlet, uint32_t size)
{
	uint64_t cost = (uint64_t)size + VK_MESSAGE_COST;

	if (cost > VK_CLIENT_PAID)
		cost = VK_CLIENT_PAID;
	return outlet->limit && outlet->spent + cost > outlet->limit;
}

/* vk_client_write puts a message into its ring without a call, for one vk_client_publish behind
 * many of them. It returns what vk_client_send does, but no -EDEADLK; what was written is published
 * before an error is returned, so that one may wait for room. */
static inline int vk_client_write(struct vk_client *client, struct vk_outlet *outlet,
				  const uint8_t *payload, uint32_t size)
{
	struct vk_tx *tx = &client->tx[vk_stream_class(outlet->head.stream)];
	uint8_t *body = NULL;

	if (tx->capacity && size <= VK_SHARDED_MAX && !outlet->closed && !outlet->within &&
	    !vk_outlet_short(outlet, size))
		body = vk_tx_reserve(tx, (uint32_t)sizeof outlet->head + size);
	if (!body) {
		vk_client_publish(client, outlet);
		return vk_client_send(client, outlet, payload, size); /* knows why not */
	}
	vk_tx_ahead(tx, body);
	__builtin_memcpy(body, &outlet->head, sizeof outlet->head);
	__builtin_memcpy(body + sizeof outlet->head, payload, size);
	vk_tx_commit(tx, (uint32_t)sizeof outlet->head + size, VK_RECORD_DATA);
	outlet->head.sequence++;
	outlet->spent += (uint64_t)size + VK_MESSAGE_COST;
	outlet->sent++;
	outlet->sent_bytes += size;
	return 0;
}

/* vk_client_flow tells a message's stream, 0 or more: another has its flow's number one day. */
static inline int64_t vk_client_flow(const struct vk_message *message)
{
	return (int64_t)(message->flow_generation & INT32_MAX) << 32 | message->flow;
}
#endif

/* vk_client_room returns the free bytes of TX ring r, or -EPROTO. */
int64_t vk_client_room(struct vk_client *client, uint32_t ring);

/* vk_client_gone says whether the channel has ended, or its slot is another's now. */
int vk_client_gone(const struct vk_client *client);

/* vk_client_alert lets the worker see what was put into a TX ring of a channel that is not gone,
 * and rings the bell if it sleeps. Release pairs with the worker's acquire of tail. */
void vk_client_alert(struct vk_client *client, uint32_t ring);

/* vk_client_receive describes the next records of RX ring r in entries[0..max) and steps over
 * them; they stay in the ring until vk_client_release. With a flow (vk_client_flow) other than
 * VK_CLIENT_ANY_FLOW it stops before the first record that is not DATA of that flow, and with a
 * sequence other than VK_CLIENT_ANY_SEQUENCE before the first one that is out of sequence: the
 * worker hands over what comes as it comes. With a flow it stops before fragments, too. Returns
 * how many; 0 = nothing (of that kind) is next now; -ESHUTDOWN = nothing there and nothing will
 * come; -EPROTO. */
int vk_client_receive(struct vk_client *client, uint32_t ring, int64_t flow, int64_t sequence,
		      struct vk_entry *entries, uint32_t max);

/* vk_client_collect copies payloads of entries[0..count) of RX ring r to memory, one behind the
 * other, while they are the middle of one message: fragments of a flow, one after another from a
 * sequence on, that continue it and are not its last, of at most room bytes in all. Returns how
 * many, and in *bytes how much they have. */
uint32_t vk_client_collect(const struct vk_client *client, uint32_t ring,
			   const struct vk_entry *entries, uint32_t count,
			   const struct vk_message *first, uint8_t *memory, uint64_t room,
			   uint64_t *bytes);

/* vk_client_spread asks the kernel to lay memory that is filled soon, for a joined message, out in
 * large pages: it takes less time to give a few of them than thousands of small ones. A kernel that
 * has none goes on as before. */
void vk_client_spread(void *memory, uint64_t size);

/* vk_client_rewind makes the record that begins at a position returned as `end` (or where the
 * first received record began) the next to be received again, or if that was released, the first
 * one that was not. */
void vk_client_rewind(struct vk_client *client, uint32_t ring, uint64_t position);

/* vk_client_hold has the calling thread's signals wait, but for those that say what it did wrong,
 * or lets them come again: a handler of Python's may raise wherever it is called. System call:
 * rt_sigprocmask, if that changes anything. */
void vk_client_hold(int held);

/* vk_client_release gives the bytes before position back to the worker (release; pairs with its
 * acquire of head). No bell: the worker never waits for room here, it drops and counts. */
void vk_client_release(struct vk_client *client, uint32_t ring, uint64_t position);

/* vk_client_ready says whether there is something to do: 1 if a ring that is not paused has a
 * record, if a TX ring has the room of need[], or if the channel is closed; else 0. */
int vk_client_ready(struct vk_client *client);

/* vk_client_arm asks for the bell and returns 0, or returns 1 with the bell disarmed if something
 * is ready already. Its full fence pairs with vk_bell_wanted's in the worker. */
int vk_client_arm(struct vk_client *client);

/* vk_client_disarm takes the request for the bell back; rang: the bell has rung, empty it. When the
 * bell's other end is gone so is the node, and the attachment has ended. */
void vk_client_disarm(struct vk_client *client, int rang);

/* vk_client_wait blocks until vk_client_ready, for at most timeout_ns (negative: for ever): polls
 * for as long as that has paid (vk_spin_until), then sleeps on the bell and on the end of the
 * lease. Returns 1, 0 on timeout, -EINTR on a signal, or -errno. Syscalls: ppoll, recv,
 * clock_gettime. */
int vk_client_wait(struct vk_client *client, int64_t timeout_ns);
#endif
