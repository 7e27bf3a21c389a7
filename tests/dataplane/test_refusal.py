"""Why a send would block, as applications of real nodes hear it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import valkyrie
from tests.lab import SOON_S, Lab, wait_until
from tests.nodes import PATIENT, NodeUnderTest, make_node, make_pair, running
from valkyrie.dataplane import lib
from valkyrie.dataplane.application.stream import SyncStream

Pair = tuple[NodeUnderTest, NodeUnderTest]

STREAMS = 24
RING_SIZE = 1 << 19
SESSION_SIZE = 1 << 20


@pytest.fixture
def pair(lab: Lab, tmp_path: Path) -> Iterator[Pair]:
    extra = f"{PATIENT}[transport]\nsession_bytes = {SESSION_SIZE}\n"
    nodes = make_pair(lab, tmp_path, path="udp", extra=extra)
    with running(*nodes):
        yield nodes


@contextmanager
def opened(pair: Pair, count: int = 1) -> Iterator[list[tuple[SyncStream, SyncStream]]]:
    """Yield both ends of so many streams; nobody reads them."""
    a, b = pair
    with (
        valkyrie.attach_sync(a.socket, ring_size=RING_SIZE) as sender,
        valkyrie.attach_sync(b.socket, ring_size=RING_SIZE) as receiver,
        receiver.listen("work") as service,
    ):
        peer = sender.connect("b")
        yield [
            (peer.open("work", cls="data"), service.accept(timeout=SOON_S)) for _ in range(count)
        ]


def reason(stream: SyncStream, payload: bytes) -> str:
    """Send; return why it would block, or nothing."""
    try:
        stream.send(payload, timeout=0.01)
    except valkyrie.WouldBlockError as error:
        return error.reason
    return ""


def drain(streams: list[tuple[SyncStream, SyncStream]]) -> None:
    """Read all that was sent."""
    for out, into in streams:
        for _ in range(out.counts.sent):
            assert into.recv(timeout=SOON_S) is not None


def test_a_session_that_is_ahead_of_its_readers_is_the_reason(pair: Pair) -> None:
    payload = bytes(1000)
    with opened(pair, STREAMS) as streams:
        # None of them is ahead of its own reader.
        most = lib.VK_WINDOW_START // (len(payload) + lib.VK_MESSAGE_COST)
        turns = itertools.cycle(out for out, _ in streams)

        def blocked() -> bool:
            out = next(turns)
            return out.counts.sent < most and reason(out, payload) == "session"

        wait_until(blocked, SOON_S)
        drain(streams)


def test_who_asked_for_another_peer_fills_no_ring_with_what_one_does_not_read(
    lab: Lab, tmp_path: Path
) -> None:
    ends = lab.wire(lab.host("a"), lab.host("b"))
    addresses = [str(end.v4.ip) for end in ends]
    absent = str(ends[1].v4.ip + 1)
    a = make_node(ends[0], tmp_path, {"b": addresses[1], "c": absent}, extra=PATIENT)
    b = make_node(ends[1], tmp_path, {"a": addresses[0]}, extra=PATIENT)
    with (
        running(a, b),
        valkyrie.attach_sync(a.socket, ring_size=RING_SIZE) as sender,
        valkyrie.attach_sync(b.socket, ring_size=RING_SIZE) as receiver,
        receiver.listen("work") as service,
    ):
        peer = sender.connect("b")
        sender.connect("c")
        out = peer.open("work", cls="data")
        accepted = service.accept(timeout=SOON_S)
        payload = bytes(1000)
        wait_until(lambda: reason(out, payload) == "credit", SOON_S)
        assert out.counts.sent * (len(payload) + lib.VK_MESSAGE_COST) <= lib.VK_WINDOW_START
        assert accepted.recv(timeout=SOON_S) is not None
