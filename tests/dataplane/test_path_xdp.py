"""The AF_XDP path: what comes, what goes, and what is never lost in silence."""

from __future__ import annotations

import pytest

from tests.census import needs
from tests.dataplane.endpoint import Endpoint, frame
from tests.lab import Lab, Link
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import Class


@pytest.fixture(autouse=True)
def _af_xdp() -> None:
    needs("AF_XDP")


@pytest.fixture
def wire(lab: Lab) -> tuple[Link, Link]:
    """Two hosts; a real qdisc turns a veth's silent drops into back pressure."""
    return lab.wire(lab.host("a"), lab.host("b"), qdisc="pfifo")


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("size", [0, 40, 1400])
def test_frames_of_every_class_arrive_whole_and_in_order(
    wire: tuple[Link, Link], family: int, size: int
) -> None:
    with Endpoint(wire[0], "xdp", "xdp") as a, Endpoint(wire[1], "xdp", "xdp") as b:
        peer = a.peer(b, family)
        for klass in Class:
            sent = [frame(klass, number, size) for number in range(100)]
            for data in sent:
                assert a.commit(peer, klass, data)
            a.flush_all()
            received = b.receive_all(klass, len(sent))
            assert [one.data for one in received] == sent
            source = wire[0].v4 if family == 4 else wire[0].v6
            assert {(one.source, one.port, one.klass) for one in received} == {
                (str(source.ip), lib.VK_PORT, klass)
            }
