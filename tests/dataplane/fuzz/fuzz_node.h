/* SPDX-License-Identifier: MIT */
#ifndef FUZZ_NODE_H
#define FUZZ_NODE_H
/* fuzz_node.h: the node that fuzzers of the receive path send to: RIG node 1, whose application 0
 * offers "svc". */
#include "worker_rig.h"

enum { FUZZ_NODE = 1 };

/* fuzz_require ends the run, and keeps the input, unless a promise is kept. */
void fuzz_require(int condition);

/* fuzz_node_attach begins the worker of a node that is open, and its application. */
void fuzz_node_attach(void);

/* fuzz_node_settle empties the application's rings, forgets what was sent, and checks that what is
 * in rings is records and that counters add up. */
void fuzz_node_settle(void);
#endif
