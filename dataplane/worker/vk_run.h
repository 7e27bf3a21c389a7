/* SPDX-License-Identifier: MIT */
#ifndef VK_RUN_H
#define VK_RUN_H
/* vk_run.h: the private state of a running worker, and the small things its parts share. One
 * thread; nothing here is seen by another process.
 */
#include "vk_channel.h"
#include "vk_frame.h"
#include "vk_lanes.h"
#include "vk_ledger.h"
#include "vk_peer_index.h"
#include "vk_schedule.h"
#include "vk_sequences.h"
#include "vk_shards.h"
#include "vk_spin.h"
#include "vk_timers.h"
#include "vk_wake.h"
#include "vk_window.h"
#include "vk_worker.h"

#include <stddef.h>

enum vk_run_const {
	VK_REPLIES_MAX = 512, /* control frames waiting to be sent */
	VK_NO_FLOW = 0xffffffff,
	VK_LEASE_NS = 2000000000, /* a daemon silent for longer is gone */
	VK_URGENT_NS = 100000000, /* how long one critical message keeps turns short */
	VK_PRESSING_NS = 1000000, /* how long it makes them shorter still */
	VK_TICK_NS = 100000000, /* heartbeat and time-outs */
};

/* All records of a ring before a position are messages of one stream, those from its head on. */
struct vk_behind {
	uint64_t position;
	uint32_t flow;
};

/* An attached application. */
struct vk_run_slot {
	uint32_t attached;
	uint32_t generation;
	struct vk_region *self; /* region D */
	const struct vk_region *peer; /* region A, the application's: never trusted */
	uint32_t capacity[VK_RINGS_MAX];
	struct vk_tx out[VK_CLASS_COUNT]; /* to the application */
	struct vk_rx
		in[VK_CLASS_COUNT]; /* from the application; head: the next record to look at */
	struct vk_ledger ledgers[VK_CLASS_COUNT]; /* of `in`: what is sent and not yet released */
	struct vk_lanes lanes[VK_CLASS_COUNT]; /* who of those that hold records may send */
	uint32_t published; /* bit class: out has records that are not published */
	uint32_t consumed; /* bit class: in may have records to release */
	uint32_t ends; /* bit class: out has no room for the ends of streams */
	uint32_t stuck; /* bit class: records are not looked at before something changes */
	uint32_t stays; /* bit class: likewise those of `behind`, but not what comes after them */
	uint32_t rang;
	uint32_t sleeps;
	int bell_app;
	int bell_worker;
	struct vk_app policy; /* private copy of the row */
	struct vk_meter messages;
	struct vk_meter bytes;
	struct vk_behind behind[VK_CLASS_COUNT]; /* what lies in `in` */
	uint32_t some_peer; /* + 1: that it has or had a stream with */
	uint32_t many_peers; /* there is another, or will be: a slow one must not keep it waiting */
	uint32_t some_stream[VK_CLASS_COUNT]; /* + 1: that it has or had, by its flow */
	uint32_t many_streams; /* bit class: there is another, likewise */
	uint32_t tell_first; /* flow + 1 of the list of those whose limit it is to be told */
	uint32_t tell_last;
	uint32_t end_first[VK_CLASS_COUNT]; /* flow + 1 of the lists of those whose end it has to
					     * hear of */
	uint32_t end_last[VK_CLASS_COUNT];
	uint64_t leaving_ns; /* it leaves, at the latest then; 0 = it stays */
	uint64_t promised[VK_CLASS_COUNT]; /* bytes beyond the starts of its streams */
};

/* What a worker knows of a flow besides its row. Two lines: messages need the first. */
struct vk_flow_run {
	uint32_t held_first; /* entries of its ring's ledger that wait to be sent, in order */
	uint32_t held_last;
	uint32_t held_count;
	uint32_t unacked; /* its entries that are not done */
	uint64_t held_bytes; /* of their records' bodies */
	uint64_t since_ns; /* when the first of them became the first */
	uint64_t landed; /* bytes of messages of which more is missing */
	uint32_t owe_next; /* flow + 1 behind it in its session's list */
	uint32_t code; /* enum vk_code of the reset it owes */
	uint8_t ready; /* it is in a lane */
	uint8_t owing;
	uint8_t owes; /* enum vk_owe */
	uint8_t closing; /* its application closed it: no message comes behind */
	uint8_t pooled; /* the peer never told a limit of it */
	uint8_t telling; /* it is in its slot's list */
	uint8_t counted; /* in its pool's streams */
	uint8_t ending; /* in its pool's ending, too */
	uint8_t waiting; /* it is in its pool's list */
	uint32_t tell_next; /* flow + 1 behind it in its slot's list */
	uint32_t wait_next; /* flow + 1 behind it in its pool's */
	uint32_t quiet; /* bytes consumed that its peer knows nothing of */
	uint32_t end_next; /* flow + 1 behind it in its slot's list of ends */
	uint64_t taken; /* bytes, from its pool */
	uint64_t promised; /* bytes that may come beyond its start */
	struct vk_window window;
	uint64_t undelivered; /* of that, of messages that only wait for room in their ring */
};

_Static_assert(sizeof(struct vk_flow_run) == 2 * VK_LINE, "a flow is two lines");

/* What streams with a peer may be sent before their first limits, and are promised beyond. */
struct vk_pool {
	uint64_t taken; /* bytes */
	uint64_t app_taken[VK_APPS_MAX]; /* of these */
	uint64_t promised; /* bytes, by us */
	uint64_t quiet; /* bytes consumed here that the peer knows nothing of */
	uint64_t held; /* bytes of records that streams to it hold */
	uint32_t first; /* flow + 1 of the list of those that wait for the pool */
	uint32_t last;
	uint32_t streams; /* open with it, as far as we can know that it knows */
	uint32_t ending; /* of these, those that it may have forgotten already */
	uint32_t gaps; /* rows of vk_run.gaps that streams with it have */
};

/* A flow whose both directions have ended. */
struct vk_linger {
	uint32_t flow;
	uint32_t generation;
	uint64_t due_ns;
};

struct vk_lingering {
	struct vk_linger *rows; /* ring of mask + 1, by time */
	uint32_t mask;
	uint32_t first;
	uint32_t next;
};

/* A control frame to send that nobody waits for: answers to PING and to what is not known. */
struct vk_reply {
	uint8_t type;
	uint8_t class;
	uint16_t pad;
	uint32_t peer;
	uint32_t stream;
	uint32_t correlation;
	uint32_t code;
};

struct vk_session;

/* The datagram being built; one at a time. */
struct vk_datagram {
	struct vk_path *path;
	uint8_t *data; /* behind the room of a token; NULL = none is open */
	uint32_t lead; /* bytes of that room */
	uint32_t used; /* bytes, without it */
	uint32_t limit; /* bytes, without it */
	uint32_t inner; /* frames of the run */
	uint32_t peer;
	uint32_t class;
	uint32_t stream; /* of the first inner frame */
	uint8_t priority; /* highest inside */
	uint8_t eliciting; /* the peer has to acknowledge it */
	uint8_t alike; /* a message may go on like the last one, whose head this is: */
	uint8_t head[VK_MESSAGE_HEAD];
	struct vk_session *session;
	uint32_t run_count;
	struct vk_sent_run runs[VK_SENT_RUNS_MAX]; /* what it carries */
};

/* The message that the records behind it in its ring are compared with. */
struct vk_burst {
	struct vk_flow *flow; /* NULL = none */
	struct vk_message like;
};

struct vk_reassembly;

struct vk_run {
	struct vk_boot *boot;
	const struct vk_state *state;
	struct vk_work *work;
	struct vk_counters *counters;
	uint64_t now_ns; /* CLOCK_MONOTONIC, once a turn */
	uint64_t came_ns; /* when the frame came that is being received; not after now_ns */
	uint64_t real_ns; /* CLOCK_REALTIME, once a turn */
	uint64_t tick_ns; /* when the next tick is due */
	struct vk_params params; /* clamped copy */
	struct vk_path *rx[VK_PORTS_MAX];
	struct vk_path *tx[VK_PORTS_MAX];
	struct vk_peer *peers; /* private copies, VK_PEERS_MAX */
	uint32_t peer_epoch;
	uint32_t peer_count; /* no peer has a row from here on */
	struct vk_peer_index peer_index; /* live ones */
	uint32_t peers_left; /* rows to be looked at, whether or not they have changed: ... */
	uint32_t peers_next; /* ... from here on, all around */
	uint32_t last_flow;
	uint32_t flow_high; /* no live flow at or above */
	uint32_t flow_deleted; /* tombstones in the index */
	struct vk_run_slot slots[VK_APPS_MAX];
	struct vk_schedule schedule; /* its apps are the attached slots */
	uint64_t due_ns; /* when a rate lets something go */
	struct vk_reply replies[VK_REPLIES_MAX];
	uint32_t reply_count;
	uint64_t reset_due_ns; /* no reset to unknown streams before */
	struct vk_datagram datagram;
	struct vk_burst burst;
	uint64_t path_full; /* bit port: the kernel takes no more this turn */
	uint32_t refused; /* enum vk_blocked: why the last part could not go */
	struct vk_session *sessions[VK_PEERS_MAX]; /* NULL = none yet */
	struct vk_session *acking; /* whose acknowledgement or time-out is being handled */
	struct vk_sent_run acked; /* shards of it that are not noted yet, as one; or of no kind */
	struct vk_timers timers; /* by peer */
	uint32_t active[VK_PEERS_MAX]; /* peers that have a session here */
	uint32_t active_count;
	uint32_t signals_next; /* whose signals are written next, of these */
	uint32_t touched[VK_PEERS_MAX]; /* sessions that something came or went for this turn */
	uint32_t touched_count;
	uint32_t busy[VK_PEERS_MAX]; /* sessions with something to send besides new messages */
	uint32_t busy_count;
	struct vk_flow_run *flows; /* VK_FLOWS_MAX, beside the rows in vk_work */
	struct vk_window_rule windows[VK_CLASS_COUNT];
	struct vk_pool *pools; /* VK_PEERS_MAX */
	uint64_t promised; /* bytes beyond the starts of all streams */
	struct vk_sequence_pool gaps;
	struct vk_other *rekeyed_first; /* of sessions that were made anew, the oldest first */
	struct vk_other *rekeyed_last;
	struct vk_lingering lingering;
	struct vk_shard_table shards;
	uint64_t random; /* state of a generator: nothing secret comes from it */
	uint64_t elsewhere_due_ns; /* no word of a peer's new address before */
	uint64_t want_due_ns[VK_PEERS_MAX]; /* no word that it is wanted before */
	uint64_t refuse_due_ns[VK_PEERS_MAX]; /* no answer to unknown sessions before */
	struct vk_reassembly *reassembly;
	int stopping;
	uint32_t leaving; /* applications that leave */
	uint64_t critical_ns; /* when a critical message last came or went */
	uint64_t turn_sum_ns; /* of the turns since the last tick that had something to do */
	uint64_t turn_max_ns;
	uint32_t turn_count;
	int turn_busy; /* the last turn had */
	int consumers_behind; /* a ring to an application is more than half full */
	uint8_t opened[UINT16_MAX]; /* payload of the sealed frame that is being handled */
	struct vk_spin spin; /* how long an idle worker polls */
	struct vk_wake wake;
};

/* vk_count_row returns the counters of a class, by enum vk_counter. */
static inline uint64_t *vk_count_row(struct vk_run *run, uint32_t class)
{
	return run->counters->classes[class];
}

/* vk_urgent says whether critical messages are about: turns are short then, because each waits for
 * up to one turn on either side. */
static inline int vk_urgent(const struct vk_run *run)
{
	return run->now_ns - run->critical_ns < VK_URGENT_NS;
}

/* vk_pressing says whether one came or went just now: the next one may be right behind. */
static inline int vk_pressing(const struct vk_run *run)
{
	return run->now_ns - run->critical_ns < VK_PRESSING_NS;
}

/* vk_reply_put queues a control frame; when the queue is full the peer's retry asks again. */
static inline void vk_reply_put(struct vk_run *run, struct vk_reply reply)
{
	if (run->reply_count < VK_REPLIES_MAX)
		run->replies[run->reply_count++] = reply;
}
#endif
