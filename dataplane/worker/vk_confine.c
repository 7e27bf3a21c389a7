/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vk_confine.h"

#include <assert.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define OUR_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OUR_ARCH AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
#define OUR_ARCH AUDIT_ARCH_RISCV64
#else
#define OUR_ARCH 0
#endif

enum {
	RULES_MAX = 255,
	INSTRUCTIONS_A_RULE = 6,
	CODE_MAX = 8 + RULES_MAX * INSTRUCTIONS_A_RULE,
};

static_assert(CODE_MAX <= BPF_MAXINSNS, "the kernel takes the longest filter");

struct code {
	struct sock_filter at[CODE_MAX];
	unsigned short count;
};

static void add(struct code *code, uint16_t what, uint32_t k, uint8_t yes, uint8_t no)
{
	code->at[code->count++] = (struct sock_filter){ what, yes, no, k };
}

static void load(struct code *code, size_t offset)
{
	add(code, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static uint32_t verdict(enum vk_rule_is is, enum vk_confine how)
{
	switch (is) {
	case VK_ALLOWED:
		return SECCOMP_RET_ALLOW;
	case VK_REFUSED:
		return SECCOMP_RET_ERRNO | EPERM;
	case VK_UNKNOWN:
		return SECCOMP_RET_ERRNO | ENOSYS;
	default:
		return how == VK_CONFINE_LENIENT ? SECCOMP_RET_ERRNO | EPERM :
						   SECCOMP_RET_KILL_PROCESS;
	}
}

/* The accumulator holds the number of the call, before and after. */
static void add_rule(struct code *code, const struct vk_rule *rule, uint32_t answer)
{
	/* The low half, on the little-endian machines above. */
	size_t argument = offsetof(struct seccomp_data, args) + rule->argument * sizeof(uint64_t);

	if (!rule->mask) {
		add(code, BPF_JMP | BPF_JEQ | BPF_K, rule->number, 0, 1);
		add(code, BPF_RET | BPF_K, answer, 0, 0);
		return;
	}
	add(code, BPF_JMP | BPF_JEQ | BPF_K, rule->number, 0, 5);
	load(code, argument);
	add(code, BPF_ALU | BPF_AND | BPF_K, rule->mask, 0, 0);
	add(code, BPF_JMP | BPF_JEQ | BPF_K, rule->value, 0, 1);
	add(code, BPF_RET | BPF_K, answer, 0, 0);
	load(code, offsetof(struct seccomp_data, nr));
}

int vk_confine(const struct vk_rule *rules, size_t count, enum vk_rule_is otherwise,
	       enum vk_confine how)
{
	struct code code = { .count = 0 };
	struct sock_fprog program = { .filter = code.at };
	/* What is refused quietly in both modes is not worth a line each in the kernel's log. */
	unsigned int flags = how == VK_CONFINE_LENIENT ? SECCOMP_FILTER_FLAG_LOG : 0;
	size_t i;

	assert(count <= RULES_MAX);
	if (how == VK_CONFINE_NONE)
		return 0;
	if (!OUR_ARCH)
		return -ENOSYS;
	load(&code, offsetof(struct seccomp_data, arch));
	add(&code, BPF_JMP | BPF_JEQ | BPF_K, OUR_ARCH, 1, 0);
	add(&code, BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS, 0, 0);
	load(&code, offsetof(struct seccomp_data, nr));
	for (i = 0; i < count; i++)
		add_rule(&code, &rules[i], verdict(rules[i].is, how));
	add(&code, BPF_RET | BPF_K, verdict(otherwise, how), 0, 0);
	program.len = code.count;
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program))
		return errno == EINVAL ? -ENOSYS : -errno;
	return 0;
}
