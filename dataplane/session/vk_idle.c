/* SPDX-License-Identifier: MIT */
#include "vk_idle.h"

#include "vk_signals.h"

static const uint64_t idle_ns = VK_IDLE_S * 1000000000ull;

/* Whether anything is to be sent, or to be heard of. */
static int is_busy(const struct vk_session *session)
{
	if (session->other || session->owing_first || session->touched || session->busy ||
	    session->waiting || session->probes || session->recovery.in_flight ||
	    session->recovery.critical)
		return 1;
	for (uint32_t s = 0; s < VK_SPACE_COUNT; s++)
		if (session->recovery.sent[s].eliciting || session->received[s].eliciting ||
		    session->refused[s].eliciting)
			return 1;
	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++)
		if (vk_resend_count(&session->resend[c]))
			return 1;
	return 0;
}

static uint64_t last_ns(const struct vk_run *run, const struct vk_session *session)
{
	uint64_t last = run->work->packets[session->peer].heard_ns;

	if (last < session->began_ns)
		last = session->began_ns;
	for (uint32_t s = 0; s < VK_SPACE_COUNT; s++)
		if (last < session->recovery.sent[s].last_ns)
			last = session->recovery.sent[s].last_ns;
	return last;
}

int vk_idle_end(struct vk_run *run, const struct vk_session *session)
{
	uint32_t peer = session->peer;

	if (run->active_count <= VK_IDLE_KEPT || run->work->packets[peer].streams ||
	    run->now_ns < last_ns(run, session) + idle_ns || is_busy(session))
		return 0;
	vk_session_forget(run, peer);
	vk_signals_end(run, peer);
	return 1;
}
