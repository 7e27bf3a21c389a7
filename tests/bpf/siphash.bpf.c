// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* siphash: hashes the first bytes of a packet, as many as byte 64 says (at most 63), under the key
 * 00 01 .. 0f of the official vectors, and writes the hash behind it, at byte 72. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "vk_siphash.h"

enum { WORDS = 8, SIZE_AT = 64, HASH_AT = 72, PACKET_SIZE = 80 };

SEC("xdp")
int vk_siphash_test(struct xdp_md *ctx)
{
	uint8_t *data = (void *)(long)ctx->data;
	const uint64_t *words = (const void *)data;
	struct vk_siphash state;
	uint64_t rest = 0;
	uint32_t size;

	if (data + PACKET_SIZE > (uint8_t *)(long)ctx->data_end)
		return XDP_ABORTED;
	size = data[SIZE_AT] & 63;
	vk_siphash_begin(&state, 0x0706050403020100, 0x0f0e0d0c0b0a0908);
#pragma unroll
	for (uint32_t i = 0; i < WORDS; i++) {
		if (size >= 8 * (i + 1))
			vk_siphash_word(&state, words[i]);
		else if (size >= 8 * i)
			rest = words[i] & ((1ULL << size % 8 * 8) - 1);
	}
	*(uint64_t *)(data + HASH_AT) = vk_siphash_end(&state, rest, size);
	return XDP_PASS;
}

char vk_license[] SEC("license") = "Dual MIT/GPL";
