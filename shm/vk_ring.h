/* SPDX-License-Identifier: MIT */
#ifndef VK_RING_H
#define VK_RING_H
/* vk_ring.h: the single-producer single-consumer record ring, hot path inline (see vk_region.h
 * for the layout). Private state (vk_tx, vk_rx) lives in the owner's memory: the peer can scribble
 * over its region and only ever produce -EPROTO here. A producer that dies before
 * vk_tx_publish leaves nothing behind; a consumer that dies before vk_rx_release sees the records
 * again.
 */
#include "vk_shm.h"

/* Producer's end of a ring. */
struct vk_tx {
	struct vk_region *self; /* tail, and the ring's data behind it */
	const struct vk_region *peer; /* head, sleeping */
	uint8_t *data; /* 2 * capacity bytes, mapped twice */
	uint64_t tail; /* next byte to produce; published by vk_tx_publish */
	uint64_t head; /* last consumer index seen */
	uint32_t capacity;
	uint32_t ring;
};

/* Consumer's end of a ring. */
struct vk_rx {
	struct vk_region *self; /* head */
	const struct vk_region *peer; /* tail */
	const uint8_t *data;
	uint64_t head; /* next byte to consume; given back by vk_rx_release */
	uint64_t tail; /* last producer index seen */
	uint32_t capacity;
	uint32_t ring;
};

enum vk_ring_const {
	VK_RING_AHEAD = 1024, /* bytes that a consumer asks its cache for before it needs them */
};

#ifndef VK_CDEF
#include <errno.h>
#include <stddef.h>

/* All that orders memory, and the two copies of a record's header: a model checker may define its
 * own before it includes this file (tests/shm/model_ring.cpp does). */
#ifndef VK_LOAD_ACQUIRE
#define VK_LOAD_ACQUIRE(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define VK_LOAD_RELAXED(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define VK_STORE_RELEASE(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define VK_STORE_RELAXED(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define VK_FULL_FENCE() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define VK_PREFETCH(p) __builtin_prefetch(p)
#if defined(__x86_64__)
#define VK_PREFETCH_WRITE(p) __asm__ volatile("prefetchw %0" : : "m"(*(const char *)(p)))
#else
#define VK_PREFETCH_WRITE(p) __builtin_prefetch((p), 1)
#endif
#define VK_RECORD_PUT(at, record) __builtin_memcpy((at), (record), sizeof(struct vk_record))
/* One read, not repeated by the compiler: what is checked is what is used. */
#define VK_RECORD_GET(record, at)                                           \
	do {                                                                \
		__builtin_memcpy((record), (at), sizeof(struct vk_record)); \
		__asm__ volatile("" : : : "memory");                        \
	} while (0)
#endif

/* vk_record_span returns the bytes that a record with a body of size bytes takes in a ring. */
static inline uint64_t vk_record_span(uint32_t size)
{
	return (sizeof(struct vk_record) + (uint64_t)size + VK_RECORD_ALIGN - 1) &
	       ~(uint64_t)(VK_RECORD_ALIGN - 1);
}

/* vk_tx_room refreshes the view of the consumer's head and returns the free bytes, or -EPROTO if
 * the consumer's index is impossible. Acquire pairs with vk_rx_release's release. */
static inline int64_t vk_tx_room(struct vk_tx *tx)
{
	uint64_t head = VK_LOAD_ACQUIRE(&tx->peer->head[tx->ring]);

	if (head - tx->head > tx->tail - tx->head || head % VK_RECORD_ALIGN)
		return -EPROTO;
	tx->head = head;
	return (int64_t)(tx->capacity - (tx->tail - head));
}

/* vk_tx_reserve returns where the body of a record of size bytes goes, or NULL while the ring has
 * no room (or its consumer broke the rules: vk_tx_room tells). Not published before
 * vk_tx_publish. */
static inline uint8_t *vk_tx_reserve(struct vk_tx *tx, uint32_t size)
{
	uint64_t span = vk_record_span(size);

	if (tx->capacity - (tx->tail - tx->head) < span && vk_tx_room(tx) < (int64_t)span)
		return NULL;
	return tx->data + (tx->tail & (tx->capacity - 1)) + sizeof(struct vk_record);
}

/* vk_tx_ahead begins to fetch lines that later records will be written to, for who writes many
 * small ones: body is what vk_tx_reserve returned. Never lines that the consumer may have to read
 * yet. */
static inline void vk_tx_ahead(const struct vk_tx *tx, const uint8_t *body)
{
	const uint8_t *at = body + VK_RING_AHEAD - 4 * VK_LINE;

	if (tx->capacity - (tx->tail - tx->head) > VK_RING_AHEAD) {
		VK_PREFETCH_WRITE(at);
		VK_PREFETCH_WRITE(at + VK_LINE);
	}
}

/* vk_tx_commit completes the record reserved last; size may be less than what was reserved. */
static inline void vk_tx_commit(struct vk_tx *tx, uint32_t size, uint8_t kind)
{
	const struct vk_record record = { size, kind, 0, 0 };

	VK_RECORD_PUT(tx->data + (tx->tail & (tx->capacity - 1)), &record);
	tx->tail += vk_record_span(size);
}

/* vk_tx_publish makes all committed records visible. Release pairs with vk_rx_peek's acquire. */
static inline void vk_tx_publish(struct vk_tx *tx)
{
	const uint8_t *next = tx->data + (tx->tail & (tx->capacity - 1));

	VK_STORE_RELEASE(&tx->self->tail[tx->ring], tx->tail);
	/* The consumer has these lines since the last lap: fetch them while nobody waits. */
	VK_PREFETCH_WRITE(next);
	VK_PREFETCH_WRITE(next + VK_LINE);
}

/* vk_rx_peek finds the next record: 1 and *record (a copy of its header), *body; 0 if there is
 * none; -EPROTO if the producer's index or the record is impossible. */
static inline int vk_rx_peek(struct vk_rx *rx, struct vk_record *record, const uint8_t **body)
{
	const uint8_t *at = rx->data + (rx->head & (rx->capacity - 1));

	if (rx->head == rx->tail) {
		uint64_t tail = VK_LOAD_ACQUIRE(&rx->peer->tail[rx->ring]);

		if (tail == rx->tail)
			return 0;
		if (tail - rx->head > rx->capacity || tail % VK_RECORD_ALIGN)
			return -EPROTO;
		rx->tail = tail;
	}
	/* Where the next record begins is known only when this one is here, so the processor cannot
	 * look ahead by itself. Never beyond the tail: the producer writes there. */
	if (rx->tail - rx->head > VK_RING_AHEAD)
		VK_PREFETCH(at + VK_RING_AHEAD);
	VK_RECORD_GET(record, at);
	if (vk_record_span(record->size) > rx->tail - rx->head)
		return -EPROTO;
	*body = at + sizeof *record;
	return 1;
}

/* vk_rx_advance steps over the record that vk_rx_peek found. */
static inline void vk_rx_advance(struct vk_rx *rx, const struct vk_record *record)
{
	rx->head += vk_record_span(record->size);
}

/* vk_rx_release gives all consumed bytes back to the producer (release). */
static inline void vk_rx_release(struct vk_rx *rx)
{
	VK_STORE_RELEASE(&rx->self->head[rx->ring], rx->head);
}

/* vk_bell_wanted says whether the peer sleeps and has not been rung since it fell asleep; *rang
 * is the waker's private memory of the last sleep it rang for. Call after publish or release.
 * The full fence pairs with the sleeper's between its store of sleeping and its last look. */
static inline int vk_bell_wanted(const struct vk_region *peer, uint32_t *rang)
{
	uint32_t sleeping;

	VK_FULL_FENCE();
	sleeping = VK_LOAD_ACQUIRE(&peer->sleeping); /* pairs with vk_sleep_begin's release */
	if (!sleeping || sleeping == *rang)
		return 0;
	*rang = sleeping;
	return 1;
}
#endif /* VK_CDEF */
#endif
