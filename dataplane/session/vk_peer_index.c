/* SPDX-License-Identifier: MIT */
#include "vk_peer_index.h"

#include "vk_pages.h"
#include "vk_shm.h"

#include <errno.h>
#include <string.h>

enum {
	BITS_MIN = 7,
	SEATS_MIN = 1024, /* a page */
	HUGE_SIZE = 2 << 20, /* bytes: all of a table is used, so that larger pages waste nothing */
};

static const uint32_t IP6 = 1u << 31; /* of an entry's peer */
static const size_t addresses_size = VK_PEERS_MAX * sizeof(uint8_t[16]);

static uint32_t mask_of(const struct vk_peer_index *index)
{
	return (1u << index->bits) - 1;
}

/* Entries begin at the first place of a line, so that few lie in another one than that. Places are
 * never empty before one that is not, from its line's first one on. */
static uint32_t line_of(const struct vk_peer_index *index, uint32_t hash)
{
	return hash >> (32 - index->bits) & ~(uint32_t)(VK_PEER_LINE - 1);
}

static uint32_t *hash_at(const struct vk_peer_index *index, uint32_t at)
{
	return &index->lines[at / VK_PEER_LINE].hashes[at % VK_PEER_LINE];
}

static uint32_t *peer_at(const struct vk_peer_index *index, uint32_t at)
{
	return &index->lines[at / VK_PEER_LINE].peers[at % VK_PEER_LINE];
}

static uint32_t name_of(uint32_t peer, uint32_t family)
{
	return (peer + 1) | (family == 4 ? 0 : IP6);
}

static void *map_table(size_t size)
{
	void *at = vk_pages_map(size);

	if (at && size >= HUGE_SIZE)
		madvise(at, size, MADV_HUGEPAGE);
	return at;
}

static size_t lines_size(const struct vk_peer_index *index)
{
	return sizeof *index->lines / VK_PEER_LINE << index->bits;
}

static void put_entry(struct vk_peer_index *index, uint32_t hash, uint32_t name)
{
	uint32_t at = line_of(index, hash);

	while (*peer_at(index, at))
		at = (at + 1) & mask_of(index);
	*hash_at(index, at) = hash;
	*peer_at(index, at) = name;
}

/* Puts everything into the table of another size. */
static void move_all(struct vk_peer_index *index, const struct vk_peer_index *old)
{
	uint32_t from = 0;

	/* From the first empty place on, so that who came first to an address stays first. */
	while (*peer_at(old, from))
		from++;
	for (uint32_t i = 0; i <= mask_of(old); i++) {
		uint32_t at = (from + i) & mask_of(old);

		if (*peer_at(old, at))
			put_entry(index, *hash_at(old, at), *peer_at(old, at));
	}
}

static int resize(struct vk_peer_index *index, uint32_t bits)
{
	struct vk_peer_index old = *index;

	index->bits = bits;
	index->lines = map_table(lines_size(index));
	if (!index->lines) {
		*index = old;
		return -ENOMEM;
	}
	if (old.lines) {
		move_all(index, &old);
		vk_pages_unmap(old.lines, lines_size(&old));
	}
	return 0;
}

int vk_peer_index_room(struct vk_peer_index *index, uint32_t count)
{
	uint32_t bits = index->lines ? index->bits : BITS_MIN;

	while (count > 1u << (bits - 1))
		bits++;
	return index->lines && bits == index->bits ? 0 : resize(index, bits);
}

/* Where a peer's entry is, by address; one that is empty: it has none. */
static uint32_t place_of(const struct vk_peer_index *index, uint32_t hash, uint32_t name)
{
	uint32_t at = line_of(index, hash);

	while (*peer_at(index, at) && (*peer_at(index, at) != name || *hash_at(index, at) != hash))
		at = (at + 1) & mask_of(index);
	return at;
}

/* Makes a seat for a peer. */
static int add_seat(struct vk_peer_seats *seats, uint32_t peer)
{
	const size_t size = sizeof *seats->marks;
	uint32_t count = seats->count ? seats->count : SEATS_MIN;
	uint32_t *marks;

	if (peer < seats->count)
		return 0;
	while (count <= peer)
		count *= 2;
	marks = map_table(count * size);
	if (!marks)
		return -ENOMEM;
	if (seats->count)
		memcpy(marks, seats->marks, seats->count * size);
	vk_pages_unmap(seats->marks, seats->count * size);
	*seats = (struct vk_peer_seats){ marks, count };
	return 0;
}

static int note_address(struct vk_peer_index *index, uint32_t peer, const uint8_t address[16])
{
	if (!index->addresses)
		index->addresses = vk_pages_map(addresses_size);
	if (!index->addresses)
		return -ENOMEM;
	memcpy(index->addresses[peer], address, sizeof index->addresses[peer]);
	return 0;
}

int vk_peer_index_put(struct vk_peer_index *index, uint32_t peer, uint32_t family,
		      const uint8_t address[16])
{
	uint32_t hash = vk_peer_hash(family, address), name = name_of(peer, family);
	struct vk_peer_seats *seats = &index->seats[family != 4];
	int error;

	if (index->lines && *peer_at(index, place_of(index, hash, name)))
		return 0;
	error = add_seat(seats, peer);
	if (!error && family != 4)
		error = note_address(index, peer, address);
	if (!error)
		error = vk_peer_index_room(index, index->count + 1);
	if (error)
		return error;
	index->count++;
	put_entry(index, hash, name);
	seats->marks[peer] = vk_peer_mark(family, address);
	return 0;
}

void vk_peer_index_drop(struct vk_peer_index *index, uint32_t peer, uint32_t family,
			const uint8_t address[16])
{
	uint32_t mask = mask_of(index), at;

	if (!index->lines)
		return;
	at = place_of(index, vk_peer_hash(family, address), name_of(peer, family));
	if (!*peer_at(index, at))
		return;
	index->seats[family != 4].marks[peer] = 0;
	for (uint32_t next = (at + 1) & mask; *peer_at(index, next); next = (next + 1) & mask) {
		uint32_t home = line_of(index, *hash_at(index, next));

		if (((next - home) & mask) < ((next - at) & mask))
			continue;
		*hash_at(index, at) = *hash_at(index, next);
		*peer_at(index, at) = *peer_at(index, next);
		at = next;
	}
	*peer_at(index, at) = 0;
	index->count--;
}

/* Which of a line's entries have a hash, a bit each: all are compared, without a branch that nobody
 * can foresee. */
static uint32_t same_hash(const struct vk_peer_line *line, uint32_t hash)
{
	typedef uint32_t four __attribute__((vector_size(16)));
	const four key = { hash, hash, hash, hash };
	four low, high;
	uint64_t halves[2];

	_Static_assert(sizeof line->hashes == sizeof low + sizeof high, "eight hashes");
	memcpy(&low, line->hashes, sizeof low);
	memcpy(&high, line->hashes + 4, sizeof high);
	low = ((four)(low == key) & (four){ 1, 2, 4, 8 }) |
	      ((four)(high == key) & (four){ 16, 32, 64, 128 });
	memcpy(halves, &low, sizeof halves);
	halves[0] |= halves[1];
	return (uint32_t)(halves[0] | halves[0] >> 32);
}

uint32_t vk_peer_index_at(const struct vk_peer_index *index, uint32_t hash, uint32_t family,
			  const uint8_t address[16])
{
	uint32_t at;

	if (!index->lines)
		return VK_PEER_NOBODY;
	at = line_of(index, hash) / VK_PEER_LINE;
	for (;;) {
		const struct vk_peer_line *line = &index->lines[at];

		for (uint32_t same = same_hash(line, hash); same; same &= same - 1) {
			uint32_t name = line->peers[__builtin_ctz(same)];
			uint32_t peer = (name & ~IP6) - 1;

			/* An empty place keeps the hash of who was there. */
			if (name &&
			    (family == 4 ? !(name & IP6) :
					   (name & IP6) && !memcmp(index->addresses[peer], address,
								   sizeof *index->addresses)))
				return peer;
		}
		if (!line->peers[VK_PEER_LINE - 1])
			return VK_PEER_NOBODY;
		at = (at + 1) & (mask_of(index) / VK_PEER_LINE);
	}
}

void vk_peer_index_free(struct vk_peer_index *index)
{
	if (index->lines)
		vk_pages_unmap(index->lines, lines_size(index));
	for (uint32_t i = 0; i < 2; i++)
		vk_pages_unmap(index->seats[i].marks,
			       index->seats[i].count * sizeof *index->seats[i].marks);
	vk_pages_unmap(index->addresses, addresses_size);
	*index = (struct vk_peer_index){ .lines = NULL };
}
