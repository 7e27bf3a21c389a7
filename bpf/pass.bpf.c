// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Passes every packet. A veth delivers packets that a program on its peer redirects or transmits
 * only while it has a program of its own: this is that program. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int vk_pass(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_PASS;
}

char vk_license[] SEC("license") = "Dual MIT/GPL";
