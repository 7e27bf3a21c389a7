/* SPDX-License-Identifier: MIT */
#ifndef VK_FLOWS_H
#define VK_FLOWS_H
/* vk_flows.h: the ends of streams, (peer, stream) <-> application, in vk_work so that they outlive
 * the worker. The index over them is built anew by every worker.
 */
#include "vk_run.h"

/* vk_flows_load builds the index over the live flows and closes those whose application or peer
 * is gone. Call once all slots are attached. */
void vk_flows_load(struct vk_run *run);

/* vk_flows_find returns the live flow of (peer, stream), or NULL. */
struct vk_flow *vk_flows_find(struct vk_run *run, uint32_t peer, uint32_t stream);

/* vk_flows_open makes a flow; NULL when the table is full. Published last (release). */
struct vk_flow *vk_flows_open(struct vk_run *run, uint32_t peer, uint32_t stream, uint32_t slot,
			      uint32_t token, int opener);

/* vk_flows_close frees a flow. */
void vk_flows_close(struct vk_run *run, struct vk_flow *flow);

/* vk_flows_close_slot frees all flows of an application and tells their peers. */
void vk_flows_close_slot(struct vk_run *run, uint32_t slot);

/* vk_flows_close_peer ends all flows with a peer that is no more, and tells their applications. */
void vk_flows_close_peer(struct vk_run *run, uint32_t peer);

/* vk_flows_reset tells the application that its stream is gone, with enum vk_code, and frees it. A
 * stream that it is still opening is answered with OPENED. */
void vk_flows_reset(struct vk_run *run, struct vk_flow *flow, uint32_t code);

/* vk_flows_accept notes that message `sequence` came on flow. Returns 1 when it is new, 0 when it
 * came before or is too old to tell. Counts gaps; a late message takes its gap back. */
int vk_flows_accept(struct vk_run *run, struct vk_flow *flow, uint32_t sequence);

/* vk_flows_seen says whether a message came before (or is too old to tell), and notes nothing. */
int vk_flows_seen(const struct vk_flow *flow, uint32_t sequence);

/* vk_services_find returns the slot that listens on a name and is attached, or -1. */
int vk_services_find(struct vk_run *run, const uint8_t *name, uint32_t size);

/* vk_flow_number returns the index that applications know a flow by. */
static inline uint32_t vk_flow_number(const struct vk_run *run, const struct vk_flow *flow)
{
	return (uint32_t)(flow - run->work->flows);
}
#endif
