/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vk_xsk.h"

#include <errno.h>
#include <linux/if_xdp.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int is_ring_size(uint32_t size)
{
	return size && !(size & (size - 1)) && size <= VK_XSK_RING_MAX;
}

static uint32_t power_of_two(uint32_t least)
{
	uint32_t size = 1;

	while (size < least)
		size *= 2;
	return size;
}

void vk_xsk_clear(struct vk_port *port)
{
	memset(&port->umem, 0, sizeof port->umem);
	port->umem.memfd = -1;
	memset(port->xsks, 0, sizeof port->xsks);
	for (int class = 0; class < VK_CLASS_COUNT; class ++)
		port->xsks[class].fd = -1;
	port->xdp_mode = 0;
}

/* close_sockets takes sockets and rings down, sharers before the owner; the UMEM stays. */
static void close_sockets(struct vk_port *port)
{
	vk_umem_unmap(&port->umem.fill);
	vk_umem_unmap(&port->umem.completion);
	for (int class = VK_CLASS_COUNT - 1; class >= 0; class --) {
		struct vk_xsk *xsk = &port->xsks[class];

		vk_umem_unmap(&xsk->rx);
		vk_umem_unmap(&xsk->tx);
		if (xsk->fd >= 0)
			close(xsk->fd);
		xsk->fd = -1;
	}
}

void vk_xsk_close_port(struct vk_port *port)
{
	close_sockets(port);
	vk_umem_destroy(&port->umem);
	port->xdp_mode = 0;
}

static int set_option(int fd, int option, uint32_t value)
{
	return setsockopt(fd, SOL_XDP, option, &value, sizeof value) ? -errno : 0;
}

/* register_umem gives the frame memory to the first socket, with FILL and COMPLETION. */
static int register_umem(struct vk_port *port, int fd, const struct xdp_mmap_offsets *offsets)
{
	struct vk_umem *umem = &port->umem;
	uint32_t fill = power_of_two(umem->rx_frames);
	uint32_t completion = umem->tx_frames ? umem->tx_frames : 64;
	int error;

	error = vk_umem_map(&umem->fill, fd, XDP_UMEM_PGOFF_FILL_RING, &offsets->fr, fill,
			    sizeof(uint64_t));
	if (!error)
		error = vk_umem_map(&umem->completion, fd, XDP_UMEM_PGOFF_COMPLETION_RING,
				    &offsets->cr, completion, sizeof(uint64_t));
	return error;
}

static int set_umem(const struct vk_umem *umem, int fd)
{
	struct xdp_umem_reg region = {
		.addr = (uintptr_t)umem->area,
		.len = ((uint64_t)umem->rx_frames + umem->tx_frames) * umem->chunk_size,
		.chunk_size = umem->chunk_size,
		.headroom = VK_FRAME_HEADROOM,
	};
	int error;

	if (setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &region, sizeof region))
		return -errno;
	error = set_option(fd, XDP_UMEM_FILL_RING, power_of_two(umem->rx_frames));
	if (!error)
		error = set_option(fd, XDP_UMEM_COMPLETION_RING,
				   umem->tx_frames ? umem->tx_frames : 64);
	return error;
}

/* make_socket creates a class's socket with its rings, mapped, not bound. */
static int make_socket(struct vk_port *port, const struct vk_xsk_config *config, uint32_t class,
		       const char **step)
{
	struct vk_xsk *xsk = &port->xsks[class];
	uint32_t rx = config->rx_ring[class], tx = class ? 0 : config->tx_ring;
	struct xdp_mmap_offsets offsets;
	socklen_t size = sizeof offsets;
	int error = 0;

	*step = "socket(AF_XDP)";
	xsk->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (xsk->fd < 0)
		return -errno;
	if (!class) {
		*step = "registering the frame memory";
		error = set_umem(&port->umem, xsk->fd);
	}
	if (!error) {
		*step = "making rings";
		error = rx ? set_option(xsk->fd, XDP_RX_RING, rx) : 0;
	}
	if (!error && tx)
		error = set_option(xsk->fd, XDP_TX_RING, tx);
	if (error)
		return error;
	*step = "mapping rings";
	if (getsockopt(xsk->fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &size))
		return -errno;
	if (size != sizeof offsets)
		return -EPROTONOSUPPORT;
	if (!class)
		error = register_umem(port, xsk->fd, &offsets);
	if (!error && rx)
		error = vk_umem_map(&xsk->rx, xsk->fd, XDP_PGOFF_RX_RING, &offsets.rx, rx,
				    sizeof(struct xdp_desc));
	if (!error && tx)
		error = vk_umem_map(&xsk->tx, xsk->fd, XDP_PGOFF_TX_RING, &offsets.tx, tx,
				    sizeof(struct xdp_desc));
	return error;
}

/* probe asks the bound socket for a wake-up: some drivers only then say that they cannot. A link
 * that is down now is not an obstacle. */
static int probe(const struct vk_port *port)
{
	int fd = port->xsks[VK_CLASS_CONTROL].fd;

	if (port->xsks[VK_CLASS_CONTROL].tx.size) {
		if (sendto(fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0)
			return 0;
	} else if (recvfrom(fd, NULL, 0, MSG_DONTWAIT, NULL, NULL) >= 0) {
		return 0;
	}
	return errno == ENXIO || errno == EOPNOTSUPP || errno == EINVAL ? -errno : 0;
}

static int bind_sockets(struct vk_port *port, const struct vk_xsk_config *config, uint16_t flags,
			const char **step)
{
	for (uint32_t class = 0; class < VK_CLASS_COUNT; class ++) {
		struct sockaddr_xdp address = {
			.sxdp_family = AF_XDP,
			.sxdp_ifindex = port->ifindex,
			.sxdp_queue_id = port->queue,
			.sxdp_flags = class ? XDP_SHARED_UMEM : flags,
			.sxdp_shared_umem_fd = class ? (uint32_t)port->xsks[0].fd : 0,
		};
		int error;

		if (class && !config->rx_ring[class])
			continue;
		error = make_socket(port, config, class, step);
		if (error)
			return error;
		*step = class ? "bind of a further class" : "bind";
		if (bind(port->xsks[class].fd, (void *)&address, sizeof address))
			return -errno;
	}
	*step = "probe after bind";
	return probe(port);
}

/* open_mode opens all sockets in one mode, with bounded retries while the queue is busy. */
static int open_mode(struct vk_port *port, const struct vk_xsk_config *config, uint16_t flags,
		     struct vk_xsk_report *report)
{
	const struct timespec wait = { .tv_nsec = VK_XSK_BUSY_WAIT_US * 1000 };
	int error = -EBUSY;

	for (int tries = 0; tries < VK_XSK_BUSY_TRIES; tries++) {
		error = bind_sockets(port, config, flags | XDP_USE_NEED_WAKEUP, &report->step);
		if (!error)
			return 0;
		close_sockets(port);
		if (error != -EBUSY)
			break;
		report->busy_tries++;
		nanosleep(&wait, NULL);
	}
	return error;
}

static void fill_all(struct vk_umem *umem)
{
	uint32_t producer = *umem->fill.producer;

	for (uint32_t frame = 0; frame < umem->rx_frames; frame++)
		*vk_umem_address(&umem->fill, producer++) = (uint64_t)frame * umem->chunk_size;
	__atomic_store_n(umem->fill.producer, producer, __ATOMIC_RELEASE);
}

static int check_config(const struct vk_xsk_config *config, uint32_t *rx_frames)
{
	*rx_frames = config->reserve;
	for (int class = 0; class < VK_CLASS_COUNT; class ++) {
		uint32_t size = config->rx_ring[class];

		if (size && !is_ring_size(size))
			return -EINVAL;
		*rx_frames += size;
	}
	if (!config->reserve || config->reserve > VK_XSK_RING_MAX ||
	    (config->tx_ring && !is_ring_size(config->tx_ring)) ||
	    (!config->rx_ring[VK_CLASS_CONTROL] && !config->tx_ring))
		return -EINVAL;
	return 0;
}

/* reset_credits starts the accounts of a queue whose sockets no program knows yet. */
static void reset_credits(const struct vk_port *port)
{
	for (int class = 0; port->lanes && class < VK_CLASS_COUNT; class ++) {
		port->lanes[class].used = 0;
		port->lanes[class].granted = 0;
	}
	vk_xsk_grant(port);
}

int vk_xsk_open_port(struct vk_port *port, const struct vk_xsk_config *config,
		     struct vk_xsk_report *report)
{
	uint32_t rx_frames;
	int error;

	memset(report, 0, sizeof *report);
	vk_xsk_clear(port);
	report->step = "ring sizes";
	error = check_config(config, &rx_frames);
	if (error)
		return error;
	report->step = "frame memory";
	error = vk_umem_create(&port->umem, rx_frames, config->tx_ring);
	if (error)
		return error;
	error = -EOPNOTSUPP;
	if (config->best_mode <= VK_XDP_ZERO_COPY && config->program_mode != VK_XDP_GENERIC) {
		error = open_mode(port, config, XDP_ZEROCOPY, report);
		report->mode = VK_XDP_ZERO_COPY;
		report->refused[VK_XDP_ZERO_COPY] = -error;
	}
	if (error && error != -EBUSY) {
		error = open_mode(port, config, XDP_COPY, report);
		report->mode = config->program_mode == VK_XDP_GENERIC ? VK_XDP_GENERIC :
									VK_XDP_NATIVE;
		report->refused[report->mode] = -error;
	}
	if (!error) {
		fill_all(&port->umem);
		reset_credits(port);
		port->xdp_mode = report->mode;
		return 0;
	}
	report->mode = 0;
	vk_xsk_close_port(port);
	return error;
}

static int read_statistics(int fd, struct xdp_statistics *statistics)
{
	socklen_t size = sizeof *statistics;

	memset(statistics, 0, sizeof *statistics);
	return getsockopt(fd, SOL_XDP, XDP_STATISTICS, statistics, &size) ? -errno : 0;
}

int vk_xsk_statistics(const struct vk_port *port, struct vk_xsk_statistics *statistics)
{
	memset(statistics, 0, sizeof *statistics);
	for (int class = 0; class < VK_CLASS_COUNT; class ++) {
		struct xdp_statistics one;
		int error;

		if (port->xsks[class].fd < 0)
			continue;
		error = read_statistics(port->xsks[class].fd, &one);
		if (error)
			return error;
		statistics->rx_dropped[class] = one.rx_dropped;
		statistics->rx_ring_full[class] = one.rx_ring_full;
		statistics->rx_invalid += one.rx_invalid_descs;
		statistics->tx_invalid += one.tx_invalid_descs;
		statistics->tx_empty += one.tx_ring_empty_descs;
		if (one.rx_fill_ring_empty_descs > statistics->fill_empty)
			statistics->fill_empty = one.rx_fill_ring_empty_descs; /* FILL is shared */
	}
	return 0;
}

uint32_t vk_xsk_failed(const struct vk_port *port, uint32_t class)
{
	struct xdp_statistics statistics;

	if (port->xsks[class].fd < 0 || read_statistics(port->xsks[class].fd, &statistics))
		return 0;
	return (uint32_t)(statistics.rx_dropped + statistics.rx_ring_full);
}

void vk_xsk_grant(const struct vk_port *port)
{
	for (uint32_t class = 0; port->lanes && class < VK_CLASS_COUNT; class ++) {
		const struct vk_xsk_ring *rx = &port->xsks[class].rx;
		uint64_t granted = port->lanes[class].granted;
		uint32_t holds;
		int32_t short_by;

		if (!rx->size)
			continue;
		holds = rx->size + *rx->consumer + vk_xsk_failed(port, class);
		short_by = (int32_t)(holds - (uint32_t)granted);
		if (short_by > 0)
			__atomic_store_n(&port->lanes[class].granted, granted + (uint32_t)short_by,
					 __ATOMIC_RELEASE);
	}
}
