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

static uint32_t mask_of(const struct vk_peer_index *index)
{
	return (1u << index->bits) - 1;
}

static uint32_t home_of(const struct vk_peer_index *index, uint32_t hash)
{
	return hash >> (32 - index->bits);
}

static uint32_t hash_session(uint32_t session)
{
	return session * 0x9e3779b9u;
}

static void *map_table(size_t size)
{
	void *at = vk_pages_map(size);

	if (at && size >= HUGE_SIZE)
		madvise(at, size, MADV_HUGEPAGE);
	return at;
}

static const size_t addresses_size = VK_PEERS_MAX * sizeof(uint8_t[16]);

static void unmap_tables(struct vk_peer_index *index)
{
	vk_pages_unmap(index->entries, sizeof *index->entries << index->bits);
	vk_pages_unmap(index->ids, sizeof *index->ids << index->bits);
}

static void put_id(struct vk_peer_index *index, struct vk_peer_id id)
{
	uint32_t at = home_of(index, hash_session(id.session));

	while (index->ids[at].peer &&
	       (index->ids[at].peer != id.peer || index->ids[at].session != id.session))
		at = (at + 1) & mask_of(index);
	index->ids[at] = id;
}

static void put_entry(struct vk_peer_index *index, const struct vk_peer_entry *entry)
{
	uint32_t at = home_of(index, entry->hash);

	while (index->entries[at].peer)
		at = (at + 1) & mask_of(index);
	index->entries[at] = *entry;
	if (entry->joined && entry->session)
		put_id(index, (struct vk_peer_id){ entry->session, entry->peer });
}

/* Puts everything into tables of another size. */
static int resize(struct vk_peer_index *index, uint32_t bits)
{
	struct vk_peer_index old = *index;

	index->bits = bits;
	index->entries = map_table(sizeof *index->entries << bits);
	index->ids = map_table(sizeof *index->ids << bits);
	if (!index->entries || !index->ids) {
		unmap_tables(index);
		*index = old;
		return -ENOMEM;
	}
	/* From the first empty place on, so that who came first to an address stays first. */
	if (old.entries) {
		uint32_t from = 0;

		while (old.entries[from].peer)
			from++;
		for (uint32_t i = 0; i <= mask_of(&old); i++) {
			const struct vk_peer_entry *entry =
				&old.entries[(from + i) & mask_of(&old)];

			if (entry->peer)
				put_entry(index, entry);
		}
	}
	unmap_tables(&old);
	return 0;
}

int vk_peer_index_room(struct vk_peer_index *index, uint32_t count)
{
	uint32_t bits = index->entries ? index->bits : BITS_MIN;

	while (count > 1u << (bits - 1))
		bits++;
	return index->entries && bits == index->bits ? 0 : resize(index, bits);
}

/* Where a peer's entry is, by address; one that is empty: it has none. */
static uint32_t place_of(const struct vk_peer_index *index, uint32_t hash, uint32_t peer)
{
	uint32_t at = home_of(index, hash);

	while (index->entries[at].peer && index->entries[at].peer != peer)
		at = (at + 1) & mask_of(index);
	return at;
}

static void drop_id(struct vk_peer_index *index, uint32_t session, uint32_t peer)
{
	uint32_t mask = mask_of(index), at = home_of(index, hash_session(session));

	while (index->ids[at].peer &&
	       (index->ids[at].peer != peer || index->ids[at].session != session))
		at = (at + 1) & mask;
	if (!index->ids[at].peer)
		return;
	for (uint32_t next = (at + 1) & mask; index->ids[next].peer; next = (next + 1) & mask) {
		uint32_t home = home_of(index, hash_session(index->ids[next].session));

		if (((next - home) & mask) < ((next - at) & mask))
			continue; /* it would be before its home */
		index->ids[at] = index->ids[next];
		at = next;
	}
	index->ids[at].peer = 0;
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

int vk_peer_index_put(struct vk_peer_index *index, const struct vk_peer_entry *entry,
		      const uint8_t address[16])
{
	struct vk_peer_entry now = *entry;
	struct vk_peer_entry *there = NULL;
	int error;

	now.hash = vk_peer_hash(now.family, address);
	if (index->entries)
		there = &index->entries[place_of(index, now.hash, now.peer)];
	if (!there || !there->peer) {
		error = now.family == 4 ? 0 : note_address(index, now.peer - 1, address);
		if (!error)
			error = vk_peer_index_room(index, index->count + 1);
		if (error)
			return error;
		index->count++;
		put_entry(index, &now);
		return 0;
	}
	if (there->session != now.session || there->joined != now.joined) {
		if (there->joined && there->session)
			drop_id(index, there->session, there->peer);
		if (now.joined && now.session)
			put_id(index, (struct vk_peer_id){ now.session, now.peer });
	}
	*there = now;
	return 0;
}

void vk_peer_index_drop(struct vk_peer_index *index, const struct vk_peer_entry *entry,
			const uint8_t address[16])
{
	uint32_t mask = mask_of(index), at;

	if (!index->entries)
		return;
	at = place_of(index, vk_peer_hash(entry->family, address), entry->peer);
	if (!index->entries[at].peer)
		return;
	if (index->entries[at].joined && index->entries[at].session)
		drop_id(index, index->entries[at].session, index->entries[at].peer);
	for (uint32_t next = (at + 1) & mask; index->entries[next].peer; next = (next + 1) & mask) {
		uint32_t home = home_of(index, index->entries[next].hash);

		if (((next - home) & mask) < ((next - at) & mask))
			continue;
		index->entries[at] = index->entries[next];
		at = next;
	}
	index->entries[at].peer = 0;
	index->count--;
}

const struct vk_peer_entry *vk_peer_index_at(const struct vk_peer_index *index, uint32_t hash,
					     uint32_t family, const uint8_t address[16])
{
	if (!index->entries)
		return NULL;
	for (uint32_t at = home_of(index, hash); index->entries[at].peer;
	     at = (at + 1) & mask_of(index)) {
		const struct vk_peer_entry *entry = &index->entries[at];

		if (entry->hash == hash && entry->family == family &&
		    (family == 4 || !memcmp(index->addresses[entry->peer - 1], address, 16)))
			return entry;
	}
	return NULL;
}

int vk_peer_index_session(const struct vk_peer_index *index, uint32_t session)
{
	if (!index->entries)
		return -1;
	for (uint32_t at = home_of(index, hash_session(session)); index->ids[at].peer;
	     at = (at + 1) & mask_of(index))
		if (index->ids[at].session == session)
			return (int)index->ids[at].peer - 1;
	return -1;
}

void vk_peer_index_free(struct vk_peer_index *index)
{
	if (index->entries)
		unmap_tables(index);
	vk_pages_unmap(index->addresses, addresses_size);
	*index = (struct vk_peer_index){ .entries = NULL };
}
