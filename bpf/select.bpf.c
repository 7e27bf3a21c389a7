// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* select: on the kernel's UDP path, reads the Valkyrie header of every datagram (or super-packet:
 * the first segment's) and picks the socket of its class. The same rules as classify, except that
 * what one run sees may be up to VK_AGG_MAX datagrams: the frame must fit, not fill, and the number
 * of datagrams is estimated from the size of the first. The worker checks each of them again, and
 * the tokens of those behind the first.
 * What is refused goes to a socket that drops everything: SK_DROP has the kernel answer whoever the
 * datagram says it came from by an ICMP port unreachable.
 */
#include "vk_cookie.h"

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, VK_SOCKS_MAX);
	__type(key, __u32);
	__type(value, __u64);
} vk_socks SEC(".maps");

/* What the first frame says. */
struct select_view {
	uint32_t family; /* 4 or 6 */
	uint32_t class;
	uint32_t messages; /* of one datagram */
	uint32_t datagrams; /* as estimated from the first one's size */
	uint32_t has_session;
	uint32_t session; /* network order */
	uint32_t ext; /* words of extensions */
	uint32_t type;
	uint32_t length; /* of the payload */
};

/* select_chain walks the extensions of a frame, whose header says that the datagram holds them. */
static __always_inline uint32_t select_chain(struct sk_reuseport_md *ctx, uint32_t left,
					     struct select_view *view)
{
	uint32_t offset = sizeof(struct udphdr) + VK_HEADER_SIZE;

	for (int i = 0; i < VK_EXT_KINDS_MAX && left; i++) {
		struct vk_ext ext;
		uint32_t verdict;

		if (bpf_skb_load_bytes(ctx, offset, &ext, sizeof(ext)))
			return VK_DROP_TRUNCATED;
		verdict = vk_ext_check(&ext, left);
		if (verdict != VK_STEER)
			return verdict;
		if (ext.kind == VK_EXT_SESSION && !view->has_session) {
			view->has_session = 1;
			if (bpf_skb_load_bytes(ctx, offset + sizeof(ext), &view->session,
					       sizeof(view->session)))
				return VK_DROP_TRUNCATED;
		}
		left -= ext.words;
		offset += ext.words * VK_EXT_WORD;
	}
	return left ? VK_DROP_EXTENSION : VK_STEER;
}

/* select_frame reads the first frame of size bytes of payload. */
static __always_inline uint32_t select_frame(struct sk_reuseport_md *ctx, uint32_t size,
					     struct select_view *view)
{
	struct vk_header header;
	uint32_t verdict;
	uint64_t first;

	if (size < VK_HEADER_SIZE ||
	    bpf_skb_load_bytes(ctx, sizeof(struct udphdr), &header, sizeof(header)))
		return VK_DROP_TRUNCATED;
	verdict = vk_parse_fields(&header, size);
	if (verdict != VK_STEER)
		return verdict;
	verdict = select_chain(ctx, header.ext, view);
	if (verdict != VK_STEER)
		return verdict;
	first = vk_frame_size(&header);
	if (first > size)
		return VK_DROP_LENGTH;
	view->class = vk_frame_class(&header, view->has_session);
	view->ext = header.ext;
	view->type = header.type;
	view->length = bpf_ntohl(header.length);
	view->messages = vk_frame_messages(&header);
	view->datagrams = (size + (uint32_t)first - 1) / (uint32_t)first;
	return VK_STEER;
}

/* select_source returns the packet's source address. */
static __always_inline struct vk_source_key select_source(struct sk_reuseport_md *ctx,
							  uint32_t family)
{
	struct vk_source_key key = {};
	__be32 address = 0;

	if (family == 4) {
		bpf_skb_load_bytes_relative(ctx, __builtin_offsetof(struct iphdr, saddr), &address,
					    sizeof(address), BPF_HDR_START_NET);
		return vk_source_ip4(address);
	}
	bpf_skb_load_bytes_relative(ctx, __builtin_offsetof(struct ipv6hdr, saddr), &key,
				    sizeof(key), BPF_HDR_START_NET);
	return key;
}

/* select_cookie asks for its cookie of the first frame, which is of the control class. */
static __noinline uint32_t select_cookie(struct sk_reuseport_md *ctx, uint32_t family)
{
	struct vk_source_key source = select_source(ctx, family);
	struct vk_handshake head;
	uint16_t port;

	if (bpf_skb_load_bytes(ctx, sizeof(struct udphdr) + VK_HEADER_SIZE, &head, sizeof(head)) ||
	    bpf_skb_load_bytes(ctx, __builtin_offsetof(struct udphdr, source), &port, sizeof(port)))
		return VK_DROP_COOKIE_MISSING;
	return vk_guard_cookie(&head, &source, port);
}

/* select_guard asks of the first frame what its class's checks say. */
static __always_inline uint32_t select_guard(struct sk_reuseport_md *ctx,
					     const struct select_view *view)
{
	uint32_t checks = vk_guard_checks(view->class);
	struct vk_source_key source = {};
	struct vk_lead lead;

	if (checks & (VK_GUARD_BLOCKED | VK_GUARD_TOKENS))
		source = select_source(ctx, view->family);
	if (checks & VK_GUARD_BLOCKED && vk_guard_source(&source) != VK_STEER)
		return VK_DROP_BLOCKED;
	if (checks & VK_GUARD_DENIED && view->has_session &&
	    vk_guard_session(view->session) != VK_STEER)
		return VK_DROP_DENIED;
	if (checks & VK_GUARD_COOKIES) {
		if (!vk_type_proves(view->type))
			return VK_STEER;
		return view->ext || view->length < sizeof(struct vk_handshake) ?
			       VK_DROP_COOKIE_MISSING :
			       select_cookie(ctx, view->family);
	}
	if (!(checks & VK_GUARD_TOKENS))
		return VK_STEER;
	if (view->ext < sizeof(lead) / VK_EXT_WORD ||
	    bpf_skb_load_bytes(ctx, sizeof(struct udphdr) + VK_HEADER_SIZE, &lead, sizeof(lead)) ||
	    !vk_lead_ok(&lead))
		return VK_DROP_TOKEN_MISSING;
	return vk_guard_token(&lead, &source);
}

/* select_police_source says whether the datagrams may go on, as far as their source goes. */
static __always_inline int select_police_source(struct sk_reuseport_md *ctx,
						const struct select_view *view)
{
	struct vk_source_key key;

	if (!vk_source_limited())
		return 1;
	key = select_source(ctx, view->family);
	return vk_police_source(&key, view->datagrams);
}

/* select_police decides whether the datagrams may go on. */
static __always_inline uint32_t select_police(struct sk_reuseport_md *ctx,
					      const struct select_view *view)
{
	uint32_t class = view->class;
	struct vk_lane *lane;

	/* The compiler knows that it is a class and would leave the check out; the verifier does
	 * not know. */
	asm volatile("" : "+r"(class));
	if (class >= VK_CLASS_COUNT)
		return VK_DROP_NO_SOCKET;
	lane = &vk_lanes[class];
	if (!select_police_source(ctx, view))
		return VK_DROP_SOURCE_RATE;
	return vk_bucket_take(&lane->police, &lane->bucket, view->datagrams) ? VK_STEER :
									       VK_DROP_CLASS_RATE;
}

SEC("sk_reuseport")
int vk_select(struct sk_reuseport_md *ctx)
{
	uint32_t size = ctx->len - sizeof(struct udphdr), verdict, key;
	struct select_view view = {
		.family = ctx->eth_protocol == bpf_htons(ETH_P_IP) ? 4 : 6,
		.datagrams = 1,
	};

	verdict = ctx->len < sizeof(struct udphdr) ? VK_DROP_TRUNCATED :
						     select_frame(ctx, size, &view);
	if (verdict == VK_STEER)
		verdict = select_guard(ctx, &view);
	if (verdict == VK_STEER)
		verdict = select_police(ctx, &view);
	key = view.class + (view.family == 4 ? 0 : VK_CLASS_COUNT);
	if (verdict == VK_STEER && bpf_sk_select_reuseport(ctx, &vk_socks, &key, 0))
		verdict = VK_DROP_NO_SOCKET;
	vk_count_add(view.class, verdict, view.datagrams, size,
		     verdict == VK_STEER ? ((uint64_t)view.messages - 1) * view.datagrams : 0);
	if (verdict == VK_STEER)
		return SK_PASS;
	key = VK_SOCKS_SINK + (view.family != 4);
	return bpf_sk_select_reuseport(ctx, &vk_socks, &key, 0) ? SK_DROP : SK_PASS;
}

char vk_license[] SEC("license") = "Dual MIT/GPL";
