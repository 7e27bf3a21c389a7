/* SPDX-License-Identifier: MIT */
/* limits: what the machine can do at all. One word says what to measure:
 *   copy SIZE SECONDS        bytes from one ring of 4 MiB to another; prints ns a copy
 *   line CPU CPU SECONDS     a cache line to another core and back; prints the median ns
 *   aead NAME SIZE SECONDS   libcrypto seals a message and opens it again; prints ns of each
 */
#define _GNU_SOURCE
#include <openssl/evp.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RING = 4 << 20, LINE = 64, TRIPS = 1 << 20, LOOK = 256, IV = 12, TAG = 16, AAD = 16 };

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

static void aead(const char *name, int size, double seconds)
{
	EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, name, NULL);
	EVP_CIPHER_CTX *seals = EVP_CIPHER_CTX_new(), *opens = EVP_CIPHER_CTX_new();
	uint8_t key[32] = { 1 }, iv[IV] = { 0 }, aad[AAD] = { 0 }, tag[TAG];
	uint8_t *plain = calloc(1, (size_t)size), *sealed = malloc((size_t)size);
	double begin = now_s(), spent[2] = { 0 }, middle;
	uint64_t count = 0;
	int out, fine = cipher && seals && opens && plain && sealed;

	need(fine && EVP_EncryptInit_ex2(seals, cipher, key, iv, NULL) &&
		     EVP_DecryptInit_ex2(opens, cipher, key, iv, NULL),
	     name);
	while (spent[0] + spent[1] < seconds) {
		for (int i = 0; i < LOOK; i++) { /* each with a nonce of its own, as frames have */
			memcpy(iv, &(uint64_t){ count + (uint64_t)i }, 8);
			fine &= EVP_EncryptInit_ex2(seals, NULL, NULL, iv, NULL) &&
				EVP_EncryptUpdate(seals, NULL, &out, aad, AAD) &&
				EVP_EncryptUpdate(seals, sealed, &out, plain, size) &&
				EVP_EncryptFinal_ex(seals, sealed + out, &out) &&
				EVP_CIPHER_CTX_ctrl(seals, EVP_CTRL_AEAD_GET_TAG, TAG, tag);
		}
		middle = now_s();
		for (int i = 0; i < LOOK; i++) /* the last one, again and again */
			fine &= EVP_DecryptInit_ex2(opens, NULL, NULL, iv, NULL) &&
				EVP_DecryptUpdate(opens, NULL, &out, aad, AAD) &&
				EVP_DecryptUpdate(opens, plain, &out, sealed, size) &&
				EVP_CIPHER_CTX_ctrl(opens, EVP_CTRL_AEAD_SET_TAG, TAG, tag) &&
				EVP_DecryptFinal_ex(opens, plain + out, &out);
		need(fine, name);
		count += LOOK;
		spent[0] += middle - begin;
		begin = now_s();
		spent[1] += begin - middle;
	}
	printf("%.2f %.2f\n", spent[0] * 1e9 / (double)count, spent[1] * 1e9 / (double)count);
	free(plain);
	free(sealed);
	EVP_CIPHER_CTX_free(seals);
	EVP_CIPHER_CTX_free(opens);
	EVP_CIPHER_free(cipher);
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
