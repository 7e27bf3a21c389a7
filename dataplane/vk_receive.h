/* SPDX-License-Identifier: MIT */
#ifndef VK_RECEIVE_H
#define VK_RECEIVE_H
/* vk_receive.h: from datagrams to applications' rings. Everything in a frame is checked here again,
 * whatever the kernel's program said. Every message ends in exactly one counter:
 *
 *   rx_messages = rx_shards + drop_reassembly + drop_stale + drop_unknown_stream
 *               + (rx_delivered + drop_app_ring + drop_app_gone - rx_reassembled)
 *
 * and every datagram: taken from a socket = rx_frames + drop_frame_invalid
 *                                         + drop_frame_unknown_peer + (control class) rx_control.
 */
#include "vk_run.h"

/* vk_receive_frame handles one datagram of a class from a port. */
void vk_receive_frame(struct vk_run *run, uint32_t port, uint32_t class,
		      const struct vk_rx_frame *datagram);

/* vk_receive_port takes up to budget frames of a class from a port; returns how many, or -errno
 * when the port is gone. */
int vk_receive_port(struct vk_run *run, uint32_t port, uint32_t class, int budget);

/* vk_receive_all takes frames of all classes by priority: critical is looked at again after at
 * most 16 frames of a lower class. Returns how many frames were taken, or -errno. */
int vk_receive_all(struct vk_run *run);

/* vk_receive_rest handles what the paths have taken from the kernel already, and no more. */
void vk_receive_rest(struct vk_run *run);
#endif
