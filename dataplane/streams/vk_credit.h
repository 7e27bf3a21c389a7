/* SPDX-License-Identifier: MIT */
#ifndef VK_CREDIT_H
#define VK_CREDIT_H
/* vk_credit.h: what peers may send to our applications, and what these may send to theirs.
 *
 * As a receiver a node lets every stream begin with VK_WINDOW_START and never takes that back: so
 * every stream goes on when its reader does, whatever others hold. What it promises beyond is
 * bounded three times, and given back as it is consumed:
 *
 *   application   by what its ring of the class can hold
 *   session       by as much as is left to all the others: no peer has it all
 *   node          by params.memory_kib
 *
 * As a sender it bounds what lies at a peer of which that one never said anything: messages of
 * streams without a limit of their own take from one pool, of vk_peer.session_window bytes, until
 * the stream's first limit comes or the stream ends. An application gets no more of the pool than
 * it leaves: one that opens streams which nobody reads does not keep others from opening theirs.
 *
 * There is no sum of all bytes ever sent, as RFC 9000's MAX_DATA has it: one application that does
 * not read would stop all others' streams of the session, and messages of streams that were reset,
 * which never came, would have to be agreed upon after every death of a worker. The pool is a sum
 * over streams that live, which every worker can make anew.
 */
#include "vk_run.h"

enum vk_credit_const {
	/* A peer is told a limit of a stream that has consumed little only when so much was
	 * consumed on such streams: short ones come and go without. */
	VK_CREDIT_QUIET = 65536,
};

/* vk_credit_tune makes the classes' rules from run->params. */
void vk_credit_tune(struct vk_run *run);

/* vk_credit_open begins with a new flow; vk_credit_load goes on with one of an earlier worker. */
void vk_credit_open(struct vk_run *run, struct vk_flow *flow);
void vk_credit_load(struct vk_run *run, struct vk_flow *flow);

/* vk_credit_close gives back what a flow holds that ends. */
void vk_credit_close(struct vk_run *run, struct vk_flow *flow);

/* vk_credit_consumed takes an application's report; the peer may be owed credit then. */
void vk_credit_consumed(struct vk_run *run, uint32_t slot, const struct vk_consumed *report);

/* vk_credit_grow gives the peer more credit as its message lands in memory of its own. */
void vk_credit_grow(struct vk_run *run, struct vk_flow *flow, uint32_t bytes);

/* vk_credit_hold takes so many bytes of that for what they are when their message is all there and
 * only the ring has no room for it: unread. */
void vk_credit_hold(struct vk_run *run, struct vk_flow *flow, uint32_t bytes);

/* vk_credit_told: the peer says what may be sent on a stream. RFC 9000, 4.1: a limit never shrinks;
 * a smaller one is ignored. */
void vk_credit_told(struct vk_run *run, struct vk_flow *flow, uint64_t limit);

/* vk_credit_begin says whether the pool pays for the next message of a stream, or for as much of it
 * as its limit allows, and takes it. Otherwise the flow is made ready again when it may. */
int vk_credit_begin(struct vk_run *run, struct vk_flow *flow, uint64_t cost);

/* vk_credit_limit lets an application know how much it may put for a stream, if it has streams with
 * several peers: records that wait for credit would keep those of other peers waiting behind them,
 * as a ring is given back in its order. With one peer they may lie there. Who was told one is told
 * the next ones, too, by whatever worker. */
void vk_credit_limit(struct vk_run *run, struct vk_flow *flow);

/* vk_credit_tell_limits puts what vk_credit_limit noted into an application's ring 0, as far as
 * that has room. */
void vk_credit_tell_limits(struct vk_run *run, uint32_t slot);

/* vk_credit_windowed says whether a flow's class has windows. */
static inline int vk_credit_windowed(const struct vk_flow *flow)
{
	return flow->class != VK_CLASS_CRITICAL && flow->class != VK_CLASS_LOGS;
}
#endif
