/* SPDX-License-Identifier: MIT */
#ifndef VK_PEER_INDEX_H
#define VK_PEER_INDEX_H
/* vk_peer_index.h: live peers by their address, and by the id of the session on the frames that
 * they send. An entry is a hash and a peer, eight to a cache line, and nearly all lie in the line
 * that their hash names: finding one of a million costs one miss, of which a batch's overlap, since
 * it hashes all of a batch's sources first, which prefetches. An entry has no address: hashes of
 * two IPv4 addresses differ, and IPv6 ones are compared where they lie. What else tells whether a
 * frame may be taken stands in the peer's session, which receiving reads anyway. Open addressing,
 * load <= 1/2; grows with the peers.
 */
#include <stdint.h>

enum vk_peer_index_const {
	VK_PEER_LINE = 8, /* entries of a cache line */
	VK_PEER_NOBODY = 0xffffffff, /* no peer's number */
};

struct vk_peer_line {
	uint32_t hashes[VK_PEER_LINE]; /* vk_peer_hash */
	uint32_t peers[VK_PEER_LINE]; /* + 1, top bit: at an IPv6 address; 0 = empty */
};

/* A peer by the id of its session. */
struct vk_peer_id {
	uint32_t session;
	uint32_t peer; /* + 1; 0 = empty */
};

struct vk_peer_index {
	struct vk_peer_line *lines; /* 1 << bits entries; NULL = nothing was ever put */
	struct vk_peer_id *ids; /* as many */
	uint8_t (*addresses)[16]; /* by peer, of those with IPv6; NULL = there was none */
	uint32_t *sessions; /* by peer: the one in `ids`; 0 = none */
	uint32_t bits;
	uint32_t count; /* of entries */
};

/* vk_peer_index_room makes room for so many peers in one go. Returns 0, or -ENOMEM. */
int vk_peer_index_room(struct vk_peer_index *index, uint32_t count);

/* vk_peer_index_put enters a peer at an address (IPv4 in the first four bytes), where it may be
 * already, with the id of its session; 0 = it has not joined. Of two peers at one address the one
 * is found that was there first. Returns 0, or -ENOMEM. */
int vk_peer_index_put(struct vk_peer_index *index, uint32_t peer, uint32_t session, uint32_t family,
		      const uint8_t address[16]);

/* vk_peer_index_drop takes a peer at an address out, and its session. */
void vk_peer_index_drop(struct vk_peer_index *index, uint32_t peer, uint32_t family,
			const uint8_t address[16]);

/* vk_peer_index_at returns who is at an address, by its hash, or VK_PEER_NOBODY. */
uint32_t vk_peer_index_at(const struct vk_peer_index *index, uint32_t hash, uint32_t family,
			  const uint8_t address[16]);

/* vk_peer_index_session returns the number of the peer that has joined in a session, or -1. */
int vk_peer_index_session(const struct vk_peer_index *index, uint32_t session);

/* vk_peer_index_free gives all memory back. */
void vk_peer_index_free(struct vk_peer_index *index);

/* vk_peer_hash returns an address's hash, of which the table takes the top bits. No step of IPv4's
 * loses anything, so that two addresses never share a hash. */
static inline uint32_t vk_peer_hash(uint32_t family, const uint8_t address[16])
{
	uint64_t a, b;
	uint32_t ip4;

	if (family == 4) {
		__builtin_memcpy(&ip4, address, 4);
		ip4 *= 0x9e3779b9u; /* Fibonacci hashing */
		return (ip4 ^ ip4 >> 16) * 0x85ebca6bu;
	}
	__builtin_memcpy(&a, address, 8);
	__builtin_memcpy(&b, address + 8, 8);
	a = a * 0x9e3779b97f4a7c15u ^ b;
	a = (a ^ a >> 32) * 0x9e3779b97f4a7c15u;
	return (uint32_t)(a >> 32);
}

/* vk_peer_index_prefetch begins to fetch the line of an address, by its hash. */
static inline void vk_peer_index_prefetch(const struct vk_peer_index *index, uint32_t hash)
{
	if (index->lines)
		__builtin_prefetch(&index->lines[(hash >> (32 - index->bits)) / VK_PEER_LINE]);
}

#ifndef VK_CDEF
_Static_assert(sizeof(struct vk_peer_line) == 64, "a cache line");
#endif
#endif
