/* SPDX-License-Identifier: MIT */
#ifndef VK_PORT_H
#define VK_PORT_H
/* vk_port.h: a port is one (interface, queue) of this host: the kernel objects that frames come
 * and go through. The broker opens ports (it has the capabilities and keeps every descriptor and
 * mapping), workers inherit them by fork and only move frames. The structs are the ABI between the
 * two.
 */
#include "vk_maps.h"
#include "vk_counters.h"

enum vk_port_const {
	VK_CHUNK_SIZE = 2048, /* bytes of a UMEM frame */
	VK_FRAME_HEADROOM = 16, /* UMEM headroom on top of the kernel's XDP_PACKET_HEADROOM: the
				 * metadata begins a cache line and shares it with the headers */
};

enum vk_path_kind { VK_PATH_NONE = 0, VK_PATH_XDP = 1, VK_PATH_UDP = 2 };
enum vk_xdp_mode { VK_XDP_ZERO_COPY = 1, VK_XDP_NATIVE = 2, VK_XDP_GENERIC = 3 };

/* One ring of an XSK, as mapped from the kernel. */
struct vk_xsk_ring {
	uint32_t *producer;
	uint32_t *consumer;
	uint32_t *flags;
	void *entries; /* uint64_t (FILL, COMPLETION) or struct xdp_desc (RX, TX) */
	void *map;
	uint64_t map_size;
	uint32_t size; /* entries, power of two; 0 = absent */
};

/* The UMEM of a queue: RX frames first [0, rx_frames), then TX frames [rx_frames, frames). */
struct vk_umem {
	uint8_t *area;
	int memfd;
	uint32_t chunk_size;
	uint32_t rx_frames;
	uint32_t tx_frames;
	struct vk_xsk_ring fill;
	struct vk_xsk_ring completion;
};

/* Class sockets of a queue: RX only; class VK_CLASS_CONTROL's socket carries TX too. */
struct vk_xsk {
	int fd; /* -1 = none */
	struct vk_xsk_ring rx;
	struct vk_xsk_ring tx; /* on VK_CLASS_CONTROL's socket only: one TX socket a queue */
};

struct vk_port {
	uint32_t index; /* in vk_work.ports, vk_counters.verdicts */
	uint32_t ifindex;
	uint32_t queue;
	uint8_t interface[16];
	uint32_t rx_path; /* enum vk_path_kind */
	uint32_t tx_path;
	uint32_t xdp_mode; /* enum vk_xdp_mode, when a path is XDP */
	uint16_t udp_port; /* host order, source and destination of every datagram */
	uint16_t mtu; /* of the interface, bytes */
	uint8_t ds_field[VK_CLASS_COUNT]; /* RFC 2474, 3: of our packets: DSCP << 2 | ECN */
	struct vk_umem umem; /* when a path is XDP */
	struct vk_xsk xsks[VK_CLASS_COUNT];
	struct vk_lane *lanes; /* [class], this queue's slice of the map; NULL without XDP */
	const struct vk_guard *guard; /* of the program on UDP sockets, which sees one datagram of
				       * those that the kernel has joined; NULL with XDP */
	int sockets4[VK_CLASS_COUNT]; /* kernel UDP sockets (RX when rx_path is UDP, TX when tx_path
				       * is UDP), -1 = none */
	int sockets6[VK_CLASS_COUNT];
};
#endif
