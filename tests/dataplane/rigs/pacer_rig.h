/* SPDX-License-Identifier: MIT */
#ifndef PACER_RIG_H
#define PACER_RIG_H
/* pacer_rig.h: the inline functions of vk_pacer.h for Python. */
#include "vk_pacer.h"

/* pacer_init .. pacer_rate: see the functions of the same name. */
void pacer_init(struct vk_pacer *pacer, uint32_t datagram_size, uint64_t now_ns);
int64_t pacer_room(const struct vk_pacer *pacer, uint64_t now_ns);
int pacer_ready(const struct vk_pacer *pacer, uint64_t now_ns);
uint64_t pacer_next_ns(const struct vk_pacer *pacer);
void pacer_spend(struct vk_pacer *pacer, uint64_t bytes, uint64_t now_ns);
void pacer_wait(struct vk_pacer *pacer, int waited, uint64_t now_ns);
void pacer_rate(struct vk_pacer *pacer, uint64_t rate, uint64_t now_ns);
#endif
