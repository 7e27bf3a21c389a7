"""Messages of 64 MiB between two nodes, whatever dies in the middle of one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest

from tests.controlplane.test_broker_faults import BY_AF_XDP_TOO, Pair, anew, opened
from tests.lab import PATIENCE, Lab, wait_until
from tests.nodes import make_pair, running
from valkyrie.dataplane import lib
from valkyrie.dataplane.application.stream import SyncStream

LARGEST: int = lib.VK_MESSAGE_MAX
LONG_S = 60


@pytest.fixture(params=["udp", "xdp"])
def pair(lab: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two running nodes."""
    nodes = make_pair(lab, tmp_path, path=request.param)
    with running(*nodes):
        yield nodes


class Sending(threading.Thread):
    """Sends messages, and keeps what went wrong."""

    def __init__(self, out: SyncStream, payloads: list[bytes]) -> None:
        super().__init__()
        self.out = out
        self.payloads = payloads
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            for payload in self.payloads:
                self.out.send(payload)
        except BaseException as error:
            self.error = error


def received(into: SyncStream, count: int) -> list[bytes]:
    found = []
    for _ in range(count):
        message = into.recv(timeout=LONG_S * PATIENCE)
        assert message is not None
        found.append(message.payload)
    return found


@BY_AF_XDP_TOO
@pytest.mark.parametrize("stream", [100, 1000])
def test_the_largest_message_crosses_whole(pair: Pair, stream: int) -> None:
    payloads = [b"small", Random(1).randbytes(LARGEST), b"behind", bytes(65537)]
    with opened(pair, stream) as (out, into):
        sending = Sending(out, payloads)
        got = received(into, len(payloads))
        sending.join()
        assert sending.error is None
        assert sorted(map(len, got)) == sorted(map(len, payloads))
        assert set(got) == set(payloads)
        if into.ordered:
            assert got == payloads
        out.flush(timeout=LONG_S)


@BY_AF_XDP_TOO
@pytest.mark.parametrize("side", [0, 1])
def test_workers_killed_in_the_middle_of_a_message_lose_nothing_of_it(
    pair: Pair, side: int
) -> None:
    node = pair[side]
    payload = Random(2).randbytes(LARGEST)
    with opened(pair) as (out, into):
        sending = Sending(out, [payload])
        for part in (1, 2, 3):
            wait_until(partial(has, into, part * 5_000_000), 30.0, "a part of the message")
            pid = node.pid("worker")
            os.kill(pid, signal.SIGKILL)
            anew(node, "worker", pid)
        assert received(into, 1) == [payload]
        sending.join()
        assert sending.error is None
        assert node.status()["worker"]["restarts"] == 3


def has(into: SyncStream, size: int) -> bool:
    """Let the reader take fragments in; returns whether so many bytes are there."""
    into._attachment.pump()
    return into._flow.fragments.size > size
