"""What was read is told to peers in time, and no more often than need be."""

from __future__ import annotations

import errno
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import valkyrie
from tests.aside import aside
from tests.dataplane.double import CONSUMED_SIZE, Channel, span
from tests.lab import SOON_S, Lab
from tests.nodes import PATIENT, make_pair, running
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.application.flow import Flow
from valkyrie.dataplane.application.rings import Rings
from valkyrie.dataplane.wire import Class

SIZE = 8192
"""Of ring 0."""
STREAMS = 100
REQUEST = bytes(8192)
REPORT: int = lib.VK_INLET_REPORT
FITS = SIZE // span(CONSUMED_SIZE)


@pytest.fixture
def channel() -> Iterator[Channel]:
    made = Channel([SIZE] * len(Class), 3)
    yield made
    made.close()


@pytest.fixture
def rings(channel: Channel) -> Iterator[Rings]:
    made = Rings([*channel.memfds, channel.bell_app, channel.bell_worker], 3)
    yield made
    made.close()


def inlets(count: int) -> list[Any]:
    """Return inlets of streams that nothing was taken of."""
    return [
        ffi.new("struct vk_inlet *", {"windowed": 1, "taken": {"flow": number}})
        for number in range(count)
    ]


def take(rings: Rings, inlet: Any, size: int) -> int:
    return int(lib.vk_inlet_taken(rings.client, inlet, size, 0))


def test_what_is_little_of_each_and_much_of_all_is_told(channel: Channel, rings: Rings) -> None:
    many = inlets(64)
    for inlet in many[:-1]:
        assert take(rings, inlet, REPORT // 64) == 0
    assert not channel.reports()
    assert take(rings, many[-1], REPORT // 64) == 0
    told = {report.flow: report.cost for report in channel.reports()}
    assert told == dict.fromkeys(range(64), REPORT // 64)
    assert not rings.client.untold


def test_who_was_told_is_not_told_again_when_others_are(channel: Channel, rings: Rings) -> None:
    old, idle, young, late = inlets(4)
    assert take(rings, old, lib.VK_INLET_YOUNG) == 0
    assert lib.vk_inlet_report(rings.client, old) == 0
    assert take(rings, old, REPORT - 1) == 0  # it is young no more
    assert take(rings, idle, 100) == 0
    assert lib.vk_inlet_idle(rings.client, idle) == 0
    assert [(report.flow, report.cost) for report in channel.reports()] == [
        (0, lib.VK_INLET_YOUNG),
        (1, 100),
    ]
    assert take(rings, young, REPORT - 100) == 0
    assert not channel.reports()
    assert take(rings, late, 100) == 0
    assert {report.flow for report in channel.reports()} == {2, 3}


def test_what_finds_no_room_is_told_later(channel: Channel, rings: Rings) -> None:
    many = inlets(FITS + 2)
    each = REPORT // len(many)
    assert [take(rings, inlet, each) for inlet in many[:-1]] == [0] * (len(many) - 1)
    assert take(rings, many[-1], REPORT) == -errno.EAGAIN
    assert len(channel.reports()) == FITS
    untold = [inlet for inlet in many if not inlet.reported]
    assert len(untold) == 2
    assert take(rings, untold[0], REPORT) == 0
    told = {report.flow for report in channel.reports()}
    assert told == {inlet.taken.flow for inlet in untold}


def test_a_stream_that_is_gone_is_not_told_of(channel: Channel, rings: Rings) -> None:
    first, second, third = flows = [Flow(rings, 1, 1000 + each, Class.DATA) for each in range(3)]
    for number, flow in enumerate(flows):
        flow.bind(number, 1)
        flow.taken(100, 0)
    del second, flow, flows
    gc.collect()
    assert rings.client.untold == 200
    third.taken(REPORT - 200, 0)
    assert {report.flow for report in channel.reports()} == {0, 2}
    assert (first.inlet.reported, third.inlet.reported) == (100, REPORT - 100)


def test_replies_come_on_however_many_streams_that_nobody_waits_on(
    lab: Lab, tmp_path: Path
) -> None:
    extra = f"{PATIENT}[transport]\nsession_bytes = {lib.VK_CREDIT_POOL_MIN}\n"
    a, b = make_pair(lab, tmp_path, path="udp", extra=extra)
    with (
        running(a, b),
        valkyrie.attach_sync(a.socket) as left,
        valkyrie.attach_sync(b.socket) as right,
        right.listen("echo") as service,
    ):
        streams = []

        def serve() -> None:
            for _ in range(STREAMS):
                stream = service.accept(timeout=SOON_S)
                message = stream.recv(timeout=SOON_S)
                assert message is not None
                stream.reply(message, message.payload)
                streams.append(stream)

        peer = left.connect("b")
        asked = []
        with aside(serve):
            for _ in range(STREAMS):
                asked.append(peer.open("echo", cls="job"))
                reply = asked[-1].request(REQUEST, timeout=SOON_S)
                assert reply.payload == REQUEST
