/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "side.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
	WARM,
	RUN,
	END,
	PHASE_SHIFT = 56,
	LOOK = 16, /* the clock is looked at once in so many messages */
	SAMPLE = 64, /* the body of one message in so many is compared */
	LARGE = 8192, /* bytes of messages that are all looked at */
	LARGE_PAGE = 2097152,
	HALF = 64, /* buckets a power of two, as in histogram.py */
	BUCKETS = 64 * HALF,
	LATE_MS = 500, /* how long what is sent again may come behind the last word */
	NS_PER_US = 1000,
};

struct result {
	uint64_t messages, lost, corrupt, disordered, elapsed_ns, cpu_ns, switches;
	uint64_t buckets[BUCKETS];
};

static const uint64_t number_mask = (1ULL << PHASE_SHIFT) - 1;
static struct side_order order;
static struct result result;
static struct rusage used;
static uint64_t begin_ns;
static uint8_t *message, *body;
static int said, marked;

uint64_t side_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void *side_memory(size_t size)
{
	size_t align = size < LARGE_PAGE ? sizeof(max_align_t) : LARGE_PAGE;
	void *memory;

	if (posix_memalign(&memory, align, size)) {
		errno = ENOMEM;
		side_fail("memory");
	}
	if (size >= LARGE_PAGE)
		madvise(memory, size, MADV_HUGEPAGE);
	return memory;
}

void side_fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static void say(const char *word)
{
	puts(word);
	fflush(stdout);
}

void side_ready(void)
{
	if (!said++)
		say("ready");
}

void side_said(void)
{
	said++;
}

static uint64_t cpu_ns(const struct rusage *usage)
{
	return (uint64_t)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1000000000 +
	       (uint64_t)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) * NS_PER_US;
}

static void meter_start(void)
{
	getrusage(RUSAGE_SELF, &used);
	begin_ns = side_now_ns();
}

static void meter_stop(uint64_t end_ns)
{
	struct rusage now;

	getrusage(RUSAGE_SELF, &now);
	result.elapsed_ns = end_ns - begin_ns;
	result.cpu_ns = cpu_ns(&now) - cpu_ns(&used);
	result.switches = (uint64_t)(now.ru_nvcsw - used.ru_nvcsw + now.ru_nivcsw - used.ru_nivcsw);
}

static void record(uint64_t value_ns)
{
	int shift = value_ns < 2 * HALF ? 0 : 57 - __builtin_clzll(value_ns);

	result.buckets[(uint64_t)shift * HALF + (value_ns >> shift)]++;
}

static void head(uint64_t phase, uint64_t number, uint64_t due_ns)
{
	uint64_t words[2] = { phase << PHASE_SHIFT | number, due_ns };

	memcpy(message, words, sizeof words);
}

static int look_every(void)
{
	return order.size < LARGE ? LOOK : 1;
}

static void say_end(void)
{
	head(END, 0, result.messages);
	for (int i = 0; i < (order.size < LARGE ? 2 * LOOK : 1); i++)
		side_transport.send(message, order.size);
	side_transport.flush();
}

static void stream_out(void)
{
	double seconds[] = { order.warm_s, order.run_s };

	for (uint64_t phase = WARM; phase <= RUN; phase++) {
		uint64_t number = 0, until_ns = side_now_ns() + (uint64_t)(seconds[phase] * 1e9);

		meter_start();
		while (side_now_ns() < until_ns) {
			for (int i = 0; i < look_every(); i++) {
				head(phase, number++, 0);
				side_transport.send(message, order.size);
			}
		}
		result.messages = number;
	}
	side_transport.flush();
	meter_stop(side_now_ns());
	say_end();
}

/* Sleeps until due_ns and returns the time: polling the clock would take the core from whatever
 * works for this side on it. How late the sleep ends is in the latency. */
static uint64_t wait_until(uint64_t due_ns)
{
	struct timespec due = { (time_t)(due_ns / 1000000000), (long)(due_ns % 1000000000) };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR)
		;
	return side_now_ns();
}

/* Messages that are late go out together, as they would from any application that is behind; what
 * is due is never held back for company. */
static void open_out(void)
{
	double seconds[] = { order.warm_s, order.run_s };

	prctl(PR_SET_TIMERSLACK, 1); /* ns, instead of 50 µs */
	for (uint64_t phase = WARM; phase <= RUN; phase++) {
		uint64_t count = (uint64_t)(seconds[phase] * order.rate), start = side_now_ns();
		uint64_t give_up = start + (uint64_t)((3 * seconds[phase] + 1) * 1e9);

		meter_start();
		for (uint64_t number = 0; number < count; number++) {
			uint64_t due = start + (uint64_t)((double)number * 1e9 / order.rate);
			uint64_t now = side_now_ns();

			if (now < due) {
				side_transport.flush();
				now = wait_until(due);
			}
			if (now > give_up)
				break;
			head(phase, number, due);
			side_transport.send(message, order.size);
			result.messages = number + 1;
		}
		side_transport.flush();
	}
	meter_stop(side_now_ns());
	say_end();
}

static int whole(const uint8_t *came, uint32_t size)
{
	return size == order.size && !memcmp(came + SIDE_HEAD, body, size - SIDE_HEAD);
}

static const uint8_t *first(uint32_t *size)
{
	const uint8_t *came = side_transport.receive(size, SIDE_BEGIN_MS);

	if (!came) {
		errno = ETIMEDOUT;
		side_fail("nothing came from the sender");
	}
	return came;
}

/* Every message is looked at here: in C that costs little beside receiving it. */
static void take_in(int timed)
{
	uint64_t next = 0, start = 0, last_ns = 0, taken = 0, words[2];
	int patience_ms = SIDE_IDLE_MS;
	uint32_t size;

	for (const uint8_t *came = first(&size); came;
	     came = side_transport.receive(&size, patience_ms)) {
		memcpy(words, came, sizeof words);
		if (words[0] >> PHASE_SHIFT == END) {
			if (taken >= words[1])
				break;
			patience_ms = LATE_MS; /* of another stream, or lost */
		}
		if (words[0] >> PHASE_SHIFT != RUN)
			continue;
		words[0] &= number_mask;
		if (timed)
			record(side_now_ns() - words[1]);
		if (!taken++) {
			start = next = words[0];
			meter_start();
		}
		if (words[0] % SAMPLE == 0 || order.size >= LARGE)
			last_ns = side_now_ns();
		if (words[0] % SAMPLE == 0)
			result.corrupt += !whole(came, size);
		result.disordered += words[0] < next;
		if (words[0] >= next)
			next = words[0] + 1;
	}
	meter_stop(last_ns > begin_ns ? last_ns : begin_ns);
	result.messages = taken ? taken - 1 : 0; /* the first one started the clock */
	if (next - start > taken)
		result.lost = next - start - taken;
}

/* Of shape marked: a system call that nobody else makes says when a message is sent or taken. */
static void mark(void)
{
	if (marked)
		syscall(SYS_getppid);
}

static void ask(void)
{
	double seconds[] = { order.warm_s, order.run_s };

	for (uint64_t phase = WARM; phase <= RUN; phase++) {
		uint64_t number = 0, until_ns = side_now_ns() + (uint64_t)(seconds[phase] * 1e9);

		memset(result.buckets, 0, sizeof result.buckets);
		meter_start();
		for (uint64_t sent_ns; (sent_ns = side_now_ns()) < until_ns; number++) {
			const uint8_t *echo;
			uint32_t size;

			head(phase, number, sent_ns);
			mark();
			side_transport.send(message, order.size);
			side_transport.flush();
			echo = side_transport.receive(&size, SIDE_IDLE_MS);
			mark();
			if (!echo) {
				errno = ETIMEDOUT;
				side_fail("no echo");
			}
			record(side_now_ns() - sent_ns);
			result.corrupt += size != order.size || memcmp(echo, message, size) != 0;
		}
		result.messages = number;
	}
	meter_stop(side_now_ns());
	say_end();
}

static void answer(void)
{
	uint64_t phase = WARM, word;
	uint32_t size;

	for (const uint8_t *came = first(&size); came;
	     came = side_transport.receive(&size, SIDE_IDLE_MS)) {
		memcpy(&word, came, sizeof word);
		if (word >> PHASE_SHIFT == END)
			break;
		if (word >> PHASE_SHIFT != phase) {
			phase = RUN;
			meter_start();
		}
		mark();
		side_transport.send(came, size);
		side_transport.flush();
		result.messages += phase == RUN;
	}
	meter_stop(side_now_ns());
}

static void print(void)
{
	const char *comma = "";

	printf("{\"messages\": %lu, \"lost\": %lu, \"corrupt\": %lu, \"disordered\": %lu, ",
	       result.messages, result.lost, result.corrupt, result.disordered);
	printf("\"elapsed_ns\": %lu, \"cpu_ns\": %lu, \"switches\": %lu, ", result.elapsed_ns,
	       result.cpu_ns, result.switches);
	printf("\"histogram\": [");
	for (int i = 0; i < BUCKETS; i++) {
		if (result.buckets[i]) {
			printf("%s[%d, %lu]", comma, i, result.buckets[i]);
			comma = ", ";
		}
	}
	puts("]}");
	fflush(stdout);
}

static void read_order(int count, char **words)
{
	if (count != 9) {
		fprintf(stderr, "ROLE SHAPE TRANSPORT ADDRESS SIZE WARM_S RUN_S RATE\n");
		exit(64);
	}
	order.listens = !strcmp(words[1], "receiver");
	marked = !strcmp(words[2], "marked");
	order.two_way = marked || !strcmp(words[2], "request");
	order.shape = words[2];
	order.transport = words[3];
	order.address = words[4];
	order.size = (uint32_t)strtoul(words[5], NULL, 10);
	order.warm_s = strtod(words[6], NULL);
	order.run_s = strtod(words[7], NULL);
	order.rate = strtod(words[8], NULL);
}

static void prepare(void)
{
	if (order.size < SIDE_HEAD)
		side_fail("message");
	message = side_memory(order.size);
	body = message + SIDE_HEAD;
	for (uint32_t i = 0; i < order.size - SIDE_HEAD; i++)
		body[i] = (uint8_t)(i % 251 + 1);
}

int main(int count, char **words)
{
	int timed;

	read_order(count, words);
	prepare();
	timed = !strcmp(order.shape, "open");
	side_transport.open(&order);
	if (order.listens) {
		side_ready();
		if (order.two_way)
			answer();
		else
			take_in(timed);
	} else {
		say("begin");
		if (order.two_way)
			ask();
		else if (timed)
			open_out();
		else
			stream_out();
	}
	print();
	while (getchar() != EOF)
		;
	if (side_transport.close)
		side_transport.close();
	_exit(0); /* libraries that wait for peers at exit have nothing to wait for */
}
