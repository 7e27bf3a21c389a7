"""Applications leave while what they have sent is not acknowledged: nobody else waits for that."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import valkyrie
from tests.lab import SOON_S, Lab, wait_until
from tests.nodes import PATIENT, NodeUnderTest, make_pair, running
from valkyrie.shm.counters import CountersPage

Pair = tuple[NodeUnderTest, NodeUnderTest]

LEAVERS = 12
LEAVE_S = 0.5
"""How long a worker waits for what an application has sent before it left."""


@pytest.fixture
def pair(lab: Lab, tmp_path: Path) -> Iterator[Pair]:
    """Two running nodes."""
    nodes = make_pair(lab, tmp_path, extra=PATIENT)
    with running(*nodes):
        yield nodes


@contextlib.contextmanager
def frozen(*processes: psutil.Process) -> Iterator[None]:
    """Stop processes; where a broker is the first of them, it ends none of the others."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def everybody(node: NodeUnderTest) -> list[psutil.Process]:
    """Return a node's processes, the broker first."""
    assert node.process is not None
    return [psutil.Process(node.process.pid), *node.children()]


def slots(node: NodeUnderTest) -> int:
    """Return how many applications its worker has."""
    with CountersPage(node.name) as page:
        return int(page.gauges()["apps_attached"])


def test_what_many_sent_before_they_left_is_waited_for_together(pair: Pair) -> None:
    a, b = pair
    before = everybody(a)[0].num_fds()
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(valkyrie.attach_sync(b.socket, name="receiver"))
        service = stack.enter_context(receiver.listen("work"))
        leavers, streams = stack.enter_context(contextlib.ExitStack()), []
        for i in range(LEAVERS):
            leaver = leavers.enter_context(valkyrie.attach_sync(a.socket))
            streams.append(leaver.connect("b").open("work", stream=100 + i))
            streams[i].send(b"first")
            assert service.accept(timeout=SOON_S).recv(timeout=SOON_S) is not None
        with frozen(*everybody(b)):
            for stream in streams:
                stream.send(b"nobody takes this")
            begin = time.monotonic()
            leavers.close()
            with valkyrie.attach_sync(a.socket, name="late"):
                wait_until(lambda: slots(a) == 1, what="those that left are gone")
            assert time.monotonic() - begin < LEAVERS * LEAVE_S / 2
    wait_until(lambda: everybody(a)[0].num_fds() == before)
    assert "could not be taken back" not in a.said()


@contextlib.contextmanager
def left_behind(node: NodeUnderTest) -> Iterator[None]:
    """Many applications have left a node whose worker stands still meanwhile."""
    with contextlib.ExitStack() as leavers:
        for _ in range(LEAVERS):
            leavers.enter_context(valkyrie.attach_sync(node.socket))
        held = everybody(node)[0].num_fds()
        with frozen(psutil.Process(node.pid("worker"))):
            leavers.close()
            wait_until(lambda: node.applications() == 0)
            assert everybody(node)[0].num_fds() == held  # no slot has been taken back yet
            yield


def test_a_broker_serves_others_while_a_worker_lets_nobody_go(pair: Pair) -> None:
    a, _ = pair
    broker, worker = everybody(a)[0], a.pid("worker")
    before = broker.num_fds()
    with left_behind(a):
        pass
    wait_until(lambda: broker.num_fds() == before)
    assert a.pid("worker") == worker
    assert "could not be taken back" not in a.said()


@pytest.mark.parametrize("child", ["worker", "daemon"])
def test_who_leaves_while_a_child_dies_leaves_nothing(pair: Pair, child: str) -> None:
    a, _ = pair
    broker, pid = everybody(a)[0], a.pid(child)
    before = broker.num_fds()
    with left_behind(a):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: a.pid(child) != pid)
    wait_until(lambda: broker.num_fds() == before)
    with valkyrie.attach_sync(a.socket, name="late"):
        wait_until(lambda: slots(a) == 1)
    assert "could not be taken back" not in a.said()
