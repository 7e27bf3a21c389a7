"""A receiving and a sending application, each a process on a core of its own."""

from __future__ import annotations

import gc
import json
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

import valkyrie
from valkyrie.dataplane.application.node import SyncNode, SyncService

Receiver = Callable[[SyncService], Any]
Sender = Callable[[SyncNode], Any]
RING_BYTES = 4_194_304
SERVICE = "perf"


def pin(cpu: int) -> None:
    """Stay on one core: that of host a is 0, that of host b is 1."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[cpu % (os.cpu_count() or 1)]})


def run(name: str, receiver: Receiver, sender: Sender) -> tuple[Any, Any]:
    """Run *receiver* on node ``<name>-b`` and *sender* on ``<name>-a``; returns what both return.

    Results cross a pipe as JSON. The sender starts once the receiver's service is registered. What
    the benchmark itself holds is nothing that their garbage collectors look at: that takes 25 ms,
    and applications are smaller.
    """
    gc.freeze()
    try:
        return _run(name, receiver, sender)
    finally:
        gc.unfreeze()


def _run(name: str, receiver: Receiver, sender: Sender) -> tuple[Any, Any]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        pin(1)
        try:
            with valkyrie.attach_sync(f"{name}-b", ring_size=RING_BYTES) as node:
                service = node.listen(SERVICE)
                os.write(writer, b"\n")
                os.write(writer, json.dumps(receiver(service)).encode())
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as results:
        if not results.readline():
            raise RuntimeError(f"the receiving application of node {name}-b ended")
        before = os.sched_getaffinity(0)
        pin(0)
        try:
            with valkyrie.attach_sync(f"{name}-a", ring_size=RING_BYTES) as node:
                sent = sender(node)
                received = json.loads(results.read() or b"null")
        except BaseException:
            os.kill(pid, signal.SIGKILL)  # it may wait for what nobody sends any more
            raise
        finally:
            os.sched_setaffinity(0, before)
            os.waitpid(pid, 0)
    return received, sent
