/* SPDX-License-Identifier: MIT */
#ifndef RECEIVED_RIG_H
#define RECEIVED_RIG_H
/* received_rig.h: vk_received.h and vk_rtt.h for Python, their inline functions too. */
#include "vk_received.h"
#include "vk_rtt.h"

/* received_look .. rtt_sample: see the functions of the same name. */
enum vk_arrival received_look(const struct vk_received *received, uint64_t number);
void received_add(struct vk_received *received, uint64_t number, int eliciting, int ce,
		  uint64_t came_ns, uint64_t now_ns);
uint64_t received_deadline(const struct vk_received *received, uint64_t delay_ns);
void rtt_init(struct vk_rtt *rtt);
void rtt_sample(struct vk_rtt *rtt, uint64_t sample_ns, uint64_t delay_ns);
#endif
