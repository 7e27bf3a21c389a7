/* SPDX-License-Identifier: MIT */
#ifndef VK_AGAIN_H
#define VK_AGAIN_H
/* vk_again.h: records that were looked at before: what waits for its stream's credit, what no
 * longer fits a packet, what was lost on its way.
 */
#include "vk_outgoing.h"

/* vk_again_held sends what a flow holds, at most budget bytes; counts them in *bytes. Returns
 * VK_WENT when nothing is held any more, VK_HOLD when it waits for credit or its turn is over
 * (*more says the latter), VK_LATER as above. */
enum vk_outcome vk_again_held(struct vk_run *run, struct vk_flow *flow, int64_t budget,
			      int64_t *bytes, int *more);

/* vk_again_unhold puts a ring's scan position back to the first record that its only stream holds,
 * if all behind it is held, too, and credit pays for half of that: so they go as if they were met
 * only now. What is large goes on from where it is. */
void vk_again_unhold(struct vk_run *run, uint32_t slot, uint32_t ring);

/* vk_again_entry sends one entry of a ring again; forced: though the window is full. Returns 0
 * when it cannot go now. */
int vk_again_entry(struct vk_run *run, uint32_t slot, uint32_t ring, uint32_t entry, int forced);

/* vk_again_shard sends bytes [a, a + b) of a message again, without those the peer has. Returns
 * 0 when it cannot go on now: *content is what is left. */
int vk_again_shard(struct vk_run *run, struct vk_sent_run *content, int forced);
#endif
