/* SPDX-License-Identifier: MIT */
/* The system calls of a running worker. The list is part of the worker's library, so that a new
 * worker brings its own.
 */
#define _GNU_SOURCE
#include "vk_worker.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vk_confine.h"

/* A sanitizer's runtime maps shadow memory, opens files and starts programs to report. */
#if defined(__has_feature)
#define VK_HAS(feature) __has_feature(feature)
#else
#define VK_HAS(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || VK_HAS(address_sanitizer) || \
	VK_HAS(thread_sanitizer) || VK_HAS(memory_sanitizer)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

int vk_worker_confine(uint32_t how)
{
	const uint32_t me = (uint32_t)getpid();
	const struct vk_rule rules[] = {
		/* frames */
		VK_CALL(recvmsg),
		VK_CALL(sendmsg),
		VK_CALL(recvfrom),
		VK_CALL(sendto),
		VK_CALL(recvmmsg),
		VK_CALL(sendmmsg),
		VK_CALL(getsockopt),
		/* bells and sleep */
		VK_CALL(ppoll),
#ifdef SYS_epoll_wait
		VK_CALL(epoll_wait),
#endif
		VK_CALL(epoll_pwait),
		VK_CALL(preadv2),
		VK_CALL(clock_gettime), /* where the vDSO cannot */
		VK_CALL(clock_nanosleep),
		VK_CALL(nanosleep),
		VK_CALL(restart_syscall),
		VK_CALL(sched_yield),
		/* memory: the rings of applications, and the heap's */
		VK_CALL_IF(mmap, 2, PROT_EXEC, 0),
		VK_CALL(munmap),
		VK_CALL(mremap),
		VK_CALL(madvise),
		VK_CALL(brk),
		/* what applications' descriptors are checked with (shm/vk_channel.c) */
		VK_CALL_IF(fcntl, 1, UINT32_MAX, F_GET_SEALS),
		VK_CALL(fstat),
#ifdef SYS_newfstatat
		VK_CALL_IF(newfstatat, 3, AT_EMPTY_PATH, AT_EMPTY_PATH), /* glibc's fstat */
#endif
		VK_CALL(pread64),
		VK_CALL(close),
		/* libcrypto */
		VK_CALL(getrandom),
		VK_CALL(getpid),
		VK_CALL(futex),
		/* the end; an assertion that fails says so first */
		VK_CALL_IF(write, 0, UINT32_MAX, STDERR_FILENO),
		VK_CALL_IF(writev, 0, UINT32_MAX, STDERR_FILENO),
		VK_CALL(gettid),
		VK_CALL_IF(tgkill, 0, UINT32_MAX, me),
		VK_CALL(rt_sigprocmask),
		VK_CALL(rt_sigaction),
		VK_CALL(rt_sigreturn),
		VK_CALL(exit),
		VK_CALL(exit_group),
	};

	if (SANITIZED)
		return -ENOTSUP;
	return vk_confine(rules, sizeof rules / sizeof *rules, VK_DEADLY, (enum vk_confine)how);
}
