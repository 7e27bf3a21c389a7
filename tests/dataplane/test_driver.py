"""Asking the daemon by asyncio: many tasks at once, and a socket that takes no more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.dataplane.test_node import Nodes, both, until
from tests.lab import SOON_S
from valkyrie.dataplane.application.refusal import NoPeerError
from valkyrie.dataplane.errors import ValkyrieError

if TYPE_CHECKING:
    from tests.dataplane.double import Fabric
    from valkyrie.dataplane.application.node import Node
    from valkyrie.dataplane.application.peer import Peer

REQUESTS = 5000
"""More than a socket holds."""
WHILE_S = 0.1


def note_puts(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that becomes whether each try to put a request succeeded."""
    put = node._driver._put
    went: list[bool] = []

    def noted(packet: bytes) -> bool:
        went.append(put(packet))
        return went[-1]

    monkeypatch.setattr(node._driver, "_put", noted)
    return went


async def ask_until_full(node: Node, went: list[bool]) -> list[asyncio.Task[Peer]]:
    """Ask more than the socket holds, of a node that looks at nothing."""
    asking = [asyncio.create_task(node.connect("right")) for _ in range(REQUESTS)]
    await until(lambda: False in went)
    return asking


async def test_who_meets_a_full_socket_waits_for_room_and_does_not_try_again(
    fabric: Fabric, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    async with both(nodes) as (left, _):
        went = note_puts(left, monkeypatch)
        with fabric.lock:  # the node looks at nothing
            asking = await ask_until_full(left, went)
            end_s = loop.time() + WHILE_S
            await until(lambda: loop.time() > end_s)
            assert went.count(False) == 1
        peers = await asyncio.wait_for(asyncio.gather(*asking), SOON_S)
        assert {each.name for each in peers} == {"right"}


async def test_who_waits_for_room_hears_that_the_attachment_is_closed(
    fabric: Fabric, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both(nodes) as (left, _):
        went = note_puts(left, monkeypatch)
        with fabric.lock:
            asking = await ask_until_full(left, went)
            nodes[0].silent = True  # it would answer who is gone
            left._driver.close()
        answers = await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), SOON_S)
        assert all(isinstance(each, ValkyrieError) for each in answers)


async def test_a_request_that_is_cancelled_before_it_went_gets_nobody_elses_reply(
    fabric: Fabric, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both(nodes) as (left, _):
        went = note_puts(left, monkeypatch)
        with fabric.lock:
            asking = await ask_until_full(left, went)
            for each in asking:
                each.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        with pytest.raises(NoPeerError):
            await asyncio.wait_for(left.connect("nobody"), SOON_S)
        assert (await asyncio.wait_for(left.connect("right"), SOON_S)).name == "right"


async def test_two_tasks_may_accept_before_the_name_is_known(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        service = right.listen("work")
        accepting = [asyncio.create_task(service.accept()) for _ in range(2)]
        await until(lambda: service._incoming is not None)
        peer = await left.connect("right")
        for stream in (100, 101):
            await peer.open("work", stream=stream)
        got = await asyncio.wait_for(asyncio.gather(*accepting), SOON_S)
        assert sorted(each.id for each in got) == [100, 101]
