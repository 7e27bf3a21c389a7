/* SPDX-License-Identifier: MIT */
#include "client_rig.h"

int client_write(struct vk_client *client, struct vk_outlet *outlet, const uint8_t *payload,
		 uint32_t size)
{
	return vk_client_write(client, outlet, payload, size);
}
