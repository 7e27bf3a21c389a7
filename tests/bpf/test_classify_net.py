"""The classifier on a real interface: scapy's packets in, sockets and counters out."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet

from tests.bpf.rig import Rig
from tests.census import needs
from tests.lab import Lab, Link, wait_until
from valkyrie.dataplane import wire
from valkyrie.dataplane.errors import DataPlaneError
from valkyrie.dataplane.loader import Program, XdpMode, attached_to, open_classifier
from valkyrie.dataplane.scapy_layer import EXTENSIONS, Valkyrie

Pair = tuple[Link, Link]


@contextmanager
def attached(link: Link, mode: XdpMode = XdpMode.NATIVE) -> Iterator[Rig]:
    """A classifier on an interface. Its sockets are bound nowhere: what it steers ends there."""
    needs("AF_XDP")
    with Rig() as rig:
        hold = link.host.run(rig.program.attach, link.index, (mode,))
        try:
            yield rig
        finally:
            hold.close()
            wait_until(
                lambda: not link.host.run(attached_to, link.index).program_id,
                what="detachment by closing the link",
            )


def valkyrie(stream: int, **fields: Any) -> Packet:
    session = EXTENSIONS[wire.ExtKind.SESSION](session=1, number_low=2)
    return Valkyrie(stream=stream, extensions=[session], **fields) / b"payload"


def count(rig: Rig, klass: str, verdict: str) -> int:
    return rig.totals().get((klass, verdict), (0, 0, 0))[0]


def reached(rig: Rig, klass: str, verdict: str, packets: int) -> bool:
    return count(rig, klass, verdict) == packets


def receives(raw: socket.socket, answered: Callable[[Packet], bool]) -> bool:
    return answered(Ether(raw.recv(2000)))


@pytest.mark.parametrize("mode", list(XdpMode))
def test_scapys_frames_are_steered_over_ip4_ip6_vlan_and_qinq(pair: Pair, mode: XdpMode) -> None:
    a, b = pair
    ether = Ether(src=a.mac, dst=b.mac)
    ip4, ip6 = IP(src=str(a.v4.ip), dst=str(b.v4.ip)), IPv6(src=str(a.v6.ip), dst=str(b.v6.ip))
    udp = UDP(sport=40000, dport=wire.PORT)
    sent = {
        "critical": ether / ip4 / udp / valkyrie(0),
        "system": ether / ip6 / udp / valkyrie(50),
        "job": ether / Dot1Q(vlan=7) / ip4 / udp / valkyrie(500),
        "data": ether / Dot1AD(vlan=8) / Dot1Q(vlan=7) / ip6 / udp / valkyrie(2000),
        "logs": ether / Dot1Q(vlan=7) / ip6 / udp / valkyrie(20000),
    }
    with attached(b, mode) as rig, a.host.packet_socket("vk0") as raw:
        for number, (klass, packet) in enumerate(sent.items(), start=1):
            for _ in range(number):
                raw.send(bytes(packet))
            wait_until(partial(reached, rig, klass, "steer", number), what=klass)
        assert sum(row[0] for key, row in rig.totals().items() if key[1] == "steer") == 15


def test_garbage_is_dropped_with_its_reason_and_reaches_nobody(pair: Pair) -> None:
    a, b = pair
    head = Ether(src=a.mac, dst=b.mac) / IP(src=str(a.v4.ip), dst=str(b.v4.ip))
    udp = UDP(sport=40000, dport=wire.PORT)
    garbage = {
        "drop_truncated": head / udp / b"short",
        "drop_magic": head / udp / valkyrie(5, magic=0x4242),
        "drop_version": head / udp / valkyrie(5, version=9),
        "drop_type": head / udp / valkyrie(5, type=0x4F),
        "drop_extension": head / udp / valkyrie(5, ext=5),
        "drop_length": head / udp / valkyrie(5, length=1),
    }
    with (
        attached(b) as rig,
        a.host.packet_socket("vk0") as raw,
        b.host.socket() as receiver,
    ):
        receiver.bind((str(b.v4.ip), wire.PORT))
        receiver.settimeout(0)
        for verdict, packet in garbage.items():
            raw.send(bytes(packet))
            wait_until(partial(reached, rig, "control", verdict, 1), what=verdict)
        with pytest.raises(BlockingIOError):
            receiver.recv(2000)


@pytest.mark.parametrize("mode", list(XdpMode))
def test_what_is_not_ours_passes_while_a_flood_is_dropped(pair: Pair, mode: XdpMode) -> None:
    a, b = pair
    ether = Ether(src=a.mac, dst=b.mac)
    flood = bytes(
        ether / IP(src=str(a.v4.ip), dst=str(b.v4.ip)) / UDP(dport=wire.PORT) / valkyrie(20000)
    )
    with ExitStack() as stack:
        rig = stack.enter_context(attached(b, mode))
        raw = stack.enter_context(a.host.packet_socket("vk0"))
        rig.program.set_police(wire.Class.LOGS, 1, 1)
        for _ in range(200):
            raw.send(flood)
        _other_traffic(stack, a, b)
        wait_until(lambda: count(rig, "logs", "drop_class_rate") >= 198, what="the flood")


def _other_traffic(stack: ExitStack, a: Link, b: Link) -> None:
    """ARP, ICMP, ICMPv6, TCP and other UDP get their answers."""
    raw = stack.enter_context(a.host.packet_socket("vk0"))
    ether = Ether(src=a.mac, dst=b.mac)
    for question, answered in (
        (
            Ether(src=a.mac, dst="ff:ff:ff:ff:ff:ff")
            / ARP(hwsrc=a.mac, psrc=str(a.v4.ip), pdst=str(b.v4.ip)),
            lambda p: ARP in p and p[ARP].op == 2,
        ),
        (
            ether / IP(src=str(a.v4.ip), dst=str(b.v4.ip)) / ICMP(id=7) / b"ping",
            lambda p: ICMP in p and p[ICMP].type == 0,
        ),
        (
            ether / IPv6(src=str(a.v6.ip), dst=str(b.v6.ip)) / ICMPv6EchoRequest(id=7),
            lambda p: IPv6 in p and p[IPv6].nh == 58 and bytes(p[IPv6].payload)[0] == 129,
        ),
        (
            ether / IP(src=str(a.v4.ip), dst=str(b.v4.ip)) / TCP(dport=9, flags="S"),
            lambda p: TCP in p and "R" in str(p[TCP].flags),
        ),
    ):
        raw.send(bytes(question))
        wait_until(partial(receives, raw, answered), what=question.summary())
    receiver = stack.enter_context(b.host.socket())
    sender = stack.enter_context(a.host.socket())
    receiver.bind((str(b.v4.ip), 5353))
    receiver.settimeout(2)
    sender.sendto(b"other", (str(b.v4.ip), 5353))
    assert receiver.recv(100) == b"other"


def test_programs_are_replaced_under_traffic_and_every_packet_is_counted(pair: Pair) -> None:
    a, b = pair
    packet = bytes(
        Ether(src=a.mac, dst=b.mac)
        / IP(src=str(a.v4.ip), dst=str(b.v4.ip))
        / UDP(dport=wire.PORT)
        / valkyrie(2000)
    )
    rounds, batch = 30, 200
    with ExitStack() as stack:
        needs("AF_XDP")
        rig = stack.enter_context(Rig())
        other = stack.enter_context(open_classifier(reuse=rig.program.maps))
        hold = b.host.run(rig.program.attach, b.index, (XdpMode.NATIVE,))
        stack.callback(hold.close)
        raw = stack.enter_context(a.host.packet_socket("vk0"))
        before = b.host.run(attached_to, b.index).program_id
        for number in range(rounds):
            for i in range(batch):
                raw.send(packet)
                if i == batch // 2:
                    hold.replace(other if number % 2 == 0 else rig.program)
        total = rounds * batch
        wait_until(lambda: count(rig, "data", "steer") == total, what=f"{total} packets")
        hold.replace(other)
        assert b.host.run(attached_to, b.index).program_id != before
        assert other.counts() == rig.program.counts()


def test_an_occupied_interface_is_refused_by_the_name_of_its_program(pair: Pair) -> None:
    _, b = pair
    with Program("pass") as foreign, open_classifier() as program:
        hold = b.host.run(foreign.attach, b.index)
        try:
            assert (hold.mode, hold.reason) == (XdpMode.NATIVE, "")
            with pytest.raises(DataPlaneError, match=r"'vk_pass' \(id \d+, native mode\)"):
                b.host.run(program.attach, b.index)
        finally:
            hold.close()


def test_an_mtu_above_what_native_xdp_takes_is_reported(pair: Pair) -> None:
    a, b = pair
    a.host.run(a.host.netlink.link, "set", index=a.index, mtu=9000)
    b.host.run(b.host.netlink.link, "set", index=b.index, mtu=9000)
    with open_classifier() as program:
        with pytest.raises(DataPlaneError, match="MTU"):
            b.host.run(program.attach, b.index, (XdpMode.NATIVE,))
        hold = b.host.run(program.attach, b.index)
        hold.close()
        assert hold.mode is XdpMode.GENERIC
        assert hold.reason.startswith("native: ")


def test_a_queue_beyond_the_maps_passes(lab_with_many_queues: Link) -> None:
    link = lab_with_many_queues
    packet = bytes(
        Ether() / IP(src="10.9.0.1", dst="10.9.0.2") / UDP(dport=wire.PORT) / valkyrie(2000)
    )
    needs("AF_XDP")
    with Rig() as rig:
        run = link.host.run(rig.program.test_run, packet, ifindex=link.index, queue=64)
        assert run.result == 2
        assert rig.totals() == {("control", "pass_queue"): (1, len(packet), 0)}
        run = link.host.run(rig.program.test_run, packet, ifindex=link.index, queue=63)
        assert rig.totals()["data", "drop_credit"] == (1, len(packet), 0)


@pytest.fixture
def lab_with_many_queues(lab: Lab) -> Link:
    link: Link = lab.wire(lab.host("a"), lab.host("b"), queues=65)[0]
    return link


def test_datagrams_of_kernel_sockets_are_steered(pair: Pair) -> None:
    a, b = pair
    with attached(b) as rig, a.host.socket() as v4, a.host.socket(socket.AF_INET6) as v6:
        v4.sendto(wire.make_frame(wire.Type.STREAM_DATA, 5).pack(), (str(b.v4.ip), wire.PORT))
        v6.sendto(wire.make_frame(wire.Type.STREAM_DATA, 5).pack(), (str(b.v6.ip), wire.PORT))
        wait_until(lambda: count(rig, "system", "steer") == 2)
