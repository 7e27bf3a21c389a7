/* SPDX-License-Identifier: MIT */
#include "fuzz_node.h"

#include <stdlib.h>

void fuzz_require(int condition)
{
	if (!condition)
		abort();
}

void fuzz_node_attach(void)
{
	const struct vk_app row = {
		.class_mask = 0x3e, .weight = 100, .range_count = 1, .range_last = { UINT32_MAX }
	};

	rig_start(FUZZ_NODE, 0);
	fuzz_require(rig_attach(FUZZ_NODE, 0, 1 << 16, &row) == 0);
	rig_service(FUZZ_NODE, 0, "svc");
}

static void take_all(struct rig_app *app)
{
	for (uint32_t c = VK_CLASS_CRITICAL; c < VK_CLASS_COUNT; c++) {
		struct vk_record record;
		const uint8_t *body;
		int found;

		while ((found = vk_rx_peek(&app->rx[c], &record, &body)) > 0) {
			fuzz_require(record.size >= sizeof(struct vk_message));
			fuzz_require(record.kind != VK_RECORD_RAW);
			vk_rx_advance(&app->rx[c], &record);
		}
		fuzz_require(found == 0);
		vk_rx_release(&app->rx[c]);
	}
}

static void check_balance(const uint64_t *row)
{
	fuzz_require(row[VK_RX_MESSAGES] == row[VK_RX_SHARDS] + row[VK_DROP_REASSEMBLY] +
						    row[VK_DROP_STALE] +
						    row[VK_DROP_UNKNOWN_STREAM] +
						    row[VK_RX_DELIVERED] + row[VK_DROP_APP_RING] +
						    row[VK_DROP_APP_GONE] - row[VK_RX_REASSEMBLED]);
}

void fuzz_node_settle(void)
{
	const struct vk_counters *counters = rig_nodes[FUZZ_NODE].boot->counters;

	take_all(&rig_nodes[FUZZ_NODE].apps[0]);
	/* Control frames are the daemon's, which does not listen here. */
	for (uint32_t c = VK_CLASS_CRITICAL; c < VK_CLASS_COUNT; c++)
		check_balance(counters->classes[c]);
	while (rig_log_count)
		free(rig_log[--rig_log_count].data);
}
