"""Asking the daemon by asyncio: many tasks at once, and a socket that takes no more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import valkyrie
from tests.dataplane.test_node import Nodes, both, opened, until, waiters
from tests.dataplane.test_stream import hold, next_of
from tests.dataplane.test_stream_end import InterruptError, alarm, interrupted
from tests.lab import SOON_S, turn, wait_until
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.application.refusal import NoPeerError
from valkyrie.dataplane.errors import ValkyrieError

if TYPE_CHECKING:
    from tests.dataplane.double import DoubleNode, Fabric
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


# ---- Interruptions ----


def names_of(node: DoubleNode) -> set[str]:
    """Return the services that a node knows."""
    return set().union(*(app.services for app in node.apps))


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupted_request_gives_its_reply_to_no_other(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    with valkyrie.attach_sync(nodes[0].path) as left:
        driver = left._driver
        reply = driver._reply

        def interrupted_reply() -> bytes:
            monkeypatch.undo()
            if when == "after":
                reply()
            raise InterruptError

        monkeypatch.setattr(driver, "_reply", interrupted_reply)
        with pytest.raises(InterruptError):
            left.connect("left")
        assert left.connect("right").index == 1
        assert left.connect("left").index == 0
        assert not left.lost


def test_a_signal_that_ends_a_request_leaves_the_attachment_usable(
    fabric: Fabric, nodes: Nodes
) -> None:
    with valkyrie.attach_sync(nodes[0].path) as left:
        with fabric.lock, alarm(interrupted), pytest.raises(InterruptError):
            left.connect("left")
        assert left.connect("right").index == 1


def test_a_name_whose_registration_was_interrupted_is_given_back(
    fabric: Fabric, nodes: Nodes
) -> None:
    with valkyrie.attach_sync(nodes[0].path) as left:
        with fabric.lock, alarm(interrupted), pytest.raises(InterruptError):
            left.listen("work")
        wait_until(lambda: appsocket.Unlisten("work") in nodes[0].requests)
        assert not names_of(nodes[0])
        with left.listen("work"):
            assert names_of(nodes[0]) == {"work"}
        assert left.connect("right").index == 1


async def test_a_name_whose_registration_was_cancelled_is_given_back(
    fabric: Fabric, nodes: Nodes
) -> None:
    async with both(nodes) as (left, _):
        with fabric.lock:
            listening = asyncio.create_task(left.listen("work")._listen())
            await until(lambda: left._driver._replies)
            listening.cancel()
            await asyncio.wait({listening})
        await until(lambda: appsocket.Unlisten("work") in nodes[0].requests)
        assert not names_of(nodes[0])
        async with left.listen("work"):
            assert names_of(nodes[0]) == {"work"}


async def test_a_name_is_given_back_though_that_is_cancelled(fabric: Fabric, nodes: Nodes) -> None:
    async with both(nodes) as (left, _):
        service = await left.listen("work")
        closing = asyncio.create_task(service.close())
        async with left._driver._asking:  # others ask
            await until(lambda: service._incoming and service._incoming.closed)
            closing.cancel()
            await asyncio.wait({closing})
        await until(lambda: not names_of(nodes[0]))


async def test_an_error_while_records_are_taken_in_leaves_nobody_deaf(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        receiving = asyncio.create_task(next_of(theirs))
        await waiters(right)
        pump = right._driver.attachment.pump

        def pump_once() -> bool:
            monkeypatch.setattr(right._driver.attachment, "pump", pump)
            raise MemoryError

        monkeypatch.setattr(right._driver.attachment, "pump", pump_once)
        await mine.send(b"after all")
        assert (await receiving).payload == b"after all"
        assert [type(error) for error in errors] == [MemoryError]


async def test_an_open_that_is_cancelled_with_its_answer_leaves_no_stream(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both(nodes) as (left, right):
        service = await right.listen("work")
        peer = await left.connect("right")
        driver = left._driver
        opening = asyncio.create_task(peer.open("work", stream=100))
        wake = driver._wake

        def wake_and_cancel() -> None:
            answered = any(flow.code == 0 for flow in driver.attachment.streams.values())
            wake()
            if answered:
                opening.cancel()

        monkeypatch.setattr(driver, "_wake", wake_and_cancel)
        await asyncio.wait({opening})
        assert opening.cancelled()
        with pytest.raises(valkyrie.StreamResetError):
            await (await service.accept(SOON_S)).recv(SOON_S)
        await until(lambda: not nodes[0].flows and not nodes[1].flows)


async def test_who_waits_behind_a_large_message_hears_that_the_attachment_is_closed(
    fabric: Fabric, nodes: Nodes
) -> None:
    async with both(nodes) as (left, right):
        mine, _ = await opened(left, right)
        hold(fabric, nodes[0], True)
        large = asyncio.create_task(mine.send(bytes(1_000_000)))
        await waiters(left)
        behind = asyncio.create_task(mine.send(b"behind"))
        await waiters(left, 2)
        left._driver.close()
        answers = await asyncio.wait_for(
            asyncio.gather(large, behind, return_exceptions=True), SOON_S
        )
        assert all(isinstance(each, valkyrie.NodeGoneError) for each in answers)


async def test_a_close_that_is_cancelled_within_a_large_message_is_made_up_for_behind_it(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = bytes(1_000_000)
    nodes[0].tells_limits = True
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        await until(lambda: mine._flow.outlet.limit)
        large = asyncio.create_task(mine.send(payload))
        await until(lambda: mine._flow.outlet.within)
        closing = asyncio.create_task(mine.close_sending())
        await until(lambda: mine._flow.outlet.closed)
        closing.cancel()
        await asyncio.wait({closing})
        turns: list[int] = []
        look = left._driver._turn

        def counted() -> None:
            turns.append(1)
            look()

        monkeypatch.setattr(left._driver, "_turn", counted)
        for _ in range(1000):  # nobody reads: there is nothing to do
            await turn()
        assert len(turns) < 100
        assert (await next_of(theirs)).payload == payload
        await asyncio.wait_for(large, SOON_S)
        assert await theirs.recv(SOON_S) is None
