"""Finds the way to every configured peer: route, interface, MAC addresses.

Looked at again when the kernel says that something changed, and now and then. The kernel path sends
as soon as there is a route; AF_XDP waits for the MAC addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from valkyrie.dataplane.errors import DataPlaneError

from .netlink import AsyncNetlink, Route, provoke
from .state import State, Way

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .settings import Peer

_IP_AND_UDP_SIZE = {4: 20 + 8, 6: 40 + 8}  # RFC 791, RFC 8200, RFC 768
_NUD_STALE = 0x04  # linux/neighbour.h
_SETTLE_S = 0.02
"""Changes come in bursts: one look after each."""
_LOOK_S = 10.0
_LOOK_UNRESOLVED_S = 0.5
_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class PortFacts:
    """A port that frames may leave by."""

    index: int
    ifindex: int
    interface: str
    mtu: int


class Peers:
    """The peers of a node."""

    def __init__(
        self, state: State, peers: Sequence[Peer], ports: Sequence[PortFacts], udp_port: int
    ) -> None:
        self._state = state
        self._peers = peers
        self._ports = {port.ifindex: port for port in reversed(ports)}  # the first queue's
        self._look = asyncio.Event()
        self._reasons = ["not looked at yet"] * len(peers)
        self._ways: list[Way | None] = [None] * len(peers)
        for index, peer in enumerate(peers):
            state.set_peer(index, peer.address, peer.port or udp_port)

    async def run(self) -> None:
        """Keep the ways up to date for ever."""
        async with AsyncNetlink() as netlink, asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            while True:
                self._look.clear()
                for index, peer in enumerate(self._peers):
                    await self._resolve(netlink, index, peer)
                patience_s = _LOOK_UNRESOLVED_S if any(self._reasons) else _LOOK_S
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._look.wait(), patience_s)
                    await asyncio.sleep(_SETTLE_S)

    async def _watch(self) -> None:
        while True:
            try:
                async for _ in AsyncNetlink.watch():
                    self._look.set()
            except DataPlaneError:  # changes were lost
                self._look.set()
            await asyncio.sleep(_RETRY_S)

    async def _resolve(self, netlink: AsyncNetlink, index: int, peer: Peer) -> None:
        try:
            way, reason = await self._find(netlink, peer)
        except DataPlaneError as error:
            way, reason = None, str(error.args[-1])
        self._ways[index], self._reasons[index] = way, reason
        self._state.set_way(index, way)

    async def _find(self, netlink: AsyncNetlink, peer: Peer) -> tuple[Way | None, str]:
        route = await netlink.route(peer.address)
        if route.local:
            return None, "the address is this host's own"
        port = self._ports.get(route.ifindex)
        if port is None:
            return None, "the route leads over an interface that the node does not serve"
        link = await netlink.link(route.ifindex)
        mac = await self._neighbour(netlink, route)
        mtu = min(route.mtu or port.mtu, port.mtu)
        address = ip_address(peer.address)
        way = Way(
            port_index=port.index,
            source=ip_address(route.source or bytes(len(address.packed))),
            payload_max=mtu - _IP_AND_UDP_SIZE[address.version],
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

    def find(self, name: str) -> int | None:
        """Return the index of a peer by name or address."""
        try:
            wanted = ip_address(name)
        except ValueError:
            wanted = None
        for index, peer in enumerate(self._peers):
            if peer.name == name or (wanted is not None and ip_address(peer.address) == wanted):
                return index
        return None

    def family(self, index: int) -> int:
        """Return 4 or 6."""
        return ip_address(self._peers[index].address).version

    def describe(self) -> list[dict[str, object]]:
        """Return what status says of the peers."""
        found = []
        names = {port.index: port.interface for port in self._ports.values()}
        for index, peer in enumerate(self._peers):
            way = self._ways[index]
            row: dict[str, object] = {
                "index": index,
                "name": peer.name,
                "address": peer.address,
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
