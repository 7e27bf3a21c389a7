/* SPDX-License-Identifier: MIT */
#ifndef VK_PATH_H
#define VK_PATH_H
/* vk_path.h: the one interface through which the worker receives and sends datagrams; AF_XDP
 * (vk_path_xdp.c) and kernel UDP with GSO/GRO (vk_path_udp.c) behave alike behind it. A path's
 * private state is built from the vk_port at worker start and from vk_port_state after a crash.
 *
 * Receive, per class:   n = rx(...);  use frames[0..n);  rx_done(...)   strictly in turns.
 * Send:   p = tx_reserve(peer, class);  write a frame at p;  [tx_lend(body, size);]
 *         tx_commit(size, pad)  ...  tx_flush.   Or many like it: tx_row.
 */
#include "vk_port.h"
#ifndef VK_CDEF
#include <time.h>
#endif

enum vk_path_const {
	VK_ECT0 = 2, /* RFC 3168, 5: the ECN field of what we send */
	VK_CE = 3, /* its value when the path marked a packet */
	VK_RX_BATCH = 64, /* frames of one rx call */
	VK_TX_ROW = 64, /* datagrams of one tx_row call */
	VK_UDP_PAYLOAD_MAX = 65000, /* bytes of one datagram, either path */
	VK_XDP_PAYLOAD_MAX = 1984, /* bytes that fit a UMEM frame behind its L2..L4 headers; a
				    * peer's payload_max on an XDP port stays below, or frames are
				    * lost with EMSGSIZE */
};

/* A received Valkyrie frame (datagram payload), valid until rx_done. */
struct vk_rx_frame {
	const uint8_t *data; /* the outer vk_header; size >= VK_HEADER_SIZE is checked */
	uint32_t size; /* bytes of header + extensions + payload (+ tag) */
	uint32_t family; /* 4 or 6 */
	uint8_t source[16]; /* IPv4 in the first four bytes */
	uint16_t source_port; /* host order */
	uint16_t class; /* of the socket it came from */
	uint64_t came_ns; /* when the kernel had it (CLOCK_MONOTONIC); 0 = nobody noted it */
	uint8_t ce; /* 1: the path marked it, Congestion Experienced (RFC 3168) */
	uint8_t joined; /* 1: behind another one that the kernel's program has seen in its place */
	uint8_t pad[6];
};

struct vk_path;

struct vk_path_ops {
	const char *name;
	/* rx fills frames[] with up to max (<= VK_RX_BATCH, though one super-packet of the
	 * kernel may carry more: the rest waits for the next call) frames of a class and returns
	 * how many, 0 if none, -errno if the port is gone. rx_done is due after a result > 0
	 * only. Datagrams that are no frame are counted in path->invalid. */
	int (*rx)(struct vk_path *path, uint32_t class, struct vk_rx_frame *frames, int max);
	/* rx_done gives the frames of the last rx call back to the kernel (FILL, then RX). */
	void (*rx_done)(struct vk_path *path, uint32_t class);
	/* tx_reserve returns memory (8-byte aligned) for one datagram payload of
	 * peer->payload_max bytes, or NULL when the kernel takes no more now even after a flush
	 * (try again later). Peer is a private copy. Only one reservation at a time; a second call
	 * replaces the first. A peer that cannot be reached (not resolved, too large a payload for
	 * the path) gets memory too: its datagrams are counted lost at commit. */
	uint8_t *(*tx_reserve)(struct vk_path *path, const struct vk_peer *peer, uint32_t class);
	/* tx_lend says that the last size bytes of the reserved datagram, which is not paddable,
	 * lie at body instead and stay there until the next tx_flush has returned: the kernel
	 * copies them, and nobody else has to. NULL: the path cannot. */
	void (*tx_lend)(struct vk_path *path, const uint8_t *body, uint32_t size);
	/* tx_commit queues the reserved datagram of size bytes. paddable: trailing zero bytes may
	 * be added after it (the frame is AGG: the path then raises the header's length). Order
	 * is kept between datagrams of one peer and class. */
	void (*tx_commit)(struct vk_path *path, uint32_t size, int paddable);
	/* tx_row reserves, lends and commits up to count datagrams of head + size bytes, none of
	 * them paddable, whose last size bytes lie one behind the other at body. heads[i] is where
	 * the caller then writes the first head bytes of each, before it calls anything else here.
	 * Returns how many it took; 0: what tx_reserve says holds. NULL: the path cannot. */
	uint32_t (*tx_row)(struct vk_path *path, const struct vk_peer *peer, uint32_t class,
			   uint32_t head, const uint8_t *body, uint32_t size, uint32_t count,
			   uint8_t **heads);
	/* tx_flush hands everything committed to the kernel. Returns the datagrams that it could
	 * not take now and kept (0 = all gone); lost ones are counted in path->lost. */
	int (*tx_flush)(struct vk_path *path);
	/* fds writes up to max descriptors to poll (POLLIN) while the worker sleeps; returns how
	 * many. */
	int (*fds)(struct vk_path *path, int *fds, int max);
	void (*close)(struct vk_path *path);
};

struct vk_path {
	const struct vk_path_ops *ops;
	struct vk_port *port;
	struct vk_port_state *state;
	uint64_t syscalls_rx;
	uint64_t syscalls_tx;
	uint64_t sent; /* datagrams the kernel took */
	uint64_t lost[VK_CLASS_COUNT]; /* datagrams the kernel refused for good, by class */
	uint64_t invalid[VK_CLASS_COUNT]; /* received, shorter than a header or not located */
	/* When rx last took something from the kernel (CLOCK_MONOTONIC), read after it was there:
	 * what came is never younger. A worker may be held up between the beginning of its turn
	 * and rx: acknowledgements that came meanwhile would show a path that is shorter than it
	 * is, and for seconds, as the least RTT counts. 0 = a path without a clock. */
	uint64_t taken_ns;
	/* What the last full super-packet came to: what is sent in whole ones costs least. 0 = each
	 * datagram goes by itself. */
	uint32_t super_bytes;
	uint32_t super_datagrams;
	int error; /* last errno of a loss, for status */
	int draining; /* rx gives only what was taken from the kernel before: the worker leaves */
};

#ifndef VK_CDEF
/* vk_path_clock returns CLOCK_MONOTONIC in ns: for paths only, all else is told the time. */
static inline uint64_t vk_path_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}
#endif

/* Frames by owner, for tests and status; the sum is umem.rx_frames + umem.tx_frames. `kernel` are
 * frames in flight inside the kernel: sent and not completed, or taken from FILL and not yet in
 * an RX ring. */
struct vk_census {
	uint32_t fill;
	uint32_t rx[VK_CLASS_COUNT];
	uint32_t tx;
	uint32_t completion;
	uint32_t free;
	uint32_t held; /* by the worker, between rx and rx_done or reserve and commit */
	uint32_t kernel;
	uint32_t twice; /* frames with two owners: a bug */
};

/* vk_path_xdp_open / vk_path_udp_open return a path over port (allocated), or NULL and errno.
 * After a crash of the last worker, xdp_open first finishes or undoes the move that
 * state->intent describes, waits (bounded, 100 ms) for frames the kernel still sends, and gives
 * every frame an owner again; *recovered is the number of frames that had none. */
struct vk_path *vk_path_xdp_open(struct vk_port *port, struct vk_port_state *state,
				 uint32_t *recovered);
struct vk_path *vk_path_udp_open(struct vk_port *port, struct vk_port_state *state);

/* vk_path_xdp_census walks all rings of a quiet port (path may be NULL: no worker). */
void vk_path_xdp_census(const struct vk_port *port, const struct vk_path *path,
			struct vk_census *census);
#endif
