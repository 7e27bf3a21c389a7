/* SPDX-License-Identifier: MIT */
#ifndef VK_FIT_H
#define VK_FIT_H
/* vk_fit.h: how large a session's datagrams are: what its path was seen to carry (vk_mtu.h), up to
 * the payload_max of its peer's row.
 */
#include "vk_session.h"

/* vk_fit_tag returns the bytes behind the payload of a peer's frames. */
static inline uint32_t vk_fit_tag(const struct vk_run *run, uint32_t peer)
{
	return run->peers[peer].cipher ? VK_TAG_SIZE : 0;
}

/* vk_fit_token returns the bytes of the token on a class's frames to a peer. */
static inline uint32_t vk_fit_token(const struct vk_run *run, uint32_t peer, uint32_t class)
{
	return run->peers[peer].token_classes & 1u << class ? VK_TOKEN_BYTES : 0;
}

/* vk_fit_payload returns the bytes of a peer's next datagram, at most, without tag and token. */
static inline uint32_t vk_fit_payload(const struct vk_run *run, uint32_t peer)
{
	uint32_t max = run->peers[peer].payload_max;

	if (run->sessions[peer])
		max = run->sessions[peer]->mtu.size;
	else if (max > VK_MTU_BASE_SIZE)
		max = VK_MTU_BASE_SIZE;
	return max - vk_fit_tag(run, peer) - (run->peers[peer].token_classes ? VK_TOKEN_BYTES : 0);
}

/* vk_fit_bound lets a session follow its peer's row. */
void vk_fit_bound(struct vk_run *run, struct vk_session *session);

/* vk_fit_acked and vk_fit_lost take the fate of a packet. */
void vk_fit_acked(struct vk_run *run, struct vk_session *session,
		  const struct vk_sent_packet *packet);
void vk_fit_lost(struct vk_run *run, struct vk_session *session,
		 const struct vk_sent_packet *packet);

/* vk_fit_probe sends the probe that is due. */
void vk_fit_probe(struct vk_run *run, struct vk_session *session);
#endif
