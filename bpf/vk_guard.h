/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#ifndef VK_GUARD_H
#define VK_GUARD_H
/* vk_guard.h: what classify and select ask of a frame before a policer or a credit is charged for
 * it: that neither its source nor its session is shut out, and that it has a token where its class
 * wants one.
 */
#include "vk_siphash.h"
#include "vk_tables.h"

struct vk_guard vk_guard SEC(".data.vk_guard");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, VK_DENIED_MAX);
	__type(key, __u32);
	__type(value, __u32);
} vk_denied SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, VK_BLOCKED_MAX);
	__type(key, struct vk_source_key);
	__type(value, __u32);
} vk_blocked SEC(".maps");

/* SESSION and TOKEN as workers write them, at the head of a chain. */
struct vk_lead {
	struct vk_ext_session session;
	struct vk_ext_token token;
};

/* vk_guard_any says whether anything is asked of any frame; a look before vk_guard_checks. */
static __always_inline int vk_guard_any(void)
{
	return *(volatile const uint32_t *)&vk_guard.checks != 0;
}

/* vk_guard_checks returns what is asked of a class's frames; 0 = nothing. */
static __always_inline uint32_t vk_guard_checks(uint32_t class)
{
	return *(volatile const uint32_t *)&vk_guard.checks &
	       (VK_GUARD_DENIED | VK_GUARD_BLOCKED | 1u << class);
}

/* vk_lead_ok says whether eight words of extensions are SESSION and TOKEN. */
static __always_inline int vk_lead_ok(const struct vk_lead *lead)
{
	return lead->session.ext.kind == VK_EXT_SESSION &&
	       lead->session.ext.words == sizeof(struct vk_ext_session) / VK_EXT_WORD &&
	       lead->token.ext.kind == VK_EXT_TOKEN &&
	       lead->token.ext.words == sizeof(struct vk_ext_token) / VK_EXT_WORD;
}

/* vk_guard_session checks a session id, in network order. */
static __always_inline uint32_t vk_guard_session(uint32_t session)
{
	return bpf_map_lookup_elem(&vk_denied, &session) ? VK_DROP_DENIED : VK_STEER;
}

/* vk_guard_tick returns the tick it is. The coarse clock lags by a jiffy at most, and a tick is
 * more than a hundred of them. */
static __always_inline uint64_t vk_guard_tick(void)
{
	return bpf_ktime_get_coarse_ns() >> VK_TICK_SHIFT;
}

/* vk_guard_source checks a source address: a block ends by itself, whoever forgot to end it. */
static __always_inline uint32_t vk_guard_source(const struct vk_source_key *source)
{
	const uint32_t *until = bpf_map_lookup_elem(&vk_blocked, source);

	return until && vk_guard_tick() < *until ? VK_DROP_BLOCKED : VK_STEER;
}

/* vk_guard_master returns the key of a generation, NULL when it is not known (any more). */
static __always_inline const struct vk_master *vk_guard_master(uint32_t generation)
{
	const struct vk_master *master = &vk_guard.masters[generation % VK_MASTERS];

	return *(volatile const uint32_t *)&master->valid &&
			       (*(volatile const uint32_t *)&master->generation & 0xffff) ==
				       generation ?
		       master :
		       0;
}

/* vk_guard_token checks a token against the frame's source, the cheapest first. */
static __always_inline uint32_t vk_guard_token(const struct vk_lead *lead,
					       const struct vk_source_key *source)
{
	uint32_t arg = lead->token.ext.arg;
	const struct vk_master *master = vk_guard_master(bpf_ntohs(arg));
	const uint32_t *address = source->address;
	uint64_t tag;

	if (!master)
		return VK_DROP_TOKEN_GENERATION;
	if (vk_guard_tick() >= bpf_ntohl(lead->token.expiry))
		return VK_DROP_TOKEN_EXPIRED;
	tag = vk_mac_tag(master, address[0] | (uint64_t)address[1] << 32,
			 address[2] | (uint64_t)address[3] << 32, lead->session.session,
			 lead->token.expiry, arg | (uint32_t)bpf_htons(VK_MAC_TOKEN) << 16);
	return tag == ((uint64_t)bpf_ntohl(lead->token.tag_high) << 32 |
		       bpf_ntohl(lead->token.tag_low)) ?
		       VK_STEER :
		       VK_DROP_TOKEN_FORGED;
}
#endif
