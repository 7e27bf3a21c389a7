/* SPDX-License-Identifier: MIT */
#ifndef VK_RECOVERY_H
#define VK_RECOVERY_H
/* vk_recovery.h: what of the packets of a session arrived, and what did not (RFC 9002), over its
 * three spaces, with the controller of how much may fly. Sans-IO; time is an argument (ns). What
 * packets carry is the caller's: it is told what was acknowledged and what is lost.
 */
#include "vk_congestion.h"
#include "vk_pacer.h"
#include "vk_received.h"
#include "vk_rtt.h"
#include "vk_sent.h"
#include "vk_wire.h"

struct vk_recovery_params {
	uint64_t max_ack_delay_ns; /* the peer's; 0 = 1 ms */
	uint64_t granularity_ns; /* kGranularity; 0 = 100 us: our clock is better than 1 ms */
	enum vk_controller controller;
	uint32_t datagram_size; /* bytes */
	uint32_t detect_loss; /* 0: never send anything again, a test's negative control */
};

struct vk_recovery_count {
	uint64_t sent; /* packets */
	uint64_t acked;
	uint64_t lost;
	uint64_t lost_bytes;
	uint64_t spurious; /* declared lost, and acknowledged after all */
	uint64_t timeouts; /* PTOs */
	uint64_t persistent;
	uint64_t marked; /* the peer told of more marks */
};

struct vk_recovery {
	struct vk_recovery_params params;
	struct vk_rtt rtt;
	struct vk_congestion congestion;
	struct vk_pacer pacer;
	struct vk_sent sent[VK_SPACE_COUNT];
	uint64_t in_flight; /* bytes, but for those of ... */
	uint64_t critical; /* bytes in flight of packets with VK_SENT_CRITICAL */
	uint64_t delivered; /* bytes acknowledged */
	uint64_t delivered_ns;
	uint64_t first_ns; /* when the newest packet acknowledged was sent */
	uint64_t held_ns; /* when window or pacer last kept something from being sent */
	uint32_t pto_count;
	uint32_t threshold; /* packets: adapts to reordering */
	uint32_t missed; /* packets of the last loss */
	uint32_t doubted; /* of them, those that were acknowledged after all */
	uint32_t unpaced; /* the controller's rate is not obeyed */
	struct vk_recovery_count count;
};

struct vk_recovery_events {
	void *context;
	void (*acked)(void *context, uint32_t space, struct vk_sent_packet *packet);
	void (*lost)(void *context, uint32_t space, struct vk_sent_packet *packet);
};

/* vk_recovery_init starts on a path of which nothing is known. */
void vk_recovery_init(struct vk_recovery *recovery, const struct vk_recovery_params *params,
		      uint64_t now_ns);

/* vk_recovery_free gives the memory back. */
void vk_recovery_free(struct vk_recovery *recovery);

/* vk_recovery_sent enters a packet that was handed to the path, for the caller to fill in what it
 * carries; NULL: too many are unsettled, or no memory. */
struct vk_sent_packet *vk_recovery_sent(struct vk_recovery *recovery, uint32_t space,
					uint64_t number, uint32_t size, uint32_t flags,
					uint64_t now_ns);

/* vk_recovery_sent_row enters count packets of one size with numbers from this one on, all sent
 * now, for the caller to fill in what each carries; 0: as NULL of vk_recovery_sent. */
int vk_recovery_sent_row(struct vk_recovery *recovery, uint32_t space, uint64_t number,
			 uint32_t count, uint32_t size, uint32_t flags, uint64_t now_ns);

/* vk_recovery_held notes that window or pacer keep something from being sent. What leaves when that
 * was not so for a round trip tells of the sender, not of the path: it had no more, or no credit,
 * or no time. */
static inline void vk_recovery_held(struct vk_recovery *recovery, uint64_t now_ns)
{
	recovery->held_ns = now_ns;
}

/* vk_recovery_skip notes a number that is never sent: who acknowledges it lies. */
void vk_recovery_skip(struct vk_recovery *recovery, uint32_t space, uint64_t number);

/* vk_recovery_issue notes that a number is in use, if only for a packet that nobody answers. */
static inline void vk_recovery_issue(struct vk_recovery *recovery, uint32_t space, uint64_t number)
{
	recovery->sent[space].issued = number + 1;
}

/* vk_recovery_quiet notes a packet that nobody answers: with what is answered its acknowledgement
 * tells of the path, too. */
static inline void vk_recovery_quiet(struct vk_recovery *recovery, uint32_t space, uint64_t number,
				     uint64_t now_ns)
{
	recovery->sent[space].quiet = number;
	recovery->sent[space].quiet_ns = now_ns;
}

/* vk_recovery_ack takes an acknowledgement with ranges, which this host had at came_ns, not after
 * now_ns: how long it then waited for us says nothing about the path. Returns 0, or -EPROTO when it
 * names what was never sent: nothing of it counts then. */
int vk_recovery_ack(struct vk_recovery *recovery, const struct vk_ack_view *ack, uint64_t came_ns,
		    uint64_t now_ns, const struct vk_recovery_events *events);

/* vk_recovery_refused takes word of packets that the peer got and did not take. They are lost, at
 * once, and congestion control hears nothing of it. As an acknowledgement would it tells what was
 * lost before them: there may be none for long. Arguments and result as of vk_recovery_ack. */
int vk_recovery_refused(struct vk_recovery *recovery, const struct vk_ack_view *ack,
			uint64_t came_ns, uint64_t now_ns, const struct vk_recovery_events *events);

/* vk_recovery_deadline returns when vk_recovery_expire is due, UINT64_MAX = not at all. */
uint64_t vk_recovery_deadline(const struct vk_recovery *recovery);

/* vk_recovery_expire handles a deadline. Returns how many probes to send (0..2) in *space. */
int vk_recovery_expire(struct vk_recovery *recovery, uint64_t now_ns,
		       const struct vk_recovery_events *events, uint32_t *space);

/* vk_recovery_pace lets packets leave at the controller's rate, or at any. */
static inline void vk_recovery_pace(struct vk_recovery *recovery, uint64_t now_ns)
{
	vk_pacer_rate(&recovery->pacer, recovery->unpaced ? 0 : recovery->congestion.pacing_rate,
		      now_ns);
}

/* vk_recovery_wait says, at the end of a turn, whether something is left that would be sent. */
static inline void vk_recovery_wait(struct vk_recovery *recovery, int waiting, uint64_t now_ns)
{
	vk_pacer_wait(&recovery->pacer,
		      waiting && recovery->in_flight < recovery->congestion.window, now_ns);
}

/* vk_recovery_room returns the bytes that may be sent now; 0 or less = none. */
static inline int64_t vk_recovery_room(const struct vk_recovery *recovery, uint64_t now_ns)
{
	int64_t room = (int64_t)recovery->congestion.window - (int64_t)recovery->in_flight;
	int64_t paced = vk_pacer_room(&recovery->pacer, now_ns);

	return paced < room ? paced : room;
}

/* vk_recovery_next_ns returns when the pacer lets the next packet go; UINT64_MAX = it does not
 * hold anything back, only an acknowledgement helps. */
static inline uint64_t vk_recovery_next_ns(const struct vk_recovery *recovery)
{
	if (recovery->in_flight >= recovery->congestion.window)
		return UINT64_MAX;
	return vk_pacer_next_ns(&recovery->pacer);
}
#endif
