"""Attachment: everything once and in order, an end for each direction, flushes."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

import valkyrie
from tests.aside import aside
from tests.dataplane.double import DEFAULT_RING_SIZE, Channel, Fabric
from tests.dataplane.test_node import Nodes, app_of, both, opened, until, waiters
from tests.dataplane.test_stream import JOB, hold, next_of, sync_pair
from tests.lab import SOON_S
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.application.attachment import Attachment
from valkyrie.dataplane.application.flow import Flow
from valkyrie.dataplane.application.rings import OVERHEAD, Rings
from valkyrie.dataplane.errors import LocalProtocolError
from valkyrie.dataplane.wire import Class, Code

# ---- Order ----


@pytest.mark.parametrize("stream", [0, 1, 100, 1000])
@pytest.mark.parametrize("seed", range(5))
async def test_everything_comes_once_however_the_network_mixes_it(
    nodes: Nodes, stream: int, seed: int
) -> None:
    nodes[1].disorder = Random(seed)
    count = 2000
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right, stream)

        async def send() -> None:
            await mine.send_many([number.to_bytes(4, "big") for number in range(count)])
            await mine.close_sending()

        sending = asyncio.create_task(send())
        got = [int.from_bytes(message.payload, "big") async for message in theirs]
        await sending
        assert theirs.ordered == (stream < 1000)
        assert (got if theirs.ordered else sorted(got)) == list(range(count))
        assert theirs.counts.received == count
        assert theirs.counts.duplicates + theirs.counts.early > 0


@pytest.mark.parametrize("seed", range(3))
def test_batches_keep_the_order_too(nodes: Nodes, seed: int) -> None:
    nodes[1].disorder = Random(seed)
    count = 3000
    with sync_pair(nodes) as (mine, theirs):
        with aside(lambda: mine.send_many(bytes(count * 8), 8)):
            got: list[int] = []
            while len(got) < count:
                with theirs.recv_many(timeout=SOON_S) as batch:
                    got += batch.sequences
        assert got == list(range(count))


async def test_an_end_may_read_as_it_comes(nodes: Nodes) -> None:
    nodes[1].disorder = Random(7)
    async with both(nodes) as (left, right):
        service = await right.listen("mixed", ordered=False)
        mine = await (await left.connect("right")).open("mixed", stream=100, ordered=True)
        theirs = await service.accept(timeout=SOON_S)
        await mine.send_many([b"%d" % number for number in range(100)])
        got = [int((await next_of(theirs)).payload) for _ in range(100)]
        assert (mine.ordered, theirs.ordered) == (True, False)
        assert got != sorted(got)
        assert sorted(got) == list(range(100))
        with pytest.raises(LocalProtocolError, match="gaps"):
            await (await left.connect("right")).open("mixed", cls="logs", ordered=True)


# ---- Endings ----


async def test_the_last_message_ends_the_iteration_and_the_way_back_stays_open(
    nodes: Nodes,
) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        await mine.send(b"one")
        await mine.send(b"two", eos=True)
        with pytest.raises(LocalProtocolError, match="closed for sending"):
            await mine.send(b"three")
        got = [message async for message in theirs]
        assert [(message.payload, message.eos) for message in got] == [
            (b"one", False),
            (b"two", True),
        ]
        await theirs.send(b"thanks")
        assert (await next_of(mine)).payload == b"thanks"


async def test_each_direction_ends_by_itself(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        await mine.send(b"question")
        await mine.close_sending()
        with pytest.raises(LocalProtocolError, match="closed for sending"):
            await mine.send(b"x")
        with pytest.raises(LocalProtocolError, match="closed for sending"):
            await mine.close_sending()
        assert [message.payload async for message in theirs] == [b"question"]
        await theirs.send(b"answer")
        await theirs.close_sending()
        assert [message.payload async for message in mine] == [b"answer"]
        await until(lambda: not nodes[0].flows and not nodes[1].flows)  # no close was needed
        again, _ = await opened(left, right, 101)
        assert (await (await left.connect("right")).open("service-101", stream=100)).id == 100
        await again.close()


async def test_a_stream_ends_with_its_last_message_though_others_come_later(nodes: Nodes) -> None:
    nodes[1].disorder = Random(1)
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        for number in range(20):
            await mine.send(bytes([number]), eos=number == 19)
        got = [message async for message in theirs]
        assert [message.payload[0] for message in got] == list(range(20))
        assert [message.eos for message in got] == [False] * 19 + [True]


async def test_a_last_message_waits_for_room_for_the_end_too(fabric: Fabric, nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        hold(fabric, nodes[0], True)
        await mine.send(bytes(DEFAULT_RING_SIZE - 3 * OVERHEAD))
        with pytest.raises(valkyrie.WouldBlockError):
            await mine.send(bytes(OVERHEAD), eos=True, timeout=0)
        with pytest.raises(LocalProtocolError, match="send parts"):
            await mine.send(bytes(DEFAULT_RING_SIZE - OVERHEAD), eos=True)
        await mine.send(b"", eos=True, timeout=0)
        hold(fabric, nodes[0], False)
        assert [len(message.payload) async for message in theirs][1:] == [0]


async def test_a_close_that_is_cancelled_is_told_all_the_same(fabric: Fabric, nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        hold(fabric, nodes[0], True)
        await mine.send(bytes(DEFAULT_RING_SIZE - 3 * OVERHEAD))
        await mine.send(bytes(OVERHEAD))
        waiting = asyncio.create_task(mine.close())
        await waiters(left)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        hold(fabric, nodes[0], False)
        assert len([message async for message in theirs]) == 2


@pytest.mark.parametrize(("code", "name"), [(Code.CANCELLED, "cancelled"), (70000, "code_70000")])
async def test_a_reset_ends_both_directions_and_says_why(
    nodes: Nodes, code: int, name: str
) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        waiting = asyncio.create_task(mine.recv())
        await waiters(left)
        mine.reset(code)
        with pytest.raises(LocalProtocolError, match="closed"):
            await asyncio.wait_for(waiting, SOON_S)
        with pytest.raises(valkyrie.StreamResetError) as caught:
            await theirs.recv(timeout=SOON_S)
        assert (caught.value.code, caught.value.name) == (code, name)
        with pytest.raises(valkyrie.StreamResetError):
            await theirs.send(b"x")
        with pytest.raises(LocalProtocolError):
            await mine.send(b"x")
        with pytest.raises(LocalProtocolError, match="no error"):
            theirs.reset(0)
        mine.reset()  # once more does no harm
        assert not nodes[0].flows
        assert not nodes[1].flows


def test_the_last_batch_is_followed_by_an_empty_one(nodes: Nodes) -> None:
    with sync_pair(nodes) as (mine, theirs):
        mine.send(b"all", eos=True)
        with theirs.recv_many(timeout=SOON_S) as batch:
            assert [bytes(view) for view in batch] == [b"all"]
        assert len(theirs.recv_many(timeout=SOON_S)) == 0
        assert theirs.recv(timeout=SOON_S) is None


async def test_what_was_sent_before_a_close_arrives(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        async with mine:
            for number in range(100):
                await mine.send(bytes([number]))
        assert mine.closed
        assert [message.payload[0] async for message in theirs] == list(range(100))
        with pytest.raises(LocalProtocolError):
            await mine.send(b"x")
        with pytest.raises(LocalProtocolError):
            await mine.recv()
        await theirs.send(b"nobody takes this")
        await theirs.close()


async def test_what_comes_after_a_close_is_counted(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        await mine.close()
        await theirs.send(b"late")
        await until(lambda: mine.counts.after_close == 1)


# ---- Acknowledged ----


async def test_a_flush_waits_until_the_peer_has_it_all(fabric: Fabric, nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        await mine.flush(timeout=SOON_S)  # nothing to wait for
        hold(fabric, nodes[0], True)
        await mine.send(b"x")
        with pytest.raises(TimeoutError, match="stream 100: not all is acknowledged"):
            await mine.flush(timeout=0.01)
        waiting = asyncio.create_task(mine.flush())
        await waiters(left)
        hold(fabric, nodes[0], False)
        await asyncio.wait_for(waiting, SOON_S)
        channel = app_of(nodes[1]).channel
        assert channel is not None
        assert channel.tail[JOB] > 0
        assert (await next_of(theirs)).payload == b"x"


async def test_a_flush_of_a_stream_that_breaks_says_so(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        for _ in range(80):
            await mine.send(bytes(1000))  # more than the window
        waiting = asyncio.create_task(mine.flush())
        await waiters(left)
        theirs.reset()
        with pytest.raises(valkyrie.StreamResetError):
            await asyncio.wait_for(waiting, SOON_S)


async def test_a_flush_of_a_stream_that_this_side_reset_says_so(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, _ = await opened(left, right)
        for _ in range(80):
            await mine.send(bytes(1000))  # more than the window
        mine.reset(7)
        with pytest.raises(valkyrie.StreamResetError, match="own code 7") as caught:
            await mine.flush(timeout=SOON_S)
        assert caught.value.code == 7


async def test_a_flush_after_a_close_knows_of_a_reset_too(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        for _ in range(80):
            await mine.send(bytes(1000))
        await mine.close()
        waiting = asyncio.create_task(mine.flush())
        await waiters(left)
        theirs.reset(Code.OVERLOAD)
        with pytest.raises(valkyrie.StreamResetError, match="overload"):
            await asyncio.wait_for(waiting, SOON_S)


def test_a_flush_is_answered_only_when_what_came_before_its_answer_was_looked_at() -> None:
    channel = Channel([1 << 17] * 6, 1)
    descriptors = [*channel.memfds, channel.bell_app, channel.bell_worker]
    attachment = Attachment(Rings(descriptors, 1))
    flow = Flow(attachment.rings, 0, 100, JOB)
    flow.bind(5, 9)
    attachment.flows[5] = flow
    verb = attachment.flush(flow, None, 0)
    next(verb)
    taken = channel.take(JOB)
    assert taken is not None
    values = {"flow": 5, "flow_generation": 9, "stream": 100}
    for sequence in range(2 * lib.VK_CLIENT_BATCH):
        head = ffi.new("struct vk_message *", {**values, "sequence": sequence})
        assert channel.put(JOB, lib.VK_RECORD_DATA, head, b"")
    head = ffi.new("struct vk_message *", {**values, "code": Code.OVERLOAD})
    assert channel.put(JOB, lib.VK_RECORD_RESET, head, b"")
    assert channel.put(Class.CONTROL, lib.VK_RECORD_FLUSHED, taken[1], b"")
    taken_in = 0
    while attachment.pump() and flow.error is None:
        taken_in += 1
        verb.send(0)  # it waits on
    assert taken_in > 1
    with pytest.raises(valkyrie.StreamResetError, match="overload"):
        verb.send(0)
    channel.close()


async def test_a_flush_ends_with_the_attachment(fabric: Fabric, nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, _ = await opened(left, right)
        hold(fabric, nodes[0], True)
        waiting = asyncio.create_task(mine.flush())
        await waiters(left)
        fabric.do(app_of(nodes[0]).cut)
        with pytest.raises(valkyrie.NodeGoneError):
            await asyncio.wait_for(waiting, SOON_S)


def test_a_synchronous_application_flushes_ends_and_resets_too(nodes: Nodes) -> None:
    with sync_pair(nodes) as (mine, theirs):
        mine.send(b"one")
        mine.flush(timeout=SOON_S)
        mine.close_sending()
        assert [message.payload for message in theirs] == [b"one"]
        theirs.reset(Code.OVERLOAD)
        with pytest.raises(valkyrie.StreamResetError, match="overload"):
            mine.recv(timeout=SOON_S)
