/* SPDX-License-Identifier: MIT */
#include "vk_intake.h"

#include "vk_peers.h"
#include "vk_receive.h"
#include "vk_send.h"
#include "vk_session.h"
#include "vk_slots.h"

#include <sched.h>

enum {
	CRITICAL_CALM = 64, /* frames of lower classes between two looks at critical */
	CRITICAL_EVERY = 16, /* the same while critical messages are about */
	CRITICAL_PRESSING = 8, /* ... and while they press */
	CRITICAL_FEW = 16, /* frames of a look: behind so many more may wait */
	CRITICAL_MOST = 512, /* frames of a look before system */
	FEW_SESSIONS = 64, /* all that receiving reads of so few is in a cache */
};

/* Finds who a batch is from, and begins to fetch what their frames will read: of many sessions none
 * is in a cache, and the misses of a batch overlap. */
static void find_peers(const struct vk_run *run, const struct vk_rx_frame *frames, uint32_t count,
		       uint32_t class, uint32_t *peers)
{
	uint32_t space = vk_class_space(class);

	vk_peers_find_batch(run, frames, count, peers);
	if (run->active_count < FEW_SESSIONS || class == VK_CLASS_CONTROL)
		return;
	vk_peers_prefetch(run, peers, count);
	for (uint32_t i = 0; i < count; i++) {
		const struct vk_session *session =
			peers[i] == VK_PEER_NOBODY ? NULL : run->sessions[peers[i]];

		if (session)
			vk_session_prefetch(session, space);
	}
}

/* Takes up to budget frames of a class from a port. */
static int take_port(struct vk_run *run, uint32_t port, uint32_t class, int budget)
{
	uint32_t peers[VK_RX_BATCH];
	struct vk_rx_frame frames[VK_RX_BATCH];
	struct vk_path *path = run->rx[port];
	int count = path->ops->rx(path, class, frames, budget < VK_RX_BATCH ? budget : VK_RX_BATCH);

	if (path->invalid[class]) {
		vk_count_row(run, class)[VK_DROP_FRAME_INVALID] += path->invalid[class];
		path->invalid[class] = 0;
	}
	if (count > 0 && path->taken_ns > run->now_ns)
		run->now_ns = path->taken_ns;
	if (count > 0) {
		/* A session that a frame is of was told to us before the peer heard of it. */
		vk_peers_refresh(run);
		find_peers(run, frames, (uint32_t)count, class, peers);
	}
	for (int i = 0; i < count; i++) {
		if (i + 1 < count)
			__builtin_prefetch(frames[i + 1].data);
		/* The socket's class is what the kernel found; it is checked again. */
		vk_receive_frame(run, port, class, &frames[i], peers[i]);
	}
	if (count > 0)
		path->ops->rx_done(path, class);
	vk_count_row(run, class)[VK_DROP_FRAME_INVALID] += path->invalid[class];
	path->invalid[class] = 0;
	return count;
}

void vk_intake_rest(struct vk_run *run)
{
	for (uint32_t port = 0; port < run->boot->port_count; port++) {
		run->rx[port]->draining = 1;
		for (uint32_t c = 0; c < VK_CLASS_COUNT; c++) {
			while (take_port(run, port, c, VK_RX_BATCH) > 0)
				continue;
		}
	}
}

static int take_class(struct vk_run *run, uint32_t class, int budget)
{
	int taken = 0;

	for (uint32_t port = 0; port < run->boot->port_count; port++) {
		int count = take_port(run, port, class, budget);

		if (count < 0)
			return count;
		taken += count;
	}
	return taken;
}

/* Critical messages are handed over at once, not behind what the other classes bring this turn.
 * Where more than a few wait it goes on until it has `most`, or all. */
static int take_critical(struct vk_run *run, int most)
{
	int taken, total = 0;

	do {
		taken = take_class(run, VK_CLASS_CRITICAL, VK_RX_BATCH);
		if (taken < 0)
			return taken;
		if (!taken)
			break;
		total += taken;
		run->critical_ns = run->now_ns;
		vk_slots_flush(run);
		sched_yield(); /* the applications may share our core: let them have it now */
		vk_send_critical(run); /* what they answer */
	} while (total >= CRITICAL_FEW && total < most);
	return total;
}

int vk_intake_all(struct vk_run *run)
{
	static const uint8_t order[] = { VK_CLASS_CONTROL, VK_CLASS_SYSTEM, VK_CLASS_JOB,
					 VK_CLASS_DATA, VK_CLASS_LOGS };
	int budget = vk_urgent(run) ? CRITICAL_EVERY : (int)run->params.budget_frames;
	int taken, total, every;

	total = take_critical(run, CRITICAL_MOST);
	if (total < 0)
		return total;
	every = vk_urgent(run) ? CRITICAL_EVERY : CRITICAL_CALM;
	if (vk_pressing(run))
		every = CRITICAL_PRESSING;
	for (uint32_t i = 0; i < sizeof order; i++) {
		/* Critical and system packets share a space of numbers: of critical ones that wait
		 * while system ones are taken, acknowledgements tell the sender that they are lost
		 * (RFC 9002, 6.1.1). The bound leaves something to the others. */
		int most = order[i] <= VK_CLASS_SYSTEM ? CRITICAL_MOST : VK_RX_BATCH;

		for (int left = budget; left > 0; left -= every) {
			taken = take_class(run, order[i], left < every ? left : every);
			if (taken < 0)
				return taken;
			if (!taken)
				break;
			total += taken;
			taken = take_critical(run, most);
			if (taken < 0)
				return taken;
			total += taken;
			if (vk_pressing(run))
				vk_send_critical(run);
		}
	}
	return total;
}
