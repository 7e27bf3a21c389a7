/* SPDX-License-Identifier: MIT */
#ifndef VK_LAB_APP_H
#define VK_LAB_APP_H
/* vk_lab_app.h: what the two halves of an application share: vk_lab_app.c receives, vk_lab_send.c
 * sends. An end of a stream is called by ref = stream * 2 + side.
 */
#include "vk_lab_world.h"

#include "vk_inlet.h"

/* vk_lab_app_of returns the application at one side of a stream. */
static inline uint32_t vk_lab_app_of(const struct vk_lab *lab, const struct vk_lab_stream *stream,
				     uint32_t side)
{
	const struct vk_lab_traffic *config = &lab->scenario.traffics[stream->traffic];

	return side == VK_LAB_OPENER ? config->from : config->to;
}

/* vk_lab_end_of returns an end of a stream. */
static inline struct vk_lab_end *vk_lab_end_of(struct vk_lab *lab, uint32_t ref)
{
	return &lab->streams[ref / 2].ends[ref % 2];
}

/* vk_lab_want_to_send lets an end have its turn at a time. */
static inline void vk_lab_want_to_send(struct vk_lab_app_run *app, uint32_t ref, uint64_t at_ns)
{
	struct vk_lab_end *end = vk_lab_end_of(app->lab, ref);

	if (!end->queued)
		end->queued = (uint8_t)vk_heap_push(&app->senders, at_ns, ref);
}

/* vk_lab_send_all opens streams and sends what is due. */
void vk_lab_send_all(struct vk_lab_app_run *app);

/* vk_lab_send_next returns when there is something to open or send again. */
uint64_t vk_lab_send_next(const struct vk_lab_app_run *app);
#endif
