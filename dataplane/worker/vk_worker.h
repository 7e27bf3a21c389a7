/* SPDX-License-Identifier: MIT */
#ifndef VK_WORKER_H
#define VK_WORKER_H
/* vk_worker.h: the entry points of vk_worker.so. The broker never loads this library: a forked
 * child does, so that a new worker runs the code that is installed now, if it is of the broker's
 * VK_WORKER_ABI (vk_abi.h).
 */
#include "vk_path.h"

/* Where an application's regions are mapped. The broker reserves address space for every slot
 * before the first fork, so that broker and workers map a slot at the same address. */
struct vk_slot {
	uint32_t attached; /* 1 while the slot's regions are mapped (broker's view, at fork) */
	uint32_t generation;
	uint8_t *region_d; /* written by the worker */
	uint8_t *region_a; /* read-only for the worker */
	uint64_t map_size; /* reserved bytes behind each of the two */
	int bell_app; /* wakes the application: our end of a socket, shut for reading */
	int bell_worker; /* eventfd: the application wakes the worker */
};

/* Everything a worker gets from the broker by fork. */
struct vk_boot {
	uint32_t port_count;
	struct vk_port ports[VK_PORTS_MAX];
	struct vk_slot slots[VK_APPS_MAX];
	const struct vk_state *state; /* read-only mapping */
	struct vk_work *work;
	struct vk_counters *counters;
	struct vk_secrets *secrets;
	int control_fd; /* SEQPACKET socket to the broker: struct vk_order with descriptors */
	int python_fd; /* SEQPACKET socket to the daemon: struct vk_control_frame */
	int32_t cpu; /* pin to this CPU; -1 = do not */
	uint32_t recover; /* 1: an earlier worker died */
	uint32_t confine; /* enum vk_confine */
};

/* Broker -> worker. The worker answers each with the same struct, result = 0 or -errno. */
enum vk_order_kind {
	VK_ORDER_ATTACH = 1, /* slot; descriptors: region D (still writable), region A, bell_app,
			      * bell_worker (struct vk_slot) */
	VK_ORDER_DETACH = 2, /* slot: drain what is in its TX rings, forget it, unmap */
	VK_ORDER_STOP = 3, /* finish the batch, flush, leave at a clean boundary */
	VK_ORDER_VIOLATION = 4, /* worker -> broker: slot broke the rules and was cut off */
};

struct vk_order {
	uint32_t kind;
	uint32_t slot;
	uint32_t generation;
	int32_t result;
};

enum vk_control_kind {
	VK_CONTROL_FRAME = 0, /* to the daemon: a control-class frame follows, as it came */
	VK_CONTROL_ELSEWHERE = 1, /* to the daemon: a peer's session is used from this address */
	VK_CONTROL_WANTED = 2, /* to the daemon: there is something to send to a peer */
	VK_CONTROL_SPENT = 3, /* to the daemon: the keys of a peer's session are used up */
	VK_CONTROL_ASK = 4, /* to the worker: ask a peer in its session whether it lives */
};

/* A message on python_fd, both directions. */
struct vk_control_frame {
	uint32_t kind; /* enum vk_control_kind */
	uint32_t peer; /* that it is about; not of frames */
	uint32_t port; /* index of the port it came from */
	uint32_t family;
	uint8_t address[16];
	uint32_t udp_port;
};

#ifndef VK_CDEF /* functions of the worker library: not Python's to call */
/* vk_worker_abi returns VK_WORKER_ABI of this library. */
uint32_t vk_worker_abi(void);

/* vk_worker_load has libcrypto read its configuration and find its algorithms, which it does when
 * they are used first; then there are no files any more. Returns 0 or -errno. Syscalls: files. */
int vk_worker_load(void);

/* vk_worker_run moves frames until VK_ORDER_STOP (returns 0), the broker is gone (returns
 * -EPIPE) or a port fails (returns -errno). Assumes a process of its own, single-threaded. Needs
 * no capabilities. Syscalls before VK_WORKER_RUNNING: also epoll_create1, epoll_ctl, sched_getattr,
 * sched_setattr, sched_setaffinity, timerfd_create, timerfd_settime and seccomp; then those of
 * vk_worker_calls.c, and no others if boot->confine says so. */
int vk_worker_run(struct vk_boot *boot);

/* vk_worker_confine leaves the calling process only the system calls that a running worker makes
 * (`how`: enum vk_confine). Returns as vk_confine, or -ENOTSUP in a library built with ASan, MSan
 * or TSan, whose runtimes need many more. Call it when everything has been loaded and opened. */
int vk_worker_confine(uint32_t how);
#endif
#endif
