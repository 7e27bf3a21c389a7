// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* syscalls: counts the system calls of processes that are watched. What a side measures it begins
 * and ends with a call of getrusage, so the counts at its last two tell what lies between.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

enum { PROCESSES_MAX = 1024 };

const volatile __u32 vk_getrusage = ~0u;

struct calls {
	__u64 count;
	__u64 begin; /* at the last getrusage but one */
	__u64 end; /* at the last one */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PROCESSES_MAX);
	__type(key, __u32);
	__type(value, struct calls);
} vk_calls SEC(".maps");

SEC("raw_tp/sys_enter")
int vk_syscalls(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 process = bpf_get_current_pid_tgid() >> 32;
	struct calls *calls = bpf_map_lookup_elem(&vk_calls, &process);

	if (!calls)
		return 0;
	__sync_fetch_and_add(&calls->count, 1);
	if (ctx->args[1] == vk_getrusage) {
		calls->begin = calls->end;
		calls->end = calls->count;
	}
	return 0;
}

char vk_license[] SEC("license") = "Dual MIT/GPL";
