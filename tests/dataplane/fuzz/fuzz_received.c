/* SPDX-License-Identifier: MIT */
/* libFuzzer: what vk_ack_parse accepts lies inside its input, names numbers once, and survives
 * being received and written again. */
#include "vk_received.h"

#include "vk_frame.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
	if (!condition)
		abort();
}

/* Receives the first and last packets that a view names, lowest first, and writes what came. */
static void rewrite(const struct vk_ack_view *view)
{
	uint8_t bytes[sizeof(struct vk_ack) + VK_ACK_RANGES_MAX * sizeof(struct vk_ack_range)];
	struct vk_received received = { .floor = 0 };
	uint64_t firsts[VK_ACK_RANGES_MAX], lasts[VK_ACK_RANGES_MAX], below = view->largest + 1;
	struct vk_ack_view again;
	uint32_t written;

	for (uint32_t i = 0; i < view->range_count; i++) {
		lasts[i] = below - 1 - vk_get32(view->ranges + 8 * i);
		firsts[i] = below = lasts[i] + 1 - vk_get32(view->ranges + 8 * i + 4);
		require(firsts[i] <= lasts[i] && lasts[i] <= view->largest);
		require(!i || lasts[i] + 1 < firsts[i - 1]);
	}
	for (uint32_t i = view->range_count; i--;) {
		uint64_t ends[2] = { firsts[i], lasts[i] };

		for (uint32_t end = 0; end < 2; end++)
			if (vk_received_look(&received, ends[end]) == VK_ARRIVAL_NEW)
				vk_received_add(&received, ends[end], 1, 0, 1, 1);
		require(vk_received_look(&received, lasts[i]) == VK_ARRIVAL_DUPLICATE);
	}
	require(received.range_count >= view->range_count);
	written = vk_received_write(&received, view->space, bytes, sizeof bytes, 1);
	require(written <= sizeof bytes && vk_ack_parse(&again, bytes, written) == 0);
	require(again.largest == view->largest && again.space == view->space);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vk_ack_view view;

	if (vk_ack_parse(&view, data, (uint32_t)size))
		return 0;
	require(view.space < VK_SPACE_COUNT);
	require(view.ranges == data + sizeof(struct vk_ack));
	require(view.credits + view.credit_count * sizeof(struct vk_ack_credit) == data + size);
	require(view.range_count <= VK_ACK_RANGES_MAX && view.credit_count <= VK_ACK_CREDITS_MAX);
	require(!!(view.flags & VK_ACK_HAS_RANGES) == !!view.range_count);
	if (view.range_count)
		rewrite(&view);
	return 0;
}
