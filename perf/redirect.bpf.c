// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* redirect: the smallest program that brings packets to an AF_XDP socket; reads nothing of them.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} vk_xsks SEC(".maps");

SEC("xdp")
int vk_redirect(struct xdp_md *ctx)
{
	return bpf_redirect_map(&vk_xsks, ctx->rx_queue_index, XDP_PASS);
}

char vk_license[] SEC("license") = "Dual MIT/GPL";
