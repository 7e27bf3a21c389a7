/* SPDX-License-Identifier: MIT */
#ifndef VK_XSK_H
#define VK_XSK_H
/* vk_xsk.h: opening and closing the AF_XDP sockets of a queue. Broker's side; moving frames is
 * vk_path_xdp.c's.
 */
#include "vk_umem.h"

enum vk_xsk_const {
	VK_XSK_RING_MAX = 65536, /* entries */
	VK_XSK_BUSY_TRIES = 100, /* a queue that was just released stays busy for 17..37 ms */
	VK_XSK_BUSY_WAIT_US = 5000,
};

/* What to open. Sizes are entries, powers of two. */
struct vk_xsk_config {
	uint32_t rx_ring[VK_CLASS_COUNT]; /* 0: no socket for the class (control always has one) */
	uint32_t tx_ring; /* and as many TX frames; 0: no TX */
	uint32_t reserve; /* RX frames beyond the sum of the RX rings; any number, not 0 */
	uint32_t program_mode; /* how the XDP program is attached: enum vk_xdp_mode; 0 = it is not,
				* or not known: copy mode is reported as native */
	uint32_t best_mode; /* first mode to try: VK_XDP_ZERO_COPY, or later to skip it */
};

/* What was obtained, and why nothing better. */
struct vk_xsk_report {
	uint32_t mode; /* enum vk_xdp_mode, 0 if none */
	int refused[4]; /* errno that refused a mode, by enum vk_xdp_mode; 0 = not tried or taken */
	uint32_t busy_tries; /* binds that met EBUSY */
	const char *step; /* what failed last; static text */
};

/* vk_xsk_open_port creates the UMEM and the class sockets of port (interface index and queue
 * filled in by the caller), which share one FILL and one COMPLETION ring; TX is on the control
 * class's socket. The XDP program is attached already. Tries zero-copy, then copy, with explicit
 * flags and a probe after bind; EBUSY is retried within a bound, everything unmapped in between.
 * FILL is filled, and port->lanes, when there, start from the sizes of the RX rings. On return 0
 * port->umem, xsks and xdp_mode are set; otherwise -errno, nothing is left open and the report
 * says where it ended. Capabilities: NET_RAW, IPC_LOCK (UMEM above
 * RLIMIT_MEMLOCK). Syscalls: socket, setsockopt, getsockopt, mmap, bind, sendto, recvfrom,
 * memfd_create, nanosleep. The caller enters the sockets into the XSKMAP. */
int vk_xsk_open_port(struct vk_port *port, const struct vk_xsk_config *config,
		     struct vk_xsk_report *report);

/* vk_xsk_close_port unmaps and closes all of it; the kernel frees the queue when the last process
 * that inherited it has gone too. Safe on a port without XSKs (fd -1, memfd -1), and twice. */
void vk_xsk_close_port(struct vk_port *port);

/* vk_xsk_clear marks a port as without XSKs. For a port whose memory is new. */
void vk_xsk_clear(struct vk_port *port);

/* Sums over the class sockets of a queue (struct xdp_statistics). */
struct vk_xsk_statistics {
	uint64_t rx_dropped[VK_CLASS_COUNT]; /* no frame or too long */
	uint64_t rx_ring_full[VK_CLASS_COUNT];
	uint64_t rx_invalid;
	uint64_t tx_invalid;
	uint64_t fill_empty;
	uint64_t tx_empty;
};

/* vk_xsk_statistics reads XDP_STATISTICS of every class socket. Returns 0 or -errno. */
int vk_xsk_statistics(const struct vk_port *port, struct vk_xsk_statistics *statistics);

/* vk_xsk_failed returns the packets that the program redirected to a class and that did not
 * arrive in its ring, mod 2^32: what they spent of the class's credit is lost otherwise. */
uint32_t vk_xsk_failed(const struct vk_port *port, uint32_t class);

/* vk_xsk_grant sets the credit of every class that has a ring to what it holds: the ring's size,
 * plus what has been consumed and what failed since the port was opened (mod 2^32), never less
 * than before. The first call gives the initial credit, a call after a crash what the dead worker
 * did not come to give. */
void vk_xsk_grant(const struct vk_port *port);
#endif
