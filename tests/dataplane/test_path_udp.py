"""The kernel's UDP path: super-packets out, super-packets in, and nothing lost in silence."""

from __future__ import annotations

import struct

import pytest

from tests.dataplane.endpoint import Endpoint, aggregate, frame
from tests.lab import Lab, Link
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import Class


@pytest.fixture
def wire(lab: Lab) -> tuple[Link, Link]:
    """Two hosts, joined by a veth pair without a program: super-packets stay whole."""
    return lab.wire(lab.host("a"), lab.host("b"))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("size", [0, 40, 1400])
def test_frames_of_every_class_arrive_whole_and_in_order(
    wire: tuple[Link, Link], family: int, size: int
) -> None:
    with Endpoint(wire[0], "udp", "udp") as a, Endpoint(wire[1], "udp", "udp") as b:
        peer = a.peer(b, family)
        for klass in Class:
            sent = [frame(klass, number, size) for number in range(200)]
            for data in sent:
                assert a.commit(peer, klass, data)
            a.flush_all()
            received = b.receive_all(klass, len(sent))
            assert [one.data for one in received] == sent
            source = wire[0].v4 if family == 4 else wire[0].v6
            assert {(one.source, one.port, one.klass) for one in received} == {
                (str(source.ip), lib.VK_PORT, klass)
            }
        assert a.path.sent == 6 * 200
        assert a.path.syscalls_tx < 6 * 10, "datagrams share sends"


def test_aggregates_are_padded_to_equal_segments_and_stay_valid(wire: tuple[Link, Link]) -> None:
    with Endpoint(wire[0], "udp", "udp") as a, Endpoint(wire[1], "udp", "udp") as b:
        peer = a.peer(b)
        sent = [aggregate(Class.DATA, number, 1 + number % 20) for number in range(64)]
        for data in sent:
            assert a.commit(peer, Class.DATA, data, paddable=True)
        a.flush_all()
        assert a.path.syscalls_tx <= 4
        received = b.receive_all(Class.DATA, len(sent))
        for data, one in zip(sent, received, strict=True):
            (length,) = struct.unpack_from("!I", one.data, 12)
            assert len(one.data) == lib.VK_HEADER_SIZE + length
            assert one.data[lib.VK_HEADER_SIZE : len(data)] == data[lib.VK_HEADER_SIZE :]
            assert not any(one.data[len(data) :])


def test_datagrams_that_cannot_be_made_equal_keep_their_order(wire: tuple[Link, Link]) -> None:
    with Endpoint(wire[0], "udp", "udp") as a, Endpoint(wire[1], "udp", "udp") as b:
        peer = a.peer(b)
        sizes = [(number * 7919) % 1300 for number in range(300)]
        sent = [frame(Class.JOB, number, size) for number, size in enumerate(sizes)]
        for data in sent:
            assert a.commit(peer, Class.JOB, data)
        a.flush_all()
        assert [one.data for one in b.receive_all(Class.JOB, len(sent))] == sent


def test_udp_sends_into_an_xdp_receiver(wire: tuple[Link, Link]) -> None:
    with Endpoint(wire[0], "xdp", "udp") as a, Endpoint(wire[1], "xdp", "udp") as b:
        for family in (4, 6):
            peer = a.peer(b, family)
            sent = [frame(Class.LOGS, number, 700) for number in range(100)]
            for data in sent:
                assert a.commit(peer, Class.LOGS, data)
            a.flush_all()
            assert [one.data for one in b.receive_all(Class.LOGS, len(sent))] == sent
