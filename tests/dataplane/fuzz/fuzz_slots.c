/* SPDX-License-Identifier: MIT */
/* libFuzzer: an application writes whatever it likes into its region; the worker stays whole, what
 * it sends are frames, and another application's messages still arrive, once and in order. Input:
 * writes, each a byte that chooses what, a byte that chooses the ring, then the value or the
 * bytes. */
#include "worker_rig.h"

#include <stdlib.h>
#include <string.h>

enum { RING = 1 << 14, HOSTILE = 0, DECENT = 1, STREAM = VK_FIRST_DATA, TURNS_MAX = 50 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct vk_message decent; /* what the other application sends */

static void require(int condition)
{
	if (!condition)
		abort();
}

static void put(uint32_t slot, uint8_t kind, const struct vk_message *message)
{
	struct vk_tx *tx = &rig_nodes[0].apps[slot].tx[VK_CLASS_DATA];
	uint8_t *body = vk_tx_reserve(tx, sizeof *message);

	require(body != NULL);
	memcpy(body, message, sizeof *message);
	vk_tx_commit(tx, sizeof *message, kind);
	vk_tx_publish(tx);
}

static void attach(uint32_t node, uint32_t slot)
{
	const struct vk_app row = {
		.class_mask = 0x3e, .weight = 100, .range_count = 1, .range_last = { UINT32_MAX }
	};

	require(rig_attach(node, slot, RING, &row) == 0);
}

static void forget_log(void)
{
	while (rig_log_count)
		free(rig_log[--rig_log_count].data);
}

/* Takes what the other application's peer has in its ring, 0 = nothing. Other streams may be the
 * hostile one's: they are its peer's to bear. */
static int take(struct vk_record *record, struct vk_message *message)
{
	struct vk_rx *rx = &rig_nodes[1].apps[DECENT].rx[VK_CLASS_DATA];
	const uint8_t *body;
	int found;

	while ((found = vk_rx_peek(rx, record, &body)) > 0) {
		memcpy(message, body, sizeof *message);
		vk_rx_advance(rx, record);
		vk_rx_release(rx);
		if (message->stream == STREAM)
			return 1;
	}
	require(!found);
	return 0;
}

static void exchange(void)
{
	rig_now_ns += 1000000;
	for (uint32_t i = 0; i < RIG_NODES; i++)
		require(rig_turn(i) >= 0);
}

/* Lets both nodes work until a record is there. */
static void await(struct vk_record *record, struct vk_message *message)
{
	int turns = 0;

	while (!take(record, message)) {
		require(turns++ < TURNS_MAX);
		exchange();
	}
}

/* What the library of that application does: it reports what it took, so that more may come. */
static void report(const struct vk_message *message)
{
	static struct vk_consumed told;
	struct vk_tx *tx = &rig_nodes[1].apps[DECENT].tx[VK_CLASS_CONTROL];
	uint8_t *body = vk_tx_reserve(tx, sizeof told);

	require(body != NULL);
	told.flow = message->flow;
	told.flow_generation = message->flow_generation;
	told.cost += VK_MESSAGE_COST;
	memcpy(body, &told, sizeof told);
	vk_tx_commit(tx, sizeof told, VK_RECORD_CONSUMED);
	vk_tx_publish(tx);
}

static void set_up(void)
{
	struct vk_message message;
	struct vk_record record;

	for (uint32_t i = 0; i < RIG_NODES; i++) {
		rig_open(i);
		rig_start(i, 0);
		attach(i, DECENT);
	}
	rig_service(1, DECENT, "");
	attach(0, HOSTILE);
	decent = (struct vk_message){ .flow = VK_NO_FLOW, .stream = STREAM, .correlation = 7 };
	put(DECENT, VK_RECORD_OPEN, &decent);
	await(&record, &message);
	require(record.kind == VK_RECORD_OPEN);
	require(rig_nodes[0].run->work->flow_count == 1);
	decent.flow = 0;
	decent.flow_generation = rig_nodes[0].run->work->flows[0].generation;
}

/* One write into region A; returns the bytes of input it took. */
static size_t write_one(struct rig_app *app, const uint8_t *data, size_t size)
{
	uint32_t ring = data[1] % VK_RINGS_MAX, class = 1 + data[1] % (VK_CLASS_COUNT - 1);
	uint8_t *ring_data = vk_channel_data(app->self, app->capacity, class);
	uint64_t value = 0;
	size_t left = size - 2;

	memcpy(&value, data + 2, left < sizeof value ? left : sizeof value);
	switch (data[0] % 6) {
	case 0:
		app->self->tail[ring] = value;
		break;
	case 1:
		app->self->head[ring] = value;
		break;
	case 2: /* more likely to get far */
		app->self->tail[class] += value % 64 * VK_RECORD_ALIGN;
		break;
	case 3:
		app->self->sleeping = (uint32_t)value;
		break;
	case 4:
		memset(app->self, (int)value, sizeof *app->self);
		break;
	default:
		left = left < 128 ? left : 128;
		memcpy(ring_data + app->self->tail[class] % (RING - 128), data + 2, left);
		app->self->tail[class] += (left + VK_RECORD_ALIGN - 1) & ~(VK_RECORD_ALIGN - 1ull);
		return 2 + left;
	}
	return 2 + (left < sizeof value ? left : sizeof value);
}

static void check_frames(uint32_t from)
{
	for (uint32_t i = from; i < rig_log_count; i++) {
		struct vk_frame frame;

		require(vk_frame_parse(&frame, rig_log[i].data, rig_log[i].size, 1) == VK_FRAME_OK);
		require(vk_frame_class(&frame) == rig_log[i].class);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig_app *app = &rig_nodes[0].apps[HOSTILE];
	struct vk_message message;
	struct vk_record record;
	uint32_t slot;

	if (!rig_nodes[0].run)
		set_up();
	while (size > 3) {
		size_t used = write_one(app, data, size);

		data += used;
		size -= used;
	}
	put(DECENT, VK_RECORD_DATA, &decent);
	await(&record, &message);
	require(record.kind == VK_RECORD_DATA);
	require(message.sequence == decent.sequence);
	decent.sequence++;
	report(&message);
	for (int i = 0; i < 3; i++)
		exchange();
	require(!take(&record, &message));
	check_frames(0);
	forget_log();
	while (rig_news(0, &slot))
		require(slot == HOSTILE);
	rig_detach(0, HOSTILE); /* unless it was cut off: every input begins with a fresh one */
	rig_unmap(0, HOSTILE);
	attach(0, HOSTILE);
	return 0;
}
