/* SPDX-License-Identifier: MIT */
#include "vk_packet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

enum {
	ETHERTYPE_IPV4 = 0x0800,
	ETHERTYPE_IPV6 = 0x86dd,
	ETHERTYPE_VLAN = 0x8100,
	ETHERTYPE_QINQ = 0x88a8,
	PROTOCOL_UDP = 17,
	HOP_LIMIT = 64,
	IPV4_DONT_FRAGMENT = 0x4000,
	IPV4_FRAGMENT = 0x3fff, /* more fragments, or an offset */
};

static uint16_t get16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static void put16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

uint64_t vk_packet_sum(const void *data, uint32_t size, uint64_t sum)
{
	const uint8_t *at = data;
	uint64_t low = 0, high = 0;

	/* Two 32-bit lanes a step: 64-bit accumulators cannot overflow below 2^32 steps. */
	for (; size >= 8; size -= 8, at += 8) {
		uint32_t word[2];

		memcpy(word, at, sizeof word);
		low += word[0];
		high += word[1];
	}
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum += (low & 0xffffffff) + (low >> 32) + (high & 0xffffffff) + (high >> 32);
	for (; size >= 2; size -= 2, at += 2) {
		uint16_t word;

		memcpy(&word, at, sizeof word);
		sum += word;
	}
	if (size) {
		uint8_t last[2] = { *at, 0 };
		uint16_t word;

		memcpy(&word, last, sizeof word);
		sum += word;
	}
	return sum;
}

static uint16_t fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

void vk_packet_head_init(struct vk_packet_head *head, const struct vk_peer *peer,
			 uint16_t source_port)
{
	uint8_t *ip = head->bytes + VK_ETHERNET_SIZE, *udp;

	memset(head, 0, sizeof *head);
	head->family = peer->family;
	memcpy(head->bytes, peer->mac, 6);
	memcpy(head->bytes + 6, peer->source_mac, 6);
	put16(head->bytes + 12, peer->family == 6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4);
	if (peer->family == 6) {
		udp = ip + VK_IPV6_SIZE;
		ip[6] = PROTOCOL_UDP;
		ip[7] = HOP_LIMIT;
		memcpy(ip + 8, peer->source, 16);
		memcpy(ip + 24, peer->address, 16);
	} else {
		udp = ip + VK_IPV4_SIZE;
		ip[0] = 0x45;
		put16(ip + 6, IPV4_DONT_FRAGMENT);
		ip[8] = HOP_LIMIT;
		ip[9] = PROTOCOL_UDP;
		memcpy(ip + 12, peer->source, 4);
		memcpy(ip + 16, peer->address, 4);
	}
	put16(udp, source_port);
	put16(udp + 2, peer->udp_port);
	head->size = (uint32_t)(udp + VK_UDP_SIZE - head->bytes);
	if (peer->family == 6) {
		head->sum = vk_packet_sum(ip + 8, 32, 0);
		head->sum = vk_packet_sum(udp, 4, head->sum) + htons(PROTOCOL_UDP);
	} else {
		head->sum = vk_packet_sum(ip, VK_IPV4_SIZE, 0);
	}
}

uint32_t vk_packet_head_write(const struct vk_packet_head *head, uint32_t ds_field,
			      uint8_t *payload, uint32_t size)
{
	uint8_t *start = payload - head->size, *ip = start + VK_ETHERNET_SIZE;
	uint8_t *udp = payload - VK_UDP_SIZE;
	uint32_t udp_size = VK_UDP_SIZE + size;
	uint16_t sum;

	memcpy(start, head->bytes, head->size);
	put16(udp + 4, udp_size);
	if (head->family == 6) {
		put16(ip, 0x6000 | ds_field << 4);
		put16(ip + 4, udp_size);
		/* The length counts twice: in the pseudo header and in the UDP header. */
		sum = fold(vk_packet_sum(payload, size,
					 head->sum + 2 * (uint64_t)htons((uint16_t)udp_size)));
		if (!sum)
			sum = 0xffff; /* 0 would say "no checksum" */
		memcpy(udp + 6, &sum, sizeof sum);
	} else {
		ip[1] = (uint8_t)ds_field;
		put16(ip + 2, VK_IPV4_SIZE + udp_size);
		sum = fold(head->sum + htons((uint16_t)ds_field) +
			   htons((uint16_t)(VK_IPV4_SIZE + udp_size)));
		memcpy(ip + 10, &sum, sizeof sum);
	}
	return head->size;
}

/* finish completes *frame from the offsets of its headers, all of which lie in the packet. */
static void finish(const uint8_t *packet, uint32_t l3, uint32_t offset, uint32_t size,
		   uint32_t family, struct vk_rx_frame *frame)
{
	frame->data = packet + offset;
	frame->size = size;
	frame->family = family;
	frame->source_port = get16(packet + offset - VK_UDP_SIZE);
	frame->came_ns = 0;
	frame->joined = 0;
	frame->ce = ((family == 6 ? packet[l3 + 1] >> 4 : packet[l3 + 1]) & VK_CE) == VK_CE;
	if (family == 6) {
		memcpy(frame->source, packet + l3 + 8, 16);
	} else {
		memcpy(frame->source, packet + l3 + 12, 4);
		memset(frame->source + 4, 0, 12);
	}
}

static int locate_by_meta(const uint8_t *packet, uint32_t size, const struct vk_meta *meta,
			  struct vk_rx_frame *frame)
{
	uint32_t ip_size = meta->family == 6 ? VK_IPV6_SIZE : VK_IPV4_SIZE;
	uint32_t offset = meta->frame_offset;

	if (meta->magic != VK_META_MAGIC || (meta->family != 4 && meta->family != 6) ||
	    meta->frame_size < VK_HEADER_SIZE || offset + (uint32_t)meta->frame_size > size ||
	    meta->l3_offset < VK_ETHERNET_SIZE ||
	    (uint32_t)meta->l3_offset + ip_size + VK_UDP_SIZE != offset)
		return -EBADMSG;
	finish(packet, meta->l3_offset, offset, meta->frame_size, meta->family, frame);
	return 0;
}

/* ip_header checks the IP header at l3 and returns its family, or 0; *end is where the IP
 * datagram ends, at most size. */
static uint32_t ip_header(const uint8_t *packet, uint32_t size, uint32_t l3, uint16_t ethertype,
			  uint32_t *end)
{
	const uint8_t *ip = packet + l3;

	if (ethertype == ETHERTYPE_IPV4) {
		if (size - l3 < VK_IPV4_SIZE || ip[0] != 0x45 || ip[9] != PROTOCOL_UDP ||
		    get16(ip + 6) & IPV4_FRAGMENT)
			return 0;
		*end = l3 + get16(ip + 2);
		return *end <= size ? 4 : 0;
	}
	if (ethertype == ETHERTYPE_IPV6) {
		if (size - l3 < VK_IPV6_SIZE || ip[0] >> 4 != 6 || ip[6] != PROTOCOL_UDP)
			return 0;
		*end = l3 + VK_IPV6_SIZE + get16(ip + 4);
		return *end <= size ? 6 : 0;
	}
	return 0;
}

int vk_packet_locate(const uint8_t *packet, uint32_t size, const struct vk_meta *meta,
		     uint16_t port, struct vk_rx_frame *frame)
{
	uint32_t l3 = VK_ETHERNET_SIZE, end = 0, udp, udp_size, family;
	uint16_t ethertype;

	if (meta && !locate_by_meta(packet, size, meta, frame))
		return 0;
	if (size < VK_ETHERNET_SIZE)
		return -EBADMSG;
	ethertype = get16(packet + 12);
	for (int tags = 0; tags < VK_VLANS_MAX; tags++) {
		if (ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ)
			break;
		if (size - l3 < VK_VLAN_SIZE)
			return -EBADMSG;
		ethertype = get16(packet + l3 + 2);
		l3 += VK_VLAN_SIZE;
	}
	family = ip_header(packet, size, l3, ethertype, &end);
	if (!family)
		return -EBADMSG;
	udp = l3 + (family == 6 ? VK_IPV6_SIZE : VK_IPV4_SIZE);
	if (end < udp + VK_UDP_SIZE || get16(packet + udp + 2) != port)
		return -EBADMSG;
	udp_size = get16(packet + udp + 4);
	if (udp_size < VK_UDP_SIZE + VK_HEADER_SIZE || udp_size > end - udp)
		return -EBADMSG;
	finish(packet, l3, udp + VK_UDP_SIZE, udp_size - VK_UDP_SIZE, family, frame);
	return 0;
}

int vk_packet_split(struct vk_packet_run *run, const struct vk_rx_frame *source,
		    struct vk_rx_frame *frames, int max, uint64_t *invalid)
{
	uint32_t step = run->segment ? run->segment : run->size;
	int count = 0;

	while (count < max && run->offset < run->size) {
		uint32_t left = run->size - run->offset;
		uint32_t size = step < left ? step : left;

		if (size < VK_HEADER_SIZE) {
			*invalid += 1;
		} else {
			frames[count] = *source;
			frames[count].data = run->data + run->offset;
			frames[count].size = size;
			frames[count].joined = run->offset > 0;
			count++;
		}
		run->offset += size;
	}
	return count;
}

void vk_packet_pad(uint8_t *frame, uint32_t size, uint32_t to)
{
	struct vk_header *header = (void *)frame;

	memset(frame + size, 0, to - size);
	header->length = htonl(ntohl(header->length) + (to - size));
}
