"""The AF_XDP path: what comes, what goes, and what is never lost in silence."""

from __future__ import annotations

import errno
from functools import partial

import pytest

from tests.census import needs
from tests.dataplane.endpoint import SMALL, Endpoint, frame, queued_wire
from tests.lab import Lab, Link, wait_until
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import Class, Verdict


@pytest.fixture(autouse=True)
def _af_xdp() -> None:
    needs("AF_XDP")


@pytest.fixture
def wire(lab: Lab) -> tuple[Link, Link]:
    """Two hosts."""
    return queued_wire(lab)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("size", [0, 40, 1400])
def test_frames_of_every_class_arrive_whole_and_in_order(
    wire: tuple[Link, Link], family: int, size: int
) -> None:
    with Endpoint(wire[0], "xdp", "xdp") as a, Endpoint(wire[1], "xdp", "xdp") as b:
        peer = a.peer(b, family)
        for klass in Class:
            sent = [frame(klass, number, size) for number in range(60)]
            for data in sent:
                assert a.commit(peer, klass, data)
            a.flush_all()
            received = b.receive_all(klass, len(sent))
            assert [one.data for one in received] == sent
            source = wire[0].v4 if family == 4 else wire[0].v6
            assert {(one.source, one.port, one.klass) for one in received} == {
                (str(source.ip), lib.VK_PORT, klass)
            }


def test_a_class_that_nobody_empties_is_refused_in_the_kernel_and_counted(
    wire: tuple[Link, Link],
) -> None:
    with Endpoint(wire[0], "none", "udp") as a, Endpoint(wire[1], "xdp", "none", rings=SMALL) as b:
        assert b.classifier is not None
        counts = b.classifier.counts

        def verdicts() -> int:
            # Of ours only: the kernel's own multicast reports come when they like.
            return sum(n.packets for (klass, _), n in counts().items() if klass == Class.JOB)

        for _ in range(3):
            before = verdicts()
            for number in range(200):
                assert a.commit(a.peer(b), Class.JOB, frame(Class.JOB, number))
            a.flush_all()
            wait_until(partial(lambda all_: verdicts() == all_, before + 200), what="verdicts")
            assert [one.number for one in b.receive_all(Class.JOB, 64)] == list(range(64))
        assert counts()[Class.JOB, Verdict.STEER].packets == 3 * 64
        assert counts()[Class.JOB, Verdict.DROP_CREDIT].packets == 3 * (200 - 64)
        statistics = b.port.statistics()
        assert (statistics.ring_full, statistics.dropped, statistics.fill_empty) == (0, 0, 0)


def test_what_the_kernel_does_not_take_is_kept_and_said(wire: tuple[Link, Link]) -> None:
    with (
        Endpoint(wire[0], "none", "xdp", rings=SMALL) as a,
        Endpoint(wire[1], "xdp", "none") as b,
    ):
        host, index = wire[0].host, wire[0].index
        host.run(host.netlink.link, "set", index=index, state="down")
        sent = [frame(Class.DATA, number) for number in range(64)]
        for data in sent:
            assert a.commit(a.peer(b), Class.DATA, data)
        assert a.flush() == 64
        assert not a.commit(a.peer(b), Class.DATA, frame(Class.DATA, 64))
        assert a.opposite.error == errno.ENETDOWN
        host.run(host.netlink.link, "set", index=index, state="up")
        a.flush_all()
        assert [one.data for one in b.receive_all(Class.DATA, 64)] == sent
        assert a.opposite.sent == 64
        assert sum(a.opposite.lost) == 0


def test_a_peer_without_a_known_neighbour_is_counted_as_lost(wire: tuple[Link, Link]) -> None:
    with Endpoint(wire[0], "none", "xdp") as a, Endpoint(wire[1], "xdp", "none") as b:
        peer = a.peer(b)
        peer.resolved = 0
        assert a.commit(peer, Class.JOB, frame(Class.JOB, 1))
        assert (a.opposite.lost[Class.JOB], a.opposite.error) == (1, errno.EHOSTUNREACH)
        peer = a.peer(b, payload_max=lib.VK_XDP_PAYLOAD_MAX + 1)
        assert a.commit(peer, Class.JOB, frame(Class.JOB, 1))
        assert (a.opposite.lost[Class.JOB], a.opposite.error) == (2, errno.EMSGSIZE)
        assert a.flush() == 0


def test_checksums_convince_the_kernel(wire: tuple[Link, Link]) -> None:
    with Endpoint(wire[0], "none", "xdp") as a, Endpoint(wire[1], "udp", "none") as b:
        for family in (4, 6):
            sent = [frame(Class.DATA, number, number) for number in range(300)]
            for data in sent:
                assert a.commit(a.peer(b, family), Class.DATA, data)
            a.flush_all()
            assert [one.data for one in b.receive_all(Class.DATA, 300)] == sent
