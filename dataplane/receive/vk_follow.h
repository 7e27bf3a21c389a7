/* SPDX-License-Identifier: MIT */
#ifndef VK_FOLLOW_H
#define VK_FOLLOW_H
/* vk_follow.h: messages of an aggregate that follow one and differ from it only in what they say,
 * in their stream and in being the next there: what was found out for it holds for them, and what
 * is to be known of their stream is found out once.
 */
#include "vk_run.h"

/* vk_follow hands over the messages at outer->payload + at that go on like `frame`, which was just
 * handled, and becomes the last of them; counts them in *inner. A header of theirs lies at `like`:
 * vk_frame_inner's. Returns where it stopped: what is there is another kind, or has no room. */
uint32_t vk_follow(struct vk_run *run, uint32_t peer, const struct vk_frame *outer,
		   struct vk_frame *frame, const uint8_t *like, uint32_t at, uint32_t *inner);
#endif
