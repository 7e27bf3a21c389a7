/* SPDX-License-Identifier: MIT */
#include "vk_lab_world.h"

#include "vk_reassembly.h"
#include "vk_session.h"
#include "vk_wire.h"

enum {
	UNFINISHED_SHOWN = 8, /* streams named in a failure */
	/* Turns of workers for each packet, message and millisecond; drawn scenarios take up to 18,
	 * where paths are full. */
	TURNS_MAX = 100,
	TURNS_FREE = 1000, /* of those, to begin with */
	HEADS_BYTES = 128, /* of a datagram and its message, at most */
	SLACK_BYTES = 65536, /* opening, closing, acknowledging a little */
	SLACK_PACKETS = 20, /* that may be taken for lost, whatever the share */
	PPM = 1000000,
};

static uint64_t sum_of(const uint64_t *row, const uint32_t *counters, uint32_t count)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < count; i++)
		sum += row[counters[i]];
	return sum;
}

/* Whether a node's counters have lived through everything that was sent and came. */
static int whole(const struct vk_lab *lab, uint32_t node)
{
	for (uint32_t i = 0; i < lab->scenario.fault_count; i++) {
		uint32_t kind = lab->scenario.faults[i].kind;

		if (kind <= VK_LAB_RESTART_NODE || kind == VK_LAB_DETACH || kind >= VK_LAB_LEAVE)
			return 0;
	}
	return !lab->nodes[node].down;
}

/* The identities of vk_receive.h. */
static void check_received(struct vk_lab *lab, uint32_t node)
{
	static const uint32_t ends[] = { VK_RX_SHARDS, VK_DROP_REASSEMBLY, VK_DROP_STALE,
					 VK_DROP_UNKNOWN_STREAM };

	for (uint32_t c = VK_CLASS_CRITICAL; c < VK_CLASS_COUNT; c++) {
		const uint64_t *row = lab->nodes[node].counters->classes[c];
		uint64_t there = sum_of(row, ends, 4) + row[VK_RX_DELIVERED] +
				 row[VK_DROP_APP_RING] + row[VK_DROP_APP_GONE] -
				 row[VK_RX_REASSEMBLED];

		if (row[VK_RX_MESSAGES] != there)
			vk_lab_fail(lab, "node %u, class %u: %llu messages came, %llu accounted",
				    node, c, (unsigned long long)row[VK_RX_MESSAGES],
				    (unsigned long long)there);
	}
}

/* What engines send, engines understand. */
static void check_understood(struct vk_lab *lab, uint32_t node)
{
	static const uint32_t drops[] = { VK_DROP_FRAME_INVALID, VK_DROP_INNER_INVALID,
					  VK_DROP_FRAME_PLAIN, VK_DROP_FRAME_TAG };

	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++) {
		uint64_t count = sum_of(lab->nodes[node].counters->classes[c], drops, 4);

		if (count)
			vk_lab_fail(lab, "node %u, class %u: %llu frames or messages are malformed",
				    node, c, (unsigned long long)count);
	}
}

/* Messages that applications put into their rings against what the worker says it took. */
static void check_sent(struct vk_lab *lab, uint32_t node)
{
	uint64_t put[VK_CLASS_COUNT] = { 0 };
	static const uint32_t ends[] = {
		VK_TX_MESSAGES,	   VK_REFUSED_FLOW, VK_REFUSED_SIZE,
		VK_REFUSED_POLICY, VK_REFUSED_LATE, VK_DROP_TX_UNREACHABLE
	};

	for (uint32_t i = 0; i < lab->stream_count; i++) {
		const struct vk_lab_stream *stream = &lab->streams[i];
		const struct vk_lab_traffic *traffic = &lab->scenario.traffics[stream->traffic];

		if (lab->scenario.apps[traffic->from].node == node)
			put[vk_stream_class(stream->id)] += stream->ends[VK_LAB_OPENER].sent;
		if (lab->scenario.apps[traffic->to].node == node)
			put[vk_stream_class(stream->id)] += stream->ends[VK_LAB_ACCEPTOR].sent;
	}
	for (uint32_t c = VK_CLASS_CRITICAL; c < VK_CLASS_COUNT; c++) {
		uint64_t taken = sum_of(lab->nodes[node].counters->classes[c], ends, 6);

		if (put[c] != taken)
			vk_lab_fail(lab, "node %u, class %u: %llu messages sent, %llu accounted",
				    node, c, (unsigned long long)put[c], (unsigned long long)taken);
	}
}

static void check_finished(struct vk_lab *lab)
{
	uint32_t shown = 0;

	if (lab->report.finished)
		return;
	vk_lab_fail(lab, "%llu streams are not finished after %llu ms",
		    (unsigned long long)lab->unfinished,
		    (unsigned long long)(lab->report.now_ns / 1000000));
	for (uint32_t i = 0; i < lab->stream_count && shown < UNFINISHED_SHOWN; i++) {
		const struct vk_lab_stream *stream = &lab->streams[i];
		const struct vk_lab_end *a = &stream->ends[0], *b = &stream->ends[1];

		if (stream->finished || stream->broken)
			continue;
		vk_lab_fail(lab,
			    "stream %u of traffic %u: %u/%u sent, %u/%d came, states %u %u, "
			    "back: %u/%u sent, %u/%d came",
			    stream->id, stream->traffic, a->sent, a->want, b->came, (int)b->total,
			    a->state, b->state, b->sent, b->want, a->came, (int)a->total);
		shown++;
	}
}

/* Workers sleep while there is nothing to do. */
static void check_turns(struct vk_lab *lab)
{
	uint64_t causes = TURNS_FREE + lab->report.packets + lab->report.now_ns / 1000000;

	for (uint32_t i = 0; i < lab->scenario.traffic_count; i++)
		causes += lab->report.traffics[i].sent;
	if (lab->report.turns > TURNS_MAX * causes)
		vk_lab_fail(lab, "workers took %llu turns for %llu packets",
			    (unsigned long long)lab->report.turns,
			    (unsigned long long)lab->report.packets);
}

/* Without anything lost on the way, everything arrives. */
static void check_lossless(struct vk_lab *lab)
{
	uint64_t sent = 0, arrived = 0,
		 dropped = lab->report.socket_drops + lab->report.checksum_drops;

	/* Best effort is over when its stream is, whatever is still on its way. */
	dropped += lab->report.packets > lab->report.delivered;

	for (uint32_t i = 0; i < lab->scenario.link_count; i++) {
		const struct vk_link_count *count = &lab->report.links[i];

		dropped += count->lost + count->policed + count->overflowed + count->oversized +
			   count->corrupted;
	}
	for (uint32_t i = 0; i < lab->scenario.node_count; i++) {
		for (uint32_t c = 0; c < VK_CLASS_COUNT; c++) {
			const uint64_t *row = lab->nodes[i].counters->classes[c];

			dropped += row[VK_DROP_APP_RING] + row[VK_DROP_STALE] +
				   row[VK_DROP_REASSEMBLY] + row[VK_DROP_UNKNOWN_STREAM] +
				   row[VK_DROP_FRAME_EPOCH]; /* later than its key was kept */
		}
	}
	for (uint32_t i = 0; i < lab->scenario.traffic_count; i++) {
		sent += lab->report.traffics[i].sent;
		arrived += lab->report.traffics[i].arrived;
	}
	if (!dropped && sent != arrived)
		vk_lab_fail(lab, "nothing was dropped, but %llu of %llu messages came",
			    (unsigned long long)arrived, (unsigned long long)sent);
}

/* What links carried against what messages need. */
static void check_again(struct vk_lab *lab)
{
	uint64_t need = SLACK_BYTES, carried = 0;

	if (!lab->scenario.again_ppm)
		return;
	for (uint32_t i = 0; i < lab->scenario.traffic_count; i++) {
		const struct vk_lab_traffic_report *report = &lab->report.traffics[i];

		need += report->sent_bytes + (report->sent + 2 * report->streams) * HEADS_BYTES;
	}
	for (uint32_t i = 0; i < lab->scenario.link_count; i++)
		carried += lab->report.links[i].bytes;
	need += (uint64_t)((unsigned __int128)need * lab->scenario.again_ppm / PPM);
	if (carried > need)
		vk_lab_fail(lab, "links carried %llu bytes, %llu are enough",
			    (unsigned long long)carried, (unsigned long long)need);
}

/* Losses that were none, of the workers that are still there. */
static void check_spurious(struct vk_lab *lab)
{
	uint64_t sent = 0, spurious = 0;

	if (!lab->scenario.spurious_ppm)
		return;
	for (uint32_t i = 0; i < lab->scenario.node_count; i++) {
		const struct vk_run *run = lab->nodes[i].run;

		for (uint32_t p = 0; run && p < run->peer_count; p++) {
			if (!run->sessions[p])
				continue;
			sent += run->sessions[p]->recovery.count.sent;
			spurious += run->sessions[p]->recovery.count.spurious;
		}
	}
	if (spurious > SLACK_PACKETS + sent * lab->scenario.spurious_ppm / PPM)
		vk_lab_fail(lab, "%llu of %llu packets were declared lost and arrived",
			    (unsigned long long)spurious, (unsigned long long)sent);
}

/* Sums that workers keep of what streams hold, against the streams. */
static void check_credit(struct vk_lab *lab, uint32_t node)
{
	const struct vk_run *run = lab->nodes[node].run;
	uint64_t promised = 0, taken = 0, quiet = 0, held = 0;

	for (uint32_t i = 0; run && i < run->flow_high; i++) {
		promised += run->flows[i].promised;
		taken += run->flows[i].taken;
		quiet += run->flows[i].quiet;
		held += run->flows[i].held_bytes;
	}
	for (uint32_t i = 0; run && i < run->peer_count; i++) {
		taken -= run->pools[i].taken;
		quiet -= run->pools[i].quiet;
		held -= run->pools[i].held;
	}
	if (run && (promised != run->promised || taken || quiet || held))
		vk_lab_fail(lab, "node %u: %llu bytes are promised, %llu by streams", node,
			    (unsigned long long)run->promised, (unsigned long long)promised);
}

/* What may have grown is within its bound; a bound may have come down to less than there is. */
static void check_bound(struct vk_lab *lab, uint32_t node, const char *what, uint64_t now,
			uint64_t *before, uint64_t most)
{
	if (now > most && now > *before)
		vk_lab_fail(lab, "node %u: %llu bytes %s, of %llu", node, (unsigned long long)now,
			    what, (unsigned long long)most);
	*before = now;
}

void vk_lab_check_budget(struct vk_lab *lab, uint32_t number)
{
	struct vk_lab_node_run *node = &lab->nodes[number];
	const struct vk_run *run = node->run;

	check_bound(lab, number, "are promised", run->promised, &node->promised,
		    (uint64_t)run->params.memory_kib * 1024);
	check_bound(lab, number, "of incomplete messages are kept",
		    vk_reassembly_bytes(run->reassembly), &node->partial,
		    run->params.reassembly_bytes);
}

/* What sessions refused, and how often they changed their keys. */
static void count_sealed(struct vk_lab *lab, uint32_t node)
{
	static const uint32_t refusals[] = { VK_DROP_FRAME_SESSION, VK_DROP_FRAME_TWICE,
					     VK_DROP_FRAME_PLAIN, VK_DROP_FRAME_EPOCH,
					     VK_DROP_FRAME_TAG };
	const struct vk_run *run = lab->nodes[node].run;

	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++)
		lab->report.refused += sum_of(lab->nodes[node].counters->classes[c], refusals, 5);
	for (uint32_t i = 0; run && i < run->peer_count; i++)
		if (run->sessions[i])
			lab->report.rotations += run->sessions[i]->keyring.rotations;
}

void vk_lab_check(struct vk_lab *lab)
{
	for (uint32_t i = 0; i < lab->scenario.node_count; i++) {
		count_sealed(lab, i);
		check_credit(lab, i);
		if (!whole(lab, i))
			continue;
		check_received(lab, i);
		if (!lab->scenario.corrupt_through)
			check_understood(lab, i);
		if (lab->report.finished)
			check_sent(lab, i);
	}
	if (!lab->scenario.fault_count && lab->report.finished && !lab->scenario.corrupt_through)
		check_lossless(lab);
	if (lab->scenario.reliable)
		check_finished(lab);
	check_turns(lab);
	check_again(lab);
	check_spurious(lab);
}
