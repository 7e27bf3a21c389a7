"""The Python face of a ring: sending, receiving, waiting, ending."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import sys
import threading
import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import pytest

from tests.lab import turn, wait_until
from valkyrie.shm import Channel, RingClosedError, RingError, ffi, lib
from valkyrie.shm._end import cut
from valkyrie.shm.local import pair

SIZE = 4096
Pair = tuple[Channel, Channel]


@pytest.fixture
def ends() -> Iterator[Pair]:
    made = pair(SIZE)
    yield made
    for end in made:
        end.close()


def test_messages_come_out_as_they_went_in_both_ways(ends: Pair) -> None:
    for sender, receiver in (ends, ends[::-1]):
        for size in (0, 1, 7, 8, 9, 500, sender.message_size_max):
            message = os.urandom(size)
            assert sender.send(message)
            assert receiver.recv() == message
        assert receiver.recv() is None


def test_order_and_sizes_survive_batches_over_the_end_of_the_ring(ends: Pair) -> None:
    here, there = ends
    sent: list[bytes] = []
    received: list[bytes] = []
    for number in range(2000):
        batch = [bytes([number % 251]) * ((number + i) % 97) for i in range(number % 13)]
        assert here.send_many(batch) == len(batch)
        sent += batch
        with there.recv_many(7) as some:
            received += some.copy()
        with there.recv_many() as rest:
            received += map(bytes, rest)
    assert received == sent


def test_a_buffer_is_cut_into_messages(ends: Pair) -> None:
    here, there = ends
    data = os.urandom(320)
    assert here.send_buffer(memoryview(data), 32) == 10
    with there.recv_many() as batch:
        assert len(batch) == 10
        assert b"".join(batch) == data
        assert bytes(batch[3]) == data[96:128]
        assert [bytes(view) for view in batch[8:]] == [data[256:288], data[288:]]
    with pytest.raises(ValueError, match="no messages of 33 bytes"):
        here.send_buffer(data, 33)


def test_a_full_ring_takes_no_more_and_says_so(ends: Pair) -> None:
    here, there = ends
    fits = SIZE // (8 + 64)
    assert here.send_many([bytes(64)] * 100) == fits
    assert not here.send(bytes(64))
    assert here.wait(0, room=64) is False
    with there.recv_many() as batch:
        assert len(batch) == fits
        assert not here.send(bytes(64)), "lent bytes are not written over"
    assert here.wait(0, room=64)
    assert here.send(bytes(64))


def test_what_never_fits_is_an_error(ends: Pair) -> None:
    here, there = ends
    with pytest.raises(RingError, match=f"at most {here.message_size_max} bytes"):
        here.send(bytes(here.message_size_max + 1))
    assert here.send_many([b"fits", bytes(SIZE)]) == 1
    with pytest.raises(RingError, match="at most"):
        here.send_many([bytes(SIZE)])
    assert there.recv() == b"fits"


def test_views_end_with_their_batch(ends: Pair) -> None:
    here, there = ends
    here.send_many([b"one", b"two"])
    batch = there.recv_many()
    views = [*batch, batch[0]]
    with pytest.raises(TypeError):
        views[0][0] = 1  # read only
    with pytest.raises(RingError, match="release the last batch first"):
        there.recv()
    batch.release()
    batch.release()
    for view in views:
        with pytest.raises(ValueError, match="released"):
            bytes(view)
    with pytest.raises(ValueError, match="released"):
        batch[0]
    with pytest.raises(ValueError, match="released"):
        iter(batch)
    assert there.recv() is None


def test_a_batch_stays_while_somebody_holds_a_buffer_of_it(ends: Pair) -> None:
    here, there = ends
    here.send(b"held")
    batch = there.recv_many()
    holder = ffi.from_buffer(batch[0])
    with pytest.raises(BufferError):
        batch.release()
    assert bytes(ffi.buffer(holder)) == b"held"
    with pytest.raises(RingError, match="release the last batch first"):
        there.recv()
    ffi.release(holder)
    batch.release()
    assert there.recv() is None


def test_no_view_outlives_the_memory_it_shows() -> None:
    here, there = pair(SIZE)
    here.send(b"still there")
    piece = there.recv_many()[0][6:]
    here.close()
    there.close()
    assert bytes(piece) == b"there"


def test_whatever_call_takes_them_messages_come_in_order(ends: Pair) -> None:
    here, there = ends
    here.send_many([b"a", b"b", b"c"])
    assert there.recv() == b"a"
    here.send(b"d")
    with there.recv_many(2) as two:
        assert two.copy() == [b"b", b"c"]
    here.send_many([b"e", b"f"])
    assert there.recv_list(2) == [b"d", b"e"]
    assert there.recv_list() == [b"f"]
    assert there.recv_list() == []
    with there.recv_many() as nothing:
        assert list(nothing) == []


def test_waiting_ends_with_a_message_or_with_the_time(ends: Pair) -> None:
    here, there = ends
    assert there.recv(0.01) is None
    assert there.wait(0) is False
    thread = threading.Timer(0.02, here.send, [b"late"])
    thread.start()
    assert there.recv(None) == b"late"
    thread.join()


def test_sending_waits_for_room_when_it_is_told_to(ends: Pair) -> None:
    here, there = ends
    assert here.send_many([bytes(64)] * 100) < 100
    assert here.send(bytes(64), timeout_s=0.01) is False
    thread = threading.Timer(0.02, there.recv_list)
    thread.start()
    assert here.send(b"in the end" * 7, None)
    thread.join()
    assert there.recv() == b"in the end" * 7


def test_messages_may_be_any_bytes_in_one_piece(ends: Pair) -> None:
    here, there = ends
    messages: list[Any] = [bytearray(b"abc"), memoryview(b"abc"), array("B", b"abc"), b"abc"]
    for message in messages:
        assert here.send(message)
        assert there.recv() == b"abc"
    assert here.send_many((bytearray(b"abc"), memoryview(b"abc"))) == 2
    assert there.recv_list() == [b"abc", b"abc"]
    with pytest.raises(BufferError):
        here.send(memoryview(b"abc")[::2])


def test_of_a_list_with_something_else_in_it_nothing_goes(ends: Pair) -> None:
    here, there = ends
    with pytest.raises(TypeError, match="bytes-like"):
        here.send_many([b"one", "two", b"three"])  # type: ignore[list-item]
    assert there.recv() is None
    assert here.send(b"next")
    assert there.recv() == b"next"


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda end: end.send(), "missing argument 'message'"),
        (lambda end: end.send(b"", 0, 0), "at most 2 arguments, not 3"),
        (lambda end: end.send(b"", message=b""), "two values for argument 'message'"),
        (lambda end: end.recv(timeout=1), "no such argument 'timeout'"),
        (lambda end: end.send("text"), "bytes-like"),
        (lambda end: end.recv("soon"), "must be real number"),
        (lambda end: end.recv_list(2.5), "integer"),
        (lambda end: end.wait(room="much"), "int"),
    ],
)
def test_a_call_that_is_wrong_says_so(
    ends: Pair, call: Callable[[Channel], object], complaint: str
) -> None:
    with pytest.raises(TypeError, match=complaint):
        call(ends[0])


def test_a_closed_end_says_so_whatever_is_asked_of_it(ends: Pair) -> None:
    here, _ = ends
    here.close()
    calls: list[Callable[[], object]] = [
        lambda: here.send(b""),
        lambda: here.send_many([b""]),
        here.recv,
        here.recv_list,
        here.recv_many,
        here.wait,
    ]
    for call in calls:
        with pytest.raises(RingError, match="this end of the channel is closed"):
            call()


def test_calls_keep_nothing(ends: Pair) -> None:
    here, there = ends
    message = bytearray(b"x" * 1000)
    references = sys.getrefcount(message), sys.getrefcount(None)

    def many() -> None:
        for _ in range(1000):
            here.send(message)
            here.send_many([message])
            there.recv_list(2)
            there.recv(timeout_s=0)

    many()
    tracemalloc.start()
    many()
    before = tracemalloc.get_traced_memory()[0]
    many()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 1000
    assert sys.getrefcount(message) == references[0]
    assert abs(sys.getrefcount(None) - references[1]) < 500
    message.append(1)  # nobody holds its memory


@pytest.mark.parametrize("spin_ns_max", [0, 100_000])
def test_two_processes_wake_each_other_thousands_of_times(spin_ns_max: int) -> None:
    here, there = pair(SIZE)
    for end in (here, there):
        end._pipe.spin.max_ns = spin_ns_max
    rounds = 5000
    child = os.fork()
    if child == 0:
        for _ in range(rounds):
            there.send(there.recv(10) or b"too late")
        os._exit(0)
    for number in range(rounds):
        assert here.send(b"%d" % number)
        assert here.recv(10) == b"%d" % number
    assert os.waitpid(child, 0)[1] == 0
    here.close()
    there.close()


def test_a_signal_handler_runs_while_we_wait(ends: Pair) -> None:
    _, there = ends

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        with pytest.raises(KeyboardInterrupt):
            there.recv(10)
    finally:
        signal.signal(signal.SIGALRM, before)


async def test_asyncio_waits_for_messages_and_for_room_at_once(ends: Pair) -> None:
    here, there = ends
    count = 3000

    async def send(end: Channel) -> None:
        for number in range(count):
            await end.send_async(b"%d" % number * 20)

    async def receive(end: Channel) -> None:
        for number in range(count):
            assert await end.recv_async() == b"%d" % number * 20

    async with asyncio.timeout(30):
        await asyncio.gather(send(here), send(there), receive(here), receive(there))


async def test_a_cancelled_wait_leaves_nothing_behind(ends: Pair) -> None:
    here, there = ends
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(there.recv_async(), 0.01)
    assert not there._waiters
    here.send(b"next")
    assert await asyncio.wait_for(there.recv_async(), 5) == b"next"


def test_what_was_sent_before_the_end_still_arrives(ends: Pair) -> None:
    here, there = ends
    here.send_many([b"one", b"two"])
    here.close()
    assert there.closed_by_peer
    assert there.recv() == b"one"
    assert there.recv(None) == b"two"
    with pytest.raises(RingClosedError):
        there.recv()
    with pytest.raises(RingClosedError):
        there.recv(None)
    with pytest.raises(RingClosedError):
        there.send(b"nobody reads it")
    with pytest.raises(RingError, match="this end of the channel is closed"):
        here.send(b"")


async def test_asyncio_hears_of_the_end(ends: Pair) -> None:
    here, there = ends
    waiting = asyncio.ensure_future(there.recv_async())
    await asyncio.wait([waiting], timeout=0.01)
    here.close()
    with pytest.raises(RingClosedError):
        await asyncio.wait_for(waiting, 5)


def test_a_killed_peer_is_noticed_after_its_last_message() -> None:
    here, there = pair(SIZE)
    child = os.fork()
    if child == 0:
        os.close(here._bell)
        there.send(b"last words")
        signal.pause()
    os.close(there._bell)  # only the child has that end now
    wait_until(lambda: here._other.tail[0])
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert here.recv(5) == b"last words"
    with pytest.raises(RingClosedError):
        here.recv(5)


def dead_peer(*messages: bytes) -> Channel:
    """Return an end whose other one's process was killed, after its last messages."""
    here, there = pair(SIZE)
    child = os.fork()
    if child == 0:
        there.send_many(messages)
        os._exit(0)  # without a good-bye
    os.close(there._bell)  # only the child has that end now
    os.waitpid(child, 0)
    return here


POLLS: dict[str, Callable[[Channel], object]] = {
    "recv": lambda end: end.recv(),
    "recv_list": lambda end: end.recv_list(),
    "recv_many": lambda end: len(end.recv_many()),
    "send": lambda end: end.send(bytes(100)),
    "send_many": lambda end: end.send_many([bytes(100)]),
    "send_buffer": lambda end: end.send_buffer(bytes(100), 100),
}


@pytest.mark.parametrize("poll", POLLS)
def test_who_only_polls_hears_of_a_killed_peer_too(poll: str) -> None:
    here = dead_peer()
    polls = lib.VK_PIPE_LOOK + SIZE // 100  # what can be sent before there is no room
    with pytest.raises(RingClosedError):
        list(map(POLLS[poll], repeat(here, polls + 1)))
    here.close()


def test_what_a_killed_peer_sent_comes_before_its_end_for_who_polls_too() -> None:
    here = dead_peer(b"last", b"words")
    assert here.closed_by_peer
    assert [here.recv(), here.recv()] == [b"last", b"words"]
    with pytest.raises(RingClosedError):
        here.recv()
    here.close()


def test_who_polls_takes_a_peer_that_is_there_for_nothing_else(ends: Pair) -> None:
    here, there = ends
    for _ in range(4 * lib.VK_PIPE_LOOK):
        assert here.recv() is None
    assert not here.closed_by_peer
    there.send(b"after a while")
    assert here.recv() == b"after a while"


@pytest.mark.parametrize("timeout_s", [0, 0.001])
async def test_a_wait_with_a_time_leaves_the_one_in_the_event_loop_its_bell(
    ends: Pair, timeout_s: float
) -> None:
    here, there = ends
    waiting = asyncio.ensure_future(there.recv_async())
    async with asyncio.timeout(30):
        await turn()
        assert there._waiters
        assert not there.wait(timeout_s)
        here.send(b"for the one in the loop")
        assert await waiting == b"for the one in the loop"


async def test_a_bell_that_a_wait_with_a_time_took_is_the_event_loops_too(ends: Pair) -> None:
    here, there = ends
    waiting = asyncio.ensure_future(there.recv_async())
    async with asyncio.timeout(30):
        await turn()
        assert there._waiters
        here.send_many([b"one", b"two"])  # the bell rings
        assert there.wait(room=1)
        assert there.recv(30) == b"one"
        assert await waiting == b"two"


@pytest.mark.parametrize(("field", "value"), [("tail", 4), ("tail", 1 << 40), ("head", 1 << 40)])
def test_a_peer_that_breaks_the_rules_is_named(ends: Pair, field: str, value: int) -> None:
    here, there = ends
    getattr(there._own, field)[0] = value
    with pytest.raises(RingError, match="broke the ring's rules"):
        here.recv() if field == "tail" else [here.send(bytes(64)) for _ in range(100)]


def test_ringing_never_blocks_though_the_other_end_never_listens(ends: Pair) -> None:
    here, there = ends
    for sleep in range(1, 20_000):
        there._own.sleeping = sleep
        here._pipe.rang = 0
        assert here.send(b"")
        assert there.recv() == b""
    assert lib.vk_pipe_wake(there._pipe, 1) == 0


def test_data_is_cut_where_its_places_say_and_nowhere_else() -> None:
    place = struct.Struct("=QII")

    def cut_at(*places: tuple[int, int]) -> list[bytes]:
        return cut(b"abcdef", b"".join(place.pack(a, 7, n) for a, n in places), place.size, 12)

    assert cut_at() == []
    assert cut_at((0, 6), (2, 3), (6, 0)) == [b"abcdef", b"cde", b""]
    for offset, size in ((0, 7), (6, 1), (7, 0), ((1 << 64) - 1, 2)):
        with pytest.raises(ValueError, match="outside"):
            cut_at((0, 1), (offset, size))
    for stride, size_at in ((7, 0), (16, 13), (16, -1), (0, 0)):
        with pytest.raises(ValueError, match="stride"):
            cut(b"", bytes(16), stride, size_at)
