/* SPDX-License-Identifier: MIT */
#ifndef VK_LAB_WORLD_H
#define VK_LAB_WORLD_H
/* vk_lab_world.h: the private state of a lab, and what its parts do for each other:
 *
 *   vk_lab.c          scenario, events by time, faults
 *   vk_lab_wire.c     packets under way
 *   vk_lab_node.c     a node's memory, its engine, the death of both
 *   vk_lab_daemon.c   what a node's daemon would write: peers, parameters
 *   vk_lab_app.c      an application: reads its rings, consumes
 *   vk_lab_send.c     and sends what its traffics want
 *   vk_lab_stream.c   streams as applications know them, and what may arrive on them
 *   vk_lab_check.c    what has to hold, all the time and in the end
 */
#include "vk_heap.h"
#include "vk_lab.h"
#include "vk_path_sim.h"

struct vk_run;
struct vk_boot;
struct vk_client;
struct vk_lab;

enum vk_lab_world_const {
	VK_LAB_NO_STREAM = 0xffffffff,
	VK_LAB_OPENER = 0, /* ends of a stream */
	VK_LAB_ACCEPTOR = 1,
};

enum vk_lab_end_state {
	VK_LAB_END_NONE = 0,
	VK_LAB_END_OPENING = 1, /* OPEN is in the ring */
	VK_LAB_END_OPEN = 2,
	VK_LAB_END_CLOSED = 3, /* CLOSE is in the ring: nothing more is sent */
};

/* One side of a stream. */
enum vk_lab_part {
	VK_LAB_PART_SIZE = 0xffffff,
	VK_LAB_PART_CODE = 24, /* enum vk_fragment from this bit on */
};

struct vk_lab_end {
	uint64_t key; /* of what this side sends */
	uint32_t attachment; /* generation of the application that has it, or is to have it */
	uint32_t flow;
	uint32_t generation;
	uint32_t state; /* enum vk_lab_end_state */
	uint32_t sent; /* messages that the ring took, or fragments of large ones */
	uint32_t want; /* whole messages to send, as far as known */
	uint32_t whole; /* of these, so many the ring took */
	uint32_t left; /* bytes of the one that was begun */
	uint32_t *parts; /* by sequence: bytes, and VK_LAB_PART_*; NULL = no message is large */
	uint32_t came; /* different messages, or fragments, that arrived */
	uint32_t taken; /* of these, in order where that is promised */
	uint32_t answerable; /* whole messages that were taken */
	uint32_t total; /* messages there are, by the peer's CLOSE; UINT32_MAX = not known */
	uint32_t seen_count; /* bits in seen */
	uint64_t *seen; /* bit = sequence has arrived */
	uint64_t *sent_ns; /* by sequence, when the scenario is timed */
	uint64_t spent; /* cost of what the ring took */
	uint64_t limit; /* of it; 0 = none was told */
	uint64_t arrived_cost; /* as windows count */
	uint64_t consumed_cost;
	uint64_t reported_cost;
	uint64_t due_ns; /* of the next burst */
	uint8_t queued; /* in its application's list of senders */
	uint8_t consuming; /* in its application's list of consumers */
	uint8_t flushing; /* 1: FLUSH is in the ring, 2: answered */
};

struct vk_lab_stream {
	uint32_t traffic;
	uint32_t id; /* on the wire */
	uint32_t broken; /* enum vk_code of its RESET */
	uint32_t finished; /* both closed, everything there */
	uint32_t orphan; /* the application at side orphan - 1 has died: the other hears of it */
	uint64_t retry_ns; /* when OPEN is put again */
	struct vk_lab_end ends[2];
};

/* A list of streams' ends: stream * 2 + side. */
struct vk_lab_list {
	uint32_t *refs;
	uint32_t count;
	uint32_t capacity;
};

struct vk_lab_app_run {
	struct vk_lab *lab;
	const struct vk_lab_app *config;
	uint32_t number;
	uint32_t slot; /* of its node */
	uint32_t generation;
	struct vk_client *client; /* NULL = not attached */
	const struct vk_region *region; /* D */
	uint64_t seen_tail[VK_RINGS_MAX]; /* of region D when it last ran */
	uint64_t seen_head[VK_RINGS_MAX];
	struct vk_heap senders; /* ends with something to send, by time */
	struct vk_lab_list blocked[VK_CLASS_COUNT]; /* ends that wait for room in a ring */
	struct vk_lab_list consumers; /* ends with something to consume */
	struct vk_lab_list opening;
	uint64_t consumed_ns; /* until when consumption is accounted for */
	uint32_t frozen;
	uint32_t holding;
	uint32_t leaving; /* as soon as its streams are over */
	uint32_t returning; /* another one attaches when the slot is free */
	uint32_t rung; /* it told its worker something in this run */
};

struct vk_lab_node_run {
	struct vk_lab *lab;
	const struct vk_lab_node *config;
	uint32_t number;
	struct vk_sim_kernel kernel;
	struct vk_boot *boot;
	struct vk_state *state;
	struct vk_work *work;
	struct vk_counters *counters;
	struct vk_secrets *secrets;
	struct vk_run *run; /* NULL = no worker */
	uint64_t busy_ns; /* its last turn ends */
	uint64_t begun_ns; /* its worker read the clock and stands still since; 0 = it does not */
	uint64_t incarnation; /* of the node: another one has forgotten everything */
	uint64_t renewals; /* of its sessions */
	uint64_t address; /* low byte of it, and of its port, as others see it */
	uint32_t *flows; /* flow -> stream * 2 + side + 1 */
	uint32_t apps[VK_APPS_MAX]; /* slot -> app + 1 */
	uint32_t killed; /* workers that died */
	uint32_t leaving; /* its worker leaves at a clean boundary */
	uint64_t start_ns; /* the next worker, or the node, begins then; 0 = none is waited for */
	uint32_t recover; /* the last worker died */
	uint32_t down; /* the node itself is away */
	uint64_t promised; /* by its worker, of its budget, when it was looked at last */
	uint64_t partial; /* bytes of messages that are still incomplete, likewise */
	void *death; /* jmp_buf of the turn that its worker dies in */
};

/* A link and what is under way on it. */
struct vk_lab_wire {
	struct vk_link link;
	struct vk_sim_packet **ring; /* in order of arrival */
	uint32_t mask;
	uint32_t first;
	uint32_t next;
	struct vk_heap late; /* those that others overtake */
};

struct vk_lab_traffic_run {
	uint32_t opened;
	uint32_t live;
	uint32_t next_id; /* offset into the ids */
};

struct vk_lab {
	struct vk_lab_scenario scenario;
	struct vk_lab_report report;
	uint64_t now_ns; /* CLOCK_MONOTONIC of all nodes */
	uint64_t order; /* of the next packet */
	struct vk_random random;
	struct vk_sim_pool pool;
	struct vk_lab_node_run nodes[VK_LAB_NODES_MAX];
	struct vk_lab_app_run apps[VK_LAB_APPS_MAX];
	struct vk_lab_wire wires[VK_LAB_LINKS_MAX];
	struct vk_lab_traffic_run traffics[VK_LAB_TRAFFICS_MAX];
	uint64_t wire_ns[VK_LAB_LINKS_MAX]; /* next events */
	uint64_t node_ns[VK_LAB_NODES_MAX];
	uint64_t app_ns[VK_LAB_APPS_MAX];
	uint64_t rows_ns[VK_LAB_NODES_MAX]; /* when the others' daemons learn of a node */
	uint32_t fault_next;
	uint32_t ended;
	uint64_t ended_ns; /* when everything had come */
	uint64_t sampled_ns;
	struct vk_lab_stream *streams;
	uint32_t stream_count;
	uint32_t stream_capacity;
	uint64_t unfinished; /* streams under way or to come */
	struct vk_sim_packet **recorded; /* copies of what arrived, ring; NULL = nobody listens */
	uint32_t recorded_next;
	struct vk_lab_sample *samples;
	uint32_t sample_count;
	uint32_t sample_capacity;
	struct vk_lab_report sampled; /* at the last sample */
	uint8_t *content; /* of the message being made or compared */
	char failures[VK_LAB_FAILURES_SIZE];
	uint32_t failures_used;
};

extern const uint64_t vk_lab_start_ns; /* what clocks show at the beginning */

/* vk_lab_wire_replay delivers what was recorded for a node once more, the last `most` of it. */
void vk_lab_wire_replay(struct vk_lab *lab, uint32_t node, uint64_t most);

/* vk_lab_wire_listen begins to record what arrives. Returns 0, or -ENOMEM. */
int vk_lab_wire_listen(struct vk_lab *lab);

/* vk_lab_wire_forget gives what was recorded back. */
void vk_lab_wire_forget(struct vk_lab *lab);

/* vk_lab_session returns the session id that one node gives another for its frames. */
uint32_t vk_lab_session(const struct vk_lab_node_run *from, const struct vk_lab_node_run *to);

/* vk_lab_keys enters the keys of a session, beside those of the one before; returns which row has
 * them. */
uint8_t vk_lab_keys(const struct vk_lab_node_run *node, const struct vk_lab_node_run *other,
		    uint32_t session);

/* vk_lab_keys_look renews the sessions of a node before their keys are used up. */
void vk_lab_keys_look(struct vk_lab *lab, uint32_t number);

/* vk_lab_fail notes that something is wrong. */
void vk_lab_fail(struct vk_lab *lab, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* vk_lab_note adds to the digest. */
static inline void vk_lab_note(struct vk_lab *lab, uint64_t value)
{
	lab->report.digest = vk_random_mix(lab->report.digest + 0x9e3779b97f4a7c15u + value);
}

/* vk_lab_wake_node and vk_lab_wake_app let one run at a time, or earlier. */
void vk_lab_wake_node(struct vk_lab *lab, uint32_t node, uint64_t at_ns);
void vk_lab_wake_app(struct vk_lab *lab, uint32_t app, uint64_t at_ns);

/* vk_lab_list_add returns 0 without memory. */
int vk_lab_list_add(struct vk_lab_list *list, uint32_t ref);

/* ---- vk_lab_wire.c ---- */

/* vk_lab_wire_deliver lets everything arrive that is due on a wire. */
void vk_lab_wire_deliver(struct vk_lab *lab, uint32_t wire);

/* vk_lab_wire_empty loses everything under way on it. */
void vk_lab_wire_empty(struct vk_lab *lab, uint32_t wire);

/* vk_lab_transmit puts a packet on the link from a node to a peer. vk_lab_ready says whether the
 * node's interface takes it. context: struct vk_lab_node_run. */
void vk_lab_transmit(void *context, const struct vk_peer *peer, struct vk_sim_packet *packet);
int vk_lab_ready(void *context, const struct vk_peer *peer);

/* ---- vk_lab_node.c ---- */

/* vk_lab_node_open makes a node's memory anew and starts its first worker. Returns 0 or -errno. */
int vk_lab_node_open(struct vk_lab *lab, uint32_t node);

/* vk_lab_node_close takes everything back but its memory, which the next open uses again. */
void vk_lab_node_close(struct vk_lab *lab, uint32_t node);

/* vk_lab_node_free gives the memory back. */
void vk_lab_node_free(struct vk_lab *lab, uint32_t node);

/* vk_lab_node_start starts a worker; recover: the last one died. Returns 0 or -errno. */
int vk_lab_node_start(struct vk_lab *lab, uint32_t node, int recover);

/* vk_lab_node_kill forgets a worker as kill -9 would. */
void vk_lab_node_kill(struct vk_lab *lab, uint32_t node);

/* vk_lab_node_doom lets it die in a turn, when it uses its path for the calls-th time. */
void vk_lab_node_doom(struct vk_lab *lab, uint32_t node, uint32_t calls);

/* vk_lab_node_turn takes a turn and says when the next is due; or a worker or the node begins. */
void vk_lab_node_turn(struct vk_lab *lab, uint32_t node);

/* vk_lab_node_forget loses everything a node knew; its applications are gone with it. */
void vk_lab_node_forget(struct vk_lab *lab, uint32_t node);

/* vk_lab_node_come_up lets it begin anew, with its applications. Returns 0 or -errno. */
int vk_lab_node_come_up(struct vk_lab *lab, uint32_t node);

/* vk_lab_node_withdraw takes an application's service away. */
void vk_lab_node_withdraw(struct vk_lab *lab, uint32_t app);

/* vk_lab_node_detach ends an application's attachment. */
void vk_lab_node_detach(struct vk_lab *lab, uint32_t app);

/* vk_lab_node_attach gives an application a slot and rings. Returns 0 or -errno. */
int vk_lab_node_attach(struct vk_lab *lab, uint32_t app);

/* vk_lab_node_sample fills in what a node's session with a peer shows. */
void vk_lab_node_sample(struct vk_lab *lab, uint32_t node, uint32_t peer,
			struct vk_lab_sample *sample);

/* ---- vk_lab_daemon.c ---- */

/* vk_lab_daemon_learn writes what others know of a node into their peer rows: its address, and
 * which incarnation of it lives. */
void vk_lab_daemon_learn(struct vk_lab *lab, uint32_t node);

/* vk_lab_daemon_renew gives a node new sessions; the others know at known_ns. */
void vk_lab_daemon_renew(struct vk_lab *lab, uint32_t node, uint64_t known_ns);

/* vk_lab_daemon_tune has a node's worker and all its sessions go by other parameters. */
void vk_lab_daemon_tune(struct vk_state *state, const struct vk_params *params,
			const struct vk_tuning *tuning);

/* ---- vk_lab_app.c ---- */

/* vk_lab_app_connect maps an application's regions. Returns 0 or -errno. */
int vk_lab_app_connect(struct vk_lab_app_run *app, int region_d, int region_a);

/* vk_lab_app_leave unmaps them. */
void vk_lab_app_leave(struct vk_lab_app_run *app);

/* vk_lab_app_end breaks the streams of an application. */
void vk_lab_app_end(struct vk_lab_app_run *app);

/* vk_lab_app_die leaves its streams to those at their other ends, who have to hear of it. Its
 * successor opens them anew; without one nobody opens more. */
void vk_lab_app_die(struct vk_lab_app_run *app);

/* vk_lab_app_returns says whether another one attaches later. */
int vk_lab_app_returns(const struct vk_lab_app_run *app);

/* vk_lab_app_run lets an application do what there is to do now. */
void vk_lab_app_run(struct vk_lab_app_run *app);

/* vk_lab_app_news says whether its worker has told it something since it last ran. */
int vk_lab_app_news(struct vk_lab_app_run *app);

/* ---- vk_lab_stream.c ---- */

/* vk_lab_stream_new makes the next stream of a traffic; its index, or VK_LAB_NO_STREAM. */
uint32_t vk_lab_stream_new(struct vk_lab *lab, uint32_t traffic);

/* vk_lab_streams_free gives all streams' memory back. */
void vk_lab_streams_free(struct vk_lab *lab);

/* vk_lab_message_size returns the bytes of a message of a stream's end. */
uint32_t vk_lab_message_size(const struct vk_lab *lab, const struct vk_lab_stream *stream,
			     uint32_t side, uint32_t sequence);

/* vk_lab_message_fill writes the content of a message. */
void vk_lab_message_fill(const struct vk_lab_stream *stream, uint32_t side, uint32_t sequence,
			 uint8_t *to, uint32_t size);

/* vk_lab_message_came checks a message that arrived at an end. Returns whether it is new. */
int vk_lab_message_came(struct vk_lab *lab, uint32_t ref, uint32_t sequence, const uint8_t *data,
			uint32_t size, uint32_t code);

/* vk_lab_stream_orphan notes that the application at a side of it has died. */
void vk_lab_stream_orphan(struct vk_lab *lab, uint32_t stream, uint32_t side);

/* vk_lab_stream_settle looks whether a stream is finished. */
void vk_lab_stream_settle(struct vk_lab *lab, uint32_t stream);

/* vk_lab_stream_break notes that a stream was reset. */
void vk_lab_stream_break(struct vk_lab *lab, uint32_t stream, uint32_t code);

/* vk_lab_promised says whether all messages of a stream have to arrive. */
int vk_lab_promised(const struct vk_lab *lab, const struct vk_lab_stream *stream);

/* ---- vk_lab_check.c ---- */

/* vk_lab_check looks at counters, streams and links when everything is over. */
void vk_lab_check(struct vk_lab *lab);

/* vk_lab_check_budget looks, behind a turn of a node's worker, at what its memory is bound to. */
void vk_lab_check_budget(struct vk_lab *lab, uint32_t node);
#endif
