/* SPDX-License-Identifier: MIT */
/* The ring's and the bell's own source under relacy, which runs its threads in every order that the
 * C11 memory model allows, and tells a data race, a wrong value or a sleeper whom nobody wakes.
 *
 *   model_ring ring|bell ITERATIONS [MUTANT]
 *
 * MUTANT names the function whose memory order is weakened, or a mistake of the protocol: then
 * something must be found. Exit: 0 nothing found, 1 found, 64 usage.
 */
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <relacy/relacy.hpp>
#include <relacy/windows.h>
#include <sys/uio.h>

#undef errno
#define errno 0

/* The ABI as it stands, except that a region's shared fields are relacy's. */
#define class klass
#define vk_region vk_region_as_it_stands
#define _Static_assert static_assert
#include "vk_shm.h"
#undef class
#undef vk_region

struct vk_region {
	rl::atomic<uint64_t> tail[1];
	rl::atomic<uint64_t> head[1];
	rl::atomic<uint32_t> sleeping;
};

enum { RECORDS = 2, RECORD_SIZE = 16, SLOTS = 4 };

/* What relacy watches in place of the bytes of the ring, by their place. */
struct memory {
	alignas(8) uint8_t bytes[SLOTS * RECORD_SIZE];
	rl::var<uint32_t> sizes[SLOTS];
	rl::var<uint32_t> bodies[SLOTS];

	unsigned place(const uint8_t *at) const
	{
		return (unsigned)(at - bytes) / RECORD_SIZE;
	}
};

static memory *watched;
static const char *mutant = "";
static HANDLE bells[2];

static bool is_mutant(const char *name)
{
	return !strcmp(mutant, name);
}

static rl::memory_order order(const char *function, rl::memory_order as_written)
{
	return is_mutant(function) ? rl::mo_relaxed : as_written;
}

#define VK_LOAD_ACQUIRE(p) (p)->load(order(__func__, rl::mo_acquire), $)
#define VK_LOAD_RELAXED(p) (p)->load(rl::mo_relaxed, $)
#define VK_STORE_RELEASE(p, v) (p)->store((v), order(__func__, rl::mo_release), $)
#define VK_STORE_RELAXED(p, v) (p)->store((v), rl::mo_relaxed, $)
#define VK_FULL_FENCE()                                                     \
	do {                                                                \
		if (!is_mutant(__func__))                                   \
			rl::atomic_thread_fence(rl::mo_seq_cst, $);         \
	} while (0)
#define VK_PREFETCH(p) (void)(p)
#define VK_PREFETCH_WRITE(p) (void)(p)
#define VK_RECORD_PUT(at, record) watched->sizes[watched->place(at)]($) = (record)->size
#define VK_RECORD_GET(record, at)                                           \
	do {                                                                \
		memset((record), 0, sizeof *(record));                      \
		(record)->size = watched->sizes[watched->place(at)]($);     \
	} while (0)

static ssize_t model_send(int bell)
{
	SetEvent(bells[bell]);
	return 1;
}

static ssize_t model_receive(int bell)
{
	ResetEvent(bells[bell]);
	return 1;
}

#define send(bell, data, size, flags) ((void)(data), model_send(bell))
#define recv(bell, data, size, flags) model_receive(bell)
#define preadv2(bell, parts, count, at, flags) ((void)(parts), (ssize_t)0)
#define write(bell, data, size) ((void)(data), (ssize_t)0)
#include "vk_bell.h"

enum { BODY = RECORD_SIZE - sizeof(struct vk_record), PRODUCER = 0, CONSUMER = 1 };

/* A ring of COUNT records between two threads; each index of regions is a party. */
template <unsigned COUNT> struct stage {
	struct vk_region regions[2];
	memory data;
	struct vk_tx tx;
	struct vk_rx rx;

	void open()
	{
		watched = &data;
		for (auto &region : regions) {
			region.tail[0].store(0, rl::mo_relaxed, $);
			region.head[0].store(0, rl::mo_relaxed, $);
			region.sleeping.store(0, rl::mo_relaxed, $);
		}
		tx = vk_tx{};
		rx = vk_rx{};
		tx.self = rx.self = nullptr;
		tx.self = &regions[PRODUCER];
		tx.peer = &regions[CONSUMER];
		rx.self = &regions[CONSUMER];
		rx.peer = &regions[PRODUCER];
		tx.data = data.bytes;
		rx.data = data.bytes;
		tx.capacity = rx.capacity = COUNT * RECORD_SIZE;
	}

	bool put(uint32_t value)
	{
		uint8_t *body = vk_tx_reserve(&tx, BODY);

		if (!body)
			return false;
		data.bodies[data.place(body)]($) = value;
		vk_tx_commit(&tx, BODY, VK_RECORD_RAW);
		return true;
	}

	bool get(uint32_t value)
	{
		struct vk_record record;
		const uint8_t *body;
		int found = vk_rx_peek(&rx, &record, &body);

		RL_ASSERT(found >= 0);
		if (!found)
			return false;
		RL_ASSERT(record.size == BODY);
		RL_ASSERT((uint32_t)data.bodies[data.place(body)]($) == value);
		vk_rx_advance(&rx, &record);
		return true;
	}
};

/* Both poll; what is sent is published one by one and in pairs. */
struct ring_suite : rl::test_suite<ring_suite, 2> {
	stage<RECORDS> at;

	void before()
	{
		at.open();
	}

	void thread(unsigned who)
	{
		for (uint32_t value = 1; value <= 5; value++) {
			while (who == PRODUCER ? !at.put(value) : !at.get(value))
				rl::yield(1, $);
			if (who == PRODUCER && value != 3)
				vk_tx_publish(&at.tx);
			else if (who == CONSUMER && value != 4)
				vk_rx_release(&at.rx);
		}
	}
};

/* Both sleep on their bells: the consumer for data, the producer for room. */
struct bell_suite : rl::test_suite<bell_suite, 2> {
	stage<1> at;

	void before()
	{
		at.open();
		for (auto &bell : bells)
			bell = CreateEvent(0, 1, 0, 0);
	}

	void after()
	{
		for (auto &bell : bells)
			CloseHandle(bell);
	}

	bool ready(unsigned who)
	{
		return who == PRODUCER ? vk_tx_room(&at.tx) >= RECORD_SIZE :
					 at.regions[PRODUCER].tail[0].load(rl::mo_acquire, $) !=
						 at.rx.head;
	}

	void sleep(unsigned who, uint32_t *sleeps)
	{
		struct vk_region *self = &at.regions[who];

		if (is_mutant("same count"))
			*sleeps = 0;
		vk_sleep_begin(self, sleeps);
		if (!is_mutant("no last look") && ready(who)) {
			vk_sleep_end(self);
			return;
		}
		WaitForSingleObject(bells[who], INFINITE);
		vk_sleep_end(self);
		vk_bell_empty((int)who);
	}

	void thread(unsigned who)
	{
		uint32_t sleeps = 0, rang = 0;

		for (uint32_t value = 1; value <= 3; value++) {
			while (who == PRODUCER ? !at.put(value) : !at.get(value))
				sleep(who, &sleeps);
			if (who == PRODUCER)
				vk_tx_publish(&at.tx);
			else
				vk_rx_release(&at.rx);
			vk_bell_ring(&at.regions[!who], (int)!who, &rang);
		}
	}
};

int main(int argc, char **argv)
{
	rl::test_params params;
	bool fine;

	if (argc < 3)
		return 64;
	if (argc > 3)
		mutant = argv[3];
	params.iteration_count = strtoul(argv[2], NULL, 10);
	params.search_type = rl::random_scheduler_type;
	fine = strcmp(argv[1], "bell") ? rl::simulate<ring_suite>(params) :
					 rl::simulate<bell_suite>(params);
	printf("iterations=%lu result=%s\n", (unsigned long)params.stop_iteration,
	       rl::test_result_str(params.test_result));
	return fine ? 0 : 1;
}
