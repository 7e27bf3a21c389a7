"""Finds the way to every configured peer: route, interface, MAC addresses.

Looked at again when the kernel says that something changed, and now and then. The kernel path sends
as soon as there is a route; AF_XDP waits for the MAC addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from valkyrie.controlplane.host.netlink import AsyncNetlink, Route, provoke
from valkyrie.controlplane.rest import beating, unseen
from valkyrie.dataplane.errors import DataPlaneError

from .state import State, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from valkyrie.controlplane.config.settings_peer import Peer

_IP_AND_UDP_SIZE = {4: 20 + 8, 6: 40 + 8}  # RFC 791, RFC 8200, RFC 768
_NO_LIMIT = 0xFFFF
_NUD_STALE = 0x04  # linux/neighbour.h
_SETTLE_S = 0.02
"""Changes come in bursts: one look after each."""
_LOOK_S = 10.0
_LOOK_UNRESOLVED_S = 0.5
_RETRY_S = 1.0
_NAMES_MAX = 16
_NOWHERE = IPv4Address(0)
"""Where peers are that were removed."""


@dataclass(frozen=True, slots=True)
class PortFacts:
    """A port that frames may leave by."""

    index: int
    ifindex: int
    interface: str
    mtu: int


class OnWay(Protocol):
    """Hears of ways; ``direct``: without a router in between."""

    def __call__(self, index: int, *, direct: bool) -> None: ...  # noqa: D102


class Peers:
    """The peers of a node."""

    def __init__(
        self,
        state: State,
        peers: Sequence[Peer],
        ports: Sequence[PortFacts],
        udp_port: int,
        beat: Callable[[], None] = unseen,
    ) -> None:
        self._state = state
        self._peers: list[Peer] = []
        self._udp_port = udp_port
        self._ports = {port.ifindex: port for port in reversed(ports)}  # the first queue's
        self._look = asyncio.Event()
        self._reasons: list[str] = []
        self._ways: list[Way | None] = []
        self._addresses: list[IPv4Address | IPv6Address] = []
        """Where the peers are: not where the configuration says, if they have moved."""
        self._limits: list[int] = []
        """UDP payload that the peers take, in bytes."""
        self.on_way: OnWay | None = None
        """Called when there is another way to a peer."""
        self.add(peers, beat)

    def add(self, peers: Sequence[Peer], beat: Callable[[], None] = unseen) -> None:
        """Know more peers, behind those that are there."""
        for index, peer in enumerate(beating(peers, beat), len(self._peers)):
            if not peer.gone:
                self._state.set_peer(index, peer.address, peer.port or self._udp_port)
                self._state.set_rights(index, peer.rights)
            self._addresses.append(_NOWHERE if peer.gone else self._state.place(index).address)
            self._ways.append(None)
            self._limits.append(_NO_LIMIT)
            self._reasons.append("" if peer.gone else "not looked at yet")
            self._peers.append(peer)
        self._look.set()

    def remove(self, index: int, nobody: Peer) -> None:
        """Look for a peer no more; the others keep their places."""
        self._peers[index], self._addresses[index] = nobody, _NOWHERE
        self._ways[index], self._reasons[index] = None, ""

    async def run(self) -> None:
        """Keep the ways up to date for ever."""
        async with AsyncNetlink() as netlink, asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            while True:
                self._look.clear()
                for index in range(len(self._peers)):
                    if not self._peers[index].gone:
                        await self._resolve(netlink, index)
                patience_s = _LOOK_UNRESOLVED_S if any(self._reasons) else _LOOK_S
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._look.wait(), patience_s)
                    await asyncio.sleep(_SETTLE_S)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(DataPlaneError):  # changes were lost
                async for _ in AsyncNetlink.watch():
                    self._look.set()
            self._look.set()
            await asyncio.sleep(_RETRY_S)
            self._look.set()  # what changed meanwhile nobody told

    async def _resolve(self, netlink: AsyncNetlink, index: int) -> None:
        address, direct = self._addresses[index], False
        try:
            route = await netlink.route(str(address))
            direct = ip_address(route.gateway) == address
            way, reason = await self._find(netlink, address, route, self._limits[index])
        except DataPlaneError as error:
            way, reason = None, str(error.args[-1])
        if address != self._addresses[index]:
            return  # it moved meanwhile
        before = self._ways[index]
        self._ways[index], self._reasons[index] = way, reason
        self._state.set_way(index, way)
        if way is not None and way != before and self.on_way is not None:
            self.on_way(index, direct=direct)

    async def _find(
        self,
        netlink: AsyncNetlink,
        address: IPv4Address | IPv6Address,
        route: Route,
        limit: int,
    ) -> tuple[Way | None, str]:
        if route.local:
            return None, "the address is this host's own"
        port = self._ports.get(route.ifindex)
        if port is None:
            return None, "the route leads over an interface that the node does not serve"
        link = await netlink.link(route.ifindex)
        mac = await self._neighbour(netlink, route)
        mtu = min(route.mtu or port.mtu, port.mtu)
        way = Way(
            port_index=port.index,
            source=ip_address(route.source or bytes(len(address.packed))),
            payload_max=min(mtu - _IP_AND_UDP_SIZE[address.version], limit),
            mac=mac,
            source_mac=link.mac if mac else b"",
        )
        return way, "" if way.resolved else f"{route.gateway} does not answer on the link"

    @staticmethod
    async def _neighbour(netlink: AsyncNetlink, route: Route) -> bytes:
        entry = await netlink.neighbour(route.gateway, route.ifindex)
        if entry is None or not entry.usable or entry.state & _NUD_STALE:
            provoke(route)
        return entry.mac if entry is not None and entry.usable else b""

    def move(self, index: int, address: IPv4Address | IPv6Address) -> None:
        """Look for a peer at another address from now on."""
        self._addresses[index] = address
        self._look.set()

    def limit(self, index: int, payload_max: int) -> None:
        """Send a peer no more UDP payload in a datagram than it takes; 0 = it has not said."""
        limit = payload_max or _NO_LIMIT
        if limit != self._limits[index]:
            self._limits[index] = limit
            self._look.set()

    def way_to(self, index: int) -> tuple[IPv4Address | IPv6Address | None, int]:
        """Return our address towards a peer and the interface, by its index; None, 0 = no way."""
        way = self._ways[index]
        if way is None:
            return None, 0
        port = next(port for port in self._ports.values() if port.index == way.port_index)
        return way.source, port.ifindex

    def find(self, name: str) -> int | None:
        """Return the index of a peer by name or address."""
        try:
            wanted = ip_address(name)
        except ValueError:
            wanted = None
        for index, peer in enumerate(self._peers):
            if peer.gone:
                continue
            if peer.name == name or (
                wanted is not None and wanted in (ip_address(peer.address), self._addresses[index])
            ):
                return index
        return None

    def names(self) -> str:
        """Return whom there is, for people: not more than a few."""
        found = (peer.name for peer in self._peers if not peer.gone)
        return ", ".join(islice(found, _NAMES_MAX)) or "none"

    def family(self, index: int) -> int:
        """Return 4 or 6."""
        return self._addresses[index].version

    def describe(self) -> list[dict[str, object]]:
        """Return what status says of the peers."""
        found = []
        names = {port.index: port.interface for port in self._ports.values()}
        for index, peer in enumerate(self._peers):
            if peer.gone:
                continue
            way = self._ways[index]
            row: dict[str, object] = {
                "index": index,
                "name": peer.name,
                "address": str(self._addresses[index]),
                "resolved": way is not None and way.resolved,
                "reason": self._reasons[index],
            }
            if way is not None:
                row |= {
                    "interface": names.get(way.port_index, ""),
                    "source": str(way.source),
                    "payload_max": way.payload_max,
                    "mac": way.mac.hex(":"),
                }
            found.append(row)
        return found
