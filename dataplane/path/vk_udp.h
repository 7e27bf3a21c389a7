/* SPDX-License-Identifier: MIT */
#ifndef VK_UDP_H
#define VK_UDP_H
/* vk_udp.h: opening and closing the kernel UDP sockets of a port: one a class and address family,
 * all bound to the Valkyrie port of one interface. Broker's side; moving datagrams is
 * vk_path_udp.c's.
 */
#include "vk_port.h"

enum vk_udp_const {
	VK_UDP_FAMILIES = 2, /* IPv4 is 0, IPv6 is 1 */
};

/* What to open. */
struct vk_udp_config {
	int program; /* sk_reuseport program that picks the class socket; -1 = none */
	uint32_t buffer_size; /* bytes of each socket's receive and of its send buffer */
	int receive; /* 0: XDP receives, these sockets only send and drop what reaches them */
};

/* vk_udp_open_port opens port->sockets4 and sockets6 (interface, udp_port and ds_field filled in
 * by the caller): SO_REUSEPORT, bound to the device, non-blocking, UDP_GRO, SO_PRIORITY and DS
 * field by class, never fragmenting, errors of the path reported. The program is attached before
 * the first bind, so that no datagram ever meets another rule; the caller enters the sockets into
 * its map. IPv6 may be missing on the host: its sockets are then -1. Returns 0 or -errno, *step
 * says at what, and nothing is left open.
 * Capabilities: NET_ADMIN (SO_*BUFFORCE, SO_PRIORITY above 6), NET_RAW (SO_BINDTODEVICE).
 * Syscalls: socket, setsockopt, bind. */
int vk_udp_open_port(struct vk_port *port, const struct vk_udp_config *config, const char **step);

/* vk_udp_dropped returns what the kernel dropped because sockets of the port were full.
 * Syscalls: getsockopt. */
uint64_t vk_udp_dropped(const struct vk_port *port);

/* vk_udp_close_port closes them. Safe on a port without sockets (all -1), and twice. */
void vk_udp_close_port(struct vk_port *port);

/* vk_udp_clear marks a port as without sockets. For a port whose memory is new. */
void vk_udp_clear(struct vk_port *port);
#endif
