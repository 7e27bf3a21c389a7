"""Large messages: fragments in any order, hostile ones, windows, and other senders."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import valkyrie
from tests.aside import aside
from tests.dataplane.double import Channel, Fabric
from tests.dataplane.marks import LAST, MARKS, MIDDLE, MORE, contradict, cut
from tests.dataplane.test_flow import Pair, make
from tests.dataplane.test_node import Nodes, app_of, both, opened, until, waiters
from tests.dataplane.test_stream import hold, next_of, sync_pair
from tests.lab import SOON_S
from valkyrie.dataplane import lib
from valkyrie.dataplane.application import events, fragments
from valkyrie.dataplane.application.collect import collect
from valkyrie.dataplane.application.flow import SEQUENCE_MAX, Flow
from valkyrie.dataplane.application.message import Message
from valkyrie.dataplane.application.refusal import StreamResetError, WouldBlockError
from valkyrie.dataplane.application.rings import OVERHEAD, Rings
from valkyrie.dataplane.errors import LocalProtocolError
from valkyrie.dataplane.wire import Class, Code, Flag, Fragment, Type

COST = lib.VK_MESSAGE_COST


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    channel = Channel([4096] * 6, 1)
    rings = Rings([*channel.memfds, channel.bell_app, channel.bell_worker], 1)
    yield rings, channel
    rings.close()
    channel.close()


def bytes_of(number: int, size: int) -> bytes:
    """Return a payload that shows a piece in a wrong place."""
    return Random(number).randbytes(size)


def piece(sequence: int, payload: bytes = b"", flags: int = 0) -> Message:
    return Message(payload, 100, sequence & SEQUENCE_MAX, 0, 0, flags, 0, 0)


def give(end: Flow, message: Message, mark: Fragment) -> None:
    """Do what the events do with a record."""
    if mark:
        end.receive_fragment(message, mark)
    else:
        end.receive(message)


def told(channel: Channel) -> int:
    """Return the cost that the application says it has taken."""
    return max((int(report.cost) for report in channel.reports()), default=0)


# ---- Joining ----


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_the_order_of_arrival_messages_are_joined_once(
    pair: Pair, data: st.DataObject
) -> None:
    counts = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=8), label="records")
    marks = cut(counts)
    first = data.draw(st.sampled_from([0, SEQUENCE_MAX - 3]), label="first")
    order = data.draw(st.permutations(range(len(marks))), label="order")
    again = data.draw(st.lists(st.sampled_from(range(len(marks)))), label="again")
    ordered = data.draw(st.booleans(), label="ordered")
    end = make(pair[0], ordered=ordered)
    end.expected = first
    came: list[int] = []
    for number in order:
        came.append(number)
        for each in (number, *(each for each in again if each in came)):
            flags = Flag.EOS if each == len(marks) - 1 else 0
            give(end, piece(first + each, b"%d," % each, flags), marks[each])
    assert end.error is None
    assert end.ended
    starts = [sum(counts[:i]) for i in range(len(counts))]
    wanted = [
        b"".join(b"%d," % (start + i) for i in range(count))
        for start, count in zip(starts, counts, strict=True)
    ]
    got = end.take_many(1000)
    payloads = [each.payload for each in got]
    assert payloads == wanted if ordered else sorted(payloads) == sorted(wanted)
    assert {(each.sequence - first) & SEQUENCE_MAX for each in got} == set(starts)
    assert [each.eos for each in got].count(True) == 1
    assert (end.counts.received, end.counts.fragments_waiting) == (len(counts), 0)
    assert not end.fragments.held
    assert not end.owed


@given(
    order=st.lists(st.integers(0, 7), max_size=16),
    marks=st.lists(st.sampled_from(MARKS), min_size=8, max_size=8),
    ordered=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_hostile_fragments_end_their_stream_exactly_when_they_contradict(
    pair: Pair, *, order: list[int], marks: list[Fragment], ordered: bool
) -> None:
    end = make(pair[0], ordered=ordered)
    came: set[int] = set()
    for number in order:
        give(end, piece(number, b"x"), marks[number])
        came.add(number)
        wrong = contradict(marks, came, ordered=ordered)
        assert (end.error is not None) == wrong
        if wrong:
            assert end.error is not None
            assert end.error.code == Code.SHARDS
            assert not end.fragments
            return


@pytest.mark.parametrize("loose_max", [1, 2500, 1 << 30])
def test_a_payload_is_whole_however_it_is_gathered(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, loose_max: int
) -> None:
    monkeypatch.setattr(fragments, "LOOSE_MAX", loose_max)
    marks = cut([9])
    for order in (range(9), range(8, -1, -1), (4, 0, 2, 1, 8, 7, 3, 6, 5)):
        end = make(pair[0], Class.DATA)
        for number in order:
            give(end, piece(number, bytes_of(number, 1000)), marks[number])
        message = end.take()
        assert message is not None
        assert message.payload == b"".join(bytes_of(number, 1000) for number in range(9))


def test_a_stream_that_ends_within_a_message_is_broken(pair: Pair) -> None:
    rings, channel = pair
    for ordered in (True, False):
        end = make(rings, Class.JOB, ordered)
        give(end, piece(0, b"begun"), MORE)
        end.finish(1)
        with pytest.raises(StreamResetError) as caught:
            end.check_sending()
        assert caught.value.code == Code.SHARDS
        rings.pay()
        record = channel.take(Class.JOB)
        assert record is not None
        assert (record[0], record[1].code) == (lib.VK_RECORD_RESET, Code.SHARDS)


def test_messages_without_end_are_given_up(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments, "MESSAGE_MAX", 10_000)
    monkeypatch.setattr(fragments, "HELD_MAX", 20_000)
    one = make(pair[0], Class.DATA)
    for sequence in range(11):
        assert one.error is None
        give(one, piece(sequence, bytes(1000)), MIDDLE if sequence else MORE)
    assert one.error is not None
    many = make(pair[0], Class.DATA)
    for sequence in range(200):
        give(many, piece(2 * sequence), MORE)
        if many.error is not None:
            break
    assert many.error is not None
    assert not many.fragments.held
    pair[0].pay()
    while pair[1].take(Class.DATA):
        pass


# ---- Windows ----


@pytest.mark.parametrize("klass", [Class.JOB, Class.DATA])
def test_an_unread_stream_holds_one_large_message_and_a_window(pair: Pair, klass: Class) -> None:
    rings, channel = pair
    end = make(rings, klass)
    size = 20_000
    for sequence, mark in enumerate(cut([3])):
        give(end, piece(sequence, bytes(size)), mark)
        assert told(channel) == (sequence + 1) * (size + COST)
    for sequence, mark in enumerate(cut([3, 2])[:4]):
        give(end, piece(3 + sequence, bytes(size)), mark)
        assert told(channel) == 0  # the first one waits unread
    assert end.take() is not None
    assert told(channel) == 0  # the second does
    assert end.take() is not None
    assert told(channel) == 7 * (size + COST)  # and the part of the third, which waits for more
    give(end, piece(7, bytes(size)), LAST)
    assert told(channel) == 8 * (size + COST)
    assert end.take() is not None
    assert told(channel) == 0


@pytest.mark.parametrize("unread", [0, 1])
def test_closing_gives_the_window_back_once(pair: Pair, unread: int) -> None:
    rings, channel = pair
    end = make(rings, Class.JOB)
    marks = cut([2] * unread + [3])
    for sequence, mark in enumerate(marks[:-1]):
        give(end, piece(sequence, bytes(5000)), mark)
    end.discard()
    give(end, piece(len(marks) - 1, bytes(5000)), marks[-1])
    end.idle()
    end.report()
    assert told(channel) == len(marks) * (5000 + COST)
    assert end.counts.after_close == 1


# ---- Between applications ----


@pytest.mark.parametrize("stream", [0, 1, 100, 1000])
@pytest.mark.parametrize("seed", range(2))
async def test_sizes_around_fragments_go_through_between_small_messages(
    nodes: Nodes, stream: int, seed: int
) -> None:
    nodes[1].disorder = Random(seed)
    nodes[1].window = 131072
    fragment = min(lib.VK_CLIENT_FRAGMENT, 65536 // 4 - OVERHEAD)
    record = 65536 - OVERHEAD
    sizes = [0, 1, fragment, fragment + 1, record, record + 1, 65536, 65537, 5 * fragment]
    sizes += [5 * fragment + 1, 6 * fragment - 1, 1_000_000]
    payloads = [bytes_of(number, size) for number, size in enumerate(sizes) for _ in range(2)]
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right, stream)

        async def send() -> None:
            for number, payload in enumerate(payloads):
                await mine.send(payload, correlation=number, stamp=True)
            await mine.close_sending()

        sending = asyncio.create_task(send())
        got = {}
        async for message in theirs:
            got[message.correlation] = message.payload
            assert message.time_ns
        await sending
        assert [got[number] for number in range(len(payloads))] == payloads
        if theirs.ordered:
            assert list(got) == sorted(got)
        counts = theirs.counts
        assert (counts.received, mine.counts.sent) == (len(payloads), len(payloads))
        assert counts.received_bytes == mine.counts.sent_bytes == sum(map(len, payloads))
        assert counts.fragments > 2 * (1_000_000 // fragment)
        assert app_of(nodes[0]).violations == 0


async def test_others_wait_until_a_large_message_is_through(fabric: Fabric, nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        hold(fabric, nodes[0], True)
        large = asyncio.create_task(mine.send(bytes_of(1, 1_000_000)))
        await until(lambda: mine.counts.sent_bytes > 0)
        with pytest.raises(WouldBlockError) as caught:
            await mine.send(b"now", timeout=0)
        assert caught.value.reason == "message"
        with pytest.raises(WouldBlockError) as caught:
            await mine.send(b"soon", correlation=1, timeout=0.01)
        assert caught.value.reason == "message"
        hold(fabric, nodes[0], False)
        others = [asyncio.create_task(mine.send(b"%d" % i)) for i in range(3)]
        others.append(asyncio.create_task(mine.send(bytes_of(2, 300_000))))
        got = [(await next_of(theirs)).payload for _ in range(5)]
        await asyncio.gather(large, *others)
        assert got[0] == bytes_of(1, 1_000_000)
        assert sorted(got[1:]) == sorted([b"0", b"1", b"2", bytes_of(2, 300_000)])


@pytest.mark.parametrize("how", ["close", "close_sending"])
async def test_closing_lets_a_large_message_through_and_nothing_behind_it(
    fabric: Fabric, nodes: Nodes, how: str
) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        hold(fabric, nodes[0], True)
        large = asyncio.create_task(mine.send(bytes(1_000_000)))
        behind = asyncio.create_task(mine.send(b"behind"))
        await waiters(left, 2)
        ending = asyncio.create_task(getattr(mine, how)())
        await waiters(left, 3)
        hold(fabric, nodes[0], False)
        got = [len(message.payload) async for message in theirs]
        assert got == [1_000_000]
        await asyncio.gather(large, ending)
        with pytest.raises(LocalProtocolError, match="closed"):
            await behind


async def test_requests_and_replies_may_be_large(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right, 1000)

        async def serve() -> None:
            async for message in theirs:
                await theirs.reply(message, message.payload[::-1], stamp=True)

        serving = asyncio.create_task(serve())
        asked = [bytes_of(number, 200_000) for number in range(4)]
        replies = await asyncio.gather(*(mine.request(each, timeout=SOON_S) for each in asked))
        assert [each.payload for each in replies] == [each[::-1] for each in asked]
        assert all(each.is_reply and each.time_ns for each in replies)
        await mine.close_sending()
        await serving


async def test_the_last_message_may_be_large(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        sending = asyncio.create_task(mine.send(bytes(500_000), eos=True))
        got = [message async for message in theirs]
        await sending
        assert [(len(each.payload), each.eos) for each in got] == [(500_000, True)]
        with pytest.raises(LocalProtocolError, match="closed for sending"):
            await mine.send(bytes(500_000))


async def test_a_send_that_is_cancelled_when_it_has_begun_resets_the_stream(nodes: Nodes) -> None:
    nodes[1].window = 65536
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        await mine.send(b"before")
        sending = asyncio.create_task(mine.send(bytes(60_000_000)))
        waiting = asyncio.create_task(mine.send(b"behind"))
        await until(lambda: theirs.counts.fragments_waiting > 0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        with pytest.raises(StreamResetError, match="given up"):
            await waiting
        assert (await next_of(theirs)).payload == b"before"
        with pytest.raises(StreamResetError) as caught:
            await theirs.recv(timeout=SOON_S)
        assert caught.value.code == Code.CANCELLED
        again, _ = await opened(left, right, 101)
        await again.send(b"another stream is well")


async def test_a_reset_by_the_peer_ends_a_large_send(nodes: Nodes) -> None:
    nodes[1].window = 65536
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        await mine.send_many([bytes(100)] * 400)  # nobody reads: the window is full
        sending = asyncio.create_task(mine.send(bytes(60_000_000)))
        await until(lambda: mine.counts.sent_bytes > 60_000)
        theirs.reset(Code.CANCELLED)
        with pytest.raises(StreamResetError):
            await asyncio.wait_for(sending, SOON_S)


async def test_what_is_too_large_is_refused_with_the_reason(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, _ = await opened(left, right)
        with pytest.raises(LocalProtocolError, match=f"takes {lib.VK_MESSAGE_MAX}"):
            await mine.send(bytes(lib.VK_MESSAGE_MAX + 1))
        logs, _ = await opened(left, right, 10000)
        with pytest.raises(LocalProtocolError, match="logs class, best effort"):
            await logs.send(bytes(65537))


@pytest.mark.parametrize("stream", [100, 1000])
def test_batches_stop_before_large_messages_and_get_them_joined(nodes: Nodes, stream: int) -> None:
    sizes = [100, 200_000, 0, 70_000, 3] * 3
    payloads = [bytes_of(number, size) for number, size in enumerate(sizes)]
    with sync_pair(nodes, stream) as (mine, theirs):
        with aside(lambda: mine.send_many(payloads, type="alert_notification")):
            got: list[bytes] = []
            while len(got) < len(payloads):
                with theirs.recv_many(timeout=SOON_S) as batch:
                    got += [bytes(each) for each in batch]
                    assert set(batch.types) == {Type.ALERT_NOTIFICATION}
        assert got == payloads


def test_a_synchronous_send_waits_for_its_reader(nodes: Nodes) -> None:
    with sync_pair(nodes) as (mine, theirs):
        payload = memoryview(bytearray(bytes_of(3, 2_000_000)))
        with aside(lambda: mine.send(payload, timeout=0)):
            message = theirs.recv(timeout=SOON_S)
        assert isinstance(message, valkyrie.Message)
        assert message.payload == payload


@pytest.mark.parametrize("into", [False, True])
@pytest.mark.parametrize("size", [4_500_000, 7_000_001])
def test_the_middle_of_a_large_message_comes_out_of_the_ring_many_fragments_at_once(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, size: int, *, into: bool
) -> None:
    taken: list[int] = []

    def note(flow: Flow, index: int, count: int, sequence: int) -> int:
        taken.append(collect(flow, index, count, sequence))
        return taken[-1]

    monkeypatch.setattr(events, "collect", note)
    monkeypatch.setattr(fragments, "LOOSE_MAX", 100_000)
    payloads = [Random(each).randbytes(size) for each in range(2)]
    with sync_pair(nodes, 1000) as (mine, theirs):

        def send() -> None:
            for payload in payloads:
                mine.send(payload, timeout=SOON_S)

        with aside(send):
            for payload in payloads:
                if into:
                    buffer = bytearray(size)
                    placed = theirs.recv_into(buffer, timeout=SOON_S)
                    assert placed is not None
                    assert placed.payload == payload
                else:
                    message = theirs.recv(timeout=SOON_S)
                    assert message is not None
                    assert message.payload == payload
        counts = theirs.counts
        assert (counts.received, counts.received_bytes) == (2, 2 * size)
        assert sum(taken) > counts.fragments // 2
        assert max(taken) > 1
        assert not theirs._flow.fragments.held
        assert theirs._flow.inlet.taken.cost == 2 * size + counts.fragments * COST
