/* SPDX-License-Identifier: MIT */
#include "peer_index_rig.h"

#include "vk_seat.h"

int sits(const struct vk_peer_index *index, uint32_t peer, uint32_t family,
	 const uint8_t address[16])
{
	return vk_peer_index_sits(index, peer, family, address);
}

uint32_t hash_of(uint32_t family, const uint8_t address[16])
{
	return vk_peer_hash(family, address);
}

uint32_t id_of(const uint32_t *keys, uint32_t seat, uint32_t turn)
{
	return vk_seat_id(keys, seat, turn);
}

uint32_t seat_of(const uint32_t *keys, uint32_t id)
{
	return vk_seat_of(keys, id);
}
