/* SPDX-License-Identifier: MIT */
#ifndef SIDE_H
#define SIDE_H
/* side.h: what a side in C or C++ of a run is made of: a transport, and the shapes over it that
 * side.c has for all. Arguments, messages and the line of results are those of the sides in Python
 * (__init__.py, message.py, result.py).
 */
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
	SIDE_HEAD = 16, /* bytes: phase and number, time due */
	SIDE_BEGIN_MS = 10000,
	SIDE_IDLE_MS = 2000,
};

struct side_order {
	int listens; /* 1: receiver */
	int two_way; /* 1: messages come back */
	const char *shape;
	const char *transport;
	const char *address; /* may end in '#' and a path */
	uint32_t size;
	double warm_s, run_s, rate;
};

struct side_transport {
	/* Opens this side's end; a receiver calls side_ready once it listens and before it waits
	 * for the sender, if it waits at all. */
	void (*open)(const struct side_order *order);
	/* Takes a message; the memory is the caller's again on return. */
	void (*send)(const void *message, uint32_t size);
	/* Returns the next message, valid until the next call, or NULL after timeout_ms. */
	const uint8_t *(*receive)(uint32_t *size, int timeout_ms);
	/* Sends what is held back. */
	void (*flush)(void);
	/* Takes leave of whoever has to know; NULL where nobody has. */
	void (*close)(void);
};

extern const struct side_transport side_transport;

/* side_ready tells the harness, once, that a sender may start. */
void side_ready(void);

/* side_said notes that somebody else has told it. */
void side_said(void);

/* side_fail writes what could not be done, with errno's text, and ends the process. */
void side_fail(const char *what) __attribute__((noreturn));

/* side_memory returns memory for messages, large ones in large pages where the kernel has them, or
 * ends the process. */
void *side_memory(size_t size);

uint64_t side_now_ns(void);

#ifdef __cplusplus
}
#endif
#endif
