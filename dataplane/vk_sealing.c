/* SPDX-License-Identifier: MIT */
#include "vk_sealing.h"

#include "vk_python.h"

#include <errno.h>
#include <string.h>

void vk_sealing_begin(struct vk_run *run, struct vk_session *session)
{
	const struct vk_peer *peer = &run->peers[session->peer];
	struct vk_packet *packet = &run->work->packets[session->peer];
	struct vk_keys *keys;

	if (!peer->cipher)
		return;
	session->keyring.cipher = peer->cipher; /* whatever goes wrong: not in the clear */
	keys = &run->boot->secrets->keys[peer->keys & 1][session->peer];
	if (VK_LOAD_ACQUIRE(&keys->session) == session->id)
		vk_keyring_init(&session->keyring, peer->cipher, keys, packet->tx_number);
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
	uint64_t *row = vk_count_row(run, class);
	int error;

	if (!session->keyring.cipher && !(frame->flags & VK_FLAG_ENC))
		return 1;
	if (!(frame->flags & VK_FLAG_ENC)) {
		row[VK_DROP_FRAME_PLAIN]++;
		return 0;
	}
	if (!session->keyring.cipher || frame->length > sizeof run->opened) {
		row[VK_DROP_FRAME_EPOCH]++;
		return 0;
	}
	error = vk_keyring_open(&session->keyring, frame->epoch, frame->space, frame->number,
				frame->payload - head, head, frame->length, run->opened);
	if (error) {
		row[error == -ENOKEY ? VK_DROP_FRAME_EPOCH : VK_DROP_FRAME_TAG]++;
		return 0;
	}
	frame->payload = run->opened;
	return 1;
}
