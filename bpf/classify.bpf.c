// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* classify: reads the header of every Valkyrie frame that arrives, polices it and steers it to the
 * AF_XDP socket of its class. What is not ours, or unsure, passes to the kernel untouched; what is
 * malformed is dropped; everything is counted once, by class and verdict.
 */
#include "vk_direct.h"
#include "vk_tables.h"

/* Read-only after load, so that the verifier folds them into the code. */
const volatile __u16 vk_udp_port = VK_PORT;
const volatile __u32 vk_sample_shift = VK_SAMPLE_NEVER; /* stamp one frame of 2^shift */

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, VK_QUEUES_MAX *VK_CLASS_COUNT);
	__type(key, __u32);
	__type(value, __u32);
} vk_xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, VK_QUEUES_MAX *VK_CLASS_COUNT);
	__type(key, __u32);
	__type(value, struct vk_credit);
} vk_credits SEC(".maps");

/* police_source says whether a frame's source address may go on. */
static __always_inline int police_source(const struct vk_view *view)
{
	struct vk_police *source = vk_source_limited();
	struct vk_source_key key;

	if (!source)
		return 1;
	if (view->family == 4)
		key = vk_source_ip4(*(const __be32 *)view->source);
	else
		__builtin_memcpy(&key, view->source, sizeof(key));
	return vk_police_source(source, &key, 1);
}

/* police decides whether a valid frame may go on, and takes a frame of the class's credit if so. */
static __always_inline uint32_t police(const struct vk_view *view, uint32_t queue,
				       struct vk_credit *credit)
{
	if (!police_source(view))
		return VK_DROP_SOURCE_RATE;
	if (!vk_police_class(view->class, queue, 1))
		return VK_DROP_CLASS_RATE;
	/* granted: pairs with the worker's release store after it refilled FILL */
	if ((__s64)(credit->used - *(volatile uint64_t *)&credit->granted) >= 0)
		return VK_DROP_CREDIT;
	credit->used++;
	return VK_STEER;
}

/* describe puts the metadata block right in front of the packet, in place of any that another
 * program left there. A driver without room for it is fine: the worker then parses for itself. */
static __always_inline void describe(struct xdp_md *ctx, const struct vk_view *view, uint64_t seen)
{
	int present = (void *)(long)ctx->data - (void *)(long)ctx->data_meta;
	struct vk_meta *meta;

	if (bpf_xdp_adjust_meta(ctx, present - (int)sizeof(*meta)))
		return;
	meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 1) > (void *)(long)ctx->data)
		return;
	meta->magic = VK_META_MAGIC;
	meta->class = view->class;
	meta->family = view->family;
	meta->l3_offset = view->l3_offset;
	meta->frame_offset = view->frame_offset;
	meta->payload_offset = view->payload_offset;
	meta->frame_size = view->frame_size;
	meta->stamp = 0;
	if (vk_sample_shift < VK_SAMPLE_NEVER && !(seen & ((1ULL << vk_sample_shift) - 1)))
		meta->stamp = bpf_ktime_get_ns();
}

/* refuse counts a packet that is not steered; the verdict's name says what becomes of it. Not
 * inline: off the fast path. */
static __noinline int refuse(uint32_t class, uint32_t verdict, uint32_t size)
{
	vk_count_add(class, verdict, 1, size, 0);
	return (verdict >= VK_PASS_SHORT && verdict <= VK_PASS_PORT) || verdict == VK_PASS_QUEUE ?
		       XDP_PASS :
		       XDP_DROP;
}

SEC("xdp")
int vk_classify(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	uint32_t queue = ctx->rx_queue_index, size = end - data, verdict, key;
	struct vk_view view = {};
	struct vk_credit *credit;
	struct vk_count *row;

	verdict = vk_parse_packet(data, end, vk_udp_port, &view);
	if (verdict != VK_STEER)
		return refuse(VK_CLASS_CONTROL, verdict, size);
	if (queue >= VK_QUEUES_MAX)
		return refuse(VK_CLASS_CONTROL, VK_PASS_QUEUE, size);
	key = queue * VK_CLASS_COUNT + view.class;
	credit = bpf_map_lookup_elem(&vk_credits, &key);
	row = vk_count_row(view.class, VK_STEER);
	if (!credit || !row)
		return XDP_ABORTED; /* cannot be: both keys are in range */
	verdict = police(&view, queue, credit);
	if (verdict != VK_STEER)
		return refuse(view.class, verdict, size);
	describe(ctx, &view, row->packets);
	if (bpf_redirect_map(&vk_xsks, key, XDP_DROP) != XDP_REDIRECT) {
		credit->used--;
		return refuse(view.class, VK_DROP_NO_SOCKET, size);
	}
	row->packets++;
	row->bytes += size;
	row->messages += view.messages;
	return XDP_REDIRECT;
}

char vk_license[] SEC("license") = "Dual MIT/GPL";
