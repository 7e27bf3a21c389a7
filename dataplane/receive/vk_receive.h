/* SPDX-License-Identifier: MIT */
#ifndef VK_RECEIVE_H
#define VK_RECEIVE_H
/* vk_receive.h: from datagrams to applications' rings. Everything in a frame is checked here again,
 * whatever the kernel's program said. Every message ends in exactly one counter:
 *
 *   rx_messages = rx_shards + drop_reassembly + drop_stale + drop_unknown_stream
 *               + (rx_delivered + drop_app_ring + drop_app_gone - rx_reassembled)
 *
 * and every datagram: taken from a socket = rx_frames + drop_frame_invalid + drop_frame_token_*
 *                                         + drop_frame_unknown_peer + (control class) rx_control.
 */
#include "vk_run.h"

/* vk_receive_frame handles one datagram of a class from a port; peer: who it is from, or
 * VK_PEER_NOBODY. */
void vk_receive_frame(struct vk_run *run, uint32_t port, uint32_t class,
		      const struct vk_rx_frame *datagram, uint32_t peer);
#endif
