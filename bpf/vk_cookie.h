/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#ifndef VK_COOKIE_H
#define VK_COOKIE_H
/* vk_cookie.h: the half of a handshake's cookie that classify and select check, so that the daemon
 * hears nothing of somebody who does not receive at the address that his frames are from.
 */
#include "vk_guard.h"

/* vk_type_proves says whether a frame of the control class repeats a cookie that its receiver has
 * given. AUTH_FAILURE does, too, from one side, and cannot be told from the other side's; nor can
 * AUTH_RESPONSE from one that proves a session anew, which has no cookie. */
static __always_inline int vk_type_proves(uint32_t type)
{
	return type == VK_NEGOTIATE || type == VK_KEY_EXCHANGE;
}

/* vk_guard_cookie checks a cookie against its frame's source, the cheapest first; the port is in
 * network order. */
static __always_inline uint32_t vk_guard_cookie(const struct vk_handshake *head,
						const struct vk_source_key *source, uint16_t port)
{
	const struct vk_cookie *cookie = (const void *)head->cookie;
	const struct vk_master *master = vk_guard_master(bpf_ntohs(cookie->generation));
	const uint32_t *address = source->address;
	uint64_t tag;

	if (!master)
		return VK_DROP_COOKIE_GENERATION;
	if (vk_guard_tick() >= bpf_ntohl(cookie->expiry))
		return VK_DROP_COOKIE_EXPIRED;
	tag = vk_cookie_tag(master, address[0] | (uint64_t)address[1] << 32,
			    address[2] | (uint64_t)address[3] << 32,
			    head->attempt_high | (uint64_t)head->attempt_low << 32,
			    cookie->expiry | (uint64_t)cookie->generation << 32 |
				    (uint64_t)port << 48);
	return tag == ((uint64_t)bpf_ntohl(cookie->tag_high) << 32 | bpf_ntohl(cookie->tag_low)) ?
		       VK_STEER :
		       VK_DROP_COOKIE_FORGED;
}
#endif
