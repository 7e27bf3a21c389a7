/* SPDX-License-Identifier: MIT */
#include "vk_peer_index.h"

#include "vk_pages.h"
#include "vk_shm.h"

#include <errno.h>
#include <string.h>

enum {
	BITS_MIN = 7,
	HUGE_SIZE = 2 << 20, /* bytes: all of a table is used, so that larger pages waste nothing */
};

static const uint32_t IP6 = 1u << 31; /* of an entry's peer */
static const size_t addresses_size = VK_PEERS_MAX * sizeof(uint8_t[16]);
static const size_t sessions_size = VK_PEERS_MAX * sizeof(uint32_t);

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

static uint32_t home_of(const struct vk_peer_index *index, uint32_t session)
{
	return session * 0x9e3779b9u >> (32 - index->bits);
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

static void unmap_tables(struct vk_peer_index *index)
{
	vk_pages_unmap(index->lines, lines_size(index));
	vk_pages_unmap(index->ids, sizeof *index->ids << index->bits);
}

static void put_id(struct vk_peer_index *index, struct vk_peer_id id)
{
	uint32_t at = home_of(index, id.session);

	while (index->ids[at].peer)
		at = (at + 1) & mask_of(index);
	index->ids[at] = id;
}

static void put_entry(struct vk_peer_index *index, uint32_t hash, uint32_t name)
{
	uint32_t at = line_of(index, hash);

	while (*peer_at(index, at))
		at = (at + 1) & mask_of(index);
	*hash_at(index, at) = hash;
	*peer_at(index, at) = name;
}

/* Puts everything into the tables of another size. */
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
		if (old->ids[i].peer)
			put_id(index, old->ids[i]);
	}
}

static int resize(struct vk_peer_index *index, uint32_t bits)
{
	struct vk_peer_index old = *index;

	index->bits = bits;
	index->lines = map_table(lines_size(index));
	index->ids = map_table(sizeof *index->ids << bits);
	if (!index->sessions)
		index->sessions = vk_pages_map(sessions_size);
	old.sessions = index->sessions;
	if (!index->lines || !index->ids || !index->sessions) {
		unmap_tables(index);
		*index = old;
		return -ENOMEM;
	}
	if (old.lines) {
		move_all(index, &old);
		unmap_tables(&old);
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

static void drop_id(struct vk_peer_index *index, struct vk_peer_id id)
{
	uint32_t mask = mask_of(index), at = home_of(index, id.session);

	while (index->ids[at].peer &&
	       (index->ids[at].peer != id.peer || index->ids[at].session != id.session))
		at = (at + 1) & mask;
	if (!index->ids[at].peer)
		return;
	for (uint32_t next = (at + 1) & mask; index->ids[next].peer; next = (next + 1) & mask) {
		uint32_t home = home_of(index, index->ids[next].session);

		if (((next - home) & mask) < ((next - at) & mask))
			continue; /* it would be before its home */
		index->ids[at] = index->ids[next];
		at = next;
	}
	index->ids[at].peer = 0;
}

/* Enters a peer by another session than before; 0 = by none. */
static void rename_peer(struct vk_peer_index *index, uint32_t peer, uint32_t session)
{
	uint32_t was = index->sessions[peer];

	if (was == session)
		return;
	if (was)
		drop_id(index, (struct vk_peer_id){ was, peer + 1 });
	if (session)
		put_id(index, (struct vk_peer_id){ session, peer + 1 });
	index->sessions[peer] = session;
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

int vk_peer_index_put(struct vk_peer_index *index, uint32_t peer, uint32_t session, uint32_t family,
		      const uint8_t address[16])
{
	uint32_t hash = vk_peer_hash(family, address), name = name_of(peer, family);
	int error;

	if (!index->lines || !*peer_at(index, place_of(index, hash, name))) {
		error = family == 4 ? 0 : note_address(index, peer, address);
		if (!error)
			error = vk_peer_index_room(index, index->count + 1);
		if (error)
			return error;
		index->count++;
		put_entry(index, hash, name);
	}
	rename_peer(index, peer, session);
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
	rename_peer(index, peer, 0);
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

int vk_peer_index_session(const struct vk_peer_index *index, uint32_t session)
{
	if (!index->lines)
		return -1;
	for (uint32_t at = home_of(index, session); index->ids[at].peer;
	     at = (at + 1) & mask_of(index))
		if (index->ids[at].session == session)
			return (int)index->ids[at].peer - 1;
	return -1;
}

void vk_peer_index_free(struct vk_peer_index *index)
{
	if (index->lines)
		unmap_tables(index);
	vk_pages_unmap(index->addresses, addresses_size);
	vk_pages_unmap(index->sessions, sessions_size);
	*index = (struct vk_peer_index){ .lines = NULL };
}
