/* SPDX-License-Identifier: MIT */
/* libFuzzer: whatever arrives, the frame that is found lies inside the packet. Input: 16 bytes of
 * metadata, 2 bytes that choose, then the packet. */
#include "vk_packet.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
	if (!condition)
		abort();
}

static void check_locate(const uint8_t *packet, uint32_t size, const struct vk_meta *meta)
{
	struct vk_rx_frame frame;

	memset(&frame, 0xa5, sizeof frame);
	if (vk_packet_locate(packet, size, meta, VK_PORT, &frame))
		return;
	require(frame.size >= VK_HEADER_SIZE);
	require(frame.data >= packet + VK_ETHERNET_SIZE + VK_IPV4_SIZE + VK_UDP_SIZE);
	require(frame.data + frame.size <= packet + size);
	require(frame.family == 4 || frame.family == 6);
}

static void check_split(const uint8_t *packet, uint32_t size, uint32_t segment)
{
	struct vk_packet_run run = { .data = packet, .size = size, .segment = segment };
	struct vk_rx_frame source = { .family = 4 }, frames[7];
	uint64_t invalid = 0, bytes = 0, turns = 0;

	while (run.offset < run.size) {
		uint32_t before = run.offset;
		int count = vk_packet_split(&run, &source, frames, 7, &invalid);

		require(count >= 0 && count <= 7 && run.offset > before && run.offset <= size);
		for (int i = 0; i < count; i++) {
			require(frames[i].data >= packet && frames[i].size >= VK_HEADER_SIZE);
			require(frames[i].data + frames[i].size <= packet + size);
			bytes += frames[i].size;
		}
		require(++turns <= size);
	}
	require(bytes + invalid * (VK_HEADER_SIZE - 1) >= size || invalid);
	require(bytes <= size);
}

/* A datagram that we build is found again, by its headers alone. */
static void check_build(const uint8_t *payload, uint32_t size, int family)
{
	_Alignas(8) uint8_t buffer[VK_HEAD_ROOM + 2048];
	struct vk_peer peer = { .family = (uint8_t)family, .udp_port = VK_PORT };
	struct vk_packet_head head;
	struct vk_rx_frame frame;
	uint32_t head_size;

	if (size < VK_HEADER_SIZE || size > 1400)
		return;
	memcpy(peer.address, payload, 16);
	memcpy(buffer + VK_HEAD_ROOM, payload, size);
	vk_packet_head_init(&head, &peer, VK_PORT);
	vk_packet_pad(buffer + VK_HEAD_ROOM, size, size + 100);
	head_size = vk_packet_head_write(&head, VK_ECT0, buffer + VK_HEAD_ROOM, size + 100);
	require(!vk_packet_locate(buffer + VK_HEAD_ROOM - head_size, head_size + size + 100, NULL,
				  VK_PORT, &frame));
	require(frame.data == buffer + VK_HEAD_ROOM && frame.size == size + 100);
	require(frame.family == (uint32_t)family && frame.source_port == VK_PORT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *packet;
	struct vk_meta meta;
	uint32_t left;

	if (size < sizeof meta + 2)
		return 0;
	memcpy(&meta, data, sizeof meta);
	left = (uint32_t)(size - sizeof meta - 2);
	packet = malloc(left + 1); /* its end is watched */
	if (!packet)
		return 0;
	packet = realloc(packet, left ? left : 1);
	memcpy(packet, data + sizeof meta + 2, left);
	check_locate(packet, left, NULL);
	check_locate(packet, left, &meta);
	meta.magic = VK_META_MAGIC;
	check_locate(packet, left, &meta);
	check_split(packet, left, data[16]);
	check_build(packet, left, data[17] & 1 ? 6 : 4);
	free(packet);
	return 0;
}
