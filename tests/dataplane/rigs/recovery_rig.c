/* SPDX-License-Identifier: MIT */
#include "recovery_rig.h"

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>

static struct rig *rig_of(struct vk_congestion *congestion)
{
	return (struct rig *)((char *)congestion - offsetof(struct rig, recovery.congestion));
}

static void note(struct rig *rig, enum rig_kind kind, uint32_t space, uint64_t number,
		 uint64_t time_ns)
{
	assert(rig->count < RIG_EVENTS_MAX);
	rig->events[rig->count++] = (struct rig_event){ kind, space, number, time_ns };
}

static void acked(void *context, uint32_t space, struct vk_sent_packet *packet)
{
	assert(packet->state == VK_SENT_FLYING || packet->state == VK_SENT_LOST);
	note(context, RIG_ACKED, space, packet->runs[0].first, packet->sent_ns);
}

static void lost(void *context, uint32_t space, struct vk_sent_packet *packet)
{
	assert(packet->state == VK_SENT_LOST);
	note(context, RIG_LOST, space, packet->runs[0].first, packet->sent_ns);
}

/* Congestion control: remembers, and begins recovery periods as vk_congestion.c does. */

void vk_congestion_init(struct vk_congestion *congestion, enum vk_controller kind,
			uint32_t datagram_size, uint64_t now_ns)
{
	(void)now_ns;
	*congestion = (struct vk_congestion){ .kind = kind,
					      .datagram_size = datagram_size,
					      .window = VK_CONGESTION_WINDOW_MAX };
}

void vk_congestion_sent(struct vk_congestion *congestion, uint64_t bytes, uint64_t in_flight,
			uint64_t now_ns)
{
	(void)congestion, (void)now_ns;
	assert(bytes <= in_flight);
}

void vk_congestion_acked(struct vk_congestion *congestion, const struct vk_congestion_ack *ack)
{
	rig_of(congestion)->ack = *ack;
	note(rig_of(congestion), RIG_CC_ACKED, 0, ack->bytes, ack->sent_ns);
}

void vk_congestion_lost(struct vk_congestion *congestion, uint64_t bytes, uint64_t newest_sent_ns,
			int persistent, uint64_t now_ns)
{
	note(rig_of(congestion), RIG_CC_LOST, persistent != 0, bytes, newest_sent_ns);
	if (newest_sent_ns <= congestion->recovery_start_ns)
		return;
	congestion->saved_recovery_ns = congestion->recovery_start_ns;
	congestion->recovery_start_ns = now_ns;
}

void vk_congestion_ce(struct vk_congestion *congestion, uint64_t newest_sent_ns, uint64_t now_ns)
{
	(void)now_ns;
	note(rig_of(congestion), RIG_CC_CE, 0, 0, newest_sent_ns);
}

void vk_congestion_spurious(struct vk_congestion *congestion, uint64_t now_ns)
{
	note(rig_of(congestion), RIG_CC_SPURIOUS, 0, 0, now_ns);
}

struct rig *rig_new(const struct vk_recovery_params *params, uint64_t now_ns)
{
	struct rig *rig = calloc(1, sizeof *rig);

	assert(rig);
	vk_recovery_init(&rig->recovery, params, now_ns);
	return rig;
}

void rig_free(struct rig *rig)
{
	vk_recovery_free(&rig->recovery);
	free(rig);
}

int rig_sent(struct rig *rig, uint32_t space, uint64_t number, uint32_t size, int ahead,
	     uint64_t now_ns)
{
	uint32_t flags = VK_SENT_ELICITING | (ahead ? VK_SENT_AHEAD : 0);
	struct vk_sent_packet *packet =
		vk_recovery_sent(&rig->recovery, space, number, size, flags, now_ns);

	if (!packet)
		return 0;
	assert(!packet->run_count);
	packet->run_count = 1;
	packet->runs[0].first = (uint32_t)number;
	return 1;
}

int rig_sent_row(struct rig *rig, uint32_t space, uint64_t number, uint32_t count, uint32_t size,
		 uint64_t now_ns)
{
	struct vk_recovery *recovery = &rig->recovery;

	if (!vk_recovery_sent_row(recovery, space, number, count, size, VK_SENT_ELICITING, now_ns))
		return 0;
	for (uint64_t n = number; n != number + count; n++) {
		struct vk_sent_packet *packet = vk_sent_get(&recovery->sent[space], n);

		assert(packet && !packet->run_count);
		packet->run_count = 1;
		packet->runs[0].first = (uint32_t)n;
	}
	return 1;
}

void rig_skip(struct rig *rig, uint32_t space, uint64_t number)
{
	vk_recovery_skip(&rig->recovery, space, number);
}

void rig_issue(struct rig *rig, uint32_t space, uint64_t number)
{
	vk_recovery_issue(&rig->recovery, space, number);
}

void rig_quiet(struct rig *rig, uint32_t space, uint64_t number, uint64_t now_ns)
{
	vk_recovery_issue(&rig->recovery, space, number);
	vk_recovery_quiet(&rig->recovery, space, number, now_ns);
}

uint64_t rig_deadline(const struct rig *rig)
{
	return vk_recovery_deadline(&rig->recovery);
}

int rig_ack(struct rig *rig, const uint8_t *payload, uint32_t size, uint64_t came_ns,
	    uint64_t now_ns)
{
	struct vk_recovery_events events = { rig, acked, lost };
	struct vk_ack_view view;
	int result = vk_ack_parse(&view, payload, size);

	return result ? result : vk_recovery_ack(&rig->recovery, &view, came_ns, now_ns, &events);
}

int rig_expire(struct rig *rig, uint64_t now_ns, uint32_t *probe_space)
{
	struct vk_recovery_events events = { rig, acked, lost };

	return vk_recovery_expire(&rig->recovery, now_ns, &events, probe_space);
}

uint64_t rig_flying(const struct rig *rig, uint64_t *bytes)
{
	uint64_t count = 0;

	*bytes = 0;
	for (uint32_t i = 0; i < VK_SPACE_COUNT; i++) {
		const struct vk_sent *sent = &rig->recovery.sent[i];
		uint32_t flying = 0;

		for (uint64_t number = sent->oldest; number != sent->next; number++) {
			const struct vk_sent_packet *packet = vk_sent_get(sent, number);

			if (packet->state != VK_SENT_FLYING)
				continue;
			assert(packet->runs[0].first == (uint32_t)number);
			flying++;
			*bytes += packet->size;
		}
		assert(flying == sent->eliciting);
		count += flying;
	}
	return count;
}
