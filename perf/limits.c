/* SPDX-License-Identifier: MIT */
/* limits: what the machine can do at all. One word says what to measure:
 *   copy SIZE SECONDS        bytes from one ring of 4 MiB to another; prints ns a copy
 *   line CPU CPU SECONDS     a cache line to another core and back; prints the median ns
 *   aead NAME SIZE SECONDS   libcrypto seals a message and opens it again, and then a session's
 *                            keys do so; prints ns of each
 */
#define _GNU_SOURCE
#include "vk_keyring.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	RING = 4 << 20,
	LINE = 64,
	TRIPS = 1 << 20,
	LOOK = 256,
	HEAD = VK_HEADER_SIZE +
	       sizeof(struct vk_ext_session), /* bytes of a frame before its body */
	SEALED_MAX = 65536,
};

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void need(int fine, const char *what)
{
	if (!fine) {
		fprintf(stderr, "%s failed\n", what);
		exit(1);
	}
}

static void copy(size_t size, double seconds)
{
	uint8_t *from = aligned_alloc(LINE, RING), *to = aligned_alloc(LINE, RING);
	size_t step = (size + LINE - 1) / LINE * LINE, at = 0;
	double begin, end;
	uint64_t count = 0;

	need(from && to && step <= RING, "memory");
	memset(from, 1, RING);
	memset(to, 2, RING);
	begin = now_s();
	do {
		for (int i = 0; i < LOOK; i++, count++) {
			memcpy(to + at, from + at, size);
			__asm__ volatile("" : : "r"(to) : "memory");
			at = at + 2 * step <= RING ? at + step : 0;
		}
		end = now_s();
	} while (end - begin < seconds);
	printf("%.3f\n", (end - begin) * 1e9 / (double)count);
	free(from);
	free(to);
}

static struct {
	_Alignas(LINE) uint64_t there;
	_Alignas(LINE) uint64_t back;
} lines;

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof set, &set);
}

static void *answer(void *cpu)
{
	uint64_t seen = 0;

	pin(*(int *)cpu);
	while (seen != UINT64_MAX) {
		uint64_t found = __atomic_load_n(&lines.there, __ATOMIC_ACQUIRE);

		if (found == seen)
			continue;
		seen = found;
		__atomic_store_n(&lines.back, seen, __ATOMIC_RELEASE);
	}
	return NULL;
}

static int ascending(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return left < right ? -1 : left > right;
}

static void line(int here, int there, double seconds)
{
	double *times = malloc(TRIPS * sizeof *times), end;
	uint64_t count = 0;
	pthread_t thread;

	need(times && !pthread_create(&thread, NULL, answer, &there), "a thread");
	pin(here);
	end = now_s() + seconds;
	for (double begin; count < TRIPS && (begin = now_s()) < end; count++) {
		__atomic_store_n(&lines.there, count + 1, __ATOMIC_RELEASE);
		while (__atomic_load_n(&lines.back, __ATOMIC_ACQUIRE) != count + 1)
			;
		times[count] = now_s() - begin;
	}
	__atomic_store_n(&lines.there, UINT64_MAX, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	qsort(times, count, sizeof *times, ascending);
	printf("%.1f\n", times[count / 2] * 1e9);
	free(times);
}

/* A record as frames are: a header that is bound, what is sealed, a tag. */
static struct {
	EVP_CIPHER_CTX *seals;
	EVP_CIPHER_CTX *opens;
	struct vk_keyring keyring;
	uint8_t frame[HEAD + SEALED_MAX + VK_TAG_SIZE];
	uint8_t plain[SEALED_MAX];
	uint8_t opened[SEALED_MAX];
	int size;
	uint64_t number; /* each has a nonce of its own */
} record;

static int raw_seal(void)
{
	uint8_t iv[VK_CIPHER_NONCE_SIZE] = { 0 }, *sealed = record.frame + HEAD;
	EVP_CIPHER_CTX *seals = record.seals;
	int out;

	memcpy(iv, &record.number, sizeof record.number);
	return EVP_EncryptInit_ex2(seals, NULL, NULL, iv, NULL) &&
	       EVP_EncryptUpdate(seals, NULL, &out, record.frame, HEAD) &&
	       EVP_EncryptUpdate(seals, sealed, &out, record.plain, record.size) &&
	       EVP_EncryptFinal_ex(seals, sealed + out, &out) &&
	       EVP_CIPHER_CTX_ctrl(seals, EVP_CTRL_AEAD_GET_TAG, VK_TAG_SIZE, sealed + record.size);
}

static int raw_open(void)
{
	uint8_t iv[VK_CIPHER_NONCE_SIZE] = { 0 }, *sealed = record.frame + HEAD;
	EVP_CIPHER_CTX *opens = record.opens;
	int out;

	memcpy(iv, &record.number, sizeof record.number);
	return EVP_DecryptInit_ex2(opens, NULL, NULL, iv, NULL) &&
	       EVP_DecryptUpdate(opens, NULL, &out, record.frame, HEAD) &&
	       EVP_DecryptUpdate(opens, record.opened, &out, sealed, record.size) &&
	       EVP_CIPHER_CTX_ctrl(opens, EVP_CTRL_AEAD_SET_TAG, VK_TAG_SIZE,
				   sealed + record.size) &&
	       EVP_DecryptFinal_ex(opens, record.opened + out, &out);
}

static int our_seal(void)
{
	return !vk_keyring_seal(&record.keyring, VK_SPACE_B, record.number, record.frame, HEAD,
				record.plain, (uint32_t)record.size);
}

static int our_open(void)
{
	return !vk_keyring_open(&record.keyring, 0, VK_SPACE_B, record.number, record.frame, HEAD,
				(uint32_t)record.size, record.opened);
}

static void make_contexts(const char *name, uint32_t which)
{
	static struct vk_keys keys; /* of zeros: what it seals it opens */
	static const uint64_t next[VK_SPACE_COUNT];
	EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, name, NULL);
	uint8_t key[VK_CIPHER_KEY_SIZE] = { 1 }, iv[VK_CIPHER_NONCE_SIZE] = { 0 };

	record.seals = EVP_CIPHER_CTX_new();
	record.opens = EVP_CIPHER_CTX_new();
	need(cipher && record.seals && record.opens &&
		     EVP_EncryptInit_ex2(record.seals, cipher, key, iv, NULL) &&
		     EVP_DecryptInit_ex2(record.opens, cipher, key, iv, NULL) &&
		     !vk_keyring_init(&record.keyring, which, &keys, next),
	     name);
	EVP_CIPHER_free(cipher);
}

/* libcrypto alone and a session's keys take turns, so that both meet the same machine. */
static void aead(const char *name, int size, double seconds)
{
	static int (*const steps[])(void) = { raw_seal, raw_open, our_seal, our_open };
	double spent[4] = { 0 }, begun = now_s(), end = begun + seconds;
	uint64_t count = 0;

	need(size > 0 && size <= SEALED_MAX, "a record");
	record.size = size;
	make_contexts(name, strcmp(name, "AES-256-GCM") ? VK_CIPHER_CHACHA20_POLY1305 :
							  VK_CIPHER_AES_256_GCM);
	while (begun < end) {
		record.number = count;
		for (int step = 0; step < 4; step++) {
			int fine = 1;
			double now;

			/* What is opened is the last one, again and again. */
			for (int i = 0; i < LOOK; i++) {
				record.number += !(step & 1);
				fine &= steps[step]();
			}
			need(fine, name);
			now = now_s();
			spent[step] += now - begun;
			begun = now;
		}
		count = record.number;
	}
	for (int step = 0; step < 4; step++)
		printf("%.2f\n", spent[step] * 1e9 / ((double)count / 2));
	EVP_CIPHER_CTX_free(record.seals);
	EVP_CIPHER_CTX_free(record.opens);
	vk_keyring_free(&record.keyring);
}

int main(int count, char **words)
{
	if (count == 4 && !strcmp(words[1], "copy"))
		copy(strtoul(words[2], NULL, 10), strtod(words[3], NULL));
	else if (count == 5 && !strcmp(words[1], "line"))
		line(atoi(words[2]), atoi(words[3]), strtod(words[4], NULL));
	else if (count == 5 && !strcmp(words[1], "aead"))
		aead(words[2], atoi(words[3]), strtod(words[4], NULL));
	else
		return 64;
	return 0;
}
