/* SPDX-License-Identifier: MIT */
#include "vk_rekey.h"

#include "vk_fit.h"
#include "vk_probe.h"
#include "vk_sealing.h"

#include <stdlib.h>
#include <string.h>

static void list(struct vk_run *run, struct vk_other *other)
{
	other->until_ns = run->now_ns + VK_REKEY_NS;
	other->earlier = run->rekeyed_last;
	other->later = NULL;
	if (run->rekeyed_last)
		run->rekeyed_last->later = other;
	else
		run->rekeyed_first = other;
	run->rekeyed_last = other;
}

static void unlist(struct vk_run *run, struct vk_other *other)
{
	*(other->earlier ? &other->earlier->later : &run->rekeyed_first) = other->later;
	*(other->later ? &other->later->earlier : &run->rekeyed_last) = other->earlier;
}

void vk_rekey_forget(struct vk_run *run, struct vk_session *session)
{
	struct vk_other *other = session->other;

	if (!other)
		return;
	session->other = NULL;
	unlist(run, other);
	vk_keyring_free(&other->keyring);
	free(other);
}

/* Gives a row what a session's frames differ in. */
static void put_ids(struct vk_peer *to, const struct vk_peer *from)
{
	to->session = from->session;
	to->session_local = from->session_local;
	to->before = from->before;
	to->before_local = from->before_local;
	to->cipher = from->cipher;
	to->keys = from->keys;
	to->token_classes = from->token_classes;
	memcpy(to->token, from->token, sizeof to->token);
}

/* Exchanges the keys in use for those that follow. */
static void change(struct vk_run *run, struct vk_session *session)
{
	struct vk_other *other = session->other;
	struct vk_keyring old = session->keyring;
	struct vk_peer *row = &run->peers[session->peer], was = *row;
	uint32_t id = session->id;

	vk_datagram_close(run);
	put_ids(row, &other->row);
	session->id = other->id;
	session->keyring = other->keyring;
	vk_sealing_changed(run, session);
	other->id = id;
	other->keyring = old;
	other->next = 0;
	put_ids(&other->row, &was);
	unlist(run, other);
	list(run, other);
	vk_fit_bound(run, session);
}

/* Takes the keys that a row has beside those in use; 0 = they are not there. */
static int follow(struct vk_run *run, struct vk_session *session, const struct vk_peer *used)
{
	struct vk_peer *row = &run->peers[session->peer];
	struct vk_other *other = calloc(1, sizeof *other);

	if (!other)
		return 0;
	other->peer = session->peer;
	other->id = row->session_local;
	other->next = 1;
	other->row = *row;
	if (vk_sealing_keys(run, session->peer, &other->keyring)) {
		free(other);
		return 0;
	}
	vk_keyring_freeze(&session->keyring); /* the daemon erases its row */
	session->other = other;
	list(run, other);
	put_ids(row, used);
	return 1;
}

/* The peer knew already what we waited for: it has made its session anew once more. What we waited
 * for is used. */
static void catch_up(struct vk_run *run, struct vk_session *session, struct vk_peer *used)
{
	struct vk_peer *row = &run->peers[session->peer], fresh = *row;

	put_ids(row, used);
	change(run, session);
	put_ids(used, row);
	put_ids(row, &fresh);
}

int vk_rekey_row(struct vk_run *run, uint32_t peer, const struct vk_peer *was)
{
	struct vk_peer *row = &run->peers[peer], used = *was;
	struct vk_session *session = run->sessions[peer];
	struct vk_other *other = session ? session->other : NULL;

	if (!session || row->state != VK_ROW_LIVE || !row->joined ||
	    row->generation != run->work->packets[peer].peer_generation)
		return 0;
	if (row->session_local == session->id)
		return 1;
	if (other && other->next && row->session_local == other->id) {
		other->row = *row;
		put_ids(row, &used);
		return 1;
	}
	if (other && other->next && row->before_local == other->id)
		catch_up(run, session, &used);
	if (row->before_local != session->id)
		return 0;
	vk_rekey_forget(run, session);
	if (!follow(run, session, &used))
		return 0;
	if (row->known) {
		change(run, session);
		vk_probe_ask(run, session); /* from which it learns that we have them */
	}
	return 1;
}

int vk_rekey_opened(struct vk_run *run, struct vk_session *session, uint32_t id)
{
	const struct vk_other *other = session->other;

	if (other && other->next && id == other->id)
		change(run, session);
	return id == session->id && !(other && other->next);
}

void vk_rekey_expire(struct vk_run *run)
{
	struct vk_other *other;

	while ((other = run->rekeyed_first) && other->until_ns <= run->now_ns) {
		struct vk_session *session = run->sessions[other->peer];

		if (other->next)
			change(run, session); /* and to the end of the list */
		else
			vk_rekey_forget(run, session);
	}
}
