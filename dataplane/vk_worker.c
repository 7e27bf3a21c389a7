/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vk_worker.h"

#include "vk_flows.h"
#include "vk_peers.h"
#include "vk_reassembly.h"
#include "vk_receive.h"
#include "vk_send.h"
#include "vk_slice.h"
#include "vk_slots.h"

#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	FDS_MAX = VK_PORTS_MAX * 2 * VK_CLASS_COUNT + VK_APPS_MAX + 2,
	TURNS_A_LOOK = 64, /* busy turns between two looks at the broker's socket */
	SPIN_SHORT_MIN = 16, /* of the last 64 idle periods */
	KEPT_NS = 50000, /* between two tries to hand datagrams to a kernel that is full */
	RATE_SLACK_NS = 100000,
	LEAVE_NS = 200000000, /* a stopping worker waits as long for a kernel that is full */
};

/* Values that hold when the daemon is gone, and the bounds of those it may set. */
static const struct vk_params safe_params = {
	.spin_ns = 20000,
	.budget_frames = 64,
	.quantum_bytes = { 0, 0, 65536, 65536, 65536, 32768, 0, 0 },
	.aggregate = 1,
	.reassembly_bytes = 64 << 20,
	.reassembly_ns_high = 0,
	.reassembly_ns_low = 2000000000,
};

static uint32_t clamp(uint32_t value, uint32_t low, uint32_t high)
{
	return value < low ? low : value > high ? high : value;
}

static void take_params(struct vk_run *run)
{
	uint64_t beat_ns = VK_LOAD_RELAXED(&run->state->daemon_heartbeat_ns);
	struct vk_params params;

	if (beat_ns + VK_LEASE_NS < run->now_ns)
		params = safe_params;
	else if (vk_seqlock_copy(&params, &run->state->params, sizeof params))
		return;
	params.spin_ns = clamp(params.spin_ns, 0, 1000000);
	params.budget_frames = clamp(params.budget_frames, 1, VK_RX_BATCH);
	for (uint32_t c = VK_CLASS_SYSTEM; c < VK_CLASS_COUNT; c++) {
		params.quantum_bytes[c] = clamp(params.quantum_bytes[c], 1500, 1 << 18);
		run->schedule.quantum[c] = params.quantum_bytes[c];
	}
	params.reassembly_bytes = clamp(params.reassembly_bytes, 1 << 17, 1u << 30);
	run->params = params;
	vk_reassembly_limit(run->reassembly, params.reassembly_bytes);
}

static uint64_t read_clock(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void tick(struct vk_run *run)
{
	uint64_t age_ns = (uint64_t)run->params.reassembly_ns_high << 32 |
			  run->params.reassembly_ns_low;

	run->tick_ns = run->now_ns + VK_TICK_NS;
	VK_STORE_RELAXED(&run->work->heartbeat_ns, run->now_ns);
	vk_reassembly_expire(run->reassembly, run->now_ns, age_ns ? age_ns : 1);
	run->counters->gauges[VK_REASSEMBLY_BYTES] = vk_reassembly_bytes(run->reassembly);
	for (uint32_t port = 0; port < run->boot->port_count; port++) {
		run->counters->gauges[VK_SYSCALLS_RX] += run->rx[port]->syscalls_rx;
		run->counters->gauges[VK_SYSCALLS_TX] += run->tx[port]->syscalls_tx;
		run->rx[port]->syscalls_rx = 0;
		run->tx[port]->syscalls_tx = 0;
	}
	take_params(run);
}

/* Leaves nothing behind: what paths took from the kernel reaches the applications, what the worker
 * owes the peers reaches the kernel. Applications' records stay in their rings. */
static void leave(struct vk_run *run)
{
	const struct timespec step = { .tv_nsec = KEPT_NS };
	uint64_t end_ns = read_clock(CLOCK_MONOTONIC) + LEAVE_NS;

	vk_receive_rest(run);
	do {
		run->path_full = 0;
		vk_send_replies(run);
		if (!vk_send_flush(run) && !run->reply_count)
			break;
		ppoll(NULL, 0, &step, NULL);
	} while (read_clock(CLOCK_MONOTONIC) < end_ns);
	vk_slots_flush(run);
}

/* Reads one order with its descriptors; 0, or -errno (-EAGAIN: none, -EPIPE: broker gone). */
static int read_order(struct vk_run *run, struct vk_order *order, int fds[4])
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(4 * sizeof(int))];
	} control;
	struct iovec part = { .iov_base = order, .iov_len = sizeof *order };
	struct msghdr message = { .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = control.bytes,
				  .msg_controllen = sizeof control.bytes };
	ssize_t size = recvmsg(run->boot->control_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *head;

	memset(fds, 0xff, 4 * sizeof *fds);
	if (size == 0)
		return -EPIPE;
	if (size < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : -EPIPE;
	head = CMSG_FIRSTHDR(&message);
	if (head && head->cmsg_type == SCM_RIGHTS && head->cmsg_len == CMSG_LEN(4 * sizeof(int)))
		memcpy(fds, CMSG_DATA(head), 4 * sizeof *fds);
	return size == sizeof *order ? 0 : -EPROTO;
}

/* What an application put into its rings before it left is still sent. */
static int detach(struct vk_run *run, const struct vk_order *order)
{
	const struct vk_run_slot *slot = &run->slots[order->slot];

	if (!slot->attached || slot->generation != order->generation)
		return -ESTALE;
	vk_send_drain(run, order->slot);
	vk_slots_detach(run, order->slot);
	return 0;
}

static int obey(struct vk_run *run)
{
	struct vk_order order;
	int fds[4], error;

	while (!(error = read_order(run, &order, fds))) {
		order.result = 0;
		if (order.slot >= VK_APPS_MAX)
			order.result = -EINVAL;
		else if (order.kind == VK_ORDER_ATTACH)
			order.result = fds[3] < 0 ? -EBADF : vk_slots_attach(run, order.slot, fds);
		else if (order.kind == VK_ORDER_DETACH)
			order.result = detach(run, &order);
		else if (order.kind == VK_ORDER_STOP)
			run->stopping = 1;
		else
			order.result = -EINVAL;
		if (order.kind == VK_ORDER_STOP)
			return 0; /* answered by leaving */
		send(run->boot->control_fd, &order, sizeof order, MSG_NOSIGNAL);
	}
	return error == -EAGAIN ? 0 : error;
}

/* Handshake frames from Python go out as they are. */
static void from_python(struct vk_run *run)
{
	struct {
		struct vk_control_frame head;
		uint8_t frame[VK_CHUNK_SIZE];
	} packet;
	ssize_t size;

	while ((size = recv(run->boot->python_fd, &packet, sizeof packet, MSG_DONTWAIT)) >
	       (ssize_t)sizeof packet.head) {
		int peer = vk_peers_find(run, packet.head.family, packet.head.address);
		uint32_t bytes = (uint32_t)size - (uint32_t)sizeof packet.head;
		struct vk_path *path;
		uint8_t *data;

		if (peer < 0 || bytes > run->peers[peer].payload_max)
			continue;
		path = run->tx[run->peers[peer].port_index];
		data = path->ops->tx_reserve(path, &run->peers[peer], VK_CLASS_CONTROL);
		if (!data)
			return;
		memcpy(data, packet.frame, bytes);
		path->ops->tx_commit(path, bytes, 0);
		vk_count_row(run, VK_CLASS_CONTROL)[VK_TX_CONTROL]++;
	}
}

static struct vk_path *open_path(struct vk_run *run, uint32_t port, uint32_t kind)
{
	struct vk_port_state *state = &run->work->ports[port];
	uint32_t recovered = 0;
	struct vk_path *path;

	if (kind == VK_PATH_XDP)
		path = vk_path_xdp_open(&run->boot->ports[port], state, &recovered);
	else
		path = vk_path_udp_open(&run->boot->ports[port], state);
	run->counters->gauges[VK_FRAMES_RECOVERED] += recovered;
	return path;
}

static int open_paths(struct vk_run *run)
{
	for (uint32_t i = 0; i < run->boot->port_count; i++) {
		const struct vk_port *port = &run->boot->ports[i];

		run->rx[i] = open_path(run, i, port->rx_path);
		if (!run->rx[i])
			return errno ? -errno : -ENOMEM;
		run->tx[i] = port->tx_path == port->rx_path ? run->rx[i] :
							      open_path(run, i, port->tx_path);
		if (!run->tx[i])
			return errno ? -errno : -ENOMEM;
	}
	return 0;
}

static void close_paths(struct vk_run *run)
{
	for (uint32_t i = 0; i < run->boot->port_count; i++) {
		if (run->tx[i] && run->tx[i] != run->rx[i])
			run->tx[i]->ops->close(run->tx[i]);
		if (run->rx[i])
			run->rx[i]->ops->close(run->rx[i]);
	}
}

static int add_fd(struct pollfd *fds, int count, int fd)
{
	fds[count] = (struct pollfd){ .fd = fd, .events = POLLIN };
	return count + 1;
}

/* How long a sleep may last: to the next tick, to when a rate lets something go (a little later,
 * so that several go at once), or not for long when datagrams wait for the kernel. */
static uint64_t sleep_ns(const struct vk_run *run, uint32_t kept)
{
	uint64_t limit_ns = kept || run->path_full ? KEPT_NS : VK_TICK_NS, rate_ns = RATE_SLACK_NS;

	if (run->due_ns > run->now_ns)
		rate_ns += run->due_ns - run->now_ns;
	return run->due_ns != UINT64_MAX && rate_ns < limit_ns ? rate_ns : limit_ns;
}

/* Sleeps until something happens. */
static void sleep_until_work(struct vk_run *run, uint32_t kept)
{
	struct timespec limit = { .tv_nsec = (long)sleep_ns(run, kept) };
	struct pollfd fds[FDS_MAX];
	int count = add_fd(fds, 0, run->boot->control_fd), bells;

	count = add_fd(fds, count, run->boot->python_fd);
	for (uint32_t i = 0; i < run->boot->port_count; i++) {
		int path_fds[2 * VK_CLASS_COUNT];
		int found = run->rx[i]->ops->fds(run->rx[i], path_fds, 2 * VK_CLASS_COUNT);

		for (int k = 0; k < found; k++)
			count = add_fd(fds, count, path_fds[k]);
	}
	bells = count;
	for (uint32_t i = 0; i < run->schedule.count; i++)
		count = add_fd(fds, count, run->slots[run->schedule.apps[i]].bell_worker);
	vk_slots_sleep(run);
	if (!vk_slots_pending(run) && ppoll(fds, (nfds_t)count, &limit, NULL) > 0) {
		for (int i = bells; i < count; i++) {
			uint64_t rung;

			if (fds[i].revents && read(fds[i].fd, &rung, sizeof rung) < 0)
				continue;
		}
	}
	vk_slots_wake(run);
	run->counters->gauges[VK_SLEEPS]++;
}

/* One turn: receive, send, hand over. Returns whether anything was done, or -errno. */
static int turn(struct vk_run *run, uint32_t *kept)
{
	uint64_t sent;
	int received;

	run->now_ns = read_clock(CLOCK_MONOTONIC);
	run->real_ns = read_clock(CLOCK_REALTIME);
	if (run->now_ns >= run->tick_ns)
		tick(run);
	vk_peers_refresh(run, 0);
	received = vk_receive_all(run);
	if (received < 0)
		return received;
	if (received)
		vk_slots_flush(run); /* applications may begin while we send */
	sent = vk_send_all(run);
	*kept = vk_send_flush(run);
	vk_slots_flush(run);
	run->counters->gauges[VK_LOOPS]++;
	if (run->consumers_behind) { /* on a shared core they may only need their turn */
		run->consumers_behind = 0;
		sched_yield();
	}
	return received || sent || run->reply_count;
}

/* Spinning pays while one in four of the last 64 idle periods was shorter than spin_ns, whether the
 * worker spun through it or slept: so it stops where others need the CPU to get work done, and
 * begins again when work comes quickly. */
static int spin_pays(const struct vk_run *run)
{
	return run->params.spin_ns && __builtin_popcountll(run->idle_short) >= SPIN_SHORT_MIN;
}

static int spin(struct vk_run *run, uint64_t begin_ns, uint32_t *kept)
{
	while (run->now_ns - begin_ns < run->params.spin_ns) {
		int done;

		sched_yield();
		done = turn(run, kept);
		if (done)
			return done;
	}
	return 0;
}

/* Idle: polls for a while if that pays, then sleeps. Returns as turn does. */
static int idle(struct vk_run *run, uint32_t kept)
{
	uint64_t begin_ns = run->now_ns;
	int done = 0;

	if (spin_pays(run))
		done = spin(run, begin_ns, &kept);
	if (!done) {
		sleep_until_work(run, kept);
		done = turn(run, &kept);
	}
	run->idle_short = run->idle_short << 1 |
			  (done > 0 && run->now_ns - begin_ns < run->params.spin_ns);
	return done;
}

static int loop(struct vk_run *run)
{
	uint32_t kept = 0, turns = 0;

	for (;;) {
		int done = turn(run, &kept), error = 0;

		if (!done)
			done = idle(run, kept);
		if (done < 0)
			return done;
		if (!done || ++turns % TURNS_A_LOOK == 0) {
			error = obey(run);
			from_python(run);
		}
		if (error)
			return error;
		if (run->stopping) {
			leave(run);
			return 0;
		}
	}
}

uint32_t vk_worker_abi(void)
{
	return VK_WORKER_ABI;
}

static int start(struct vk_run *run, struct vk_boot *boot)
{
	run->boot = boot;
	run->state = boot->state;
	run->work = boot->work;
	run->counters = boot->counters;
	run->last_flow = VK_NO_FLOW;
	run->idle_short = UINT64_MAX;
	run->params = safe_params;
	run->reassembly = vk_reassembly_new(run->work->partials, run->work->partial_data,
					    safe_params.reassembly_bytes);
	if (!run->reassembly)
		return -ENOMEM;
	run->now_ns = read_clock(CLOCK_MONOTONIC);
	run->work->magic = VK_SHM_MAGIC;
	run->work->abi = VK_SHM_ABI;
	run->work->pid = (uint32_t)getpid();
	run->work->starts++;
	run->counters->gauges[VK_WORKER_STARTS]++;
	vk_peers_refresh(run, 1);
	vk_slots_inherit(run);
	vk_flows_load(run);
	return open_paths(run);
}

int vk_worker_run(struct vk_boot *boot)
{
	struct vk_run *run = calloc(1, sizeof *run);
	int error;

	if (!run)
		return -ENOMEM;
	if (boot->cpu >= 0) {
		cpu_set_t cpus;

		CPU_ZERO(&cpus);
		CPU_SET(boot->cpu, &cpus);
		sched_setaffinity(0, sizeof cpus, &cpus);
	}
	vk_slice_short(); /* a wish: older kernels do not know it */
	error = start(run, boot);
	if (!error) {
		tick(run);
		VK_STORE_RELEASE(&run->work->phase, VK_WORKER_RUNNING);
		error = loop(run);
	}
	VK_STORE_RELEASE(&run->work->phase, error ? VK_WORKER_FAILED : VK_WORKER_STOPPED);
	close_paths(run);
	vk_reassembly_free(run->reassembly);
	free(run);
	return error;
}
