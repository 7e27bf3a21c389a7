/* SPDX-License-Identifier: MIT */
#ifndef VK_CONFINE_H
#define VK_CONFINE_H
/* vk_confine.h: which system calls a process may make from now on (seccomp, for ever).
 *
 * Filters are lists: the first rule that fits decides, `otherwise` decides about the rest. A call
 * of another instruction set than the program's own (32-bit calls on x86-64) ends the process.
 * For calls that are allowed whatever their arguments the filter does not run: the kernel (5.11 and
 * later) keeps them in a bitmap.
 */
#ifndef VK_CDEF
#include <stddef.h>
#include <stdint.h>
#endif

/* What becomes of a call that is not allowed; vk_boot.confine. */
enum vk_confine {
	VK_CONFINE_NONE = 0, /* no filter: the caller is a program of tests */
	VK_CONFINE_STRICT = 1, /* the process ends by SIGSYS */
	VK_CONFINE_LENIENT = 2, /* it fails with EPERM, and the kernel logs it */
};

#ifndef VK_CDEF
enum vk_rule_is {
	VK_ALLOWED = 0,
	VK_REFUSED = 1, /* fails with EPERM */
	VK_UNKNOWN = 2, /* fails with ENOSYS: the C library has another way */
	VK_DEADLY = 3, /* what enum vk_confine says */
};

/* A rule fits when the call has the number and (argument & mask) == value; mask 0 = whatever the
 * arguments. Only the low 32 bits are looked at: the kernel takes these arguments as int, or
 * ignores what is above. */
struct vk_rule {
	uint32_t number;
	uint8_t is; /* enum vk_rule_is */
	uint8_t argument;
	uint32_t mask;
	uint32_t value;
};

#define VK_CALL(name) { .number = SYS_##name }
#define VK_CALL_IF(name, which, bits, wanted) \
	{ .number = SYS_##name, .argument = (which), .mask = (bits), .value = (wanted) }

/* vk_confine closes the filter over the calling process, which must have no other thread. Returns
 * 0, -ENOSYS where the kernel or the architecture has no filters, or -errno; nothing is closed
 * then. Capability: none, but no_new_privs must be set. Syscalls: seccomp. */
int vk_confine(const struct vk_rule *rules, size_t count, enum vk_rule_is otherwise,
	       enum vk_confine how);
#endif

/* vk_confine_daemon leaves what a Python process needs that serves sockets and files: no new
 * programs or processes, no signals to others, no memory that is made executable, no sockets but
 * local, netlink and IP. Returns as vk_confine. What is neither allowed nor dangerous fails with
 * EPERM in both modes. */
int vk_confine_daemon(uint32_t how);
#endif
