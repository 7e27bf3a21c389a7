/* SPDX-License-Identifier: MIT */
#include "vk_sealing.h"

#include "vk_python.h"
#include "vk_rekey.h"

#include <errno.h>
#include <string.h>

int vk_sealing_keys(struct vk_run *run, uint32_t peer, struct vk_keyring *keyring)
{
	const struct vk_peer *row = &run->peers[peer];
	struct vk_keys *keys;

	keyring->cipher = row->cipher; /* whatever goes wrong: not in the clear */
	if (!row->cipher)
		return 0;
	keys = &run->boot->secrets->keys[row->keys & 1][peer];
	if (VK_LOAD_ACQUIRE(&keys->session) != row->session_local)
		return -ENOKEY;
	return vk_keyring_init(keyring, row->cipher, keys, run->work->packets[peer].tx_number);
}

void vk_sealing_changed(struct vk_run *run, struct vk_session *session)
{
	struct vk_packet *packet = &run->work->packets[session->peer];

	packet->rx_session = session->id;
	memcpy(session->keyring.first, packet->tx_number, sizeof session->keyring.first);
}

void vk_sealing_begin(struct vk_run *run, struct vk_session *session)
{
	struct vk_packet *packet = &run->work->packets[session->peer];

	vk_sealing_keys(run, session->peer, &session->keyring);
	if (!session->keyring.cipher)
		return;
	/* A worker that follows another does not know which numbers came, only the highest: what
	 * is older will be sent again, or is somebody's replay. */
	for (uint32_t s = 0; s < VK_SPACE_COUNT; s++) {
		if (packet->rx_session != session->id)
			packet->rx_number[s] = 0;
		session->received[s].floor = packet->rx_number[s];
	}
	packet->rx_session = session->id;
}

int vk_sealing_ready(struct vk_run *run, struct vk_session *session)
{
	const struct vk_recovery *recovery = &session->recovery;
	struct vk_rotation rotation = {
		.rotate_ns = (uint64_t)run->params.rotate_ms * 1000000,
		.packets_max = run->params.rotate_packets,
		.next = run->work->packets[session->peer].tx_number,
	};

	if (!session->keyring.cipher)
		return 1;
	for (uint32_t s = 0; s < VK_SPACE_COUNT; s++)
		rotation.acked[s] = recovery->sent[s].acked_next;
	if (!vk_keyring_ready(&session->keyring, &rotation, run->now_ns))
		return 1;
	vk_python_spent(run, session->peer);
	return 0;
}

uint32_t vk_sealing_seal(struct vk_session *session, uint32_t space, uint64_t number, uint8_t *data,
			 const uint8_t *from, uint32_t size)
{
	uint32_t head = vk_frame_head(data);

	if (!session->keyring.cipher) {
		if (from != data + head && size > head)
			memcpy(data + head, from, size - head);
		return size;
	}
	if (vk_keyring_seal(&session->keyring, space, number, data, head, from, size - head))
		return 0;
	return size + VK_TAG_SIZE;
}

int vk_sealing_open(struct vk_run *run, struct vk_session *session, uint32_t class,
		    struct vk_frame *frame)
{
	uint32_t head = frame->size - VK_TAG_SIZE - frame->length;
	struct vk_keyring *keyring = vk_rekey_keyring(session, frame->session);
	uint64_t *row = vk_count_row(run, class);
	int error;

	if (!keyring) {
		row[VK_DROP_FRAME_SESSION]++;
		return 0;
	}
	if (!keyring->cipher && !(frame->flags & VK_FLAG_ENC))
		return 1;
	if (!(frame->flags & VK_FLAG_ENC)) {
		row[VK_DROP_FRAME_PLAIN]++;
		return 0;
	}
	if (!keyring->cipher || frame->length > sizeof run->opened) {
		row[VK_DROP_FRAME_EPOCH]++;
		return 0;
	}
	error = vk_keyring_open(keyring, frame->epoch, frame->space, frame->number,
				frame->payload - head, head, frame->length, run->opened);
	if (error) {
		row[error == -ENOKEY ? VK_DROP_FRAME_EPOCH : VK_DROP_FRAME_TAG]++;
		return 0;
	}
	frame->payload = run->opened;
	return 1;
}
