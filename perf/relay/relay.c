/* SPDX-License-Identifier: MIT */
/* relay.c: carries frames between interfaces of this namespace under the conditions of a link.
 *
 *   relay DESCRIPTOR SEED A B [A B]...       DESCRIPTOR: a memfd with struct vk_relay_shared
 *
 * What comes from an A leaves at its B and back; all pairs share one link each way.
 *
 * A frame's way begins when the kernel put it into the ring, not when the relay looks; so while
 * delays are long it sleeps by the clock and not by arrivals, and lateness comes from its own
 * sleep only, which it keeps under GAP_NS. It runs before ordinary processes where it may.
 */
#define _GNU_SOURCE
#include "relay.h"
#include "packet.h"
#include "tap.h"
#include "vk_heap.h"
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

enum {
	GAP_NS = 50000, /* between two sends of a busy link: each costs those who share the core */
	SPIN_NS = 8000, /* a sleep takes so long at least */
	TURN_NS = 100000, /* the longest sleep while frames come */
	LINGER_NS = 2000000, /* frames came so lately: more will */
	IDLE_NS = 20000000, /* the longest sleep: new conditions wait for it */
	TURN_FRAMES = 256, /* taken from a ring before the other is looked at */
	MEMORY = 512 << 20, /* bytes under way; only what is used is touched */
	PAIRS_MAX = 4,
	TAPS_MAX = 2 * PAIRS_MAX,
	SIZE_BITS = 16,
	TAP_BITS = 3,
};

struct relay {
	struct vk_tap taps[TAPS_MAX]; /* A, B, A, B, ... */
	int tap_count;
	struct vk_link links[VK_RELAY_DIRECTIONS];
	struct vk_relay_count count[VK_RELAY_DIRECTIONS];
	uint64_t last_ns[VK_RELAY_DIRECTIONS]; /* arrival */
	struct vk_heap due;
	uint8_t *memory;
	uint32_t *free; /* slots, a stack */
	uint32_t free_count, slot_size;
	struct vk_relay_shared *shared;
	uint32_t version;
	uint64_t busy_ns; /* when a frame last came */
	int prompt; /* a delay is too short to sleep by the clock */
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static uint64_t now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static struct timespec span(uint64_t ns)
{
	return (struct timespec){ (time_t)(ns / 1000000000), (long)(ns % 1000000000) };
}

/* Takes over new conditions, if Python is not in the middle of writing them. */
static void follow(struct relay *relay)
{
	struct vk_relay_shared *shared = relay->shared;
	uint32_t version = __atomic_load_n(&shared->version, __ATOMIC_ACQUIRE);
	struct vk_link_config config[VK_RELAY_DIRECTIONS];

	if (version == relay->version || version & 1)
		return;
	memcpy(config, shared->config, sizeof config);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (__atomic_load_n(&shared->version, __ATOMIC_RELAXED) != version)
		return;
	relay->prompt = 0;
	for (int i = 0; i < VK_RELAY_DIRECTIONS; i++) {
		vk_link_configure(&relay->links[i], &config[i]);
		relay->prompt |= config[i].delay_ns < 2 * (uint64_t)TURN_NS;
	}
	relay->version = version;
	__atomic_store_n(&shared->applied, version, __ATOMIC_RELEASE);
}

static int direction(int tap)
{
	return tap & 1;
}

static int opposite(int tap)
{
	return tap ^ 1;
}

static void schedule(struct relay *relay, int tap, const struct vk_tap_frame *frame,
		     const struct vk_fate *fate)
{
	int from = direction(tap);

	for (uint32_t i = 0; i < fate->copies; i++) {
		uint32_t slot;
		uint8_t *bytes;

		if (!relay->free_count) {
			relay->count[from].memory++;
			return;
		}
		slot = relay->free[--relay->free_count];
		bytes = relay->memory + (size_t)slot * relay->slot_size;
		memcpy(bytes, frame->bytes, frame->size);
		if (fate->marked)
			vk_relay_mark(bytes, frame->size);
		if (fate->corrupt)
			vk_relay_flip(bytes, frame->size,
				      vk_random_next(&relay->links[from].random));
		vk_heap_push(&relay->due, fate->arrive_ns[i],
			     ((uint64_t)slot << SIZE_BITS | frame->size) << TAP_BITS |
				     (uint64_t)opposite(tap));
	}
}

static void take(struct relay *relay, int index, uint64_t now, uint64_t epoch_ns)
{
	const uint32_t inner = VK_TAP_ETHERNET + VK_LINK_IP4_UDP;
	struct vk_tap *tap = &relay->taps[index];
	int from = direction(index);
	struct vk_tap_frame frame;

	for (int i = 0; i < TURN_FRAMES && vk_tap_peek(tap, &frame); i++) {
		uint64_t at = frame.at_ns - epoch_ns;
		struct vk_fate fate;

		at = at < now ? at : now;
		at = at > relay->last_ns[from] ? at : relay->last_ns[from];
		relay->last_ns[from] = at;
		relay->busy_ns = now;
		relay->count[from].unsummed += (uint64_t)frame.unsummed;
		if (frame.kept < frame.size || frame.size > relay->slot_size) {
			relay->count[from].truncated++;
		} else if (frame.size > VK_TAP_ETHERNET) {
			fate = vk_link_send(&relay->links[from],
					    frame.size > inner ? frame.size - inner : 0, at);
			schedule(relay, index, &frame, &fate);
		}
		vk_tap_release(tap);
	}
}

static void flush(struct relay *relay, struct vk_tap *tap)
{
	uint32_t queued = tap->queued;

	vk_tap_flush(tap);
	for (uint32_t i = 0; i < queued; i++) {
		size_t offset = (size_t)((uint8_t *)tap->parts[i].iov_base - relay->memory);

		relay->free[relay->free_count++] = (uint32_t)(offset / relay->slot_size);
	}
}

/* Sends what is due, at most a batch, so that rings are looked at in between. Returns whether there
 * may be more.
 */
static int deliver(struct relay *relay, uint64_t now)
{
	int full = 0;

	while (!full && vk_heap_next(&relay->due) <= now) {
		uint64_t late = now - vk_heap_next(&relay->due), value = vk_heap_pop(&relay->due);
		int tap = (int)(value & ((1 << TAP_BITS) - 1));
		uint32_t size = (value >> TAP_BITS) & ((1 << SIZE_BITS) - 1);
		size_t slot = (size_t)(value >> TAP_BITS >> SIZE_BITS);
		struct vk_relay_count *count = &relay->count[direction(opposite(tap))];

		count->late += late > VK_RELAY_LATE_NS;
		count->late_ns_sum += late;
		count->late_ns_max = late > count->late_ns_max ? late : count->late_ns_max;
		vk_tap_add(&relay->taps[tap], relay->memory + slot * relay->slot_size, size);
		full = relay->taps[tap].queued == VK_TAP_BATCH;
	}
	for (int i = 0; i < relay->tap_count; i++)
		flush(relay, &relay->taps[i]);
	return full;
}

static void publish(struct relay *relay)
{
	struct vk_relay_shared *shared = relay->shared;

	for (int i = 0; i < VK_RELAY_DIRECTIONS; i++) {
		struct vk_relay_count *count = &relay->count[i];

		count->sent = count->refused = 0;
		for (int tap = opposite(i); tap < relay->tap_count; tap += 2) {
			count->sent += relay->taps[tap].sent;
			count->refused += relay->taps[tap].refused;
		}
		shared->link[i] = relay->links[i].count;
		shared->own[i] = relay->count[i];
	}
	__atomic_store_n(&shared->turns, shared->turns + 1, __ATOMIC_RELEASE);
}

/* Sleeps until something is due; without traffic also until something comes. */
static void rest(struct relay *relay, uint64_t turn)
{
	uint64_t next = vk_heap_next(&relay->due), now = now_ns(), wake;
	uint64_t turn_ns = relay->prompt ? GAP_NS : TURN_NS;
	int busy = turn - relay->busy_ns < LINGER_NS;
	struct timespec until;

	wake = next > turn + GAP_NS ? next : turn + GAP_NS;
	if (busy && wake > turn + turn_ns)
		wake = turn + turn_ns;
	if (wake < now + SPIN_NS)
		return;
	if (wake > now + IDLE_NS)
		wake = now + IDLE_NS;
	if (busy) {
		until = span(wake);
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
	} else {
		struct pollfd fds[TAPS_MAX];

		for (int i = 0; i < relay->tap_count; i++)
			fds[i] = (struct pollfd){ relay->taps[i].receive, POLLIN, 0 };
		until = span(wake - now);
		ppoll(fds, (nfds_t)relay->tap_count, &until, NULL);
	}
}

static void run(struct relay *relay)
{
	uint64_t looked = 0;
	int more;

	while (!__atomic_load_n(&relay->shared->stop, __ATOMIC_ACQUIRE)) {
		uint64_t turn = now_ns(), epoch_ns = clock_ns(CLOCK_REALTIME) - turn;

		follow(relay);
		for (int i = 0; i < relay->tap_count; i++)
			take(relay, i, turn, epoch_ns);
		more = deliver(relay, now_ns());
		if (turn - looked > IDLE_NS) {
			looked = turn;
			for (int i = 0; i < relay->tap_count; i++)
				relay->count[direction(i)].ring_full +=
					vk_tap_dropped(&relay->taps[i]);
		}
		publish(relay);
		if (!more)
			rest(relay, turn);
	}
}

static int prepare_memory(struct relay *relay)
{
	uint32_t slots;

	for (int i = 0; i < relay->tap_count; i++) {
		if (relay->slot_size < relay->taps[i].frame_max)
			relay->slot_size = relay->taps[i].frame_max;
	}
	relay->slot_size = (relay->slot_size + 63) & ~63u; /* whole cache lines */
	slots = MEMORY / relay->slot_size;
	relay->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	relay->free = calloc(slots, sizeof *relay->free);
	if (relay->memory == MAP_FAILED || !relay->free)
		return 0;
	while (relay->free_count < slots) {
		relay->free[relay->free_count] = slots - 1 - relay->free_count;
		relay->free_count++;
	}
	return 1;
}

static int prepare(struct relay *relay, int descriptor, uint64_t seed, char **interfaces)
{
	struct vk_link_config nothing = { .rate_bps = 0 };

	relay->shared = mmap(NULL, sizeof *relay->shared, PROT_READ | PROT_WRITE, MAP_SHARED,
			     descriptor, 0);
	if (relay->shared == MAP_FAILED)
		return 0;
	for (int i = 0; i < relay->tap_count; i++) {
		int error = vk_tap_open(&relay->taps[i], interfaces[i]);

		if (error) {
			fprintf(stderr, "%s: %s\n", interfaces[i], strerror(-error));
			return 0;
		}
	}
	for (int i = 0; i < VK_RELAY_DIRECTIONS; i++)
		vk_link_init(&relay->links[i], &nothing, seed + (uint64_t)i);
	return prepare_memory(relay);
}

int main(int count, char **arguments)
{
	struct sched_param first = { .sched_priority = 1 };
	static struct relay relay;

	relay.tap_count = count - 3;
	if (relay.tap_count < 2 || relay.tap_count > TAPS_MAX || relay.tap_count % 2) {
		fprintf(stderr, "relay DESCRIPTOR SEED A B [A B]...\n");
		return 64;
	}
	if (!prepare(&relay, atoi(arguments[1]), strtoull(arguments[2], NULL, 0), arguments + 3))
		return 1;
	prctl(PR_SET_TIMERSLACK, 1);
	sched_setscheduler(0, SCHED_FIFO, &first); /* without the right it is later now and then */
	run(&relay);
	return 0;
}
