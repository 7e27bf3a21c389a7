"""Attaching, listening, connecting, opening; what happens when somebody says no or dies."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

import valkyrie
from tests.aside import aside
from tests.dataplane.double import App, Channel, DoubleNode, Fabric
from tests.lab import SOON_S, wait_until
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.application import appsocket, attachment, driver, events
from valkyrie.dataplane.application.refusal import (
    ApplicationGoneError,
    NoPeerError,
    NoServiceError,
    PolicyError,
    RefusedError,
    StreamInUseError,
    StreamResetError,
    StreamsFullError,
    UnreachableError,
    refusal,
)
from valkyrie.dataplane.application.rings import Rings
from valkyrie.dataplane.errors import DataPlaneError, LocalProtocolError
from valkyrie.dataplane.wire import Class, Code

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from valkyrie.dataplane.application.node import Node
    from valkyrie.dataplane.application.stream import Stream

Nodes = tuple[DoubleNode, DoubleNode]


def app_of(node: DoubleNode) -> App:
    return next(app for app in node.apps if app.channel is not None)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until a condition holds."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(SOON_S):
        while not condition():
            turn = loop.create_future()
            loop.call_later(0.0005, turn.set_result, None)
            await turn


async def waiters(face: Node | Stream, count: int = 1) -> None:
    """Let the loop run until so many tasks wait for the node."""
    await until(lambda: sum(map(len, face._driver._waiters.values())) >= count)


@asynccontextmanager
async def both(nodes: Nodes) -> AsyncIterator[tuple[Node, Node]]:
    async with valkyrie.attach(nodes[0].path) as left, valkyrie.attach(nodes[1].path) as right:
        yield left, right


async def test_a_message_crosses_and_its_answer_comes_back(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        service = await right.listen("echo")

        async def serve() -> None:
            async for stream in service:
                async for message in stream:
                    await stream.send(message.payload.upper())
                return

        server = asyncio.create_task(serve())
        peer = await left.connect("right")
        stream = await peer.open("echo", stream=100)
        await stream.send(b"hello")
        message = await stream.recv(timeout=SOON_S)
        assert message is not None
        assert (message.payload, message.stream, message.sequence) == (b"HELLO", 100, 0)
        await stream.close()
        await asyncio.wait_for(server, SOON_S)


def test_a_message_crosses_between_synchronous_applications(nodes: Nodes) -> None:
    with valkyrie.attach_sync(nodes[1].path) as right, right.listen("echo") as service:

        def client() -> None:
            with valkyrie.attach_sync(nodes[0].path) as left:
                stream = left.connect("right").open("echo", cls="job")
                assert stream.id == 100
                assert stream.request(b"hello", timeout=SOON_S).payload == b"HELLO"
                stream.close()

        with aside(client):
            stream = service.accept(timeout=SOON_S)
            for message in stream:
                stream.reply(message, message.payload.upper())
            stream.close()


def test_importing_the_package_loads_nothing_until_a_name_is_used() -> None:
    code = "import sys, valkyrie; print([m for m in sys.modules if m.startswith('valkyrie.')])"
    python = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert python.stdout.strip() == b"[]"
    assert all(getattr(valkyrie, name) is not None for name in valkyrie.__all__)
    assert set(valkyrie.__all__) <= set(dir(valkyrie))
    with pytest.raises(AttributeError):
        valkyrie.attache  # type: ignore[attr-defined]  # noqa: B018


# ---- Attaching ----


def test_attaching_to_a_node_that_is_not_up_says_how_to_start_it(tmp_path: Path) -> None:
    missing = valkyrie.attach_sync(f"{tmp_path}/none.sock")
    with pytest.raises(DataPlaneError, match="valkyrie up") as caught, missing:
        pass
    assert caught.value.errno == errno.ENOENT
    assert driver.socket_path("valkyrie") == "/run/valkyrie/valkyrie.sock"


def test_a_policy_may_refuse_to_attach(nodes: Nodes) -> None:
    with (
        pytest.raises(PolicyError, match="no rule"),
        valkyrie.attach_sync(nodes[0].path, name="forbidden"),
    ):
        pass


def test_an_application_sees_the_classes_it_was_given(fabric: Fabric, nodes: Nodes) -> None:
    nodes[0].classes = [Class.JOB, Class.LOGS]
    with valkyrie.attach_sync(nodes[0].path) as node:
        assert node.classes == ["job", "logs"]
        with pytest.raises(PolicyError, match="critical"):
            node.connect("right").open("echo", stream=0)


async def test_leaving_a_node_gives_everything_back(nodes: Nodes) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with valkyrie.attach(nodes[0].path):
        pass
    wait_until(lambda: not nodes[0].apps)
    before = descriptors()
    for _ in range(3):
        async with valkyrie.attach(nodes[0].path) as node:
            await node.connect("right")
        wait_until(lambda: not nodes[0].apps)
    assert descriptors() == before


# ---- Asking the daemon ----


async def test_only_configured_peers_can_be_connected_to(nodes: Nodes) -> None:
    async with valkyrie.attach(nodes[0].path) as node:
        with pytest.raises(NoPeerError, match="nowhere"):
            await node.connect("nowhere")
        peer = await node.connect("right")
        assert (peer.index, peer.name, peer.family) == (1, "right", 4)


async def test_requests_of_many_tasks_get_their_own_replies(nodes: Nodes) -> None:
    async with valkyrie.attach(nodes[0].path) as node:
        names = ["left", "right"] * 20
        peers = await asyncio.gather(*(node.connect(name) for name in names))
        assert [peer.index for peer in peers] == [0, 1] * 20


async def test_a_service_name_belongs_to_one_application(nodes: Nodes) -> None:
    async with valkyrie.attach(nodes[0].path) as one, valkyrie.attach(nodes[0].path) as two:
        async with one.listen("echo"):
            with pytest.raises(RefusedError, match="taken"):
                await two.listen("echo")
            with pytest.raises(LocalProtocolError, match="already"):
                await one.listen("echo")
        async with two.listen("echo"):
            pass


async def test_the_end_of_the_lease_is_told_after_what_came_in(
    fabric: Fabric, nodes: Nodes
) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        await mine.send(b"last")
        await until(lambda: theirs._flow.queue)
        fabric.do(app_of(nodes[1]).cut)
        assert [message.payload for message in await theirs.recv_many()] == [b"last"]
        with pytest.raises(valkyrie.NodeGoneError, match="attach again"):
            await theirs.recv(timeout=SOON_S)
        with pytest.raises(DataPlaneError, match="attach again"):
            await right.connect("left")
        assert right.lost


def test_a_synchronous_reader_is_told_of_the_end_of_the_lease(fabric: Fabric, nodes: Nodes) -> None:
    with valkyrie.attach_sync(nodes[0].path) as node, node.listen("echo") as service:
        timer = threading.Timer(0.02, lambda: fabric.do(app_of(nodes[0]).cut))
        timer.start()
        with pytest.raises(valkyrie.NodeGoneError):
            service.accept(timeout=SOON_S)
        timer.join()


def test_the_end_of_a_with_block_does_not_need_the_daemon(fabric: Fabric, nodes: Nodes) -> None:
    with valkyrie.attach_sync(nodes[0].path) as node, node.listen("echo"):
        fabric.do(app_of(nodes[0]).cut)


def test_a_stuck_daemon_is_given_up_in_time(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "REQUEST_TIMEOUT_S", 0.05)
    with valkyrie.attach_sync(nodes[0].path) as node:
        nodes[0].silent = True
        with pytest.raises(DataPlaneError):
            node.connect("right")
        assert node.lost


# ---- Opening streams ----


async def opened(left: Node, right: Node, stream: int = 100) -> tuple[Stream, Stream]:
    """Return both ends of a new stream."""
    service = await right.listen(f"service-{stream}")
    peer = await left.connect("right")
    mine = await peer.open(f"service-{stream}", stream=stream)
    return mine, await service.accept(timeout=SOON_S)


async def test_a_lost_open_is_sent_again_and_opens_once(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        nodes[0].lose_opens = 2
        service = await right.listen("echo")
        begin = time.monotonic()
        stream = await (await left.connect("right")).open("echo", stream=100)
        assert time.monotonic() - begin >= 0.15  # 50 ms, then 100 ms
        assert nodes[0].opens == 3
        assert (await service.accept()).id == stream.id
        with pytest.raises(TimeoutError):
            await service.accept(timeout=0)


def test_an_open_is_repeated_ever_later_for_two_seconds() -> None:
    channel = Channel([4096] * 6, 1)
    rings = Rings([*channel.memfds, channel.bell_app, channel.bell_worker], 1)
    verb = attachment.Attachment(rings).open(0, "echo", 100, None, now_ns=0)
    step = next(verb)
    times_ms: list[int] = []
    records = 0

    def pass_time() -> None:
        nonlocal step, records
        while isinstance(step, attachment.Wait) and step.deadline_ns is not None:
            while channel.take(Class.JOB):
                records += 1
            times_ms.append(step.deadline_ns // 1_000_000)
            step = verb.send(step.deadline_ns)

    with pytest.raises(UnreachableError, match="path to it"):
        pass_time()
    assert times_ms == [50, 150, 350, 750, 1550, 2000]
    assert records == len(times_ms)
    channel.close()


async def test_a_stream_is_free_again_after_an_open_failed(nodes: Nodes) -> None:
    async with valkyrie.attach(nodes[0].path) as left:
        for _ in range(2):
            with pytest.raises(NoServiceError, match="'echo'"):
                await (await left.connect("right")).open("echo", stream=100)


@pytest.mark.parametrize("code", [code for code in Code if code != Code.OK])
async def test_a_refused_open_says_why(nodes: Nodes, code: Code) -> None:
    async with valkyrie.attach(nodes[0].path) as left:
        nodes[0].open_code = code.value
        kind = type(refusal(code.value))
        late = (Code.FLOW_CONTROL, Code.SHARDS, Code.CANCELLED)  # only an open stream meets these
        if code // 100 in (2, 3, 6, 7) and code not in late:  # security, streams, peers, policy
            assert kind is not RefusedError
        with pytest.raises(kind, match=code.name.lower()) as caught:
            await (await left.connect("right")).open("echo", stream=100)
        assert (caught.value.code, caught.value.name) == (code, code.name.lower())


async def test_a_class_gives_its_next_free_stream(nodes: Nodes) -> None:
    async with both(nodes) as (left, right), right.listen("echo"):
        peer = await left.connect("right")
        streams = [await peer.open("echo", cls="job") for _ in range(3)]
        assert [stream.id for stream in streams] == [100, 101, 102]
        assert {stream.class_name for stream in streams} == {"job"}
        assert (await peer.open("echo", cls="critical")).id == 0
        with pytest.raises(StreamInUseError, match="close some"):
            await peer.open("echo", cls="critical")
        with pytest.raises(StreamInUseError):
            await peer.open("echo", stream=101)


async def test_a_stream_that_another_application_has_is_passed_over(nodes: Nodes) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(valkyrie.attach(nodes[0].path))
        two = await stack.enter_async_context(valkyrie.attach(nodes[0].path))
        right = await stack.enter_async_context(valkyrie.attach(nodes[1].path))
        await right.listen("echo")
        assert (await (await one.connect("right")).open("echo", cls="data")).id == 1000
        assert (await (await two.connect("right")).open("echo", cls="data")).id == 1001


@pytest.mark.parametrize(
    ("service", "stream", "klass"),
    [
        ("echo", None, None),
        ("echo", 5, "job"),
        ("", 5, None),
        ("é" * 33, 5, None),
        ("a", None, "x"),
    ],
)
async def test_a_wrong_open_is_told_before_anything_is_sent(
    nodes: Nodes, service: str, stream: int | None, klass: str | None
) -> None:
    async with valkyrie.attach(nodes[0].path) as left:
        peer = await left.connect("right")
        with pytest.raises(LocalProtocolError):
            await peer.open(service, stream, cls=klass)
        assert nodes[0].opens == 0


async def test_giving_up_on_an_open_leaves_nothing_behind(fabric: Fabric, nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        service = await right.listen("echo")
        nodes[0].lose_opens = 1
        peer = await left.connect("right")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(peer.open("echo", stream=100), 0.02)
        assert not left._driver.attachment.streams
        assert (await peer.open("echo", stream=100)).id == 100
        await service.close()


async def test_streams_nobody_accepts_are_refused_beyond_a_bound(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BACKLOG_MAX", 2)
    async with both(nodes) as (left, right):
        await right.listen("echo")
        peer = await left.connect("right")
        streams = [await peer.open("echo", cls="job") for _ in range(3)]
        with pytest.raises(StreamResetError) as caught:
            await streams[2].recv(timeout=SOON_S)
        assert caught.value.code == Code.STREAMS_FULL
        assert isinstance(refusal(Code.STREAMS_FULL), StreamsFullError)
        assert not streams[0].closed


async def test_closing_a_service_refuses_who_waits_and_ends_the_iteration(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        service = await right.listen("echo")
        stream = await (await left.connect("right")).open("echo", stream=100)

        async def close_soon() -> None:
            await waiters(right)
            await service.close()

        closing = asyncio.create_task(close_soon())
        seen = [incoming.id async for incoming in service]
        await closing
        assert seen == [stream.id]  # what was accepted stays open
        assert not stream.closed
        with pytest.raises(LocalProtocolError, match="listen again"):
            await service.accept()


# ---- Endings ----


async def test_a_peer_application_that_dies_resets_its_streams(nodes: Nodes) -> None:
    async with valkyrie.attach(nodes[0].path) as left:
        async with valkyrie.attach(nodes[1].path) as right:
            mine, _ = await opened(left, right)
        with pytest.raises(StreamResetError) as caught:
            await mine.recv(timeout=SOON_S)
        assert caught.value.code == Code.APPLICATION_GONE
        with pytest.raises(StreamResetError):
            await mine.send(b"x")
        assert isinstance(refusal(caught.value.code), ApplicationGoneError)


def close_region(node: DoubleNode) -> None:
    channel = app_of(node).channel
    assert channel is not None
    channel.d.closed = 1
    channel.ring_bell()


async def test_the_end_of_the_attachment_is_told_to_everybody_who_waits(
    fabric: Fabric, nodes: Nodes
) -> None:
    async with both(nodes) as (left, right):
        mine, _ = await opened(left, right)
        service = await left.listen("other")
        waiting = [
            asyncio.create_task(mine.recv()),
            asyncio.create_task(service.accept()),
            asyncio.create_task(mine.request(b"?")),
        ]
        await waiters(left, 3)
        fabric.do(lambda: close_region(nodes[0]))
        done = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), SOON_S)
        assert [type(error) for error in done] == [valkyrie.NodeGoneError] * 3
        with pytest.raises(valkyrie.NodeGoneError, match="attach again"):
            await mine.send(b"x")


def test_a_synchronous_waiter_is_told_too(fabric: Fabric, nodes: Nodes) -> None:
    with valkyrie.attach_sync(nodes[0].path) as node:
        service = node.listen("echo")
        timer = threading.Timer(0.02, lambda: fabric.do(lambda: close_region(nodes[0])))
        timer.start()
        with pytest.raises(valkyrie.NodeGoneError):
            service.accept(timeout=SOON_S)
        timer.join()


async def test_leaving_wakes_those_who_still_wait(nodes: Nodes) -> None:
    async with valkyrie.attach(nodes[0].path) as node:
        service = await node.listen("echo")
        waiting = asyncio.create_task(service.accept())
        await waiters(node)
    with pytest.raises(valkyrie.NodeGoneError, match="closed"):
        await asyncio.wait_for(waiting, SOON_S)


def test_a_reply_with_too_few_descriptors_is_refused(nodes: Nodes) -> None:
    reply = appsocket.Reply(generation=1)
    with pytest.raises(valkyrie.ValkyrieError, match="same version"):
        driver._check_reply(reply, [])


# ---- The core alone: no socket, no waiting ----


@pytest.fixture
def core() -> Iterator[tuple[attachment.Attachment, Channel]]:
    channel = Channel([4096] * 6, 1)
    rings = Rings([*channel.memfds, channel.bell_app, channel.bell_worker], 1)
    yield attachment.Attachment(rings), channel
    channel.close()


Core = tuple[attachment.Attachment, Channel]


def record(flow: int, **fields: int) -> object:
    values = {"flow": flow, "flow_generation": 9, "stream": 100, "peer": 2, **fields}
    return ffi.new("struct vk_message *", values)


def test_a_stream_told_twice_comes_in_once(core: Core) -> None:
    attached, channel = core
    service = attached.services["echo"] = events.Incoming("echo")
    for _ in range(2):  # a worker that died may not know that it told
        channel.put(Class.JOB, lib.VK_RECORD_OPEN, record(5), b"echo")
    attached.pump()
    assert [flow.number for flow in service.waiting] == [5]
    assert service in attached.woken


def test_a_stream_is_read_to_its_end_though_its_number_is_anothers(core: Core) -> None:
    attached, channel = core
    service = attached.services["echo"] = events.Incoming("echo")
    channel.put(Class.JOB, lib.VK_RECORD_OPEN, record(5), b"echo")
    attached.pump()
    new = {"flow_generation": 10, "stream": 1000}
    channel.put(Class.DATA, lib.VK_RECORD_OPEN, record(5, **new), b"echo")
    channel.put(Class.DATA, lib.VK_RECORD_DATA, record(5, **new), b"new")
    attached.pump()  # which may look at rings in any order
    channel.put(Class.JOB, lib.VK_RECORD_DATA, record(5), b"old")
    channel.put(Class.JOB, lib.VK_RECORD_CLOSE, record(5, sequence=1), b"")
    attached.pump()
    old, newer = service.waiting
    for flow, payload in ((old, b"old"), (newer, b"new")):
        message = attached.take(flow)
        assert message is not None
        assert message.payload == payload
    assert attached.take(old) is None
    assert attached.strays == 0
    assert attached.flows == {5: newer}


def test_a_message_may_overtake_the_answer_to_an_open(core: Core) -> None:
    attached, channel = core
    verb = attached.open(2, "echo", 100, None, now_ns=0)
    next(verb)
    asked = channel.take(Class.JOB)
    assert asked is not None
    token = asked[1].correlation
    channel.put(Class.JOB, lib.VK_RECORD_DATA, record(5), b"early")
    channel.put(Class.JOB, lib.VK_RECORD_OPENED, record(5, correlation=token), b"")
    attached.pump()
    with pytest.raises(StopIteration) as done:
        verb.send(1)
    message = attached.take(done.value.value)
    assert message is not None
    assert message.payload == b"early"


def test_an_answer_nobody_waits_for_gives_the_stream_back(core: Core) -> None:
    attached, channel = core
    channel.put(Class.JOB, lib.VK_RECORD_OPENED, record(5, correlation=77), b"")
    attached.pump()
    answer = channel.take(Class.JOB)
    assert answer is not None
    assert (answer[0], answer[1].flow) == (lib.VK_RECORD_RESET, 5)
    assert answer[1].code == Code.CANCELLED


def test_an_open_that_was_given_up_is_taken_back(core: Core) -> None:
    attached, channel = core
    verb = attached.open(2, "echo", 100, None, now_ns=0)
    next(verb)
    asked = channel.take(Class.JOB)
    verb.close()
    answer = channel.take(Class.JOB)
    assert asked is not None
    assert answer is not None
    kind, head, _ = answer
    assert (kind, head.code, head.stream) == (lib.VK_RECORD_RESET, Code.CANCELLED, 100)
    assert head.flow >= lib.VK_FLOWS_MAX  # it is known by peer, stream and token only
    assert (head.peer, head.correlation) == (2, asked[1].correlation)


def test_messages_for_no_stream_are_counted(core: Core) -> None:
    attached, channel = core
    for _ in range(3):
        channel.put(Class.JOB, lib.VK_RECORD_DATA, record(6), b"")
    attached.pump()
    assert attached.strays == 3
    assert channel.a.head[Class.JOB.value] == channel.tail[Class.JOB.value]  # given back


def test_a_reader_that_saw_the_end_is_not_told_of_a_reset(core: Core) -> None:
    attached, channel = core
    service = attached.services["echo"] = events.Incoming("echo")
    channel.put(Class.JOB, lib.VK_RECORD_OPEN, record(5), b"echo")
    channel.put(Class.JOB, lib.VK_RECORD_DATA, record(5), b"last")
    channel.put(Class.JOB, lib.VK_RECORD_CLOSE, record(5, sequence=1), b"")
    channel.put(Class.JOB, lib.VK_RECORD_RESET, record(5, code=Code.APPLICATION_GONE), b"")
    attached.pump()
    flow = service.waiting.popleft()
    results = []
    for _ in range(2):
        with pytest.raises(StopIteration) as done:
            next(attached.receive(flow, 0, now_ns=0))
        results.append(done.value.value)
    assert [each and each.payload for each in results] == [b"last", None]
    with pytest.raises(StreamResetError):
        flow.send(b"x")
