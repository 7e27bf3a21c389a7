/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vk_udp.h"

#include "vk_path.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef SO_ATTACH_REUSEPORT_EBPF
#define SO_ATTACH_REUSEPORT_EBPF 52
#endif

/* Linux's packet priorities (a qdisc's bands) by class; 7 is control traffic of the network. */
static const int priorities[VK_CLASS_COUNT] = { 6, 6, 5, 4, 2, 1 };

void vk_udp_clear(struct vk_port *port)
{
	for (int class = 0; class < VK_CLASS_COUNT; class ++) {
		port->sockets4[class] = -1;
		port->sockets6[class] = -1;
	}
}

void vk_udp_close_port(struct vk_port *port)
{
	for (int class = 0; class < VK_CLASS_COUNT; class ++) {
		if (port->sockets4[class] >= 0)
			close(port->sockets4[class]);
		if (port->sockets6[class] >= 0)
			close(port->sockets6[class]);
	}
	vk_udp_clear(port);
}

static uint32_t dropped(int fd)
{
	uint32_t figures[SK_MEMINFO_VARS];
	socklen_t size = sizeof figures;

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_MEMINFO, figures, &size))
		return 0;
	return figures[SK_MEMINFO_DROPS];
}

uint64_t vk_udp_dropped(const struct vk_port *port)
{
	uint64_t total = 0;

	for (int class = 0; class < VK_CLASS_COUNT; class ++) {
		total += dropped(port->sockets4[class]);
		total += dropped(port->sockets6[class]);
	}
	return total;
}

static int set(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof value) ? -errno : 0;
}

/* set_family sets what has one name a family: no fragments, the DS field, errors of the path. */
static int set_family(int fd, int v6, uint8_t ds_field)
{
	int error;

	if (v6) {
		error = set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
		if (!error)
			error = set(fd, IPPROTO_IPV6, IPV6_TCLASS, ds_field);
		if (!error)
			error = set(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
		if (!error)
			error = set(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
		if (!error)
			error = set(fd, IPPROTO_IPV6, IPV6_RECVERR, 1);
		return error;
	}
	error = set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
	if (!error)
		error = set(fd, IPPROTO_IP, IP_TOS, ds_field);
	if (!error)
		error = set(fd, IPPROTO_IP, IP_RECVTOS, 1);
	return error ? error : set(fd, IPPROTO_IP, IP_RECVERR, 1);
}

/* set_buffers asks for large buffers beyond the host's limit, or as large as it allows. */
static int set_buffers(int fd, const struct vk_udp_config *config)
{
	int size = (int)config->buffer_size, error;

	error = set(fd, SOL_SOCKET, SO_SNDBUFFORCE, size);
	if (error == -EPERM)
		error = set(fd, SOL_SOCKET, SO_SNDBUF, size);
	if (error || !config->receive)
		return error;
	error = set(fd, SOL_SOCKET, SO_RCVBUFFORCE, size);
	return error == -EPERM ? set(fd, SOL_SOCKET, SO_RCVBUF, size) : error;
}

static int drop_all(int fd)
{
	struct sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog program = { .len = 1, .filter = &nothing };

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) ? -errno : 0;
}

static int bind_to_port(int fd, int v6, uint16_t port)
{
	struct sockaddr_in address4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 address6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int error = v6 ? bind(fd, (void *)&address6, sizeof address6) :
			 bind(fd, (void *)&address4, sizeof address4);

	return error ? -errno : 0;
}

/* configure sets up one socket. A failing option is a failure: each one carries a promise. */
static int configure(int fd, int v6, uint32_t class, const struct vk_port *port,
		     const struct vk_udp_config *config, const char **step)
{
	int error;

	*step = "SO_REUSEPORT";
	error = set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	if (!error) {
		*step = "SO_BINDTODEVICE";
		if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, port->interface,
			       (socklen_t)strnlen((const char *)port->interface, IFNAMSIZ)))
			error = -errno;
	}
	if (!error) {
		*step = "socket buffers";
		error = set_buffers(fd, config);
	}
	if (!error) {
		*step = "path MTU and error options";
		error = set_family(fd, v6, port->ds_field[class]);
	}
	if (!error) { /* behind IP_TOS, which sets it too */
		*step = "SO_PRIORITY";
		error = set(fd, SOL_SOCKET, SO_PRIORITY, priorities[class]);
	}
	if (!error) {
		*step = config->receive ? "UDP_GRO" : "SO_ATTACH_FILTER";
		error = config->receive ? set(fd, IPPROTO_UDP, UDP_GRO, 1) : drop_all(fd);
	}
	if (!error && config->receive) {
		*step = "SO_TIMESTAMPNS";
		error = set(fd, SOL_SOCKET, SO_TIMESTAMPNS, 1);
	}
	if (!error && config->receive && config->program >= 0 && !class) {
		*step = "attaching the sk_reuseport program";
		error = set(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, config->program);
	}
	if (!error) {
		*step = "bind to the UDP port";
		error = bind_to_port(fd, v6, port->udp_port);
	}
	return error;
}

static int open_family(struct vk_port *port, const struct vk_udp_config *config, int v6,
		       const char **step)
{
	int *sockets = v6 ? port->sockets6 : port->sockets4;
	int error;

	for (uint32_t class = 0; class < VK_CLASS_COUNT; class ++) {
		*step = "socket";
		sockets[class] = socket(v6 ? AF_INET6 : AF_INET,
					SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (sockets[class] < 0)
			return v6 && !class && errno == EAFNOSUPPORT ? 0 : -errno;
		error = configure(sockets[class], v6, class, port, config, step);
		if (error)
			return error;
	}
	return 0;
}

int vk_udp_open_port(struct vk_port *port, const struct vk_udp_config *config, const char **step)
{
	int error;

	vk_udp_clear(port);
	error = open_family(port, config, 0, step);
	if (!error)
		error = open_family(port, config, 1, step);
	if (error)
		vk_udp_close_port(port);
	return error;
}
