/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vk_worker.h"

#include "vk_aead.h"
#include "vk_bell.h"
#include "vk_engine.h"
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
	FDS_MAX = VK_PORTS_MAX * 2 * VK_CLASS_COUNT + VK_APPS_MAX + 3,
	TURNS_A_LOOK = 64, /* busy turns between two looks at the broker's socket */
	WAKES_NS = 100000000, /* between two looks at what a wake costs */
	TIMER = 2, /* its place among what a sleeping worker waits for */
	LEAVE_NS = 200000000, /* a stopping worker waits as long for a kernel that is full */
};

static uint64_t read_clock(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Leaves nothing behind, or not for long: the kernel may stay full. */
static void leave(struct vk_run *run)
{
	const struct timespec step = { .tv_nsec = VK_KEPT_NS };
	uint64_t now_ns = read_clock(CLOCK_MONOTONIC), end_ns = now_ns + LEAVE_NS;

	while (vk_engine_leave(run, now_ns) && now_ns < end_ns) {
		ppoll(NULL, 0, &step, NULL);
		now_ns = read_clock(CLOCK_MONOTONIC);
	}
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
			order.result = vk_engine_detach(run, order.slot, order.generation);
		else if (order.kind == VK_ORDER_STOP)
			run->stopping = 1;
		else
			order.result = -EINVAL;
		if (order.kind == VK_ORDER_STOP)
			return 0; /* answered by leaving */
		if (order.kind == VK_ORDER_DETACH && !order.result)
			continue; /* answered when it is done */
		send(run->boot->control_fd, &order, sizeof order, MSG_NOSIGNAL);
	}
	return error == -EAGAIN ? 0 : error;
}

/* Asks whom the daemon wants asked. */
static void from_python(struct vk_run *run)
{
	struct vk_control_frame wish;

	while (recv(run->boot->python_fd, &wish, sizeof wish, MSG_DONTWAIT) == sizeof wish) {
		if (wish.kind == VK_CONTROL_ASK)
			vk_engine_ask(run, wish.peer);
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
		if (port->tx_path == port->rx_path || port->tx_path == VK_PATH_NONE)
			run->tx[i] = run->rx[i];
		else
			run->tx[i] = open_path(run, i, port->tx_path);
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

/* Sleeps until something happens. */
static void sleep_until_work(struct vk_run *run, uint32_t kept)
{
	uint64_t due_ns = vk_engine_deadline(run, kept);
	uint64_t left_ns = due_ns > run->now_ns ? due_ns - run->now_ns : 0;
	struct timespec limit = { .tv_nsec = (long)left_ns }; /* a tick at most: below 1 s */
	struct pollfd fds[FDS_MAX];
	int count = add_fd(fds, 0, run->boot->control_fd), bells;

	count = add_fd(fds, count, run->boot->python_fd);
	count = add_fd(fds, count, run->wake.timer);
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
		if (fds[TIMER].revents)
			vk_wake_rang(&run->wake, (int64_t)run->now_ns);
		for (int i = bells; i < count; i++) {
			if (fds[i].revents)
				vk_event_empty(fds[i].fd);
		}
	}
	vk_slots_wake(run);
	run->counters->gauges[VK_SLEEPS]++;
}

static int turn(struct vk_run *run, uint32_t *kept)
{
	int done =
		vk_engine_turn(run, read_clock(CLOCK_MONOTONIC), read_clock(CLOCK_REALTIME), kept);

	if (run->consumers_behind) { /* on a shared core they may only need their turn */
		run->consumers_behind = 0;
		sched_yield();
	}
	return done;
}

/* Applications may share our core: those that are awake get it. While all of ours sleep, nobody
 * does: to yield is to give away a time slice, and daemons of any node take a whole one. */
static int spin(struct vk_run *run, uint64_t begin_ns, uint32_t *kept)
{
	while (run->now_ns - begin_ns < (uint64_t)run->spin.max_ns) {
		int done;

		if (!vk_slots_asleep(run))
			sched_yield();
		done = turn(run, kept);
		if (done) {
			vk_spin_hit(&run->spin);
			return done;
		}
	}
	vk_spin_missed(&run->spin);
	return 0;
}

/* Idle: polls for a while if that pays, then sleeps. Returns as turn does. */
static int idle(struct vk_run *run, uint32_t kept)
{
	uint64_t begin_ns = run->now_ns;
	int done = 0;

	run->spin.max_ns = vk_spin_bound(run->params.spin_ns, run->wake.cost_ns);
	if (vk_spin_pays(&run->spin))
		done = spin(run, begin_ns, &kept);
	if (!done) {
		sleep_until_work(run, kept);
		done = turn(run, &kept);
		if (done > 0)
			vk_spin_slept(&run->spin, (int64_t)(run->now_ns - begin_ns));
	}
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

/* A worker without a filter is as good as one with it, but for whom it is attacked by: the broker
 * looks and says so. */
static int confine(const struct vk_boot *boot)
{
	int error = vk_worker_confine(boot->confine);

	return error == -ENOSYS || error == -ENOTSUP ? 0 : error;
}

int vk_worker_load(void)
{
	static const uint32_t ciphers[] = { VK_CIPHER_CHACHA20_POLY1305, VK_CIPHER_AES_256_GCM };
	static const uint8_t secret[VK_CIPHER_KEY_SIZE];
	struct vk_aead aead;
	int error = 0;

	for (size_t i = 0; i < sizeof ciphers / sizeof *ciphers && !error; i++) {
		error = vk_aead_init(&aead, ciphers[i], secret, 1);
		if (!error)
			vk_aead_free(&aead);
	}
	return error;
}

static int start(struct vk_run *run, struct vk_boot *boot)
{
	int error;

	run->boot = boot;
	run->work = boot->work;
	run->counters = boot->counters;
	run->work->pid = (uint32_t)getpid();
	error = open_paths(run);
	if (!error)
		error = vk_engine_start(run, boot, read_clock(CLOCK_MONOTONIC));
	return error ? error : confine(boot);
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
	vk_slice_set(VK_SLICE_WORKER_NS); /* a wish: older kernels do not know it */
	vk_wake_open(&run->wake, WAKES_NS); /* without, it polls for spin_ns */
	error = start(run, boot);
	if (!error) {
		VK_STORE_RELEASE(&run->work->phase, VK_WORKER_RUNNING);
		error = loop(run);
	}
	VK_STORE_RELEASE(&run->work->phase, error ? VK_WORKER_FAILED : VK_WORKER_STOPPED);
	close_paths(run);
	vk_wake_close(&run->wake);
	vk_engine_free(run);
	free(run);
	return error;
}
