/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "tap.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <net/if.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

enum {
	SLOT_HEAD = 128, /* TPACKET2_HDRLEN and what the kernel reserves, bytes */
	BLOCK_BYTES = 1 << 20,
	SEND_BUFFER = 16 << 20,
	SLOT_MAX = 1 << 14, /* bytes: an MTU of 16 000 */
};

static int read_mtu(int fd, const char *interface, uint32_t *mtu)
{
	struct ifreq request = { .ifr_mtu = 0 };

	strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
	if (ioctl(fd, SIOCGIFMTU, &request) < 0)
		return -errno;
	*mtu = (uint32_t)request.ifr_mtu;
	return 0;
}

static int bind_to(int fd, const char *interface, uint16_t protocol)
{
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET,
		.sll_protocol = protocol,
		.sll_ifindex = (int)if_nametoindex(interface),
	};

	if (!address.sll_ifindex)
		return -ENODEV;
	return bind(fd, (void *)&address, sizeof address) < 0 ? -errno : 0;
}

static int map_ring(struct vk_tap *tap)
{
	struct tpacket_req request = { .tp_block_size = BLOCK_BYTES };
	int version = TPACKET_V2, one = 1;

	tap->slot_size = 2048;
	while (tap->slot_size < tap->frame_max + SLOT_HEAD)
		tap->slot_size *= 2;
	if (tap->slot_size > SLOT_MAX)
		return -EMSGSIZE;
	tap->slots = VK_TAP_RING_BYTES / tap->slot_size;
	request.tp_block_nr = VK_TAP_RING_BYTES / BLOCK_BYTES;
	request.tp_frame_size = tap->slot_size;
	request.tp_frame_nr = tap->slots;
	if (setsockopt(tap->receive, SOL_PACKET, PACKET_VERSION, &version, sizeof version) ||
	    setsockopt(tap->receive, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) ||
	    setsockopt(tap->receive, SOL_PACKET, PACKET_RX_RING, &request, sizeof request))
		return -errno;
	tap->ring =
		mmap(NULL, VK_TAP_RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, tap->receive, 0);
	return tap->ring == MAP_FAILED ? -errno : 0;
}

int vk_tap_open(struct vk_tap *tap, const char *interface)
{
	int one = 1, buffer = SEND_BUFFER, error;
	uint32_t mtu = 0;

	*tap = (struct vk_tap){ .receive = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0),
				.send = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0) };
	if (tap->receive < 0 || tap->send < 0)
		return -errno;
	error = read_mtu(tap->send, interface, &mtu);
	if (error)
		return error;
	tap->frame_max = mtu + VK_TAP_ETHERNET;
	error = map_ring(tap);
	if (error)
		return error;
	if (setsockopt(tap->send, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one) ||
	    setsockopt(tap->send, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer))
		return -errno;
	for (int i = 0; i < VK_TAP_BATCH; i++) {
		tap->batch[i].msg_hdr.msg_iov = &tap->parts[i];
		tap->batch[i].msg_hdr.msg_iovlen = 1;
	}
	error = bind_to(tap->send, interface, 0); /* protocol 0: it receives nothing */
	return error ? error : bind_to(tap->receive, interface, htons(ETH_P_ALL));
}

static struct tpacket2_hdr *slot(const struct vk_tap *tap)
{
	return (void *)(tap->ring + (size_t)tap->next * tap->slot_size);
}

int vk_tap_peek(const struct vk_tap *tap, struct vk_tap_frame *frame)
{
	struct tpacket2_hdr *head = slot(tap);
	uint32_t status = __atomic_load_n(&head->tp_status, __ATOMIC_ACQUIRE); /* the kernel's */

	if (!(status & TP_STATUS_USER))
		return 0;
	frame->bytes = (uint8_t *)head + head->tp_mac;
	frame->size = head->tp_len;
	frame->kept = head->tp_snaplen;
	frame->at_ns = (uint64_t)head->tp_sec * 1000000000 + head->tp_nsec;
	frame->unsummed = !!(status & TP_STATUS_CSUMNOTREADY);
	return 1;
}

void vk_tap_release(struct vk_tap *tap)
{
	__atomic_store_n(&slot(tap)->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
	if (++tap->next == tap->slots)
		tap->next = 0;
}

void vk_tap_add(struct vk_tap *tap, uint8_t *bytes, uint32_t size)
{
	tap->parts[tap->queued++] = (struct iovec){ bytes, size };
}

void vk_tap_flush(struct vk_tap *tap)
{
	for (uint32_t done = 0; done < tap->queued;) {
		int n = sendmmsg(tap->send, tap->batch + done, tap->queued - done, 0);

		if (n > 0) {
			tap->sent += (uint32_t)n;
			done += (uint32_t)n;
		} else if (errno != EINTR) {
			tap->refused++;
			done++;
		}
	}
	tap->queued = 0;
}

uint32_t vk_tap_dropped(const struct vk_tap *tap)
{
	struct tpacket_stats stats = { .tp_drops = 0 };
	socklen_t size = sizeof stats;

	if (getsockopt(tap->receive, SOL_PACKET, PACKET_STATISTICS, &stats, &size) < 0)
		return 0;
	return stats.tp_drops;
}
