/* SPDX-License-Identifier: MIT */
#ifndef VK_PYTHON_H
#define VK_PYTHON_H
/* vk_python.h: the control class. Handshakes belong to the daemon, and are the only frames that
 * Python ever sees; what has to be answered though the daemon may be gone is answered here.
 */
#include "vk_path.h"
#include "vk_run.h"

/* vk_python_frame hands a frame of the control class to the daemon. */
void vk_python_frame(struct vk_run *run, uint32_t port, const struct vk_rx_frame *datagram);

/* vk_python_spent tells the daemon that a session's keys are used up. */
void vk_python_spent(struct vk_run *run, uint32_t peer);

/* vk_python_want tells the daemon that there is something to send to a peer without a session. */
void vk_python_want(struct vk_run *run, uint32_t peer);

/* vk_python_elsewhere tells the daemon when a frame of a peer's session comes from an address or
 * port that is not the peer's. */
void vk_python_elsewhere(struct vk_run *run, uint32_t port, const struct vk_rx_frame *datagram,
			 const struct vk_frame *frame);

/* vk_python_pong answers a peer's PING with as many bytes, proven if its session has keys; 0 when
 * it is none, or not proven: the daemon counts it. */
int vk_python_pong(struct vk_run *run, uint32_t peer, const struct vk_frame *frame);

/* vk_python_refuse tells a peer that its session is not known here; at most once a
 * millisecond. */
void vk_python_refuse(struct vk_run *run, uint32_t peer, uint32_t id);
#endif
