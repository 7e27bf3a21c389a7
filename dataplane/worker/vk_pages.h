/* SPDX-License-Identifier: MIT */
#ifndef VK_PAGES_H
#define VK_PAGES_H
/* vk_pages.h: large zeroed arrays of which few rows are used: memory only where it was touched, and
 * never cleared by hand, as calloc does with what was freed before.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* vk_pages_map returns size zeroed bytes, NULL without memory. Syscalls: mmap, madvise. */
static inline void *vk_pages_map(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		return NULL;
	madvise(at, size, MADV_NOHUGEPAGE);
	return at;
}

/* vk_lines_alloc returns size zeroed bytes from a cache line on, for free(); NULL without memory.
 * The size is a multiple of 64. */
static inline void *vk_lines_alloc(size_t size)
{
	void *at = aligned_alloc(64, size);

	return at ? memset(at, 0, size) : NULL;
}

/* vk_pages_unmap gives them back; NULL is fine. */
static inline void vk_pages_unmap(void *at, size_t size)
{
	if (at)
		munmap(at, size);
}
#endif
