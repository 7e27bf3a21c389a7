"""vk_ends: every application hears that its streams are over, whenever its ring has room."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.dataplane.rig import Record, Rig, Stream, rig_of
from tests.dataplane.test_receive import come
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import Class, Code, Gauge

DATA, OPEN, OPENED, RESET, FLUSHED = (
    lib.VK_RECORD_DATA,
    lib.VK_RECORD_OPEN,
    lib.VK_RECORD_OPENED,
    lib.VK_RECORD_RESET,
    lib.VK_RECORD_FLUSHED,
)
SMALL = 4096
ROOM = SMALL // (8 + 40)
"""Records without payload that a small ring holds."""


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Two nodes whose application 0 has small rings."""
    with rig_of() as made:
        for node in (0, 1):
            assert made.app(node, 0, ring=SMALL) == 0
        made.service(1, 0, "svc")
        yield made


def joined(rig: Rig, stream: int = 1000) -> tuple[Stream, Stream]:
    return rig.open(0, 0, stream, "svc"), rig.accept(1, 0, Class.DATA)


def fill(rig: Rig, end: Stream) -> None:
    """Send so much that the ring of the application at the other end has room for nothing more."""
    for mark in range(ROOM):
        assert rig.put(end, 0, mark)
    rig.settle()


def drain(rig: Rig, node: int) -> list[Record]:
    """Take all that an application has been told, and is told when there is room again."""
    found: list[Record] = []
    while more := rig.take(node, 0, Class.DATA):
        found += more
        rig.settle()
    return found


def die(rig: Rig, node: int) -> None:
    rig.ask("worker", node, "kill")
    rig.ask("worker", node, "recover")


def change(rig: Rig, node: int) -> None:
    rig.ask("worker", node, "stop")
    rig.ask("worker", node, "start")


def go_on(rig: Rig, node: int) -> None:
    del rig, node


@pytest.fixture(params=[go_on, change, die], ids=["one worker", "an upgrade", "a death"])
def between(request: pytest.FixtureRequest) -> Callable[[Rig, int], None]:
    """What happens while the news waits."""
    found: Callable[[Rig, int], None] = request.param
    return found


def test_a_reset_that_finds_no_room_is_told_when_there_is_some(
    rig: Rig, between: Callable[[Rig, int], None]
) -> None:
    ours, _ = joined(rig)
    fill(rig, ours)
    rig.put(ours, 0, 0, kind=RESET, code=Code.OVERLOAD)
    rig.settle()
    between(rig, 1)
    rig.settle()
    found = drain(rig, 1)
    assert [each.kind for each in found] == [DATA] * (len(found) - 1) + [RESET]
    assert found[-1].code == Code.OVERLOAD
    assert rig.gauge(0, Gauge.FLOWS_OPEN) == rig.gauge(1, Gauge.FLOWS_OPEN) == 0


def test_a_refusal_that_finds_no_room_is_told_when_there_is_some(
    rig: Rig, between: Callable[[Rig, int], None]
) -> None:
    _, theirs = joined(rig)
    fill(rig, theirs)
    token = rig.ask_open(0, 0, 1001, "nobody")
    rig.settle()
    between(rig, 0)
    rig.settle()
    last = drain(rig, 0)[-1]
    assert (last.kind, last.correlation, last.code) == (OPENED, token, Code.NO_SERVICE)
    assert rig.gauge(0, Gauge.FLOWS_OPEN) == 1


def test_a_stream_that_breaks_here_is_told_of_though_the_ring_is_full(
    rig: Rig, between: Callable[[Rig, int], None]
) -> None:
    ours, theirs = joined(rig)
    fill(rig, theirs)
    rig.put(ours, 64, 1, type=lib.VK_PING)
    rig.settle()
    between(rig, 0)
    rig.settle()
    (reset,) = [each for each in drain(rig, 0) if each.kind == RESET]
    assert reset.code == Code.MALFORMED
    rig.settle()
    assert rig.gauge(0, Gauge.FLOWS_OPEN) == rig.gauge(1, Gauge.FLOWS_OPEN) == 0


def test_more_streams_than_a_ring_holds_records_all_end_with_their_peer(
    rig: Rig, between: Callable[[Rig, int], None]
) -> None:
    streams = range(1000, 1000 + 3 * ROOM)
    ours = [joined(rig, stream)[0] for stream in streams]
    rig.ask("peer", 0, 2)
    rig.turn(0)
    between(rig, 0)
    told: list[Record] = []
    while more := rig.take(0, 0, Class.DATA):
        told += more
        rig.turn(0)
    assert {(each.kind, each.code) for each in told} == {(RESET, Code.NO_PEER)}
    assert sorted(each.flow for each in told) == sorted(each.flow for each in ours)
    assert rig.gauge(0, Gauge.FLOWS_OPEN) == 0


def test_a_flush_says_nothing_before_the_reset_that_took_its_messages_away(
    rig: Rig, between: Callable[[Rig, int], None]
) -> None:
    ours, theirs = joined(rig)
    fill(rig, theirs)
    rig.put(theirs, 0, 0, kind=RESET, code=Code.OVERLOAD)
    rig.turn(1)
    rig.put(ours, 64, 1)  # too late, but its application cannot know
    rig.put(ours, 0, 0, kind=lib.VK_RECORD_FLUSH, correlation=7)
    rig.settle()
    between(rig, 0)
    rig.settle()
    assert rig.take(0, 0, Class.CONTROL) == []
    assert drain(rig, 0)[-1].kind == RESET
    (answer,) = rig.take(0, 0, Class.CONTROL)
    assert (answer.kind, answer.correlation) == (FLUSHED, 7)


def test_a_flush_of_another_stream_does_not_wait_for_a_reset(rig: Rig) -> None:
    _, theirs = joined(rig)
    other, _ = joined(rig, 1001)
    fill(rig, theirs)
    rig.put(theirs, 0, 0, kind=RESET, code=Code.OVERLOAD)
    rig.settle()
    rig.put(other, 64, 1)
    rig.put(other, 0, 0, kind=lib.VK_RECORD_FLUSH, correlation=7)
    rig.settle()
    assert [each.kind for each in rig.take(0, 0, Class.CONTROL)] == [FLUSHED]


def test_a_new_stream_with_the_same_id_comes_behind_the_end_of_the_old_one(rig: Rig) -> None:
    ours, _ = joined(rig)
    fill(rig, ours)
    rig.put(ours, 0, 0, kind=RESET, code=Code.OVERLOAD)
    rig.settle()
    token = rig.ask_open(0, 0, 1000, "svc")
    rig.exchange(3)
    assert {each.kind for each in rig.take(1, 0, Class.DATA)} == {DATA}
    rig.settle()
    assert [each.kind for each in rig.take(1, 0, Class.DATA)] == [RESET, OPEN]
    (opened,) = rig.take(0, 0, Class.DATA)
    assert (opened.kind, opened.code, opened.correlation) == (OPENED, 0, token)


def test_a_peer_that_opens_and_resets_without_end_takes_no_more_rows_than_the_ring_has_records(
    rig: Rig,
) -> None:
    for stream in range(1000, 1000 + 4 * ROOM):
        if rig.ask("open", 0, 0, 0, stream, stream, "svc") != "1":
            break  # full of those that are not answered
        rig.exchange(2)
        for each in rig.take(0, 0, Class.DATA):
            end = Stream(0, 0, each.flow, each.generation, each.stream)
            rig.put(end, 0, 0, kind=RESET, code=Code.OVERLOAD)
        rig.exchange(2)
    assert ROOM // 3 < rig.gauge(1, Gauge.FLOWS_OPEN) <= ROOM


@pytest.mark.parametrize("how", ["detach", "violation"])
def test_who_comes_behind_an_application_hears_nothing_of_its_streams(rig: Rig, how: str) -> None:
    ours, _ = joined(rig)
    fill(rig, ours)
    rig.put(ours, 0, 0, kind=RESET, code=Code.OVERLOAD)
    rig.settle()
    if how == "detach":
        assert rig.ask("detach", 1, 0) == "0"
    else:
        rig.ask("poke", 1, 0, "h", int(Class.DATA), 7)
        rig.settle()
        assert rig.gauge(1, Gauge.APP_VIOLATIONS) == 1
    assert rig.gauge(1, Gauge.FLOWS_OPEN) == 0
    assert rig.app(1, 0) == 0
    rig.settle()
    assert rig.take(1, 0, Class.DATA) == []


# ---- A peer that is another one when a worker begins ----


@pytest.mark.parametrize("how", [change, die])
def test_streams_end_when_their_peer_was_replaced_while_no_worker_ran(
    rig: Rig, how: Callable[[Rig, int], None]
) -> None:
    ours = [joined(rig, stream)[0] for stream in range(1000, 1000 + 2 * ROOM)]
    rig.ask("worker", 0, "kill" if how is die else "stop")
    rig.ask("peer", 0, 2)
    rig.ask("worker", 0, "recover" if how is die else "start")
    told: list[Record] = []
    rig.turn(0)
    while more := rig.take(0, 0, Class.DATA):
        told += more
        rig.turn(0)
    assert {(each.kind, each.code) for each in told} == {(RESET, Code.NO_PEER)}
    assert sorted(each.flow for each in told) == sorted(each.flow for each in ours)
    assert rig.gauge(0, Gauge.FLOWS_OPEN) == 0


@pytest.mark.parametrize("came", [(0,), (2,), (0, 1, 3)], ids=str)
def test_a_close_that_tells_fewer_messages_than_came_ends_the_stream(
    rig: Rig, came: tuple[int, ...]
) -> None:
    ours, _ = joined(rig)
    for sequence in came:
        come(rig, sequence)
    assert rig.put(ours, 0, 0, kind=lib.VK_RECORD_CLOSE)
    rig.exchange(5)
    rig.wait(0.1)
    rig.exchange(5)
    for node in range(2):
        last = rig.take(node, 0, Class.DATA)[-1]
        assert (last.kind, last.code) == (RESET, Code.FLOW_CONTROL)
        assert rig.gauge(node, Gauge.FLOWS_OPEN) == 0
