// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* parse_drop: the baseline of the classifier's benchmark: reads a packet by the same rules and
 * with the same parser, whole frame header and any extensions, and drops it. No class, policing,
 * credit, counting or redirect.
 */
#include "vk_direct.h"

SEC("xdp")
int vk_parse_drop(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct vk_view view = {};

	return vk_parse_packet(data, end, VK_PORT, &view, VK_TAKE_ANY) == VK_STEER ? XDP_DROP :
										     XDP_PASS;
}

char vk_license[] SEC("license") = "Dual MIT/GPL";
