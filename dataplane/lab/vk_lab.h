/* SPDX-License-Identifier: MIT */
#ifndef VK_LAB_H
#define VK_LAB_H
/* vk_lab.h: a network of whole engines under virtual time: two or more nodes with real rings, real
 * schedulers and applications on them, joined by vk_link.h. Everything follows from a scenario and
 * its seed. What the engines do is checked by what the applications see, and against what was put
 * on the links.
 *
 *   lab = vk_lab_new();  vk_lab_load(lab, &scenario) · vk_lab_run(lab) · read the report ...
 */
#include "vk_link.h"
#include "vk_counters.h"

enum vk_lab_const {
	VK_LAB_NODES_MAX = 8,
	VK_LAB_APPS_MAX = 16,
	VK_LAB_LINKS_MAX = 64,
	VK_LAB_TRAFFICS_MAX = 32,
	VK_LAB_FAULTS_MAX = 64,
	VK_LAB_FAILURES_SIZE = 4096, /* bytes of text */
};

enum vk_lab_sizes {
	VK_LAB_SIZE_FIXED = 0, /* all have size_max bytes */
	VK_LAB_SIZE_UNIFORM = 1, /* any size between the two alike */
	VK_LAB_SIZE_LOG = 2, /* any order of magnitude alike: many small ones, few large */
};

enum vk_lab_fault_kind {
	VK_LAB_KILL_WORKER = 0, /* node: dies between two turns; the next begins after value ns */
	VK_LAB_STOP_WORKER = 1, /* node: leaves at a clean boundary; the next begins likewise */
	VK_LAB_RESTART_NODE = 2, /* node: all state is lost; back after value ns, and the peers
				  * know one round trip later */
	VK_LAB_FREEZE = 3, /* app: stands still */
	VK_LAB_THAW = 4,
	VK_LAB_HOLD = 5, /* app: its library takes messages, its code does not */
	VK_LAB_TAKE = 6,
	VK_LAB_DETACH = 7, /* app: dies */
	VK_LAB_LINK = 8, /* link: becomes `link` */
	VK_LAB_REBIND = 9, /* node: its address and port as others see it change; their daemons
			    * know after value ns */
	VK_LAB_RENEW = 10, /* node: new sessions with all others, who know after value ns */
	VK_LAB_REPLAY = 11, /* node: what came last for it comes again, up to value packets */
	VK_LAB_LEAVE = 12, /* app: opens nothing more, and is gone when its streams are over */
	VK_LAB_ATTACH = 13, /* app: another in its slot; who is still there dies before */
	VK_LAB_TUNE =
		14, /* node: its worker's parameters and all its sessions' tunings become these */
	VK_LAB_FAULT_COUNT = 15,
};

struct vk_lab_node {
	struct vk_params params;
	struct vk_tuning tuning; /* of all its sessions */
	uint32_t mtu; /* bytes of an IP packet */
	uint32_t socket_frames; /* a class socket holds */
	uint32_t turn_ns; /* what a turn takes */
	uint32_t packet_ns; /* and for each packet it handles */
	uint32_t wake_ns; /* from an event to the turn of a worker that sleeps */
	uint32_t stall_ns; /* between reading the clock and the turn, now and then */
	uint32_t stall_ppb; /* chance of it, a turn */
	uint32_t ready_bytes; /* its interface takes no more while so much waits for a link's rate;
			       * 0 = always takes */
	uint64_t session_window; /* bytes that it lets all streams of a peer begin with */
	uint32_t window_start; /* bytes that it lets every stream begin with */
	uint32_t ack_delay_us;
};

struct vk_lab_app {
	uint32_t node;
	uint32_t ring_bytes; /* each of its rings, a power of two */
	uint32_t wake_ns; /* from a bell to the application running */
	uint64_t consume_bps; /* bytes per second that its code takes of what came; 0 = at once */
};

/* Streams from one application to another, some at a time, one behind the other. */
struct vk_lab_traffic {
	uint32_t from; /* app: opens the streams */
	uint32_t to; /* app */
	uint32_t stream; /* id of the first; decides the class */
	uint32_t stream_span; /* ids in use: stream .. stream + span - 1 */
	uint32_t streams; /* over all */
	uint32_t concurrent; /* at once */
	uint32_t messages; /* of a stream, from the opener */
	uint32_t size_kind; /* enum vk_lab_sizes */
	uint32_t size_min; /* bytes of payload */
	uint32_t size_max;
	uint32_t burst; /* messages sent together */
	uint32_t reply; /* 1: each message is answered by one of the same distribution */
	uint32_t outstanding; /* requests without an answer at once; 0 = any */
	uint32_t flush; /* 1: the opener asks for FLUSHED before it closes */
	uint64_t interval_ns; /* between two bursts of a stream; 0 = as fast as it goes */
	uint64_t start_ns;
};

struct vk_lab_fault {
	uint64_t at_ns;
	uint32_t kind; /* enum vk_lab_fault_kind */
	uint32_t target; /* node, app or link */
	uint64_t value;
	struct vk_link_config link;
	struct vk_params params;
	struct vk_tuning tuning;
};

/* What engines are robbed of, to see that its lack is noticed. */
enum vk_lab_without {
	VK_LAB_WITHOUT_NOTHING = 0,
	VK_LAB_WITHOUT_RECOVERY = 1, /* what is lost is not sent again */
	VK_LAB_WITHOUT_CREDIT = 2, /* senders do not heed the limits of receivers */
	VK_LAB_WITHOUT_BUDGET = 3, /* receivers promise as if there were memory for everything */
};

struct vk_lab_scenario {
	uint64_t seed;
	uint64_t limit_ns; /* when it ends at the latest */
	uint64_t linger_ns; /* it goes on so long when everything has come: nothing more may */
	uint64_t sample_ns; /* between two samples; 0 = none */
	uint32_t node_count;
	uint32_t app_count;
	uint32_t link_count;
	uint32_t traffic_count;
	uint32_t fault_count;
	uint32_t reliable; /* 1: everything of a reliable class has to arrive, once */
	uint32_t corrupt_through; /* 1: damaged packets pass the checksum */
	uint32_t cipher; /* enum vk_cipher of all sessions */
	uint32_t unchecked; /* 1: content is not looked at */
	uint32_t without; /* enum vk_lab_without: the engine is broken on purpose */
	uint32_t spurious_ppm; /* packets declared lost that were not, in millionths; 0 = any */
	uint64_t held_bytes; /* a library never holds more for one stream; 0 = any */
	uint32_t timed; /* 1: measure the delay of every message */
	uint32_t again_ppm; /* packets' bytes over what messages need, in millionths; 0 = any */
	struct vk_lab_node nodes[VK_LAB_NODES_MAX];
	struct vk_lab_app apps[VK_LAB_APPS_MAX];
	struct vk_link_config links[VK_LAB_LINKS_MAX];
	uint8_t route[VK_LAB_NODES_MAX][VK_LAB_NODES_MAX]; /* from, to -> link */
	struct vk_lab_traffic traffics[VK_LAB_TRAFFICS_MAX];
	struct vk_lab_fault faults[VK_LAB_FAULTS_MAX]; /* by time */
};

/* What became of a traffic's messages, both directions. */
struct vk_lab_traffic_report {
	uint64_t sent; /* messages that rings took */
	uint64_t sent_bytes;
	uint64_t arrived; /* for the first time */
	uint64_t arrived_bytes;
	uint64_t taken; /* by the application's code: in order where promised */
	uint64_t repeated; /* arrived again */
	uint64_t streams; /* opened */
	uint64_t finished; /* closed by both, everything there */
	uint64_t broken; /* reset */
	uint64_t finished_ns; /* when the last message arrived */
	uint64_t delay_sum_ns; /* from send to arrival, over `timed` messages */
	uint64_t delay_max_ns;
	uint64_t timed;
};

struct vk_lab_report {
	uint64_t digest; /* over everything that happened */
	uint64_t now_ns; /* of virtual time, from 0 */
	uint64_t packets; /* handed to links */
	uint64_t delivered; /* put into sockets */
	uint64_t socket_drops;
	uint64_t checksum_drops;
	uint64_t replayed; /* packets that somebody sent once more */
	uint64_t refused; /* by their session, epoch, number or tag, of all that were delivered */
	uint64_t rotations; /* keys that workers changed, where they seal and where they open */
	uint64_t turns;
	uint64_t app_runs;
	uint64_t events;
	uint32_t failed; /* what was wrong, texts in vk_lab_failures */
	uint32_t finished; /* everything that was to come came */
	uint64_t held_max; /* most bytes that a library held for one stream */
	struct vk_lab_traffic_report traffics[VK_LAB_TRAFFICS_MAX];
	struct vk_link_count links[VK_LAB_LINKS_MAX];
};

/* One moment, over all nodes' sessions. */
struct vk_lab_sample {
	uint64_t at_ns;
	uint64_t arrived_bytes; /* since the sample before */
	uint64_t packets;
	uint64_t lost; /* on links, for any reason */
	uint64_t srtt_ns; /* of node 0 towards node 1 */
	uint64_t window_bytes;
	uint64_t flight_bytes;
	uint64_t link_waiting_ns; /* in the queue from node 0 to node 1 */
};

struct vk_lab;

/* vk_lab_new makes an empty lab; NULL without memory. One thread at a time, any number of labs. */
struct vk_lab *vk_lab_new(void);

/* vk_lab_free gives everything back. */
void vk_lab_free(struct vk_lab *lab);

/* vk_lab_load begins a scenario; the one before is gone. Returns 0, -EINVAL for a scenario that
 * cannot be, -ENOMEM, or -errno of what a channel needs (memfd_create, mmap). */
int vk_lab_load(struct vk_lab *lab, const struct vk_lab_scenario *scenario);

/* vk_lab_run runs it to its end, or until_ns of virtual time. Returns whether it has ended. */
int vk_lab_run(struct vk_lab *lab, uint64_t until_ns);

/* vk_lab_report_of returns what happened so far; valid until the next load. */
const struct vk_lab_report *vk_lab_report_of(const struct vk_lab *lab);

/* vk_lab_failures returns what was wrong, a line each; empty = nothing. */
const char *vk_lab_failures(const struct vk_lab *lab);

/* vk_lab_samples copies samples [first, first + max); returns how many there were. */
uint32_t vk_lab_samples(const struct vk_lab *lab, uint32_t first, struct vk_lab_sample *samples,
			uint32_t max);

/* vk_lab_counters returns the counters of a node, as its worker left them. */
const struct vk_counters *vk_lab_counters(const struct vk_lab *lab, uint32_t node);

/* vk_lab_params fills in the parameters of a worker whose daemon says nothing. */
void vk_lab_params(struct vk_params *params);
#endif
