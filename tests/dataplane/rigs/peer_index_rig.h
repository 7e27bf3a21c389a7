/* SPDX-License-Identifier: MIT */
#ifndef PEER_INDEX_RIG_H
#define PEER_INDEX_RIG_H
/* peer_index_rig.h: what of vk_peer_index.h and vk_seat.h is inline, for Python. */
#include "vk_peer_index.h"

int sits(const struct vk_peer_index *index, uint32_t peer, uint32_t family,
	 const uint8_t address[16]);
uint32_t hash_of(uint32_t family, const uint8_t address[16]);
uint32_t id_of(const uint32_t *keys, uint32_t seat, uint32_t turn);
uint32_t seat_of(const uint32_t *keys, uint32_t id);
#endif
