/* SPDX-License-Identifier: MIT */
#ifndef VK_ENGINE_H
#define VK_ENGINE_H
/* vk_engine.h: the worker without a clock and without sleep: everything between applications' rings
 * and paths. Time is an argument, so the same engine runs in vk_worker_run and in simulations.
 *
 *   start · turn · turn ... (until `deadline`, or until something came) · leave · free
 */
#include "vk_run.h"

enum vk_engine_const {
	VK_KEPT_NS = 50000, /* between two tries to hand datagrams to a path that is full */
	VK_RATE_SLACK_NS = 100000, /* a rate is waited for that much longer: several go at once */
};

/* vk_engine_params returns the parameters that hold when the daemon is gone. */
const struct vk_params *vk_engine_params(void);

/* vk_engine_start begins over the boot's memory, or goes on where the last worker was. Assumes a
 * zeroed run but for its rx and tx, one open path a port. Returns 0 or -ENOMEM; either way
 * vk_engine_free is due. */
int vk_engine_start(struct vk_run *run, struct vk_boot *boot, uint64_t now_ns);

/* vk_engine_turn receives, sends, hands over. now_ns: CLOCK_MONOTONIC, never less than before;
 * real_ns: CLOCK_REALTIME. *kept becomes the datagrams that a path could not take yet. Returns
 * whether anything was done, or -errno when a port is gone. */
int vk_engine_turn(struct vk_run *run, uint64_t now_ns, uint64_t real_ns, uint32_t *kept);

/* vk_engine_deadline returns when the next turn is due (CLOCK_MONOTONIC) if nothing comes before,
 * after a turn that kept so many datagrams. */
uint64_t vk_engine_deadline(const struct vk_run *run, uint32_t kept);

/* vk_engine_detach lets an application go: once what it put into its rings is acknowledged, or half
 * a second later, it is detached and the order is answered on control_fd. Returns 0, or -ESTALE
 * when the slot is another's. */
int vk_engine_detach(struct vk_run *run, uint32_t slot, uint32_t generation);

/* vk_engine_ask asks a peer in its session whether it lives, if it has one: what it answers is
 * heard like any frame of it. */
void vk_engine_ask(struct vk_run *run, uint32_t peer);

/* vk_engine_leave leaves nothing behind: what paths took from the kernel reaches the applications,
 * what is owed to peers reaches the kernel. Applications' records stay in their rings. Returns how
 * many datagrams wait for a path that is full: call again after VK_KEPT_NS. */
uint32_t vk_engine_leave(struct vk_run *run, uint64_t now_ns);

/* vk_engine_free gives the engine's own memory back, as its death would: paths and what lies in
 * vk_work stay. run itself is the caller's. */
void vk_engine_free(struct vk_run *run);
#endif
