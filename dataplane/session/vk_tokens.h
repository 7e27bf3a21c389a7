/* SPDX-License-Identifier: MIT */
#ifndef VK_TOKENS_H
#define VK_TOKENS_H
/* vk_tokens.h: the tokens of datagrams that the kernel has joined behind another one, which its
 * program has not seen: the same rules, keys and reasons as bpf/vk_guard.h.
 */
#include "vk_path.h"

/* vk_tokens_check judges a datagram of a class, whose frame has been parsed, as the program would
 * at now_ns (CLOCK_MONOTONIC): VK_STEER, or a verdict from VK_DROP_TOKEN_MISSING to
 * VK_DROP_TOKEN_FORGED. The guard is shared with the broker, its only writer. */
uint32_t vk_tokens_check(const struct vk_guard *guard, uint32_t class,
			 const struct vk_rx_frame *datagram, uint64_t now_ns);

#ifndef VK_CDEF
struct vk_run;

/* vk_tokens_let_in says whether a datagram of a port may go on; one that may not is counted. */
int vk_tokens_let_in(struct vk_run *run, uint32_t port, uint32_t class,
		     const struct vk_rx_frame *datagram);
#endif
#endif
