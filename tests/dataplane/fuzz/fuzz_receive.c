/* SPDX-License-Identifier: MIT */
/* libFuzzer: whatever a peer sends, the worker stays whole, its counters add up, and what reaches
 * an application is a record. Input: a byte that chooses the class, then a datagram; several, each
 * behind two bytes of size. Frames of a session with keys are fuzz_sealed.c's. */
#include "fuzz_node.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void set_up(void)
{
	for (uint32_t i = 0; i < RIG_NODES; i++)
		rig_open(i);
	fuzz_node_attach();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t source[16] = { 10, 0, 0, 1 };

	if (!rig_nodes[FUZZ_NODE].run)
		set_up();
	while (size > 3) {
		uint32_t class = data[0] % VK_CLASS_COUNT;
		uint32_t bytes = (uint32_t)data[1] << 8 | data[2];

		data += 3;
		size -= 3;
		if (bytes > size)
			bytes = (uint32_t)size;
		if (bytes >= VK_HEADER_SIZE)
			rig_inject(FUZZ_NODE, class, data, bytes, 4, source);
		data += bytes;
		size -= bytes;
	}
	rig_now_ns += 1000000;
	fuzz_require(rig_turn(FUZZ_NODE) >= 0);
	fuzz_node_settle();
	return 0;
}
