"""Opening and closing ports: what is obtained, what is refused, what is given back."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from tests.census import needs
from tests.dataplane.endpoint import SMALL, Endpoint, frame
from tests.lab import Link
from valkyrie.dataplane import lib
from valkyrie.dataplane.errors import DataPlaneError
from valkyrie.dataplane.loader import XdpMode
from valkyrie.dataplane.ports import Rings, is_virtual, open_port
from valkyrie.dataplane.wire import Class


def test_a_veth_gets_copy_mode_and_the_reason_why(pair: tuple[Link, Link]) -> None:
    needs("AF_XDP")
    with Endpoint(pair[0], "xdp", "udp") as a:
        assert (a.port.rx_mode, a.port.tx_mode) == ("xdp-native", "udp")
        assert "xdp-zero-copy" in a.port.reason
        assert a.port.interface == pair[0].name
        assert all(fd >= 0 for fd in a.port.xsks().values())


def test_sockets_have_their_classes_priority(pair: tuple[Link, Link]) -> None:
    found = dict[Class, set[int]]()
    with Endpoint(pair[0], "udp", "udp") as a:
        for klass, both in a.port.sockets().items():
            for fd in both:
                with socket.socket(fileno=os.dup(fd)) as one:
                    priority = one.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY)
                    found.setdefault(klass, set()).add(priority)
    wanted = dict(zip(Class, (6, 6, 5, 4, 2, 1), strict=True))
    assert found == {klass: {priority} for klass, priority in wanted.items()}


def test_generic_mode_is_said_to_be_generic(pair: tuple[Link, Link]) -> None:
    needs("AF_XDP")
    with (
        Endpoint(pair[0], "none", "udp") as a,
        Endpoint(pair[1], "xdp", "none", modes=(XdpMode.GENERIC,)) as b,
    ):
        assert b.port.rx_mode == "xdp-generic"
        sent = [frame(Class.SYSTEM, number) for number in range(10)]
        for data in sent:
            assert a.commit(a.peer(b), Class.SYSTEM, data)
            a.flush_all()  # one a send: generic XDP drops super-packets
        assert [one.data for one in b.receive_all(Class.SYSTEM, 10)] == sent


def test_a_port_opens_again_after_it_was_closed(pair: tuple[Link, Link]) -> None:
    needs("AF_XDP")
    with Endpoint(pair[0], "none", "udp") as a, Endpoint(pair[1], "xdp", "xdp") as b:
        for number in range(4):
            assert a.commit(a.peer(b), Class.CRITICAL, frame(Class.CRITICAL, number))
            a.flush_all()
            assert [one.number for one in b.receive_all(Class.CRITICAL, 1)] == [number]
            b.reopen_port()


def test_a_queue_in_use_is_refused_in_bounded_time_with_what_to_do(
    pair: tuple[Link, Link],
) -> None:
    needs("AF_XDP")
    with Endpoint(pair[0], "xdp", "xdp", rings=SMALL) as a:
        with pytest.raises(DataPlaneError, match="stop it") as caught:
            pair[0].host.run(open_port, pair[0].name, rx="none", tx="xdp", rings=SMALL)
        assert caught.value.errno == errno.EBUSY
        assert a.census().total == a.port.frames


def test_a_taken_udp_port_is_refused_with_what_to_do(pair: tuple[Link, Link]) -> None:
    with pair[0].host.socket() as other:
        other.bind(("0.0.0.0", lib.VK_PORT))
        with pytest.raises(DataPlaneError, match="another port") as caught:
            pair[0].host.run(open_port, pair[0].name, rx="none", tx="udp")
        assert caught.value.errno == errno.EADDRINUSE


def test_an_interface_that_is_not_there_is_refused(pair: tuple[Link, Link]) -> None:
    with pytest.raises(DataPlaneError, match="Check the name"):
        pair[0].host.run(open_port, "vk9", rx="udp", tx="udp")


@pytest.mark.parametrize(
    "rings",
    [Rings(rx={Class.CONTROL: 100}), Rings(reserve=0), Rings(tx=3), Rings(tx=1 << 20)],
    ids=["RX", "reserve", "TX", "too large"],
)
def test_ring_sizes_that_cannot_be_are_refused(pair: tuple[Link, Link], rings: Rings) -> None:
    with pytest.raises(DataPlaneError, match="ring sizes"):
        pair[0].host.run(open_port, pair[0].name, rx="xdp", tx="xdp", rings=rings)


def test_a_veth_is_known_as_a_virtual_link(pair: tuple[Link, Link]) -> None:
    assert pair[0].host.run(is_virtual, pair[0].name)
