/* SPDX-License-Identifier: MIT */
#include "received_rig.h"

enum vk_arrival received_look(const struct vk_received *received, uint64_t number)
{
	return vk_received_look(received, number);
}

void received_add(struct vk_received *received, uint64_t number, int eliciting, int ce,
		  uint64_t came_ns, uint64_t now_ns)
{
	vk_received_add(received, number, eliciting, ce, came_ns, now_ns);
}

uint64_t received_deadline(const struct vk_received *received, uint64_t delay_ns)
{
	return vk_received_deadline(received, delay_ns);
}

void rtt_init(struct vk_rtt *rtt)
{
	vk_rtt_init(rtt);
}

void rtt_sample(struct vk_rtt *rtt, uint64_t sample_ns, uint64_t delay_ns)
{
	vk_rtt_sample(rtt, sample_ns, delay_ns);
}
