/* SPDX-License-Identifier: MIT */
#include "pacer_rig.h"

void pacer_init(struct vk_pacer *pacer, uint32_t datagram_size, uint64_t now_ns)
{
	vk_pacer_init(pacer, datagram_size, now_ns);
}

int64_t pacer_room(const struct vk_pacer *pacer, uint64_t now_ns)
{
	return vk_pacer_room(pacer, now_ns);
}

int pacer_ready(const struct vk_pacer *pacer, uint64_t now_ns)
{
	return vk_pacer_ready(pacer, now_ns);
}

uint64_t pacer_next_ns(const struct vk_pacer *pacer)
{
	return vk_pacer_next_ns(pacer);
}

void pacer_spend(struct vk_pacer *pacer, uint64_t bytes, uint64_t now_ns)
{
	vk_pacer_spend(pacer, bytes, now_ns);
}

void pacer_wait(struct vk_pacer *pacer, int waited, uint64_t now_ns)
{
	vk_pacer_wait(pacer, waited, now_ns);
}

void pacer_rate(struct vk_pacer *pacer, uint64_t rate, uint64_t now_ns)
{
	vk_pacer_rate(pacer, rate, now_ns);
}
