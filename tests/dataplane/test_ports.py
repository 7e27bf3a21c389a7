"""Opening and closing ports: what is obtained, what is refused, what is given back."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

import pytest

from tests.census import needs
from tests.dataplane.endpoint import SMALL, STREAMS, Endpoint, Received, frame
from tests.lab import Link, wait_until
from valkyrie.controlplane.host.voice import Voice
from valkyrie.dataplane import lib
from valkyrie.dataplane.errors import DataPlaneError
from valkyrie.dataplane.loader import XdpMode
from valkyrie.dataplane.ports import DSCP, PathName, Rings, is_virtual, open_port
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


def ds_field(packet: bytes) -> int:
    """Return what IPv4 calls type of service, and IPv6 traffic class."""
    if packet[12:14] == b"\x08\x00":
        return packet[15]
    return (packet[14] << 4 | packet[15] >> 4) & 0xFF


def valkyrie(packet: bytes) -> bytes:
    """Return a packet that goes to Valkyrie's port, or nothing."""
    at = 34 if packet[12:14] == b"\x08\x00" else 54
    return packet if packet[at + 2 : at + 4] == lib.VK_PORT.to_bytes(2, "big") else b""


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("path", ["udp", "xdp"])
def test_packets_are_marked_by_class(pair: tuple[Link, Link], path: PathName, family: int) -> None:
    if path == "xdp":
        needs("AF_XDP")
    with (
        pair[1].host.packet_socket(pair[1].name) as watcher,
        Endpoint(pair[0], path, path) as a,
        Endpoint(pair[1], "none", "udp") as b,
    ):
        peer = a.peer(b, family)
        for klass in Class:
            assert a.commit(peer, klass, frame(klass, 1))
            a.flush_all()
            packet = wait_until(lambda: valkyrie(watcher.recv(2048)), what="the packet")
            assert ds_field(packet) == DSCP[klass] << 2 | lib.VK_ECT0
    assert len(set(DSCP.values())) == len(Class)


@pytest.mark.parametrize("version", [4, 6])
def test_what_the_daemon_sends_is_marked_as_control(pair: tuple[Link, Link], version: int) -> None:
    here, there = pair
    voice = here.host.run(Voice.open, here.name, here.index, lib.VK_PORT, DSCP[Class.CONTROL])
    source, target = (here.v4.ip, there.v4.ip) if version == 4 else (here.v6.ip, there.v6.ip)
    with contextlib.closing(voice), there.host.packet_socket(there.name) as watcher:
        assert voice.send(source, target, lib.VK_PORT, frame(Class.CONTROL, 1))
        packet = wait_until(lambda: valkyrie(watcher.recv(2048)), what="the packet")
        assert ds_field(packet) >> 2 == DSCP[Class.CONTROL]
        priority = voice.sockets[version].getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY)
        assert priority == 6


@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_joins_no_packets_of_different_classes(
    pair: tuple[Link, Link], version: int
) -> None:
    """It finds the class of the first alone: one of another class behind it would be dropped."""
    pair[0].host.disable_segmentation(pair[0].name)
    marks = {klass: DSCP[klass] << 2 for klass in STREAMS}
    alike = dict.fromkeys(STREAMS, 0)
    with pair[1].host.joining_packets(pair[1].name):
        for _ in range(5):
            assert not joined_to_others(pair, version, marks)
            wait_until(lambda: joined_to_others(pair, version, alike), what="one that is joined")


def joined_to_others(pair: tuple[Link, Link], version: int, fields: dict[Class, int]) -> int:
    """Send packets of each class from one port; how many came joined to one of another class."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address = pair[1].v4.ip if version == 4 else pair[1].v6.ip
    field = (socket.IPPROTO_IP, socket.IP_TOS)
    if version == 6:
        field = (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
    found: list[Received] = []
    with pair[0].host.socket(family) as raw, Endpoint(pair[1], "udp", "udp") as b:
        for klass, value in fields.items():
            raw.setsockopt(*field, value)
            for _ in range(4):
                raw.sendto(frame(klass, 1, 1000), (str(address), lib.VK_PORT))
        while len(found) < 4 * len(fields):
            found += wait_until(lambda: [x for k in Class for x in b.receive(k)], what="packets")
    return sum(one.data != frame(one.klass, 1, 1000) for one in found)
