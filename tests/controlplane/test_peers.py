"""When the kernel is asked for the ways to peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Self

import pytest

from valkyrie.controlplane.config import reader as config
from valkyrie.controlplane.daemon import peers as module
from valkyrie.controlplane.daemon.peers import Peers, PortFacts
from valkyrie.controlplane.daemon.state import State
from valkyrie.controlplane.host.netlink import Neighbour, Route
from valkyrie.dataplane import ffi

MAC = bytes(range(6))
REACHABLE = 0x02  # linux/neighbour.h
COUNT = 3


class Kernel:
    """Answers at once, and counts questions for routes."""

    routes = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    @staticmethod
    async def watch() -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    async def route(self, address: str) -> Route:
        Kernel.routes += 1
        return Route(address, "10.9.0.1", address, 1, 0, local=False)

    async def link(self, _ifindex: int) -> SimpleNamespace:
        return SimpleNamespace(mac=MAC)

    async def neighbour(self, address: str, ifindex: int) -> Neighbour:
        return Neighbour(address, ifindex, MAC, REACHABLE)


@pytest.fixture(name="peers")
def _peers(monkeypatch: pytest.MonkeyPatch) -> Peers:
    monkeypatch.setattr(module, "AsyncNetlink", Kernel)
    monkeypatch.setattr(module, "_SETTLE_S", 0)
    monkeypatch.setattr(Kernel, "routes", 0)
    text = '[[interface]]\nname = "vk0"\n'
    for i in range(COUNT):
        text += f'[[peer]]\nname = "p{i}"\naddress = "10.9.0.{i + 2}"\nstatic = true\n'
    known = config.parse(text).peers
    return Peers(State(ffi.new("struct vk_state *")), known, [PortFacts(0, 1, "vk0", 1500)], 21000)


async def pause() -> None:
    """Let others have so many turns that nobody has anything left to do at once."""
    loop = asyncio.get_running_loop()
    for _ in range(1000):
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn


def test_a_session_made_anew_costs_no_look_at_the_ways_to_all_peers(peers: Peers) -> None:
    async def renew() -> list[int]:
        running = asyncio.get_running_loop().create_task(peers.run())
        counts = []
        for limit in (0, 1400, *[1400] * 10, 1300):
            peers.limit(0, limit)
            await pause()
            counts.append(Kernel.routes)
        running.cancel()
        return counts

    assert asyncio.run(renew()) == [COUNT, *[2 * COUNT] * 11, 3 * COUNT]
