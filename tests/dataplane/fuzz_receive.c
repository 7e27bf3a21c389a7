/* SPDX-License-Identifier: MIT */
/* libFuzzer: whatever a peer sends, the worker stays whole, its counters add up, and what reaches
 * an application is a record. Input: a byte that chooses the class, then a datagram; several, each
 * behind two bytes of size. */
#include "vk_receive.h"
#include "worker_rig.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
	if (!condition)
		abort();
}

static void set_up(void)
{
	const struct vk_app row = {
		.class_mask = 0x3e, .weight = 100, .range_count = 1, .range_last = { UINT32_MAX }
	};

	for (uint32_t i = 0; i < RIG_NODES; i++)
		rig_open(i);
	rig_start(1, 0);
	require(rig_attach(1, 0, 1 << 16, &row) == 0);
	rig_service(1, 0, "svc");
}

static void take_all(struct rig_app *app)
{
	for (uint32_t c = VK_CLASS_CRITICAL; c < VK_CLASS_COUNT; c++) {
		struct vk_record record;
		const uint8_t *body;
		int found;

		while ((found = vk_rx_peek(&app->rx[c], &record, &body)) > 0) {
			require(record.size >= sizeof(struct vk_message));
			require(record.kind != VK_RECORD_RAW);
			vk_rx_advance(&app->rx[c], &record);
		}
		require(found == 0);
		vk_rx_release(&app->rx[c]);
	}
}

static void check_balance(const uint64_t *row)
{
	require(row[VK_RX_MESSAGES] == row[VK_RX_SHARDS] + row[VK_DROP_REASSEMBLY] +
					       row[VK_DROP_STALE] + row[VK_DROP_UNKNOWN_STREAM] +
					       row[VK_RX_DELIVERED] + row[VK_DROP_APP_RING] +
					       row[VK_DROP_APP_GONE] - row[VK_RX_REASSEMBLED]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t source[16] = { 10, 0, 0, 1 };
	const struct vk_counters *counters;

	if (!rig_nodes[1].run)
		set_up();
	counters = rig_nodes[1].boot->counters;
	while (size > 3) {
		uint32_t class = data[0] % VK_CLASS_COUNT;
		uint32_t bytes = (uint32_t)data[1] << 8 | data[2];

		data += 3;
		size -= 3;
		if (bytes > size)
			bytes = (uint32_t)size;
		if (bytes >= VK_HEADER_SIZE)
			rig_inject(1, class, data, bytes, 4, source);
		data += bytes;
		size -= bytes;
	}
	rig_now_ns += 1000000;
	require(rig_turn(1) >= 0);
	take_all(&rig_nodes[1].apps[0]);
	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++)
		check_balance(counters->classes[c]);
	while (rig_log_count)
		free(rig_log[--rig_log_count].data);
	return 0;
}
