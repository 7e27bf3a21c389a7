/* SPDX-License-Identifier: MIT */
#ifndef VK_FLOWS_H
#define VK_FLOWS_H
/* vk_flows.h: the ends of streams, (peer, stream) <-> application, in vk_work so that they outlive
 * the worker. The index over them is built anew by every worker.
 *
 *   FREE -> LIVE      vk_flows_open
 *   LIVE -> CLOSING   both directions have ended, or the peer that opened it has reset it: it
 *                     lingers, so that late copies are known
 *   LIVE -> CLOSING   vk_flows_end: it owes the peer a reset until that is acknowledged
 *   LIVE, CLOSING -> FREE   vk_flows_close
 *   LIVE, CLOSING -> TELLING   vk_flows_close, while its application has to hear of the end and its
 *                     ring has no room (vk_ends.h): the stream's id is free, its row is not
 *   TELLING -> FREE   vk_flows_free
 */
#include "vk_outgoing.h"
#include "vk_run.h"

enum vk_closed {
	VK_CLOSED_HERE = 1, /* the application sends no more */
	VK_CLOSED_THERE = 2, /* the peer sends no more, and the application knows */
};

enum vk_flows_const { VK_FLOWS_FEW = 256 };

/* vk_flows_load builds the index over the live flows and closes those whose application or peer
 * is gone. Call once all slots are attached. */
void vk_flows_load(struct vk_run *run);

/* vk_flows_many_peers notes that an application has to do with several peers: it is told the limits
 * of its streams, so that one peer keeps those with others waiting no more (vk_credit.h). */
void vk_flows_many_peers(struct vk_run *run, uint32_t slot);

/* vk_flows_retell has flows with a peer owe what packets that are forgotten may have told it. */
void vk_flows_retell(struct vk_run *run, uint32_t peer);

/* vk_flows_find returns the flow of (peer, stream), live or closing, or NULL. */
struct vk_flow *vk_flows_find(struct vk_run *run, uint32_t peer, uint32_t stream);

/* vk_flows_look_ahead begins to fetch the rows of streams with a peer, of which messages came. */
void vk_flows_look_ahead(const struct vk_run *run, uint32_t peer, const uint32_t *streams,
			 uint32_t count);

/* vk_flows_open makes a flow; NULL when the table is full, or so many with the peer are open as it
 * takes (`opener`: we ask for it) or as we take. Published last (release). */
struct vk_flow *vk_flows_open(struct vk_run *run, uint32_t peer, uint32_t stream, uint32_t slot,
			      uint32_t token, int opener);

/* vk_flows_close ends a flow for good; what its application sent on it is forgotten. Its row is
 * free, or will be when the application has heard of it. */
void vk_flows_close(struct vk_run *run, struct vk_flow *flow);

/* vk_flows_free frees the row of a flow that was closed. */
void vk_flows_free(struct vk_run *run, struct vk_flow *flow);

/* vk_flows_end resets a live flow from this side: the peer is told the code until it knows. */
void vk_flows_end(struct vk_run *run, struct vk_flow *flow, uint32_t code);

/* vk_flows_close_slot ends all flows of an application. */
void vk_flows_close_slot(struct vk_run *run, uint32_t slot);

/* vk_flows_close_peer ends all flows with a peer that knows them no more, and tells their
 * applications why. */
void vk_flows_close_peer(struct vk_run *run, uint32_t peer, uint32_t code);

/* vk_flows_reset tells the application that its stream is gone, with enum vk_code, and frees it. A
 * stream that it is still opening is answered with OPENED. */
void vk_flows_reset(struct vk_run *run, struct vk_flow *flow, uint32_t code);

/* vk_flows_gone tells the application that the peer, which opened its stream, has reset it; late
 * copies of its OPEN are known for a while. */
void vk_flows_gone(struct vk_run *run, struct vk_flow *flow, uint32_t code);

/* vk_flows_break resets a live flow from here and tells its application why. */
void vk_flows_break(struct vk_run *run, struct vk_flow *flow, uint32_t code);

/* vk_flows_ended says whether both directions of a flow came to their ends, and all messages of the
 * peer are here. */
int vk_flows_ended(const struct vk_flow *flow);

/* vk_flows_settle looks whether both directions of a live flow have ended. */
void vk_flows_settle(struct vk_run *run, struct vk_flow *flow);

/* vk_flows_expire frees flows that have lingered long enough. */
void vk_flows_expire(struct vk_run *run);

/* vk_flows_came notes that message `sequence` came on a best-effort flow. Assumes that it did not
 * before: none is sent twice, and a copy of its packet has a number that came. Counts gaps; a late
 * message takes its gap back. */
void vk_flows_came(struct vk_run *run, struct vk_flow *flow, uint32_t sequence);

/* vk_flows_entries_done notes that so many more of a flow's records are acknowledged; of VK_NO_FLOW
 * there are none. */
void vk_flows_entries_done(struct vk_run *run, uint32_t number, uint32_t count);

/* vk_services_find returns the slot that listens on a name, is attached, and may be opened the
 * stream by the peer; or -1, and `code` says why not. */
int vk_services_find(struct vk_run *run, uint32_t peer, const struct vk_frame *open,
		     uint32_t *code);

/* vk_flow_number returns the index that applications know a flow by. */
static inline uint32_t vk_flow_number(const struct vk_run *run, const struct vk_flow *flow)
{
	return (uint32_t)(flow - run->work->flows);
}

/* vk_flow_reliable says whether a flow's messages are sent until they are acknowledged. */
static inline int vk_flow_reliable(const struct vk_flow *flow)
{
	return flow->class != VK_CLASS_LOGS;
}

/* vk_flow_opening says whether our OPEN of it has not been answered. */
static inline int vk_flow_opening(const struct vk_flow *flow)
{
	return flow->opener && !flow->answered;
}

/* vk_flow_older says whether a message may be of an older stream with a flow's id: it came before
 * the answer to our OPEN, or left before what opened the flow did. It has to be sent again. */
static inline int vk_flow_older(const struct vk_flow *flow, const struct vk_frame *frame)
{
	return vk_flow_opening(flow) ||
	       (frame->number < flow->since && frame->session == flow->since_session);
}

/* vk_flows_many says whether there are so many that their rows are in no near cache. */
static inline int vk_flows_many(const struct vk_run *run)
{
	return run->work->flow_count > VK_FLOWS_FEW;
}

/* vk_flows_fetch begins to fetch what sending a message of a flow reads. GCC leaves out calls of
 * which it thinks that they do nothing else: therefore the empty assembly. */
static inline void vk_flows_fetch(const struct vk_run *run, uint32_t number)
{
	__builtin_prefetch(&run->work->flows[number]);
	__builtin_prefetch(&run->flows[number]);
	__asm__ volatile("");
}

/* vk_flows_holds says whether a flow has records that have to go before its next one. */
static inline int vk_flows_holds(const struct vk_run *run, const struct vk_flow *flow)
{
	return run->flows[vk_flow_number(run, flow)].held_count != 0;
}

/* vk_flows_went takes the first record off what a flow holds: it is on its way. */
static inline void vk_flows_went(struct vk_run *run, const struct vk_flow *flow)
{
	struct vk_flow_run *own = &run->flows[vk_flow_number(run, flow)];
	const struct vk_entry *entry =
		vk_ledger_get(&run->slots[flow->app].ledgers[flow->class], own->held_first);

	own->held_first = entry->next;
	own->held_count--;
	own->held_bytes -= entry->size;
	run->pools[flow->peer].held -= entry->size;
	own->since_ns = run->now_ns;
}
#endif
