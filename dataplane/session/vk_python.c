/* SPDX-License-Identifier: MIT */
#include "vk_python.h"

#include "vk_datagram.h"
#include "vk_peers.h"
#include "vk_proof.h"
#include "vk_session.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum {
	REFUSE_EVERY_NS = 1000000,
	ELSEWHERE_EVERY_NS = 10000000,
	WANT_EVERY_NS = 50000000,
};

static int tell(struct vk_run *run, struct vk_control_frame *head,
		const struct vk_rx_frame *datagram, uint32_t size)
{
	struct iovec parts[2] = { { .iov_base = head, .iov_len = sizeof *head } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 1 };

	if (datagram) {
		head->family = datagram->family;
		head->udp_port = datagram->source_port;
		memcpy(head->address, datagram->source, sizeof head->address);
		parts[1].iov_base = (void *)(uintptr_t)datagram->data;
		parts[1].iov_len = size;
		message.msg_iovlen = size ? 2 : 1;
	}
	return sendmsg(run->boot->python_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

void vk_python_frame(struct vk_run *run, uint32_t port, const struct vk_rx_frame *datagram)
{
	struct vk_control_frame head = { .kind = VK_CONTROL_FRAME, .port = port };

	if (tell(run, &head, datagram, datagram->size))
		vk_count_row(run, VK_CLASS_CONTROL)[VK_RX_CONTROL]++;
	else
		vk_count_row(run, VK_CLASS_CONTROL)[VK_DROP_APP_RING]++;
}

/* Tells the daemon something about a peer, not too often. */
static void mention(struct vk_run *run, uint32_t peer, uint32_t kind)
{
	struct vk_control_frame head = { .kind = kind, .peer = peer };

	if (run->now_ns < run->want_due_ns[peer])
		return;
	run->want_due_ns[peer] = run->now_ns + WANT_EVERY_NS;
	tell(run, &head, NULL, 0);
}

void vk_python_want(struct vk_run *run, uint32_t peer)
{
	mention(run, peer, VK_CONTROL_WANTED);
}

void vk_python_spent(struct vk_run *run, uint32_t peer)
{
	mention(run, peer, VK_CONTROL_SPENT);
}

void vk_python_elsewhere(struct vk_run *run, uint32_t port, const struct vk_rx_frame *datagram,
			 const struct vk_frame *frame)
{
	struct vk_control_frame head = { .kind = VK_CONTROL_ELSEWHERE, .port = port };
	int peer;

	if (run->now_ns < run->elsewhere_due_ns || !(frame->present & 1u << VK_EXT_SESSION) ||
	    !frame->session)
		return;
	peer = vk_peers_of_session(run, frame->session);
	if (peer < 0)
		return;
	run->elsewhere_due_ns = run->now_ns + ELSEWHERE_EVERY_NS;
	head.peer = (uint32_t)peer;
	tell(run, &head, datagram, 0);
}

/* Memory for a frame to a peer, between datagrams. */
static uint8_t *reserve(struct vk_run *run, uint32_t peer, struct vk_path **path)
{
	const struct vk_peer *row = &run->peers[peer];

	*path = run->tx[row->port_index];
	vk_datagram_close(run);
	return (*path)->ops->tx_reserve(*path, row, VK_CLASS_CONTROL);
}

static uint8_t *put_head(const struct vk_run *run, uint8_t *at, const struct vk_frame *frame)
{
	return vk_put_header(at, frame, 0, (uint32_t)(run->real_ns / 1000000000));
}

static void commit(struct vk_run *run, struct vk_path *path, uint32_t size)
{
	path->ops->tx_commit(path, size, 0);
	vk_count_row(run, VK_CLASS_CONTROL)[VK_TX_CONTROL]++;
	vk_count_row(run, VK_CLASS_CONTROL)[VK_TX_FRAMES]++;
}

/* The keys that a peer's control frames are proven with; NULL: its session has none. Another row
 * than the session's is never looked at: a session that the worker does not know yet has none here,
 * and the daemon answers. */
static const struct vk_keys *proof_keys(const struct vk_run *run, uint32_t peer)
{
	const struct vk_session *session = run->sessions[peer];

	return session && session->keyring.cipher ? session->keyring.row : NULL;
}

int vk_python_pong(struct vk_run *run, uint32_t peer, const struct vk_frame *frame)
{
	enum {
		TOKEN = sizeof(struct vk_ping),
		OPTION = 4, /* bytes of an option's head */
		PROVEN = TOKEN + OPTION + VK_PROOF_SIZE,
	};
	static const uint8_t option[OPTION] = { 0, VK_OPTION_PROOF, 0, VK_PROOF_SIZE };
	const struct vk_keys *keys = proof_keys(run, peer);
	const uint8_t *said = frame->payload;
	uint8_t proof[VK_PROOF_SIZE] = { 0 };
	struct vk_path *path;
	uint8_t *data;

	if (frame->type != VK_PING || frame->length != (run->peers[peer].cipher ? PROVEN : TOKEN) ||
	    !keys != !run->peers[peer].cipher)
		return 0;
	if (keys && (memcmp(said + TOKEN, option, OPTION) != 0 ||
		     !vk_proof_good(keys->proofs[1], VK_PING, said, TOKEN, said + TOKEN + OPTION) ||
		     vk_proof_make(keys->proofs[0], VK_PONG, said, TOKEN, proof)))
		return 0;
	vk_count_row(run, VK_CLASS_CONTROL)[VK_RX_CONTROL]++;
	data = reserve(run, peer, &path);
	if (!data)
		return 1; /* it asks again */
	data = put_head(run, data, &(struct vk_frame){ .type = VK_PONG, .length = frame->length });
	memcpy(data, said, TOKEN);
	if (keys) {
		memcpy(data + TOKEN, option, OPTION);
		memcpy(data + TOKEN + OPTION, proof, sizeof proof);
	}
	commit(run, path, VK_HEADER_SIZE + frame->length);
	return 1;
}

void vk_python_refuse(struct vk_run *run, uint32_t peer, uint32_t id)
{
	struct vk_frame error = { .type = VK_ERROR, .length = sizeof(struct vk_error) };
	struct vk_path *path;
	uint8_t *data, *at;

	if (run->now_ns < run->refuse_due_ns[peer])
		return;
	run->refuse_due_ns[peer] = run->now_ns + REFUSE_EVERY_NS;
	data = reserve(run, peer, &path);
	if (!data)
		return;
	at = put_head(run, data, &error);
	vk_put32(at, VK_CODE_SESSION_UNKNOWN);
	vk_put32(at + 4, id);
	commit(run, path, VK_HEADER_SIZE + error.length);
}
