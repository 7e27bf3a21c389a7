"""What the kernel says of a lab's wires is what we read."""

from __future__ import annotations

import asyncio
import errno
import socket
from functools import partial
from typing import Any, Self

import pytest

from tests.lab import PATIENCE, Host, Lab, Link, wait_until
from valkyrie.controlplane.host import device, netlink
from valkyrie.dataplane.errors import DataPlaneError
from valkyrie.dataplane.wire import PORT

scapy: Any = pytest.importorskip("scapy.layers.inet", reason="needs scapy: requirements.lock")
scapy6: Any = pytest.importorskip("scapy.layers.inet6", reason="needs scapy: requirements.lock")
layer2: Any = pytest.importorskip("scapy.layers.l2", reason="needs scapy: requirements.lock")

Wire = tuple[Link, Link]

pytestmark = pytest.mark.net


class Asked:
    """A Netlink of a host, every call made on the host's own thread."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._link = host.run(netlink.Netlink)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._host.run(self._link.close)

    def __getattr__(self, name: str) -> Any:
        return partial(self._host.run, getattr(self._link, name))


@pytest.fixture
def wire(lab: Lab) -> Wire:
    return lab.wire(lab.host("a"), lab.host("b"), queues=2, mtu=1400)


def test_an_interface_tells_its_facts(wire: Wire) -> None:
    here, there = wire
    with Asked(here.host) as link:
        facts = link.interface(here.name)
        by_index = link.interface(here.index)
    assert facts == by_index
    assert (facts.name, facts.index, facts.mtu) == (here.name, here.index, 1400)
    assert facts.mac.hex(":") == here.mac
    assert (facts.kind, facts.driver, facts.is_virtual) == ("veth", "veth", True)
    assert (facts.rx_queues, facts.tx_queues, facts.rx_ring) == (2, 2, 0)
    assert facts.up
    assert facts.carrier
    assert (facts.peer_index, facts.peer_elsewhere) == (there.index, True)
    assert facts.tx_checksum
    assert device.XdpFeature.BASIC | device.XdpFeature.REDIRECT in facts.xdp_features
    assert device.XdpFeature.ZERO_COPY not in facts.xdp_features


def test_all_interfaces_are_listed(wire: Wire) -> None:
    here, _ = wire
    with Asked(here.host) as link:
        names = {facts.name for facts in link.interfaces()}
    assert {"lo", here.name} <= names


def test_an_interface_that_is_not_there_is_a_clear_error(wire: Wire) -> None:
    here, _ = wire
    with (
        Asked(here.host) as link,
        pytest.raises(DataPlaneError, match="interface nowhere0") as caught,
    ):
        link.interface("nowhere0")
    assert caught.value.errno == errno.ENODEV


@pytest.mark.parametrize("version", ["v4", "v6"])
def test_a_route_names_source_next_hop_and_interface(wire: Wire, version: str) -> None:
    here, there = wire
    destination = str(getattr(there, version).ip)
    with Asked(here.host) as link:
        route = link.route(destination)
        own = link.route(str(getattr(here, version).ip))
    assert route.source == str(getattr(here, version).ip)
    assert (route.gateway, route.ifindex, route.local) == (destination, here.index, False)
    assert own.local


@pytest.mark.parametrize("version", ["v4", "v6"])
def test_what_icmp_says_of_a_way_is_not_believed(wire: Wire, version: str) -> None:
    here, there = wire
    ends = [str(getattr(each, version).ip) for each in (here, there)]
    family = socket.AF_INET if version == "v4" else socket.AF_INET6
    with Asked(here.host) as link, here.host.socket(family) as ours:
        ours.bind((ends[0], PORT))
        ours.connect((ends[1], PORT))
        udp = scapy.UDP(sport=PORT, dport=PORT) / bytes(64)
        if version == "v4":
            quoted = scapy.IP(src=ends[0], dst=ends[1]) / udp
            lie = scapy.IP(src=ends[1], dst=ends[0]) / scapy.ICMP(type=3, code=4, nexthopmtu=600)
        else:
            quoted = scapy6.IPv6(src=ends[0], dst=ends[1]) / udp
            lie = scapy6.IPv6(src=ends[1], dst=ends[0]) / scapy6.ICMPv6PacketTooBig(mtu=1280)
        frame = layer2.Ether(src=there.mac, dst=here.mac) / lie / bytes(quoted)
        with there.host.packet_socket(there.name) as wire_end:
            wire_end.send(bytes(frame))
        option = (socket.IPPROTO_IP, 14) if version == "v4" else (socket.IPPROTO_IPV6, 24)
        wait_until(lambda: ours.getsockopt(*option) < 1400, what="the kernel believes it")
        assert link.route(ends[1]).mtu == 0


def test_no_route_is_a_clear_error(wire: Wire) -> None:
    here, _ = wire
    with (
        Asked(here.host) as link,
        pytest.raises(DataPlaneError, match=r"route to 192\.0\.2\.1") as caught,
    ):
        link.route("192.0.2.1")
    assert caught.value.errno == errno.ENETUNREACH


@pytest.mark.parametrize("version", ["v4", "v6"])
def test_a_neighbour_is_found_by_asking_the_link(wire: Wire, version: str) -> None:
    here, there = wire
    address = str(getattr(there, version).ip)
    here.host.run(here.host.netlink.neigh, "del", dst=address, ifindex=here.index)
    with Asked(here.host) as link:
        assert link.neighbour(address, here.index) is None
        route = link.route(address)
        found = link.resolve(route)
    assert found is not None
    assert found.mac.hex(":") == there.mac


def test_a_silent_neighbour_is_waited_for_only_so_long(wire: Wire) -> None:
    here, _ = wire
    with Asked(here.host) as link:
        route = link.route("10.9.0.77")
        assert link.resolve(route, 0.05) is None


def test_a_queue_is_given_and_taken_back(wire: Wire) -> None:
    here, _ = wire
    with Asked(here.host) as link:
        assert link.qdisc(here.index) == "noqueue"
        assert link.replace_qdisc(here.index, "pfifo", limit=500)
        assert link.qdisc(here.index) == "pfifo"
        assert not link.replace_qdisc(here.index, "pfifo"), "somebody's qdisc is not ours"
        link.reset_qdisc(here.index)
        assert link.qdisc(here.index) == "noqueue"
        link.reset_qdisc(here.index)


def test_changes_are_seen_as_they_happen(wire: Wire) -> None:
    here, there = wire
    seen: list[netlink.Change] = []

    async def follow() -> None:
        async for change in netlink.AsyncNetlink.watch():
            seen.append(change)
            if change.what == "link" and not change.carrier and change.ifindex == here.index:
                return

    async def main() -> None:
        async with netlink.AsyncNetlink() as link:
            assert (await link.link(here.name)).carrier
            assert await link.mtu(here.index) == 1400
            route = await link.route(str(there.v4.ip))
            assert route.ifindex == here.index
            found = await link.resolve(route)
            assert found is not None
            assert found.mac.hex(":") == there.mac
            assert await link.neighbour("10.9.0.99", here.index) is None
        task = asyncio.create_task(follow())
        down = asyncio.create_task(flap(task))
        await asyncio.wait_for(task, 10 * PATIENCE)
        await down

    async def flap(task: asyncio.Task[None]) -> None:
        state = "down"
        while not task.done():
            await asyncio.to_thread(
                there.host.run, there.host.netlink.link, "set", index=there.index, state=state
            )
            state = "up" if state == "down" else "down"
            # The kernel tells of a lost carrier at most once a second.
            await asyncio.wait([task], timeout=2.5)

    here.host.run(asyncio.run, main())
    assert wait_until(lambda: any(c.name == here.name for c in seen))
