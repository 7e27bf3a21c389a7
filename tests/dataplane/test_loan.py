"""Messages into readers' own buffers: large ones as they come, and whatever comes between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import valkyrie
from tests.aside import aside
from tests.dataplane.double import Channel
from tests.dataplane.marks import LAST, MIDDLE, MORE, cut
from tests.dataplane.test_flow import Pair, make
from tests.dataplane.test_fragments import bytes_of, give, piece
from tests.dataplane.test_node import Nodes, both, opened, until
from tests.dataplane.test_stream import sync_pair
from tests.lab import SOON_S
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.application import fragments
from valkyrie.dataplane.application.loan import Loan
from valkyrie.dataplane.application.message import Placed
from valkyrie.dataplane.application.rings import Rings
from valkyrie.dataplane.errors import LocalProtocolError
from valkyrie.dataplane.wire import Class, Flag

SIZE = 300_000


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    channel = Channel([4096] * 6, 1)
    rings = Rings([*channel.memfds, channel.bell_app, channel.bell_worker], 1)
    yield rings, channel
    rings.close()
    channel.close()


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whenever_buffers_are_lent_each_message_is_read_once_and_right(
    pair: Pair, data: st.DataObject
) -> None:
    counts = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=6), label="records")
    marks = cut(counts)
    order = data.draw(st.permutations(range(len(marks))), label="order")
    ordered = data.draw(st.booleans(), label="ordered")
    end = make(pair[0], Class.JOB if ordered else Class.DATA)
    starts = [sum(counts[:i]) for i in range(len(counts))]
    wanted = {
        start: b"".join(bytes_of(start + i, 10) for i in range(count))
        for start, count in zip(starts, counts, strict=True)
    }
    got: dict[int, bytes] = {}

    def note(message: valkyrie.Message | None) -> bool:
        if message is None:
            return False
        assert message.sequence not in got
        if isinstance(message, Placed):
            got[message.sequence] = message.payload.tobytes()
        else:
            got[message.sequence] = message.payload  # nobody's buffer, or it changes below
        return True

    for number in order:
        loan, buffer = None, bytearray(data.draw(st.integers(0, 50), label="buffer"))
        if data.draw(st.booleans(), label="lend"):
            loan = Loan(end, buffer)
        give(end, piece(number, bytes_of(number, 10)), marks[number])
        if data.draw(st.booleans(), label="another reads"):
            note(end.take())
        if loan is not None:
            try:
                note(loan.take())
            except valkyrie.SmallBufferError:
                assert len(end.queue[0].payload) > len(buffer)
            loan.end()
            buffer[:] = bytes(len(buffer))  # the reader's own again
    while note(end.take()):
        pass
    assert got == wanted
    assert end.error is None
    assert not end.owed
    assert not end.fragments.held


@pytest.mark.parametrize("begun", [0, 1, 8])
def test_a_large_message_is_gathered_in_the_buffer_itself(pair: Pair, begun: int) -> None:
    end, marks, buffer = make(pair[0]), cut([9]), bytearray(10_000)
    for number in range(begun):
        give(end, piece(number, bytes_of(number, 1000)), marks[number])
    loan = Loan(end, buffer)
    for number in range(begun, 9):
        assert loan.take() is None
        assert buffer[: number * 1000] == b"".join(bytes_of(each, 1000) for each in range(number))
        give(end, piece(number, bytes_of(number, 1000)), marks[number])
    message = loan.take()
    loan.end()
    assert message is not None
    assert message.payload == buffer[:9000]
    assert message.payload.obj is buffer


@pytest.mark.parametrize("loose_max", [1, 1 << 30])
def test_a_message_that_does_not_fit_waits_for_a_larger_buffer(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, loose_max: int
) -> None:
    monkeypatch.setattr(fragments, "LOOSE_MAX", loose_max)
    end = make(pair[0])
    loan = Loan(end, bytearray(2500))
    for number, mark in enumerate(cut([3])):
        give(end, piece(number, bytes_of(number, 1000)), mark)
    give(end, piece(3, b"behind"), MORE & LAST)
    for size in (2500, 2999, 0):
        with pytest.raises(valkyrie.SmallBufferError, match="larger") as caught:
            loan.take()
        assert caught.value.size == 3000
        loan.end()
        loan = Loan(end, bytearray(size))
    loan.end()
    loan = Loan(end, memoryview(bytearray(3000)))
    first, second = loan.take(), loan.take()
    assert first is not None
    assert second is not None
    assert len(first.payload) == 3000
    assert bytes(second.payload) == b"behind"
    loan.end()


def test_a_reply_is_not_put_into_the_buffer_of_a_reader(pair: Pair) -> None:
    end, buffer = make(pair[0]), bytearray(5000)
    end.replies._waiting[0] = None
    loan = Loan(end, buffer)
    give(end, piece(0, b"an", Flag.ACK), MORE)
    give(end, piece(1, b"swer"), LAST)
    assert loan.take() is None
    loan.end()
    reply = end.replies.get(0)
    assert reply is not None
    assert type(reply.payload) is bytes
    assert reply.payload == b"answer"
    assert buffer == bytes(5000)


def test_buffers_that_cannot_be_used_are_refused_with_the_reason(pair: Pair) -> None:
    end = make(pair[0])
    for wrong in (memoryview(b"read only"), memoryview(bytearray(10))[::2]):
        with pytest.raises(LocalProtocolError, match="writable, in one piece"):
            Loan(end, wrong)
    loan = Loan(end, bytearray(1))
    with pytest.raises(LocalProtocolError, match="one at a time"):
        Loan(end, bytearray(1))
    loan.end()
    Loan(end, memoryview(bytearray(8)).cast("Q")).end()


def test_a_stream_that_is_reset_lets_go_of_the_buffer(pair: Pair) -> None:
    end, buffer = make(pair[0]), bytearray(100)
    loan = Loan(end, buffer)
    give(end, piece(0, b"begun"), MORE)
    give(end, piece(1, b"more"), MIDDLE)
    end.reset(7)
    assert loan.take() is None
    loan.end()
    del loan
    buffer.extend(b"no view of it is left")


@pytest.mark.parametrize("begin", [0, 1, 4095, 4096])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 5_000_000])
def test_large_pages_are_asked_for_wherever_memory_lies_and_change_nothing(
    begin: int, size: int
) -> None:
    memory = bytearray(bytes_of(1, 5_010_000))
    lib.vk_client_spread(ffi.from_buffer("uint8_t[]", memory) + begin, size)
    assert memory == bytes_of(1, 5_010_000)


# ---- Between applications ----


@pytest.mark.parametrize("stream", [1, 100, 1000])
@pytest.mark.parametrize("seed", range(2))
async def test_one_buffer_takes_messages_of_all_sizes(nodes: Nodes, stream: int, seed: int) -> None:
    nodes[1].disorder = Random(seed)
    payloads = [bytes_of(i, size) for i, size in enumerate([SIZE, 0, 10, 2 * SIZE, 70_000] * 2)]
    buffer = bytearray(2 * SIZE)
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right, stream)

        async def send() -> None:
            for number, payload in enumerate(payloads):
                await mine.send(payload, correlation=number)
            await mine.close_sending()

        sending = asyncio.create_task(send())
        got = {}
        while (message := await theirs.recv_into(buffer, timeout=SOON_S)) is not None:
            got[message.correlation] = bytes(message.payload)
        await sending
        assert [got[number] for number in range(len(payloads))] == payloads


async def test_a_call_that_is_late_or_cancelled_loses_nothing_of_the_message(nodes: Nodes) -> None:
    nodes[1].window = 65536
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        payload, buffer = bytes_of(1, 40 * SIZE), bytearray(40 * SIZE)
        reading = asyncio.create_task(theirs.recv_into(buffer))
        sending = asyncio.create_task(mine.send(payload))
        await until(lambda: theirs.counts.fragments_waiting > 0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        buffer[:] = bytes(len(buffer))
        with pytest.raises(TimeoutError):
            await theirs.recv_into(buffer, timeout=0)
        with pytest.raises(valkyrie.SmallBufferError):
            await theirs.recv_into(bytearray(SIZE), timeout=SOON_S)
        message = await theirs.recv_into(buffer, timeout=SOON_S)
        await sending
        assert message is not None
        assert message.payload == payload


def test_the_synchronous_face_receives_into_buffers_too(nodes: Nodes) -> None:
    with sync_pair(nodes) as (mine, theirs):
        buffer = bytearray(SIZE)

        def send() -> None:
            for number in range(5):
                mine.send(bytes_of(number, SIZE - number), type="file_chunk")
            mine.close_sending()

        with aside(send):
            for number in range(5):
                message = theirs.recv_into(buffer, timeout=SOON_S)
                assert message is not None
                assert message.payload == bytes_of(number, SIZE - number)
                assert message.type_name == "file_chunk"
            assert theirs.recv_into(buffer, timeout=SOON_S) is None
