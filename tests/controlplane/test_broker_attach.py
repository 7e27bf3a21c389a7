"""Applications attach while a worker stands still: nobody else waits for that."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import valkyrie
from tests.controlplane.test_broker_detach import Pair, everybody, frozen, slots
from tests.lab import PATIENCE, SOON_S, Lab, wait_until
from tests.nodes import PATIENT, NodeUnderTest, make_pair, running
from valkyrie.dataplane.application.node import SyncNode
from valkyrie.dataplane.errors import DataPlaneError

COMING = 4
HELD = 6
"""Descriptors of a broker for an application that the worker has yet to take on."""


@pytest.fixture
def pair(lab: Lab, tmp_path: Path) -> Iterator[Pair]:
    """Two running nodes."""
    nodes = make_pair(lab, tmp_path, extra=PATIENT)
    with running(*nodes):
        yield nodes


class Comers:
    """Applications that attach to a node, each in a thread of its own."""

    def __init__(self, node: NodeUnderTest) -> None:
        self.attached: list[SyncNode] = []
        self._node = node
        self._stack = contextlib.ExitStack()
        self._threads = [threading.Thread(target=self._attach) for _ in range(COMING)]

    def _attach(self) -> None:
        with contextlib.suppress(DataPlaneError):
            self.attached.append(self._stack.enter_context(valkyrie.attach_sync(self._node.socket)))

    def come(self) -> None:
        """Begin to attach; returns when the broker has all rings, and the worker none."""
        broker = everybody(self._node)[0]
        before = broker.num_fds()
        for each in self._threads:
            each.start()
        wait_until(lambda: broker.num_fds() >= before + HELD * COMING)

    def wait(self) -> None:
        """Wait until each has attached, or was refused."""
        for each in self._threads:
            each.join(SOON_S * PATIENCE)
            assert not each.is_alive()

    def leave(self) -> None:
        """Detach."""
        self._stack.close()


def test_who_attaches_while_a_worker_stands_still_is_served_when_it_goes_on(pair: Pair) -> None:
    a, b = pair
    broker = everybody(a)[0]
    before = broker.num_fds()
    comers = Comers(a)
    with valkyrie.attach_sync(b.socket) as receiver, receiver.listen("work") as service:
        with frozen(psutil.Process(a.pid("worker"))):
            comers.come()
        comers.wait()
        assert len(comers.attached) == COMING
        for number, each in enumerate(comers.attached):
            each.connect("b").open("work", stream=100 + number).send(b"served")
            message = service.accept(timeout=SOON_S).recv(timeout=SOON_S)
            assert message is not None
            assert message.payload == b"served"
        comers.leave()
    wait_until(lambda: broker.num_fds() == before)


@pytest.mark.parametrize("child", ["worker", "daemon"])
def test_who_attaches_while_a_child_dies_leaves_nothing_half_done(pair: Pair, child: str) -> None:
    a, _ = pair
    broker, pid = everybody(a)[0], a.pid(child)
    before = broker.num_fds()
    comers = Comers(a)
    with frozen(psutil.Process(a.pid("worker"))):
        comers.come()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: child in a.said() and "starting another one" in a.said())
    comers.wait()
    assert len(comers.attached) == (COMING if child == "worker" else 0)
    comers.leave()
    wait_until(lambda: broker.num_fds() == before)
    with valkyrie.attach_sync(a.socket, name="late"):
        wait_until(lambda: slots(a) == 1)
    assert "could not be taken back" not in a.said()
