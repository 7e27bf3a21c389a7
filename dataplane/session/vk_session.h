/* SPDX-License-Identifier: MIT */
#ifndef VK_SESSION_H
#define VK_SESSION_H
/* vk_session.h: what joins this node to a peer while both live: packet numbers, acknowledgements,
 * recovery, congestion, and what is owed to the peer. Private to the worker; a new worker begins
 * with what it finds in vk_work. Time is an argument (run->now_ns).
 */
#include "vk_datagram.h"
#include "vk_keyring.h"
#include "vk_mtu.h"
#include "vk_received.h"
#include "vk_recovery.h"
#include "vk_resend.h"
#include "vk_run.h"

enum vk_session_const {
	/* RFC 9000, 13.2.2: "A receiver SHOULD send an ACK frame after receiving at least two
	 * ack-eliciting packets." A turn takes many packets and answers them together. */
	VK_ACK_EVERY = 2,
	VK_URGENT_RESERVE = 65536, /* bytes critical and system may send over the window */
	VK_SKIP_MEAN = 512, /* packets between two numbers that are left out */
	VK_REFUSED_RANGES = 16,
};

/* What a flow owes its peer, sent until it is acknowledged. */
enum vk_owe {
	VK_OWE_ACCEPT = 1, /* the answer to STREAM_OPEN */
	VK_OWE_RESET = 2,
	VK_OWE_CREDIT = 4,
};

/* Numbers of packets that came and were not taken, highest first; of more ranges than there is room
 * for the lowest are one, with what is in between. */
struct vk_refusals {
	uint32_t count;
	struct vk_range ranges[VK_REFUSED_RANGES];
};

/* What each frame that comes reads lies in as few lines as can be: of many sessions none is in a
 * cache. These are the first two, at times the third, and one of the frame's space. */
struct vk_session {
	uint32_t peer;
	uint32_t active; /* place in run->active */
	uint32_t id; /* on the frames that the peer sends */
	uint16_t udp_port; /* that it sends from */
	uint8_t touched; /* in run->touched: something came or went in this turn */
	uint8_t busy; /* in run->busy: something besides new messages waits to be sent */
	struct vk_other *other; /* keys that are taken besides; NULL = there are none */
	uint32_t ack_stream[VK_SPACE_COUNT]; /* whose class acknowledgements of a space take */
	uint32_t probes; /* packets to send though the window is full */
	struct vk_keyring keyring;
	_Alignas(VK_LINE) struct vk_received received[VK_SPACE_COUNT];
	struct vk_received refused[VK_SPACE_COUNT]; /* what the peer is to be told of */
	struct vk_refusals refusals[VK_SPACE_COUNT]; /* what is not to be taken any more */
	struct vk_recovery recovery;
	struct vk_mtu mtu;
	uint64_t skip[VK_SPACE_COUNT]; /* next packet number to leave out */
	struct vk_resend resend[VK_CLASS_COUNT];
	uint32_t owing_first; /* flow + 1 of the list of those that owe something */
	uint32_t owing_last;
	uint32_t probe_space;
	uint8_t waiting; /* something waits for the window or the pacer */
	uint8_t creditless; /* a stream waits for the peer's credit */
	uint8_t aggregate; /* small messages share datagrams */
	uint8_t window_limited; /* what held it back when it was last looked at */
	uint8_t credit_limited;
	uint32_t tuning; /* version of vk_tuning in force */
	uint32_t mtu_max; /* bytes of UDP payload, by its tuning */
	uint64_t stream_min; /* bounds of its streams' windows, by its tuning; 0 = the class's */
	uint64_t stream_max;
	uint64_t ack_delay_ns; /* how long an acknowledgement may wait for company */
	uint64_t began_ns;
	uint64_t looked_ns;
	uint64_t window_limited_ns; /* time that the window held it back, in all */
	uint64_t credit_limited_ns;
};

/* vk_session_prefetch begins to fetch what receiving frames of a space reads of a session. */
static inline void vk_session_prefetch(const struct vk_session *session, uint32_t space)
{
	const uint8_t *at = (const uint8_t *)session;

	__builtin_prefetch(at, 1);
	__builtin_prefetch(at + VK_LINE);
	__builtin_prefetch(at + 2 * VK_LINE);
	__builtin_prefetch(&session->received[space], 1);
}

/* vk_session_random draws a number below limit, of which nothing secret may come. */
uint32_t vk_session_random(struct vk_run *run, uint32_t limit);

/* vk_session_of returns the session with a peer, made if need be; NULL while the peer has not
 * joined, or without memory. */
struct vk_session *vk_session_of(struct vk_run *run, uint32_t peer);

/* vk_session_forget ends it: nothing in flight is waited for. Streams are the caller's affair. */
void vk_session_forget(struct vk_run *run, uint32_t peer);

/* vk_session_touch lets the end of the turn look at a session's acknowledgements and timers. */
void vk_session_touch(struct vk_run *run, struct vk_session *session);

/* vk_session_room says whether a packet may be sent now, and noted; urgent: one that may use the
 * reserve. Critical packets have a room of their own: what nobody reads keeps no other class
 * waiting. */
int vk_session_room(struct vk_run *run, struct vk_session *session, uint32_t class, int urgent);

/* vk_session_number takes the next packet number of a space. Stored before the frame can leave: a
 * number is never used twice, not even by the worker that follows a crash. */
uint64_t vk_session_number(struct vk_run *run, struct vk_session *session, uint32_t space);

/* vk_session_numbers returns how many numbers of a space are taken before one is left out. */
static inline uint64_t vk_session_numbers(const struct vk_run *run,
					  const struct vk_session *session, uint32_t space)
{
	return session->skip[space] - run->work->packets[session->peer].tx_number[space];
}

/* vk_session_owe notes that a flow owes its peer something (enum vk_owe bits). */
void vk_session_owe(struct vk_run *run, struct vk_flow *flow, uint32_t bits);

/* vk_session_feedback writes the payload of a STREAM_ACK about a space: ranges, and limits of flows
 * that owe them; *credit says which (kind VK_CONTENT_NONE: there are none). Returns its bytes. */
uint32_t vk_session_feedback(struct vk_run *run, struct vk_session *session, uint32_t space,
			     uint8_t *at, uint32_t room, struct vk_sent_run *credit);

/* vk_session_ack sends what `received` of a space says, with enum vk_ack_flag bits of `flags`; 0:
 * it cannot go now, and waits as before. */
int vk_session_ack(struct vk_run *run, struct vk_session *session, uint32_t space,
		   struct vk_received *received, uint8_t flags);

/* vk_session_acked takes a STREAM_ACK in; returns how many limits it brought, or -EPROTO and
 * -EBADMSG when it cannot be, -EAGAIN when one has to be told again. */
int vk_session_acked(struct vk_run *run, struct vk_session *session, const struct vk_frame *frame);

/* vk_session_lost puts content back into what has to be sent. */
void vk_session_lost(struct vk_run *run, struct vk_session *session,
		     const struct vk_sent_run *lost);

/* vk_session_send_all sends what is due besides new messages: lost content, probes, and what flows
 * owe. */
void vk_session_send_all(struct vk_run *run);

/* vk_session_end_turn sends the acknowledgements that are due and sets the timers. */
void vk_session_end_turn(struct vk_run *run);

/* vk_session_expire handles the timers that are due. */
void vk_session_expire(struct vk_run *run);
#endif
