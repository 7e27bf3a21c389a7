"""What the kernel knows of interfaces, routes and neighbours, asked and set by netlink.

Works inside the network namespace of the calling thread (a socket belongs to the namespace it was
made in). ``Netlink`` is synchronous and for processes without an event loop; ``AsyncNetlink`` is
for the daemon. Reading needs no capability; setting needs CAP_NET_ADMIN.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Self

from pyroute2 import AsyncIPRoute, IPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from valkyrie.dataplane.errors import DataPlaneError

from . import device
from .device import asking, refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# linux/if.h
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
# linux/rtnetlink.h
_RTN_LOCAL = 2
_RTMGRP_LINK, _RTMGRP_NEIGH = 0x1, 0x4
_RTMGRP_IPV4_IFADDR, _RTMGRP_IPV4_ROUTE, _RTMGRP_IPV6_IFADDR, _RTMGRP_IPV6_ROUTE = (
    0x10,
    0x40,
    0x100,
    0x400,
)
# linux/neighbour.h: INCOMPLETE 1, FAILED 0x20 and NONE 0 have no usable MAC address
_NUD_USABLE = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80
_ROOT = 0xFFFFFFFF  # linux/pkt_sched.h, TC_H_ROOT
_DISCARD_PORT = 9  # RFC 863
_DUMP_TRIES = 5

RESOLVE_S = 3.5
"""Time for a neighbour to answer: the kernel asks three times, a second apart."""

NO_QUEUE = ("noqueue", "")
"""Kinds of queueing discipline that mean none: packets that do not fit are dropped silently."""


@dataclass(frozen=True, slots=True)
class Interface:
    """Facts of an interface."""

    index: int
    name: str
    mtu: int
    mac: bytes
    kind: str
    """rtnetlink's kind of a virtual device, as ``veth``; empty for hardware."""
    driver: str
    rx_queues: int
    """In use now, where the driver says it; else as many as can be."""
    tx_queues: int
    """As many as can be."""
    up: bool
    carrier: bool
    qdisc: str
    peer_index: int
    """The other end of a veth pair, in its own namespace; 0 = none."""
    peer_elsewhere: bool
    """The other end is in another namespace."""
    rx_ring: int
    """Entries of each receive queue's ring in the device; 0 = not known."""
    xdp_features: device.XdpFeature
    zero_copy_segments_max: int
    tx_checksum: bool
    """The kernel leaves checksums to the device; a veth leaves them undone."""
    gro: bool

    @property
    def is_virtual(self) -> bool:
        """Say whether there is no hardware behind it."""
        return bool(self.kind) or self.name == "lo"


@dataclass(frozen=True, slots=True)
class Route:
    """How the kernel sends to a destination."""

    destination: str
    source: str
    gateway: str
    """Next hop; the destination itself when it is on the link."""
    ifindex: int
    mtu: int
    """Bytes of an IP packet; 0 = the interface's. Not what ICMP says, which anybody can write."""
    local: bool
    """The destination is this host."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A next hop's MAC address."""

    address: str
    ifindex: int
    mac: bytes
    state: int

    @property
    def usable(self) -> bool:
        """Say whether frames may be sent to the MAC address."""
        return bool(self.state & _NUD_USABLE) and len(self.mac) == 6


@dataclass(frozen=True, slots=True)
class Change:
    """Something changed: ``what`` is link, neighbour, address or route."""

    what: str
    gone: bool
    ifindex: int
    name: str = ""
    up: bool = False
    carrier: bool = False
    address: str = ""
    mac: bytes = b""


# ---- From messages ----


def _mac(text: str | None) -> bytes:
    return bytes.fromhex(text.replace(":", "")) if text else b""


def _link_facts(message: Any) -> dict[str, Any]:
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info else None) or ""
    elsewhere = message.get_attr("IFLA_LINK_NETNSID")
    return {
        "index": message["index"],
        "name": message.get_attr("IFLA_IFNAME"),
        "mtu": message.get_attr("IFLA_MTU"),
        "mac": _mac(message.get_attr("IFLA_ADDRESS")),
        "kind": kind,
        "rx_queues": message.get_attr("IFLA_NUM_RX_QUEUES") or 1,
        "tx_queues": message.get_attr("IFLA_NUM_TX_QUEUES") or 1,
        "up": bool(message["flags"] & _IFF_UP),
        "carrier": bool(message["flags"] & _IFF_LOWER_UP),
        "qdisc": message.get_attr("IFLA_QDISC") or "",
        "peer_index": (message.get_attr("IFLA_LINK") or 0) if kind == "veth" else 0,
        "peer_elsewhere": elsewhere is not None,
    }


def _route(message: Any, destination: str) -> Route:
    metrics = message.get_attr("RTA_METRICS")
    cached = message.get_attr("RTA_CACHEINFO")
    if cached is not None and cached["rta_expires"]:
        metrics = None  # of an exception, by ICMP: our own probes tell (RFC 8899)
    via = message.get_attr("RTA_VIA")
    gateway = message.get_attr("RTA_GATEWAY") or (via["addr"] if via else None)
    return Route(
        destination=destination,
        source=message.get_attr("RTA_PREFSRC") or "",
        gateway=gateway or destination,
        ifindex=message.get_attr("RTA_OIF") or 0,
        mtu=(metrics.get_attr("RTAX_MTU") if metrics else None) or 0,
        local=message["type"] == _RTN_LOCAL,
    )


def _neighbour(message: Any) -> Neighbour:
    return Neighbour(
        address=message.get_attr("NDA_DST") or "",
        ifindex=message["ifindex"],
        mac=_mac(message.get_attr("NDA_LLADDR")),
        state=message["state"],
    )


def _change(message: Any) -> Change | None:
    event = message.get("event")
    if not isinstance(event, str):  # a number: of a type that pyroute2 has no name for
        return None
    gone = event.startswith("RTM_DEL")
    if event.endswith("LINK"):
        facts = _link_facts(message)
        return Change(
            "link", gone, facts["index"], facts["name"], facts["up"], facts["carrier"], "",
            facts["mac"],
        )  # fmt: skip
    if event.endswith("NEIGH"):
        entry = _neighbour(message)
        mac = entry.mac if entry.usable else b""
        return Change("neighbour", gone, entry.ifindex, address=entry.address, mac=mac)
    if event.endswith("ADDR"):
        address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS") or ""
        return Change("address", gone, message["index"], address=address)
    if event.endswith("ROUTE"):
        destination = message.get_attr("RTA_DST") or ""
        return Change("route", gone, message.get_attr("RTA_OIF") or 0, address=destination)
    return None


# ---- Synchronous ----


class Netlink:
    """A synchronous connection to the kernel's routing tables; for one thread, no event loop."""

    def __init__(self) -> None:
        self._route = IPRoute()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._route.close()

    def interface(self, which: str | int) -> Interface:
        """Return the facts of an interface, by name or index; DataPlaneError ENODEV if gone."""
        by: dict[str, Any] = {"index": which} if isinstance(which, int) else {"ifname": which}
        with asking(f"look at interface {which}", "`valkyrie doctor` lists the interfaces"):
            message = next(iter(self._route.link("get", **by)))
        return _with_device_facts(_link_facts(message))

    def interfaces(self) -> list[Interface]:
        """Return the facts of all interfaces."""
        messages = self._dump(lambda: self._route.link("dump"))
        return [_with_device_facts(_link_facts(message)) for message in messages]

    def route(self, destination: str) -> Route:
        """Return the route to an address; DataPlaneError ENETUNREACH when there is none."""
        destination = str(ip_address(destination))
        with asking(f"look up the route to {destination}", "add a route, or correct the address"):
            message = next(iter(self._route.route("get", dst=destination)))
        return _route(message, destination)

    def neighbour(self, address: str, ifindex: int) -> Neighbour | None:
        """Return the kernel's entry for a next hop; None if it has none."""
        try:
            message = next(iter(self._route.neigh("get", dst=address, ifindex=ifindex)))
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                return None
            raise refused(error, f"look up neighbour {address}") from error
        return _neighbour(message)

    def resolve(self, route: Route, timeout_s: float = RESOLVE_S) -> Neighbour | None:
        """Return the next hop's MAC address, asking the link for it; None if nobody answers."""
        end = time.monotonic() + timeout_s
        pause_s = 0.001
        provoke(route)
        while True:
            entry = self.neighbour(route.gateway, route.ifindex)
            if entry is not None and entry.usable:
                return entry
            left_s = end - time.monotonic()
            if left_s <= 0:
                return None
            select.select([], [], [], min(pause_s, left_s))
            pause_s = min(pause_s * 2, 0.05)

    def qdisc(self, ifindex: int) -> str:
        """Return the kind of an interface's root queueing discipline."""
        messages = self._dump(lambda: self._route.get_qdiscs(index=ifindex))
        for message in messages:
            if message["parent"] == _ROOT:
                return str(message.get_attr("TCA_KIND"))
        return NO_QUEUE[0]

    def replace_qdisc(self, ifindex: int, kind: str = "pfifo", **options: int) -> bool:
        """Give an interface that has no queueing discipline one; False if it has one already.

        Undo it with ``reset_qdisc``: what was there before was the kernel's default.
        """
        if self.qdisc(ifindex) not in NO_QUEUE:
            return False
        with asking(f"give interface {ifindex} a {kind}"):
            self._route.tc("replace", kind, ifindex, root=True, **options)
        return True

    def reset_qdisc(self, ifindex: int) -> None:
        """Take an interface's root queueing discipline away; the kernel puts its default there."""
        try:
            self._route.tc("del", index=ifindex, root=True)
        except NetlinkError as error:
            if error.code not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
                raise refused(error, f"reset interface {ifindex}'s qdisc") from error

    @staticmethod
    def _dump(ask: Any) -> list[Any]:
        """Dump a table; once more when it changed meanwhile."""
        for _ in range(_DUMP_TRIES):
            with contextlib.suppress(NetlinkDumpInterrupted):
                return list(ask())
        raise DataPlaneError.of(errno.EINTR, "read a table that keeps changing")


def _with_device_facts(facts: dict[str, Any]) -> Interface:
    features, segments = device.xdp_features(facts["index"])
    name = facts["name"]
    facts["rx_queues"] = device.rx_queues(name) or facts["rx_queues"]
    return Interface(
        **facts,
        driver=device.driver(name),
        rx_ring=device.rx_ring(name),
        xdp_features=features,
        zero_copy_segments_max=segments,
        tx_checksum=device.tx_checksum(name),
        gro=device.gro(name),
    )


def provoke(route: Route) -> None:
    """Make the kernel resolve a next hop, by an empty datagram to the discard port.

    Needs no capability, unlike a neighbour entry with NTF_USE. Refusals show in the entry.
    """
    family = socket.AF_INET6 if ":" in route.destination else socket.AF_INET
    with (
        socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe,
        contextlib.suppress(OSError),
    ):
        probe.connect((route.destination, _DISCARD_PORT))
        probe.send(b"")


# ---- Asynchronous ----


class AsyncNetlink:
    """The same questions from an event loop, and what changes. Make it in the running loop."""

    def __init__(self) -> None:
        self._route = AsyncIPRoute()

    async def __aenter__(self) -> Self:
        await self._route.setup_endpoint()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._route.close()

    async def link(self, which: str | int) -> Change:
        """Return an interface's present state; DataPlaneError ENODEV if it is gone."""
        by: dict[str, Any] = {"index": which} if isinstance(which, int) else {"ifname": which}
        with asking(f"look at interface {which}"):
            message = (await _all(self._route.link("get", **by)))[0]
        facts = _link_facts(message)
        return Change(
            "link", False, facts["index"], facts["name"], facts["up"], facts["carrier"], "",
            facts["mac"],
        )  # fmt: skip

    async def mtu(self, ifindex: int) -> int:
        """Return an interface's MTU."""
        with asking(f"look at interface {ifindex}"):
            message = (await _all(self._route.link("get", index=ifindex)))[0]
        return int(message.get_attr("IFLA_MTU"))

    async def route(self, destination: str) -> Route:
        """Return the route to an address; DataPlaneError ENETUNREACH when there is none."""
        destination = str(ip_address(destination))
        with asking(f"look up the route to {destination}", "add a route, or correct the address"):
            message = (await _all(self._route.route("get", dst=destination)))[0]
        return _route(message, destination)

    async def neighbour(self, address: str, ifindex: int) -> Neighbour | None:
        """Return the kernel's entry for a next hop; None if it has none."""
        try:
            messages = await _all(self._route.neigh("get", dst=address, ifindex=ifindex))
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                return None
            raise refused(error, f"look up neighbour {address}") from error
        return _neighbour(messages[0])

    async def resolve(self, route: Route, timeout_s: float = RESOLVE_S) -> Neighbour | None:
        """Return the next hop's MAC address, asking the link for it; None if nobody answers."""
        end = time.monotonic() + timeout_s
        pause_s = 0.001
        provoke(route)
        while True:
            entry = await self.neighbour(route.gateway, route.ifindex)
            if entry is not None and entry.usable:
                return entry
            left_s = end - time.monotonic()
            if left_s <= 0:
                return None
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 2, 0.05)

    @staticmethod
    async def watch() -> AsyncIterator[Change]:
        """Yield what changes of links, neighbours, addresses and routes, until cancelled.

        Changes may be lost under load (the kernel says ENOBUFS): DataPlaneError, look again.
        """
        groups = (
            _RTMGRP_LINK
            | _RTMGRP_NEIGH
            | _RTMGRP_IPV4_IFADDR
            | _RTMGRP_IPV4_ROUTE
            | _RTMGRP_IPV6_IFADDR
            | _RTMGRP_IPV6_ROUTE
        )
        async with AsyncIPRoute() as events:
            await events.bind(groups=groups)
            with asking("watch the network", "look at everything again"):
                while True:  # get() ends with what one read of the socket brought
                    async for message in events.get():
                        change = _change(message)
                        if change is not None:
                            yield change


async def _all(answer: Any) -> list[Any]:
    """Return the messages of a pyroute2 answer, which is a list or an asynchronous iterator."""
    answer = await answer
    return [message async for message in answer] if hasattr(answer, "__aiter__") else list(answer)
