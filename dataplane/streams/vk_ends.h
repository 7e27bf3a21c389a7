/* SPDX-License-Identifier: MIT */
#ifndef VK_ENDS_H
#define VK_ENDS_H
/* vk_ends.h: how applications hear that their streams are over: by OPENED with a code of one that
 * they were opening, by RESET of any other. Nobody says it twice, so where the ring has no room the
 * flow's row keeps the code, beyond the worker's death, until it has.
 */
#include "vk_run.h"

/* vk_ends_tell puts the record of a live flow's end, with a code that is not 0, into its
 * application's ring, or notes that it has to be put. The application may be cut off over it. */
void vk_ends_tell(struct vk_run *run, struct vk_flow *flow, uint32_t code);

/* vk_ends_load goes on with what a worker before this one noted, if the application is there. */
void vk_ends_load(struct vk_run *run, struct vk_flow *flow);

/* vk_ends_flush puts what was noted of an application's streams, as far as its rings have room; it
 * may be cut off over it. */
void vk_ends_flush(struct vk_run *run, uint32_t slot);

/* vk_ends_forget empties the lists of an application that is gone. */
void vk_ends_forget(struct vk_run *run, uint32_t slot);

/* vk_ends_owed says whether an application has yet to hear of the end of the stream that one of its
 * records is about: what it sent on it is done with, and did not arrive. */
int vk_ends_owed(const struct vk_run *run, uint32_t slot, const struct vk_message *message);
#endif
