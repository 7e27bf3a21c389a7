/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vk_blast.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { NS_PER_S = 1000000000 };

static const uint64_t STRIDE = 0x9e3779b97f4a7c15; /* odd: word i of number n is n + i * STRIDE */

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

static void fill(uint8_t *payload, uint32_t size, uint64_t number)
{
	for (uint32_t at = 0; at + 8 <= size; at += 8, number += STRIDE)
		memcpy(payload + at, &number, 8);
}

/* What was received so far. */
struct progress {
	uint64_t numbers; /* one more than the highest */
	uint64_t word; /* that the next fragment begins with ... */
	uint32_t sequence; /* ... if it has this one */
};

/* check counts what a message or fragment says: its number, and whether the rest follows from it.
 * One that continues a message is compared with the fragment before if that came just before. */
static void check(const uint8_t *payload, const struct vk_entry *entry,
		  struct vk_blast_result *result, struct progress *seen)
{
	const struct vk_message *head = &entry->message;
	int continues = (head->code & VK_FRAGMENT_CONTINUES) != 0;
	uint64_t number, word, wrong = 0;

	if (entry->size < VK_BLAST_SIZE_MIN) {
		result->corrupt++;
		return;
	}
	memcpy(&number, payload, 8);
	for (uint32_t at = 8; at + 8 <= entry->size; at += 8) {
		memcpy(&word, payload + at, 8);
		wrong |= word ^ (number + at / 8 * STRIDE);
	}
	if (continues && head->sequence == seen->sequence)
		wrong |= number ^ seen->word;
	result->corrupt += wrong != 0;
	if (!continues && number >= seen->numbers)
		seen->numbers = number + 1;
	seen->word = number + entry->size / 8 * STRIDE;
	seen->sequence = head->sequence + 1;
	result->records++;
	result->messages += !(head->code & VK_FRAGMENT_MORE);
	result->bytes += entry->size;
	result->lost = seen->numbers > result->messages ? seen->numbers - result->messages : 0;
}

/* wait_until waits for something to do; need: bytes of room in the stream's ring, or 0. */
static int wait_until(struct vk_client *client, uint32_t ring, uint32_t need, int64_t end_ns)
{
	int64_t left = end_ns - now_ns();
	int ready;

	if (left <= 0)
		return -ETIMEDOUT;
	client->need[ring] = need;
	ready = vk_client_wait(client, left);
	client->need[ring] = 0;
	return ready == 0 ? -ETIMEDOUT : ready < 0 && ready != -EINTR ? ready : 0;
}

/* take_limits takes what the worker says of the stream's limit; -ENOBUFS: it says something else,
 * which somebody has to take who knows the other streams. */
static int take_limits(struct vk_client *client, struct vk_outlet *outlet)
{
	uint64_t begin = client->rx[VK_CLASS_CONTROL].head;
	struct vk_entry entry;
	int found;

	while ((found = vk_client_receive(client, VK_CLASS_CONTROL, VK_CLIENT_ANY_FLOW,
					  VK_CLIENT_ANY_SEQUENCE, &entry, 1)) > 0) {
		if (entry.kind != VK_RECORD_LIMIT || entry.message.flow != outlet->head.flow) {
			vk_client_rewind(client, VK_CLASS_CONTROL, begin);
			return -ENOBUFS;
		}
		outlet->limit = entry.message.time_ns;
		vk_client_release(client, VK_CLASS_CONTROL, entry.end);
		begin = entry.end;
	}
	return found;
}

/* wait_to_send waits for room, or for the limit that keeps the next message back. */
static int wait_to_send(struct vk_client *client, struct vk_outlet *outlet, uint32_t size,
			int64_t end_ns)
{
	uint32_t ring = vk_stream_class(outlet->head.stream), paused = client->paused;
	int error = take_limits(client, outlet);

	if (error)
		return error;
	client->paused = ~0u; /* what came in is not why we wait */
	if (!vk_outlet_short(outlet, size)) {
		error = wait_until(client, ring, client->tx_capacity[ring] / 8, end_ns);
	} else {
		client->paused = ~(1u << VK_CLASS_CONTROL);
		error = wait_until(client, ring, 0, end_ns);
	}
	client->paused = paused;
	return error;
}

/* send_all sends messages that lie one behind the other, waiting for room. */
static int send_all(struct vk_client *client, struct vk_outlet *outlet, const uint8_t *from,
		    uint32_t size, uint32_t count, int64_t end_ns, struct vk_blast_result *result)
{
	int error = 0;

	while (count && !error) {
		int sent = vk_client_send_many(client, outlet, from, NULL, size, count);

		if (sent < 0 && sent != -EAGAIN && sent != -ENOBUFS)
			return sent;
		if (sent > 0) {
			from += (uint64_t)size * (uint32_t)sent;
			count -= (uint32_t)sent;
			result->messages += (uint32_t)sent;
			result->bytes += (uint64_t)size * (uint32_t)sent;
		}
		if (!count)
			break;
		result->blocked++;
		error = wait_to_send(client, outlet, size, end_ns);
	}
	return error;
}

/* send_large sends one message in fragments, waiting for room. */
static int send_large(struct vk_client *client, struct vk_outlet *outlet, const uint8_t *from,
		      uint32_t size, int64_t end_ns, struct vk_blast_result *result)
{
	uint32_t at = 0;

	while (at < size) {
		int64_t went = vk_client_send_part(client, outlet, from, size, at);
		int error;

		if (went > 0) {
			at += (uint32_t)went;
			continue;
		}
		if (went != -EAGAIN && went != -ENOBUFS)
			return (int)went;
		result->blocked++;
		error = wait_to_send(client, outlet, VK_CLIENT_PAID, end_ns);
		if (error)
			return error;
	}
	result->messages++;
	result->bytes += size;
	return 0;
}

static int send_batch(struct vk_client *client, struct vk_outlet *outlet, const uint8_t *from,
		      uint32_t size, uint32_t count, int64_t end_ns, struct vk_blast_result *result)
{
	int error = 0;

	if (size <= VK_SHARDED_MAX)
		return send_all(client, outlet, from, size, count, end_ns, result);
	for (uint32_t i = 0; i < count && !error; i++)
		error = send_large(client, outlet, from + (size_t)size * i, size, end_ns, result);
	return error;
}

int vk_blast_send(struct vk_client *client, struct vk_outlet *outlet, uint32_t size, uint64_t count,
		  uint32_t batch, int64_t timeout_ns, struct vk_blast_result *result)
{
	int64_t begin_ns = now_ns();
	uint8_t *payloads;
	int error = 0;

	*result = (struct vk_blast_result){ 0 };
	if (size < VK_BLAST_SIZE_MIN || size % 8 || size > VK_MESSAGE_MAX || !batch ||
	    batch > VK_BLAST_BATCH_MAX)
		return -EINVAL;
	if (size > VK_SHARDED_MAX)
		batch = 1;
	payloads = malloc((size_t)size * batch);
	if (!payloads)
		return -ENOMEM;
	for (uint64_t number = 0; number < count && !error;) {
		uint32_t n = count - number < batch ? (uint32_t)(count - number) : batch;

		for (uint32_t i = 0; i < n; i++, number++)
			fill(payloads + (size_t)size * i, size, number);
		error = send_batch(client, outlet, payloads, size, n, begin_ns + timeout_ns,
				   result);
		if (!error && now_ns() > begin_ns + timeout_ns)
			error = -ETIMEDOUT;
	}
	result->elapsed_ns = (uint64_t)(now_ns() - begin_ns);
	free(payloads);
	return error;
}

/* take describes messages and fragments of the flow that are there: how many, or -errno. */
static int take(struct vk_client *client, const struct vk_outlet *outlet, struct vk_entry *entries,
		uint32_t max)
{
	uint32_t ring = vk_stream_class(outlet->head.stream);
	uint64_t begin = client->rx[ring].head;
	int n = vk_client_receive(client, ring, VK_CLIENT_ANY_FLOW, VK_CLIENT_ANY_SEQUENCE, entries,
				  max);

	for (int i = 0; i < n; i++) {
		if (entries[i].kind == VK_RECORD_DATA &&
		    entries[i].message.flow == outlet->head.flow)
			continue;
		vk_client_rewind(client, ring, i ? entries[i - 1].end : begin);
		return i ? i : -EPROTO;
	}
	return n;
}

/* receive_some waits for messages of the flow and describes them: how many, or -errno. */
static int receive_some(struct vk_client *client, struct vk_outlet *outlet, struct vk_inlet *inlet,
			struct vk_entry *entries, uint32_t max, int64_t end_ns)
{
	uint32_t ring = vk_stream_class(outlet->head.stream);

	for (;;) {
		int n = take(client, outlet, entries, max);
		int error;

		if (n)
			return n;
		vk_inlet_idle(client, inlet);
		error = wait_until(client, ring, 0, end_ns);
		if (error)
			return error;
	}
}

/* done gives the messages of n entries back. */
static void done(struct vk_client *client, struct vk_inlet *inlet, uint32_t ring,
		 const struct vk_entry *entries, int n)
{
	uint64_t bytes = 0;

	for (int i = 0; i < n; i++)
		bytes += entries[i].size;
	vk_client_release(client, ring, entries[n - 1].end);
	vk_inlet_taken(client, inlet, bytes, (uint32_t)n);
}

int vk_blast_receive(struct vk_client *client, struct vk_outlet *outlet, struct vk_inlet *inlet,
		     uint64_t count, int64_t timeout_ns, struct vk_blast_result *result)
{
	uint32_t ring = vk_stream_class(outlet->head.stream);
	int64_t end_ns = now_ns() + timeout_ns, first_ns = 0;
	struct vk_entry entries[VK_BLAST_BATCH_MAX];
	struct progress seen = { 0 };
	int last = 0;

	*result = (struct vk_blast_result){ 0 };
	while (result->messages < count && !last) {
		uint64_t left = count - result->messages;
		int n = receive_some(
			client, outlet, inlet, entries,
			left < VK_BLAST_BATCH_MAX ? (uint32_t)left : VK_BLAST_BATCH_MAX, end_ns);

		if (n < 0)
			return n;
		if (!first_ns)
			first_ns = now_ns();
		for (int i = 0; i < n; i++) {
			check(client->rx[ring].data + entries[i].offset, &entries[i], result,
			      &seen);
			last |= entries[i].message.flags & VK_FLAG_EOS;
		}
		done(client, inlet, ring, entries, n);
		result->elapsed_ns = (uint64_t)(now_ns() - first_ns);
	}
	return 0;
}

int vk_blast_ping(struct vk_client *client, struct vk_outlet *outlet, struct vk_inlet *inlet,
		  uint32_t size, uint64_t count, int64_t timeout_ns, uint64_t *rtt_ns,
		  struct vk_blast_result *result)
{
	uint32_t ring = vk_stream_class(outlet->head.stream);
	int64_t begin_ns = now_ns(), end_ns = begin_ns + timeout_ns, sent_ns;
	struct vk_blast_result sent = { 0 };
	struct vk_entry entry;
	uint8_t *payload;
	struct progress seen = { 0 };
	int error = 0;

	*result = (struct vk_blast_result){ 0 };
	if (size < VK_BLAST_SIZE_MIN || size % 8 || size > VK_SHARDED_MAX)
		return -EINVAL;
	payload = malloc(size);
	if (!payload)
		return -ENOMEM;
	for (uint64_t number = 0; number < count && error >= 0; number++) {
		fill(payload, size, number);
		sent_ns = now_ns();
		error = send_all(client, outlet, payload, size, 1, end_ns, &sent);
		if (!error)
			error = receive_some(client, outlet, inlet, &entry, 1, end_ns);
		if (error < 0)
			break;
		rtt_ns[number] = (uint64_t)(now_ns() - sent_ns);
		check(client->rx[ring].data + entry.offset, &entry, result, &seen);
		done(client, inlet, ring, &entry, 1);
	}
	result->elapsed_ns = (uint64_t)(now_ns() - begin_ns);
	free(payload);
	return error < 0 ? error : 0;
}

int vk_blast_echo(struct vk_client *client, struct vk_outlet *outlet, struct vk_inlet *inlet,
		  uint64_t count, int64_t timeout_ns, struct vk_blast_result *result)
{
	uint32_t ring = vk_stream_class(outlet->head.stream);
	int64_t end_ns = now_ns() + timeout_ns;
	struct vk_entry entries[VK_BLAST_BATCH_MAX];

	*result = (struct vk_blast_result){ 0 };
	while (result->messages < count) {
		int n = receive_some(client, outlet, inlet, entries, VK_BLAST_BATCH_MAX, end_ns);

		if (n < 0)
			return n;
		for (int i = 0; i < n; i++) {
			int error = send_all(client, outlet,
					     client->rx[ring].data + entries[i].offset,
					     entries[i].size, 1, end_ns, result);

			if (error)
				return error;
		}
		done(client, inlet, ring, entries, n);
	}
	return 0;
}
