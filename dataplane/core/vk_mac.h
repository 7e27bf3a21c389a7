/* SPDX-License-Identifier: MIT */
#ifndef VK_MAC_H
#define VK_MAC_H
/* vk_mac.h: the kernel programs' SipHash for Python: the same header, compiled for the host. Pure
 * functions.
 */
#include "vk_maps.h"
#ifndef VK_CDEF
#include <stddef.h>
#endif

/* vk_siphash_bytes returns the SipHash-2-4 of size bytes. */
uint64_t vk_siphash_bytes(const uint64_t key[2], const void *data, size_t size);

/* vk_mac_of returns the tag that the kernel expects for what a struct vk_mac says. */
uint64_t vk_mac_of(const struct vk_master *master, const struct vk_mac *mac);

/* vk_cookie_of returns the same for a struct vk_cookie_mac, whose purpose is VK_MAC_COOKIE. */
uint64_t vk_cookie_of(const struct vk_master *master, const struct vk_cookie_mac *mac);
#endif
