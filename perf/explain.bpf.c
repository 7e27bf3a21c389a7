// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* explain: notes when messages pass: marks of applications (getppid, which nobody else calls), the
 * send and receive calls of workers, and packets that arrive in the network namespaces of a run.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

enum { EVENTS_MAX = 1 << 18, WATCHED_MAX = 64, NUMBERS_MAX = 512 };
/* As perf/explain.py has them. */
enum what { MARK = 1, SENDS = 2, RECEIVES = 3, ARRIVES = 4 };

struct event {
	__u64 ns; /* CLOCK_MONOTONIC */
	__u32 what;
	__u32 who; /* process, or network namespace */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EVENTS_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct event);
} vk_events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} vk_noted SEC(".maps");

/* Process -> the call it is in. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WATCHED_MAX);
	__type(key, __u32);
	__type(value, __u32);
} vk_watched SEC(".maps");

/* Network namespaces of the run. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WATCHED_MAX);
	__type(key, __u32);
	__type(value, __u32);
} vk_places SEC(".maps");

/* Number of a system call -> enum what, 0 = of no interest. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NUMBERS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} vk_interest SEC(".maps");

struct ns_common {
	unsigned int inum;
} __attribute__((preserve_access_index));

struct net {
	struct ns_common ns;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} __attribute__((preserve_access_index)) possible_net_t;

struct net_device {
	possible_net_t nd_net;
} __attribute__((preserve_access_index));

struct sk_buff {
	struct net_device *dev;
} __attribute__((preserve_access_index));

static void note(__u32 what, __u32 who)
{
	__u32 zero = 0, at;
	__u64 *noted = bpf_map_lookup_elem(&vk_noted, &zero);
	struct event *event;

	if (!noted)
		return;
	at = (__u32)__sync_fetch_and_add(noted, 1);
	event = bpf_map_lookup_elem(&vk_events, &at); /* none when it is full */
	if (!event)
		return;
	event->ns = bpf_ktime_get_ns();
	event->what = what;
	event->who = who;
}

SEC("raw_tp/sys_enter")
int vk_explain(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 process = bpf_get_current_pid_tgid() >> 32, number = (__u32)ctx->args[1];
	__u32 *in = bpf_map_lookup_elem(&vk_watched, &process);
	__u32 *what;

	if (!in)
		return 0;
	what = bpf_map_lookup_elem(&vk_interest, &number);
	*in = what ? *what : 0;
	if (*in == MARK || *in == SENDS)
		note(*in, process);
	return 0;
}

SEC("raw_tp/sys_exit")
int vk_returns(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 process = bpf_get_current_pid_tgid() >> 32;
	__u32 *in = bpf_map_lookup_elem(&vk_watched, &process);

	if (in && *in == RECEIVES && (__s64)ctx->args[1] > 0)
		note(RECEIVES, process);
	return 0;
}

static void arrives(struct net_device *device)
{
	__u32 place = BPF_CORE_READ(device, nd_net.net, ns.inum);

	if (bpf_map_lookup_elem(&vk_places, &place))
		note(ARRIVES, place);
}

SEC("raw_tp/netif_receive_skb")
int vk_arrives(struct bpf_raw_tracepoint_args *ctx)
{
	arrives(BPF_CORE_READ((struct sk_buff *)ctx->args[0], dev));
	return 0;
}

SEC("raw_tp/xdp_redirect")
int vk_redirects(struct bpf_raw_tracepoint_args *ctx)
{
	arrives((struct net_device *)ctx->args[0]);
	return 0;
}

char vk_license[] SEC("license") = "Dual MIT/GPL";
