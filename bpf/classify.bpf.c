// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* classify: reads the header of every Valkyrie frame that arrives, polices it and steers it to the
 * AF_XDP socket of its class. What is not ours, or unsure, passes to the kernel untouched; what is
 * malformed is dropped; everything is counted once, by class and verdict.
 */
#include "vk_direct.h"
#include "vk_cookie.h"

/* Read-only after load, so that the verifier folds them into the code. */
const volatile __u16 vk_udp_port = VK_PORT;
const volatile __u32 vk_sample_shift = VK_SAMPLE_NEVER; /* stamp one frame of 2^shift */

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, VK_QUEUES_MAX *VK_CLASS_COUNT);
	__type(key, __u32);
	__type(value, __u32);
} vk_xsks SEC(".maps");

/* credit_spent says whether a lane has no frame left. */
static __always_inline int credit_spent(const struct vk_lane *lane)
{
	/* granted: pairs with the worker's release store after it refilled FILL */
	return (__s64)(lane->used - *(volatile const uint64_t *)&lane->granted) >= 0;
}

/* source_of returns a frame's source address. In both versions of IP the packet has the source,
 * then the destination, then the UDP header in front of the frame. */
static __always_inline struct vk_source_key source_of(const struct vk_header *header,
						      uint32_t family)
{
	const void *udp = (const void *)header - sizeof(struct udphdr);

	return family == 4 ? vk_source_ip4(((const __be32 *)udp)[-2]) :
			     ((const struct vk_source_key *)udp)[-2];
}

/* police_source says whether a frame's source address may go on. */
static __noinline int police_source(const struct vk_header *header, uint32_t family)
{
	struct vk_source_key key;

	if (!vk_source_limited())
		return 1;
	key = source_of(header, family);
	return vk_police_source(&key, 1);
}

/* guard_cookie asks for its cookie of a frame of the control class. */
static __noinline uint32_t guard_cookie(const struct vk_header *header, const void *end,
					uint32_t family)
{
	const struct vk_handshake *head = (const void *)(header + 1);
	const struct udphdr *udp = (const void *)header - sizeof(*udp);
	struct vk_source_key source = source_of(header, family);

	if (!vk_type_proves(header->type))
		return VK_STEER;
	if (header->ext || bpf_ntohl(header->length) < sizeof(*head) ||
	    (const void *)(head + 1) > end)
		return VK_DROP_COOKIE_MISSING;
	return vk_guard_cookie(head, &source, udp->source);
}

/* guard asks of a well-formed frame what its class's checks say. */
static __noinline uint32_t guard(const struct vk_header *header, const void *end, uint32_t family,
				 uint32_t checks)
{
	const struct vk_lead *lead = (const void *)(header + 1);
	struct vk_source_key source = source_of(header, family);

	if (checks & VK_GUARD_BLOCKED && vk_guard_source(&source) != VK_STEER)
		return VK_DROP_BLOCKED;
	if (checks & VK_GUARD_DENIED) {
		const struct vk_ext_session *session = vk_chain_session(header, end);

		if (session && vk_guard_session(session->session) != VK_STEER)
			return VK_DROP_DENIED;
	}
	if (checks & VK_GUARD_COOKIES)
		return guard_cookie(header, end, family);
	if (!(checks & VK_GUARD_TOKENS))
		return VK_STEER;
	if (header->ext < sizeof(*lead) / VK_EXT_WORD || (const void *)(lead + 1) > end ||
	    !vk_lead_ok(lead))
		return VK_DROP_TOKEN_MISSING;
	return vk_guard_token(lead, &source);
}

/* count adds a steered frame to this CPU's counters. */
static __always_inline void count(const struct xdp_md *ctx, const struct vk_view *view)
{
	struct vk_count *row = vk_count_row(view->class, VK_STEER);

	if (!row)
		return;
	row->packets++;
	row->bytes += (uint32_t)(ctx->data_end - ctx->data);
	if (VK_UNLIKELY(view->header->flags & VK_FLAG_AGG))
		row->more += (uint64_t)vk_frame_messages(view->header) - 1;
}

/* stamp writes the time into the metadata block of one frame in 2^vk_sample_shift of a lane. */
static __noinline void stamp(struct xdp_md *ctx)
{
	struct vk_meta *meta = (void *)(long)ctx->data_meta;
	uint32_t queue = ctx->rx_queue_index;
	uint64_t mask = (1ULL << vk_sample_shift) - 1;

	if ((void *)(meta + 1) > (void *)(long)ctx->data)
		return;
	if (queue >= VK_QUEUES_MAX || meta->class >= VK_CLASS_COUNT)
		return;
	if (!(vk_lanes[queue * VK_CLASS_COUNT + meta->class].used & mask))
		meta->stamp = bpf_ktime_get_ns();
}

/* describe puts the metadata block right in front of the packet, in place of any that another
 * program left there. A driver without room for it is fine: the worker then parses for itself. */
static __always_inline void describe(struct xdp_md *ctx, const struct vk_view *view)
{
	int present = (void *)(long)ctx->data - (void *)(long)ctx->data_meta;
	uint64_t first = view->place + VK_PLACE(class, view->class);
	/* payload_offset and frame_size; stamp is 0 */
	uint64_t second = (view->place >> VK_PLACE_SHIFT(frame_offset)) + VK_HEADER_SIZE +
			  view->header->ext * VK_EXT_WORD + (vk_view_size(view) << 16);
	uint64_t *meta;

	/* Made before the call: behind it, what they are made of would have waited on the stack. */
	asm volatile("" : "+r"(first), "+r"(second));
	if (bpf_xdp_adjust_meta(ctx, present - (int)sizeof(struct vk_meta)))
		return;
	meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 2) > (void *)(long)ctx->data)
		return;
	meta[0] = first;
	meta[1] = second;
	if (vk_sample_shift < VK_SAMPLE_NEVER)
		stamp(ctx);
}

/* refuse counts a packet that is not steered; the verdict's name says what becomes of it. */
static __noinline int refuse(struct xdp_md *ctx, uint32_t class, uint32_t verdict)
{
	vk_count_add(class, verdict, 1, (uint32_t)(ctx->data_end - ctx->data), 0);
	return (verdict >= VK_PASS_SHORT && verdict <= VK_PASS_PORT) || verdict == VK_PASS_QUEUE ?
		       XDP_PASS :
		       XDP_DROP;
}

/* give_back refuses a frame whose class has no socket, and returns the credit it took. */
static __noinline int give_back(struct xdp_md *ctx, uint32_t class)
{
	uint32_t queue = ctx->rx_queue_index;

	if (queue < VK_QUEUES_MAX && class < VK_CLASS_COUNT)
		vk_lanes[queue * VK_CLASS_COUNT + class].used--;
	return refuse(ctx, class, VK_DROP_NO_SOCKET);
}

/* steer sends a frame that may go on to its class's socket; its credit has been taken. */
static __always_inline int steer(struct xdp_md *ctx, const struct vk_view *view, uint32_t key)
{
	if (VK_UNLIKELY(bpf_redirect_map(&vk_xsks, key, XDP_DROP) != XDP_REDIRECT))
		return give_back(ctx, view->class);
	count(ctx, view);
	describe(ctx, view);
	return XDP_REDIRECT;
}

/* lane_again finds the lane anew behind a call: what waits on the stack for one loses its bounds in
 * the eyes of Linux 6.1. Returns NULL for a lane that there is not. */
static __always_inline struct vk_lane *lane_again(struct xdp_md *ctx, uint32_t class, uint32_t *key)
{
	uint32_t queue = *(volatile uint32_t *)&ctx->rx_queue_index;

	asm volatile("" : "+r"(class));
	if (queue >= VK_QUEUES_MAX || class >= VK_CLASS_COUNT)
		return NULL;
	*key = queue * VK_CLASS_COUNT + class;
	return &vk_lanes[*key];
}

/* judge is the whole program, for any packet. */
static __noinline int judge(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	uint32_t queue = ctx->rx_queue_index, key, verdict, family, checks;
	struct vk_lane *lane;
	struct vk_view view;

	verdict = vk_parse_packet(data, end, vk_udp_port, &view, VK_TAKE_ANY);
	if (verdict != VK_STEER)
		return refuse(ctx, VK_CLASS_CONTROL, verdict);
	if (queue >= VK_QUEUES_MAX)
		return refuse(ctx, VK_CLASS_CONTROL, VK_PASS_QUEUE);
	family = view.place >> VK_PLACE_SHIFT(family) & 0xff;
	checks = vk_guard_checks(view.class);
	if (checks) {
		verdict = guard(view.header, end, family, checks);
		if (verdict != VK_STEER)
			return refuse(ctx, view.class, verdict);
	}
	if (!police_source(view.header, family))
		return refuse(ctx, view.class, VK_DROP_SOURCE_RATE);
	lane = lane_again(ctx, view.class, &key);
	if (!lane)
		return XDP_PASS;
	if (!vk_bucket_take(&lane->police, &lane->bucket, 1))
		return refuse(ctx, view.class, VK_DROP_CLASS_RATE);
	if (credit_spent(lane))
		return refuse(ctx, view.class, VK_DROP_CREDIT);
	lane->used++;
	return steer(ctx, &view, key);
}

/* The fast path: a frame that a worker wrote and that stays within all limits. Any other packet is
 * judged from its start: reasons and refills, held ready on the way, would cost every good frame
 * more than it costs to read a bad one twice. Nothing has been written before that is decided. */
SEC("xdp")
int vk_classify(struct xdp_md *ctx)
{
	const uint64_t one = 1ULL << VK_TOKEN_SHIFT;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct vk_lane *lane;
	struct vk_view view;
	uint32_t queue, key, checks, verdict;
	uint64_t tokens;

	if (vk_source_limited() ||
	    vk_parse_packet(data, end, vk_udp_port, &view, VK_TAKE_USUAL) != VK_STEER)
		return judge(ctx);
	/* From here on the class is one value in one register, and the queue is not read before:
	 * left alone, the compiler writes each class that it could be to the stack. */
	asm volatile("" : "+r"(view.class));
	queue = *(volatile uint32_t *)&ctx->rx_queue_index;
	if (queue >= VK_QUEUES_MAX)
		return judge(ctx);
	key = queue * VK_CLASS_COUNT + view.class;
	lane = &vk_lanes[key];
	checks = VK_UNLIKELY(vk_guard_any()) ? vk_guard_checks(view.class) : 0;
	if (VK_UNLIKELY(checks)) {
		verdict = guard(view.header, end, view.place >> VK_PLACE_SHIFT(family) & 0xff,
				checks);
		if (verdict != VK_STEER)
			return refuse(ctx, view.class, verdict);
		lane = lane_again(ctx, view.class, &key);
		if (!lane)
			return XDP_PASS;
	}
	if (credit_spent(lane))
		return judge(ctx);
	if (*(volatile uint64_t *)&lane->police.rate) {
		tokens = vk_bucket_tokens(&lane->police, &lane->bucket);
		if (tokens < one)
			return judge(ctx);
		lane->bucket.tokens = tokens - one;
	}
	lane->used++;
	return steer(ctx, &view, key);
}

char vk_license[] SEC("license") = "Dual MIT/GPL";
