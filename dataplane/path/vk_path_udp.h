/* SPDX-License-Identifier: MIT */
#ifndef VK_PATH_UDP_H
#define VK_PATH_UDP_H
/* vk_path_udp.h: the private state of a kernel UDP path, shared by its receiving half
 * (vk_path_udp.c) and its sending half (vk_path_udp_tx.c). */
#include "vk_packet.h"
#include "vk_udp.h"

#include <netinet/in.h>
#include <sys/socket.h>

enum vk_udp_path_const {
	VK_UDP_SEGMENTS_MAX = 64, /* of one super-packet: the limit of kernels before 6.9 */
	VK_UDP_PARTS_MAX = 2 * VK_UDP_SEGMENTS_MAX, /* a datagram may be in two pieces */
	VK_UDP_SUPERS = 128, /* super-packets being gathered or kept */
	VK_UDP_BUFFERS = 16, /* super-packets of one recvmmsg */
	VK_UDP_QUEUES = VK_CLASS_COUNT * VK_UDP_FAMILIES,
};

#define VK_UDP_NONE UINT32_MAX

/* Where a datagram goes, and as what. Compared as memory: no padding. */
struct vk_udp_key {
	uint8_t address[16];
	uint8_t source[16];
	uint16_t udp_port;
	uint8_t family;
	uint8_t class;
};

/* Datagrams that leave in one send. All but the last have, or can be padded to, `segment` bytes. */
struct vk_udp_super {
	struct vk_udp_key key;
	uint32_t next; /* in its queue, or free */
	uint32_t count;
	uint32_t first; /* datagrams before it have left (plain sends) */
	uint32_t segment;
	uint8_t fixed; /* segment is the size of a datagram that cannot grow */
	uint8_t closed;
	uint8_t plain; /* the kernel refuses to segment it */
	uint8_t parts_count;
	uint8_t begins[VK_UDP_SEGMENTS_MAX]; /* by datagram: its first part, which is our memory */
	struct iovec parts[VK_UDP_PARTS_MAX];
};

struct vk_udp_queue {
	uint32_t head;
	uint32_t tail;
};

/* Datagrams received and not handed out, of one class. */
struct vk_udp_inbox {
	uint8_t *buffers;
	struct vk_packet_run runs[VK_UDP_BUFFERS];
	struct vk_rx_frame from[VK_UDP_BUFFERS];
	uint32_t count;
	uint32_t next;
	uint32_t turn; /* family to look at first */
};

union vk_udp_address {
	struct sockaddr any;
	struct sockaddr_in in4;
	struct sockaddr_in6 in6;
};

union vk_udp_control {
	struct cmsghdr align;
	uint8_t bytes[CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(uint16_t)) +
		      CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct timespec))];
};

struct vk_udp_path {
	struct vk_path path; /* first: the ops get this */
	int epoll;
	uint32_t ready; /* sockets with something to read: bit class * 2 + family */
	uint32_t asked; /* classes answered since the last look */
	struct vk_udp_inbox inboxes[VK_CLASS_COUNT];
	uint8_t *buffers;
	uint8_t *slots;
	uint32_t slot_size;
	uint32_t slot_count;
	uint32_t *free_slots;
	uint32_t free_slot_count;
	uint32_t free_super; /* list */
	uint32_t free_super_count;
	struct vk_udp_queue queues[VK_UDP_QUEUES];
	uint32_t last[VK_CLASS_COUNT]; /* super used last, by class */
	uint32_t kept; /* datagrams in queues */
	uint32_t reserved; /* slot or VK_UDP_NONE */
	struct iovec lent; /* the end of the reservation, if it is elsewhere; else of no size */
	struct vk_udp_key key; /* of the reservation */
	int refused; /* errno that makes the reservation a loss */
	int segments; /* the kernel segments for us */
	struct vk_udp_super supers[VK_UDP_SUPERS];
	/* arguments of one sendmmsg or recvmmsg */
	struct mmsghdr messages[VK_UDP_SEGMENTS_MAX];
	struct iovec vectors[VK_UDP_SEGMENTS_MAX];
	union vk_udp_address addresses[VK_UDP_SEGMENTS_MAX];
	union vk_udp_control controls[VK_UDP_SEGMENTS_MAX];
	_Alignas(8) uint8_t scratch[65536]; /* for datagrams that will be lost */
};

/* vk_udp is the private state of a path that vk_path_udp_open returned. */
static inline struct vk_udp_path *vk_udp(struct vk_path *path)
{
	return (struct vk_udp_path *)path;
}

/* vk_udp_socket returns the socket of queue class * VK_UDP_FAMILIES + family, or -1. */
static inline int vk_udp_socket(const struct vk_port *port, uint32_t queue)
{
	uint32_t class = queue / VK_UDP_FAMILIES;

	return queue % VK_UDP_FAMILIES ? port->sockets6[class] : port->sockets4[class];
}

/* vk_udp_drain_errors empties a socket's error queue (ICMP, local): it would wake us for ever. */
void vk_udp_drain_errors(struct vk_udp_path *self, int fd);

/* vk_udp_tx_reserve, vk_udp_tx_lend, vk_udp_tx_commit, vk_udp_tx_row, vk_udp_tx_flush are the
 * path's tx_reserve, tx_lend, tx_commit, tx_row and tx_flush: see vk_path_ops. */
uint8_t *vk_udp_tx_reserve(struct vk_path *path, const struct vk_peer *peer, uint32_t class);
void vk_udp_tx_lend(struct vk_path *path, const uint8_t *body, uint32_t size);
void vk_udp_tx_commit(struct vk_path *path, uint32_t size, int paddable);
uint32_t vk_udp_tx_row(struct vk_path *path, const struct vk_peer *peer, uint32_t class,
		       uint32_t head, const uint8_t *body, uint32_t size, uint32_t count,
		       uint8_t **heads);
int vk_udp_tx_flush(struct vk_path *path);

/* vk_udp_tx_open makes the memory that datagrams wait in; returns 0 or -errno. */
int vk_udp_tx_open(struct vk_udp_path *self);

/* vk_udp_tx_close gives it back; safe when tx_open failed. */
void vk_udp_tx_close(struct vk_udp_path *self);
#endif
