/* SPDX-License-Identifier: MIT */
#include "vk_resend.h"

#include "vk_content.h"
#include "vk_run.h"

#include <stdlib.h>

enum {
	RUNS_MIN = 16, /* of the first allocation */
};

void vk_resend_push(struct vk_resend *resend, const struct vk_sent_run *lost)
{
	if (!resend->runs || vk_resend_count(resend) > resend->mask) {
		uint32_t size = resend->runs ? 2 * (resend->mask + 1) : RUNS_MIN;
		struct vk_sent_run *runs = malloc(size * sizeof *runs);

		if (!runs)
			return;
		for (uint32_t i = resend->first; i != resend->next; i++)
			runs[i & (size - 1)] = resend->runs[i & resend->mask];
		free(resend->runs);
		resend->runs = runs;
		resend->mask = size - 1;
	}
	resend->runs[resend->next++ & resend->mask] = *lost;
}

void vk_resend_free(struct vk_resend *resend)
{
	free(resend->runs);
	*resend = (struct vk_resend){ 0 };
}

void vk_resend_refused(const struct vk_run *run, struct vk_session *session, uint32_t class)
{
	struct vk_resend *resend = &session->resend[class];

	if (resend->due_ns <= run->now_ns)
		resend->due_ns = run->now_ns + session->recovery.rtt.smoothed_ns;
}

int vk_resend_send(struct vk_run *run, struct vk_session *session, uint32_t class)
{
	struct vk_resend *resend = &session->resend[class];

	if (resend->first == resend->next)
		return 1;
	if (run->now_ns < resend->due_ns) {
		if (resend->due_ns < run->due_ns)
			run->due_ns = resend->due_ns;
		return 0;
	}
	while (resend->first != resend->next) {
		struct vk_sent_run left = resend->runs[resend->first & resend->mask];
		int all = vk_content_send(run, &left, 0); /* may add to the list, and move it */

		if (!all) {
			resend->runs[resend->first & resend->mask] = left;
			return 0;
		}
		resend->first++;
	}
	return 1;
}
