/* SPDX-License-Identifier: MIT */
#ifndef CLIENT_RIG_H
#define CLIENT_RIG_H
/* client_rig.h: the inline functions of vk_client.h for Python. */
#include "vk_client.h"

/* client_write: see vk_client_write. */
int client_write(struct vk_client *client, struct vk_outlet *outlet, const uint8_t *payload,
		 uint32_t size);
#endif
