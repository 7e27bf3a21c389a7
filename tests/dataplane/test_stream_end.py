"""What a stream's end does in C (vk_stream_end.c and _face.c), and what it leaves to Python."""

from __future__ import annotations

import ast
import inspect
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import valkyrie
from tests.aside import aside
from tests.dataplane.double import DEFAULT_RING_SIZE, Channel, DoubleNode
from tests.dataplane.test_application_misuse import in_a_child
from tests.dataplane.test_node import Nodes
from tests.dataplane.test_stream import sync_pair
from tests.lab import SOON_S, wait_until
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.application import events
from valkyrie.dataplane.application.attachment import Attachment
from valkyrie.dataplane.application.driver import SyncDriver
from valkyrie.dataplane.application.flow import SEQUENCE_MAX, Flow
from valkyrie.dataplane.application.message import message_of
from valkyrie.dataplane.application.rings import Rings
from valkyrie.dataplane.application.stream import Stream, SyncStream
from valkyrie.dataplane.errors import LocalProtocolError
from valkyrie.dataplane.wire import Class, Flag

if TYPE_CHECKING:
    from types import FrameType

NUMBER, GENERATION, STREAM = 5, 9, 100
JOB = Class.JOB.value


class Alone:
    """A stream with nobody behind its rings: what is in them is what a test puts there."""

    def __init__(self) -> None:
        self.channel = Channel([4096] * 6, 1)
        descriptors = [*self.channel.memfds, self.channel.bell_app, self.channel.bell_worker]
        self.driver = SyncDriver.__new__(SyncDriver)
        self.driver.rings = Rings(descriptors, 1)
        self.driver.attachment = Attachment(self.driver.rings)
        self.driver.closed = self.driver._running = False
        self.flow = self.stream_of(NUMBER, STREAM)
        self.stream = SyncStream(self.driver, self.flow)

    def stream_of(self, number: int, stream: int) -> Flow:
        flow = Flow(self.driver.rings, 0, stream, JOB)
        flow.bind(number, GENERATION)
        self.driver.attachment.flows[number] = flow
        return flow

    def put(self, sequence: int, payload: bytes = b"", **fields: int) -> None:
        values = {"flow": NUMBER, "flow_generation": GENERATION, "stream": STREAM, **fields}
        head = ffi.new("struct vk_message *", {**values, "sequence": sequence & SEQUENCE_MAX})
        assert self.channel.put(JOB, lib.VK_RECORD_DATA, head, payload)

    def put_limit(self, limit: int) -> None:
        values = {"flow": NUMBER, "flow_generation": GENERATION, "time_ns": limit}
        head = ffi.new("struct vk_message *", values)
        assert self.channel.put(Class.CONTROL, lib.VK_RECORD_LIMIT, head, b"")

    def released(self) -> bool:
        return bool(self.channel.a.head[JOB] == self.channel.tail[JOB])


@pytest.fixture
def alone() -> Iterator[Alone]:
    made = Alone()
    yield made
    made.channel.close()


def payload_of(stream: SyncStream, timeout: float | None = 0) -> bytes | None:
    message = stream.recv(timeout)
    return None if message is None else message.payload


@contextmanager
def alarm(handler: Callable[[int, FrameType | None], Any], after_s: float = 0.05) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, after_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- Receiving ----


def test_a_plain_message_comes_out_of_the_ring_alone(alone: Alone) -> None:
    for sequence in range(3):
        alone.put(sequence, b"%d" % sequence, correlation=7, priority=3, type=0x10, time_ns=1 << 40)
    message = alone.stream.recv()
    assert message == valkyrie.Message(b"0", STREAM, 0, 7, 0x10, 0, 3, 1 << 40)
    assert not alone.flow.queue
    assert not alone.released()
    assert [payload_of(alone.stream) for _ in range(2)] == [b"1", b"2"]
    assert alone.released()
    assert (alone.flow.counts.received, alone.flow.counts.received_bytes) == (3, 3)


def test_sequences_wrap(alone: Alone) -> None:
    alone.flow.expected = SEQUENCE_MAX
    for sequence in (SEQUENCE_MAX, 0):
        alone.put(sequence)
        assert payload_of(alone.stream) == b""
    assert alone.flow.expected == 1


def test_messages_come_once_and_in_order_whatever_is_next_in_the_ring(alone: Alone) -> None:
    other = SyncStream(alone.driver, alone.stream_of(NUMBER + 1, STREAM + 1))
    alone.put(0, b"0")
    alone.put(2, b"2")
    alone.put(0, b"other", flow=NUMBER + 1, stream=STREAM + 1)
    alone.put(0, b"again")
    alone.put(1, b"1")
    alone.put(3, b"3")
    assert [payload_of(alone.stream) for _ in range(4)] == [b"0", b"1", b"2", b"3"]
    alone.put(4, b"4")
    assert payload_of(other) == b"other"
    assert payload_of(alone.stream) == b"4"
    assert alone.flow.counts.duplicates == 1


def test_a_message_of_the_number_s_former_stream_is_none_of_this_one(alone: Alone) -> None:
    alone.put(0, b"former", flow_generation=GENERATION - 1)
    alone.put(0, b"this")
    assert payload_of(alone.stream) == b"this"
    assert alone.driver.attachment.strays == 1


def test_the_last_message_is_followed_by_none(alone: Alone) -> None:
    alone.put(0, b"last but one")
    alone.put(1, b"last", flags=Flag.EOS)
    got = [payload_of(alone.stream, None) for _ in range(4)]
    assert got == [b"last but one", b"last", None, None]


def test_a_message_that_comes_beside_a_held_batch_leaves_the_batch_alone(alone: Alone) -> None:
    alone.put(0, b"held")
    with alone.stream.recv_many() as batch:
        alone.put(1, b"next")
        assert payload_of(alone.stream) == b"next"
        assert alone.channel.a.head[JOB] == 0
        assert bytes(batch[0]) == b"held"
    assert alone.released()


def test_a_closed_stream_gives_nothing_more(nodes: Nodes) -> None:
    with sync_pair(nodes) as (mine, theirs):
        for _ in range(3):
            mine.send(b"x")
        assert payload_of(theirs, SOON_S) == b"x"
        theirs.close()
        for call in (theirs.recv, lambda: theirs.send(b"x")):
            with pytest.raises(LocalProtocolError, match="is closed"):
                call()


def test_what_is_taken_is_told_to_the_worker(alone: Alone) -> None:
    sizes = 0
    for sequence in range(40):
        alone.put(sequence, bytes(1000))
        assert payload_of(alone.stream) == bytes(1000)
        sizes += 1000 + lib.VK_MESSAGE_COST
    reports = alone.channel.reports()
    assert [report.cost for report in reports] == sorted({report.cost for report in reports})
    assert sizes - lib.VK_INLET_REPORT < reports[-1].cost <= sizes
    assert {report.flow for report in reports} == {NUMBER}


def test_other_rings_are_looked_at_while_one_always_has_something(alone: Alone) -> None:
    limit = ffi.new("struct vk_message *", {"flow": NUMBER, "flow_generation": GENERATION})
    limit.time_ns = 1 << 20
    alone.channel.put(0, lib.VK_RECORD_LIMIT, limit, b"")
    for sequence in range(lib.VK_CLIENT_BATCH):
        alone.put(sequence)
        alone.stream.recv()
    assert alone.flow.outlet.limit == 1 << 20


# ---- Waiting ----


@pytest.mark.parametrize("timeout", [0, 0.0, -1, 0.01, False])
def test_a_receive_that_is_late_says_so(alone: Alone, timeout: float) -> None:
    with pytest.raises(TimeoutError, match=f"no message on stream 100 in {timeout} s"):
        alone.stream.recv(timeout=timeout)


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda s: s.recv("5"), TypeError, "real number"),
        (lambda s: s.recv(timeout=float("nan")), ValueError, "NaN"),
        (lambda s: s.recv(1, 2), TypeError, "one argument"),
        (lambda s: s.recv(limit=1), TypeError, "timeout"),
        (lambda s: s.recv(1, timeout=1), TypeError, "one argument"),
        (lambda s: s.send(), TypeError, "payload"),
        (lambda s: s.send(b"x", 5), TypeError, "positional"),
        (lambda s: s.send(b"x", limit=5), TypeError, "limit"),
        (lambda s: s.send(memoryview(b"xyz")[::2]), BufferError, "contiguous"),
    ],
)
def test_wrong_arguments_are_named(
    alone: Alone, call: Callable[[SyncStream], object], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        call(alone.stream)


def test_a_signal_ends_a_receive_if_its_handler_raises(nodes: Nodes) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with sync_pair(nodes) as (mine, theirs):
        with alarm(interrupt), pytest.raises(KeyboardInterrupt):
            theirs.recv(SOON_S)
        mine.send(b"after")
        assert payload_of(theirs, SOON_S) == b"after"


def test_a_signal_leaves_a_receive_waiting_otherwise(nodes: Nodes) -> None:
    with (
        sync_pair(nodes) as (mine, theirs),
        alarm(lambda *_: mine.send(b"from the handler")),
    ):
        assert payload_of(theirs, None) == b"from the handler"


def test_a_handler_may_close_what_is_waited_for(nodes: Nodes) -> None:
    with (
        sync_pair(nodes) as (_, theirs),
        alarm(lambda *_: theirs.reset()),
        pytest.raises(LocalProtocolError, match="is closed"),
    ):
        theirs.recv(SOON_S)


def test_other_threads_run_while_one_waits_and_are_told_of_it(nodes: Nodes) -> None:
    got: list[bytes | None] = []
    with (
        sync_pair(nodes) as (mine, theirs),
        aside(lambda: got.append(payload_of(theirs, SOON_S))),
    ):
        wait_until(lambda: theirs._flow.rings.client.engaged)
        calls: tuple[Callable[[], object], ...] = (
            lambda: theirs.recv(0.01),
            lambda: theirs.send(b"x"),
        )
        for call in calls:
            with pytest.raises(LocalProtocolError, match="two threads"):
                call()
        mine.send(b"x")
    assert got == [b"x"]


def test_a_fork_takes_nothing_of_its_parent_s(alone: Alone) -> None:
    for sequence in range(2):
        alone.put(sequence, b"%d" % sequence)
    assert payload_of(alone.stream) == b"0"
    position = alone.channel.a.head[JOB]

    def child() -> None:
        alone.driver.link = _NoLink()  # type: ignore[assignment]
        alone.driver.orphan()
        alone.stream.recv(0)

    assert "this process was forked" in in_a_child(child)
    assert alone.channel.a.head[JOB] == position
    assert payload_of(alone.stream) == b"1"


class _NoLink:
    def drop(self) -> None:
        pass


# ---- Sending ----


def test_a_send_without_room_says_why_and_goes_on_with_room(alone: Alone) -> None:
    sent = 0
    with pytest.raises(valkyrie.WouldBlockError) as caught:  # noqa: PT012  # the last one raises
        while True:
            alone.stream.send(bytes(100), timeout=0)
            sent += 1
    assert caught.value.reason == "ring"
    assert alone.stream.counts.sent == sent > 4096 // 200
    assert alone.channel.take(JOB) is not None
    alone.stream.send(bytes(100))
    assert alone.stream.counts.sent == sent + 1


def test_a_send_beyond_the_limit_says_so(alone: Alone) -> None:
    alone.flow.outlet.limit = 100 + lib.VK_MESSAGE_COST
    alone.stream.send(bytes(100))
    with pytest.raises(valkyrie.WouldBlockError) as caught:
        alone.stream.send(b"", timeout=0)
    assert caught.value.reason == "credit"


def test_what_is_sent_is_what_was_given(alone: Alone) -> None:
    numbers = memoryview(bytearray(range(8))).cast("I")
    for given in (b"bytes", bytearray(b"bytearray"), memoryview(b"view")[1:], numbers, b""):
        alone.stream.send(given)
        taken = alone.channel.take(JOB)
        assert taken is not None
        assert taken[2] == bytes(given)
    alone.stream.send(b"x", correlation=5)
    taken = alone.channel.take(JOB)
    assert taken is not None
    assert (taken[1].sequence, taken[1].correlation) == (5, 5)


def test_large_messages_go_the_long_way(nodes: Nodes) -> None:
    large = os.urandom(4 * DEFAULT_RING_SIZE)
    with sync_pair(nodes) as (mine, theirs):
        with aside(lambda: mine.send(large)):
            assert payload_of(theirs, SOON_S) == large
        mine.send(b"small")
        assert payload_of(theirs, SOON_S) == b"small"


def test_the_end_of_the_node_is_told(nodes: tuple[DoubleNode, DoubleNode]) -> None:
    with sync_pair(nodes) as (mine, theirs):
        mine.send(b"before")
        assert payload_of(theirs, SOON_S) == b"before"
        theirs._driver.close()
        for call in (theirs.recv, lambda: theirs.send(b"x")):
            with pytest.raises(valkyrie.NodeGoneError, match="attach again"):
                call()


# ---- Many streams of one ring, and asyncio: what is taken in for whoever reads it ----


def test_plain_messages_are_queued_for_their_streams(alone: Alone) -> None:
    other = alone.stream_of(NUMBER + 1, STREAM + 1)
    for sequence in range(3):
        alone.put(sequence, b"%d" % sequence)
        alone.put(sequence, b"other", flow=NUMBER + 1, stream=STREAM + 1)
    attached = alone.driver.attachment
    assert attached.pump()
    assert alone.released()
    assert {alone.flow, other} <= attached.woken
    assert (alone.flow.queue_size, other.queue_size) == (3, 15)
    assert [payload_of(alone.stream) for _ in range(3)] == [b"0", b"1", b"2"]
    got = [other.take() for _ in range(4)]
    assert [None if each is None else each.sequence for each in got] == [0, 1, 2, None]
    assert alone.flow.queue_size == other.queue_size == 0
    assert alone.flow.inlet.taken.cost == 3 * (1 + lib.VK_MESSAGE_COST)


def test_what_is_queued_comes_before_what_lies_in_the_ring(alone: Alone) -> None:
    alone.put(0, b"0")
    alone.driver.attachment.pump()
    alone.put(1, b"1")
    assert [payload_of(alone.stream) for _ in range(2)] == [b"0", b"1"]


def test_messages_of_other_kinds_are_taken_in_beside_plain_ones(alone: Alone) -> None:
    alone.put(0, b"0")
    alone.put(0, b"former", flow_generation=GENERATION - 1)
    alone.put(0, b"nobody's", flow=NUMBER + 7)
    alone.put(2, b"2")
    alone.put(1, b"1", flags=Flag.URG)
    alone.put(3, b"3")
    alone.driver.attachment.pump()
    assert alone.driver.attachment.strays == 2
    assert [message.payload for message in alone.flow.take_many(9)] == [b"0", b"1", b"2", b"3"]


def stub_of(kind: str, method: str) -> dict[str, str]:
    """Return the parameters of a method as _stream.pyi has them, with their defaults."""
    stub = Path(__file__).parents[2] / "dataplane/_stream.pyi"
    [found] = (
        each
        for owner in ast.parse(stub.read_text()).body
        if isinstance(owner, ast.ClassDef) and owner.name == kind
        for each in owner.body
        if isinstance(each, ast.FunctionDef) and each.name == method
    )
    named = zip(found.args.kwonlyargs, found.args.kw_defaults, strict=True)
    return {arg.arg: ast.unparse(default) for arg, default in named if default is not None}


def test_the_options_of_send_are_the_same_wherever_they_stand() -> None:
    found = [
        {
            each.name: repr(each.default)
            for each in inspect.signature(method).parameters.values()
            if each.kind is each.KEYWORD_ONLY
        }
        for method in (Stream.send, SyncStream.send, SyncStream._send)
    ]
    assert found == [stub_of("Face", "send")] * 3
    assert len(found[0]) == 8


# ---- Interruptions ----


class InterruptError(Exception):
    """What a signal's handler raises."""


def once(function: Callable[..., Any], interrupt: Callable[[], object]) -> Callable[..., Any]:
    """Return a function that something interrupts in its third call."""
    calls = 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            interrupt()
        return function(*arguments)

    return interrupted


def out_of_memory() -> None:
    raise MemoryError


def raise_signal() -> None:
    signal.raise_signal(signal.SIGALRM)


def interrupted(*_: object) -> None:
    raise InterruptError


@pytest.mark.parametrize(
    ("interrupt", "error"), [(raise_signal, InterruptError), (out_of_memory, MemoryError)]
)
def test_what_is_interrupted_while_it_takes_messages_in_loses_none(
    alone: Alone,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: Callable[[], object],
    error: type[Exception],
) -> None:
    for sequence in range(20):
        alone.put(sequence, b"%d" % sequence, flags=Flag.URG.value)  # Python looks at it
    monkeypatch.setattr(events, "message_of", once(message_of, interrupt))
    with alarm(interrupted, SOON_S), pytest.raises(error):
        alone.stream._attachment.pump()
    assert [payload_of(alone.stream) for _ in range(20)] == [b"%d" % each for each in range(20)]
    assert alone.flow.broken is None
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_what_is_interrupted_within_a_message_says_so_and_other_streams_go_on(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = alone.stream_of(NUMBER + 1, STREAM + 1)
    for sequence in range(5):
        alone.put(sequence, b"x", flags=Flag.URG.value)
        alone.put(sequence, b"y", flags=Flag.URG.value, flow=NUMBER + 1, stream=STREAM + 1)
    with monkeypatch.context() as patched:
        patched.setattr(Flow, "receive", once(Flow.receive, out_of_memory))
        with pytest.raises(MemoryError):
            alone.stream._attachment.pump()
    alone.stream._attachment.pump()
    assert [message.payload for message in other.queue] == [b"y"] * 5
    assert payload_of(alone.stream) == b"x"
    with pytest.raises(valkyrie.StreamResetError):
        alone.stream.recv()


def test_an_answer_that_is_interrupted_is_looked_at_again(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in range(1000, 1010):
        alone.put_limit(limit)
    with monkeypatch.context() as patched:
        patched.setattr(Attachment, "_answer", once(Attachment._answer, out_of_memory))
        with pytest.raises(MemoryError):
            alone.stream._attachment.pump()
    assert alone.flow.outlet.limit < 1009
    alone.stream._attachment.pump()
    assert alone.flow.outlet.limit == 1009
