/* SPDX-License-Identifier: MIT */
#ifndef VK_PEER_INDEX_H
#define VK_PEER_INDEX_H
/* vk_peer_index.h: who a datagram is from. The id on a frame names a seat, its peer's (vk_seat.h),
 * where four bytes say whether its source is that peer's: so few that of a million peers as many
 * as can be are in a cache. Who has no id on a frame, or none of ours, is found by address: an
 * entry is a hash and a peer, eight to a cache line, and nearly all lie in the line that their hash
 * names. Open addressing, load <= 1/2; grows with the peers. Neither has whole addresses: hashes of
 * two IPv4 addresses differ, and IPv6 ones are compared where they lie. What a batch asks for it
 * prefetches first, so that its misses overlap. What else tells whether a frame may be taken, the
 * id itself, stands in the peer's session, which receiving reads anyway.
 */
#include <stdint.h>
#include <string.h>

enum vk_peer_index_const {
	VK_PEER_LINE = 8, /* entries of a cache line */
	VK_PEER_NOBODY = 0xffffffff, /* no peer's number */
};

struct vk_peer_line {
	uint32_t hashes[VK_PEER_LINE]; /* vk_peer_hash */
	uint32_t peers[VK_PEER_LINE]; /* + 1, top bit: at an IPv6 address; 0 = empty */
};

/* Where peers of a family are. */
struct vk_peer_seats {
	uint32_t *marks; /* by peer: vk_peer_mark; 0 = it is not live, or of the other family */
	uint32_t count; /* of them */
};

struct vk_peer_index {
	struct vk_peer_line *lines; /* 1 << bits entries; NULL = nothing was ever put */
	uint8_t (*addresses)[16]; /* by peer, of those with IPv6; NULL = there was none */
	struct vk_peer_seats seats[2]; /* IPv4, IPv6 */
	uint32_t bits;
	uint32_t count; /* of entries */
};

/* vk_peer_index_room makes room for so many peers in one go. Returns 0, or -ENOMEM. */
int vk_peer_index_room(struct vk_peer_index *index, uint32_t count);

/* vk_peer_index_put enters a peer at an address (IPv4 in the first four bytes), where it may be
 * already. Of two peers at one address the one is found that was there first. Returns 0, or
 * -ENOMEM. */
int vk_peer_index_put(struct vk_peer_index *index, uint32_t peer, uint32_t family,
		      const uint8_t address[16]);

/* vk_peer_index_drop takes a peer at an address out. */
void vk_peer_index_drop(struct vk_peer_index *index, uint32_t peer, uint32_t family,
			const uint8_t address[16]);

/* vk_peer_index_at returns who is at an address, by its hash, or VK_PEER_NOBODY. */
uint32_t vk_peer_index_at(const struct vk_peer_index *index, uint32_t hash, uint32_t family,
			  const uint8_t address[16]);

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

/* vk_peer_mark returns what a seat says of an address: of IPv4 all of it. */
static inline uint32_t vk_peer_mark(uint32_t family, const uint8_t address[16])
{
	uint32_t mark;

	if (family != 4)
		return vk_peer_hash(family, address);
	memcpy(&mark, address, sizeof mark);
	return mark;
}

/* vk_peer_index_prefetch_seat begins to fetch a peer's seat. */
static inline void vk_peer_index_prefetch_seat(const struct vk_peer_index *index, uint32_t peer,
					       uint32_t family)
{
	const struct vk_peer_seats *seats = &index->seats[family != 4];

	if (peer < seats->count)
		__builtin_prefetch(&seats->marks[peer]);
}

/* vk_peer_index_sits says whether a peer, which may be any number, is at an address. */
static inline int vk_peer_index_sits(const struct vk_peer_index *index, uint32_t peer,
				     uint32_t family, const uint8_t address[16])
{
	const struct vk_peer_seats *seats = &index->seats[family != 4];
	uint32_t mark = vk_peer_mark(family, address);

	return peer < seats->count && mark && seats->marks[peer] == mark &&
	       (family == 4 || !memcmp(index->addresses[peer], address, sizeof *index->addresses));
}

#ifndef VK_CDEF
_Static_assert(sizeof(struct vk_peer_line) == 64, "a cache line");
#endif
#endif
