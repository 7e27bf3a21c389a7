"""vk_flows and what opens and ends streams."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dataplane.rig import Rig, Stream, rig_of
from tests.dataplane.test_receive import data, inject, run_of, shard
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import Class, Code, Frame, Gauge

OPEN, OPENED, CLOSE, RESET = (
    lib.VK_RECORD_OPEN,
    lib.VK_RECORD_OPENED,
    lib.VK_RECORD_CLOSE,
    lib.VK_RECORD_RESET,
)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rig_of() as made:
        for node in (0, 1):
            assert made.app(node, 0) == 0
        made.service(1, 0, "svc")
        yield made


def answer(rig: Rig, stream: int, name: str, node: int = 0) -> int:
    """Ask for a stream and return the code of the answer."""
    token = rig.ask_open(node, 0, stream, name)
    rig.exchange(2, first=node)
    for klass in Class:
        for record in rig.take(node, 0, klass):
            if record.kind == OPENED and record.correlation == token:
                return record.code
    raise AssertionError("no answer")


def test_a_service_is_found_by_its_whole_name(rig: Rig) -> None:
    assert answer(rig, 1000, "svc") == lib.VK_CODE_OK
    for name in ("sv", "svcc", "", "SVC"):
        assert answer(rig, 1001, name) == lib.VK_CODE_NO_SERVICE


def test_a_stream_asked_for_again_is_answered_again_and_opened_once(rig: Rig) -> None:
    token = rig.ask_open(0, 0, 1000, "svc")
    rig.exchange(2)
    assert rig.ask("open", 0, 0, 0, 1000, token, "svc") == "1"
    rig.exchange(2)
    assert [each.kind for each in rig.take(1, 0, Class.DATA)] == [OPEN]
    assert [each.kind for each in rig.take(0, 0, Class.DATA)] == [OPENED]
    assert rig.gauge(1, Gauge.FLOWS_OPEN) == 1


def test_an_answer_is_given_until_it_arrives(rig: Rig) -> None:
    rig.ask_open(0, 0, 1000, "svc")
    rig.turn(0)
    rig.net(loss=1000)
    for _ in range(20):
        rig.turn(1)
        rig.wait(0.1)
    assert sum(each.node for each in rig.log()) > 3  # it was tried
    rig.net()
    rig.settle()
    assert [each.kind for each in rig.take(0, 0, Class.DATA)] == [OPENED]
    assert [each.kind for each in rig.take(1, 0, Class.DATA)] == [OPEN]
    rig.log()
    rig.exchange(50)
    rig.wait(5)
    rig.exchange(50)
    assert rig.log() == []  # and not any longer


def test_a_question_is_asked_until_it_arrives(rig: Rig) -> None:
    rig.net(loss=1000)
    rig.ask_open(0, 0, 1000, "svc")
    for _ in range(20):
        rig.turn(0)
        rig.wait(0.1)
    rig.net()
    rig.settle()
    assert [each.kind for each in rig.take(0, 0, Class.DATA)] == [OPENED]
    assert [each.kind for each in rig.take(1, 0, Class.DATA)] == [OPEN]


def test_a_stream_belongs_to_one_application_of_a_host(rig: Rig) -> None:
    assert answer(rig, 1000, "svc") == lib.VK_CODE_OK
    assert answer(rig, 1000, "svc") == lib.VK_CODE_STREAM_IN_USE
    rig.service(0, 0, "here")
    assert answer(rig, 1000, "here", node=1) == lib.VK_CODE_STREAM_IN_USE


def test_policy_decides_on_both_sides(rig: Rig) -> None:
    rig.app(0, 1, streams=(1000, 1999))
    rig.app(1, 1, streams=(1000, 1500))
    rig.service(1, 1, "narrow")
    codes = {}
    for stream in (1500, 1501, 2000):
        token = rig.ask_open(0, 1, stream, "narrow")
        rig.exchange(2)
        (record,) = rig.take(0, 1, Class.DATA)
        assert (record.kind, record.correlation) == (OPENED, token)
        codes[stream] = record.code
    policy = lib.VK_CODE_POLICY
    assert codes == {1500: lib.VK_CODE_OK, 1501: policy, 2000: policy}
    assert rig.gauge(0, Gauge.FLOWS_OPEN) == 1


def test_only_peers_that_an_application_may_reach_hear_of_its_streams(rig: Rig) -> None:
    rig.ask("reach", 0, 0, 0b11111110)  # the other node's row is 0
    rig.log()
    assert answer(rig, 1000, "svc") == lib.VK_CODE_POLICY
    assert rig.log() == []
    rig.ask("reach", 0, 0, 0b00000001)
    assert answer(rig, 1000, "svc") == lib.VK_CODE_OK


def test_closing_tells_the_other_side_behind_the_last_message(rig: Rig) -> None:
    ours = rig.open(0, 0, 1000, "svc")
    theirs = rig.accept(1, 0, Class.DATA)
    rig.put(ours, 64, 5)
    rig.put(ours, 0, 0, kind=CLOSE)
    rig.settle()
    assert [each.kind for each in rig.take(1, 0, Class.DATA)] == [lib.VK_RECORD_DATA, CLOSE]
    assert rig.gauge(0, Gauge.FLOWS_OPEN) == 1  # the other direction goes on
    rig.put(theirs, 64, 6)
    rig.settle()
    assert [each.mark for each in rig.take(0, 0, Class.DATA)] == [6]
    rig.put(ours, 64, 7)
    rig.settle()
    assert rig.count(0, Class.DATA)["refused_flow"] == 1
    assert rig.take(1, 0, Class.DATA) == []


@pytest.mark.parametrize("count", [0, 1, 300])
def test_a_close_says_how_many_messages_there_were(rig: Rig, count: int) -> None:
    ours = rig.open(0, 0, 1000, "svc")
    rig.accept(1, 0, Class.DATA)
    for mark in range(count):
        rig.put(ours, 64, mark)
    rig.put(ours, 0, 0, kind=CLOSE)
    rig.settle()
    records = rig.take(1, 0, Class.DATA)
    (close,) = [each for each in records if each.kind == CLOSE]
    assert close.sequence == count
    assert len(records) == count + 1


@pytest.mark.parametrize("seed", range(4))
def test_messages_that_a_close_overtakes_still_arrive_before_the_stream_ends(
    rig: Rig, seed: int
) -> None:
    ours = rig.open(0, 0, 1000, "svc")
    theirs = rig.accept(1, 0, Class.DATA)
    rig.net(loss=200, twice=100, reorder=700, seed=seed)
    for mark in range(200):
        rig.put(ours, 64, mark)
        rig.put(theirs, 64, 1000 + mark)
    for end in (ours, theirs):
        rig.put(end, 0, 0, kind=CLOSE)
    got: dict[int, list[int]] = {0: [], 1: []}

    def take() -> None:
        for node, taken in got.items():
            for record in rig.take(node, 0, Class.DATA):
                assert record.kind in (lib.VK_RECORD_DATA, CLOSE)
                taken.append(record.mark if record.kind == lib.VK_RECORD_DATA else -1)

    rig.settle(take)
    take()
    assert sorted(got[1]) == [-1, *range(200)]
    assert sorted(got[0]) == [-1, *range(1000, 1200)]
    assert rig.gauge(0, Gauge.FLOWS_OPEN) == rig.gauge(1, Gauge.FLOWS_OPEN) == 0


def test_an_ended_stream_lingers_for_late_copies(rig: Rig) -> None:
    ours = rig.open(0, 0, 1000, "svc")
    theirs = rig.accept(1, 0, Class.DATA)
    rig.put(ours, 64, 5)
    for end in (ours, theirs):
        rig.put(end, 0, 0, kind=CLOSE)
    rig.exchange(6)
    late = next(each for each in rig.log() if each.node == 0)
    assert rig.gauge(1, Gauge.FLOWS_OPEN) == 1
    rig.ask("raw", 1, int(Class.DATA), 0, late.data.hex())
    rig.turn(1)
    assert rig.log() == []  # neither answered nor reset: its number came before
    rig.settle()
    assert rig.gauge(0, Gauge.FLOWS_OPEN) == rig.gauge(1, Gauge.FLOWS_OPEN) == 0


def test_both_sides_closing_leave_no_flow(rig: Rig) -> None:
    for _ in range(200):
        ours = rig.open(0, 0, 1000, "svc")
        theirs = rig.accept(1, 0, Class.DATA)
        rig.put(ours, 0, 0, kind=CLOSE)
        rig.settle()
        rig.put(theirs, 0, 0, kind=CLOSE)
        rig.settle()
        rig.take(1, 0, Class.DATA)
        rig.take(0, 0, Class.DATA)
    assert rig.gauge(0, Gauge.FLOWS_OPEN) == rig.gauge(1, Gauge.FLOWS_OPEN) == 0


def outcomes(rig: Rig, streams: range) -> list[int]:
    """Ask for streams and return the codes of the answers, in order."""
    tokens = [rig.ask_open(0, 0, stream, "svc") for stream in streams]
    rig.settle()
    codes = {each.correlation: each.code for each in rig.take(0, 0, Class.DATA)}
    return [codes[token] for token in tokens]


@pytest.mark.parametrize("by", ["the peer's word", "the peer's refusal"])
def test_no_more_streams_are_open_at_a_time_than_a_peer_takes(rig: Rig, by: str) -> None:
    if by == "the peer's word":
        rig.ask("join", 0, 1, 3)
    else:
        rig.ask("param", 1, "streams_max", 3)
    full = lib.VK_CODE_STREAMS_FULL
    assert outcomes(rig, range(1000, 1005)) == [0, 0, 0, full, full]
    asked = sum(each.kind == OPEN for each in rig.take(1, 0, Class.DATA))
    assert asked == rig.gauge(1, Gauge.FLOWS_OPEN) == 3


def test_of_rows_whose_end_it_does_not_acknowledge_a_peer_has_no_more_than_are_free(
    rig: Rig,
) -> None:
    rig.ask("poke", 1, 0, "f", 0, lib.VK_FLOWS_MAX - 20)
    kept = 0
    for stream in range(1000, 1040):
        rig.net(loss=0)
        rig.ask_open(0, 0, stream, "svc")
        rig.turn(0)
        rig.net(loss=1000)
        rig.turn(1)
        for asked in rig.take(1, 0, Class.DATA):
            end = Stream(1, 0, asked.flow, asked.generation, stream)
            assert rig.put(end, 0, 0, kind=RESET)
            kept += 1
        rig.turn(1)
    assert kept == 11


def answered(rig: Rig, token: int) -> int | None:
    """Return the code that an OPEN was answered with, if it was."""
    for record in rig.take(0, 0, Class.DATA):
        if record.kind == OPENED and record.correlation == token:
            return record.code
    return None


@pytest.mark.parametrize("loss", [0, 300])
def test_where_there_is_room_for_a_stream_again_its_peer_has_room_too(rig: Rig, loss: int) -> None:
    rig.ask("join", 0, 1, 1)
    rig.ask("param", 1, "streams_max", 1)
    rig.exchange(2)
    ours = rig.open(0, 0, 1000, "svc")
    theirs = rig.accept(1, 0, Class.DATA)
    for stream in range(1001, 1061):
        rig.net(loss=loss, seed=stream)
        first, last = (ours, theirs) if stream % 2 else (theirs, ours)
        rig.put(first, 0, 0, kind=CLOSE)
        rig.exchange(stream % 5)
        rig.put(last, 0, 0, kind=CLOSE if stream % 3 else RESET)
        code: int | None = lib.VK_CODE_STREAMS_FULL
        while code == lib.VK_CODE_STREAMS_FULL:  # by our own count: nothing is sent for it
            rig.wait(0.001)
            rig.exchange(1)
            token = rig.ask_open(0, 0, stream, "svc")
            rig.turn(0)
            code = answered(rig, token)
        assert code is None
        rig.net()
        rig.settle()
        (opened,) = [each for each in rig.take(0, 0, Class.DATA) if each.kind == OPENED]
        assert opened.code == 0
        ours = Stream(0, 0, opened.flow, opened.generation, stream)
        found = [each for each in rig.take(1, 0, Class.DATA) if each.kind == OPEN]
        theirs = Stream(1, 0, found[0].flow, found[0].generation, stream)


def test_a_stream_opened_anew_ends_what_the_peer_forgot(rig: Rig) -> None:
    rig.open(0, 0, 1000, "svc")
    rig.accept(1, 0, Class.DATA)
    rig.net(loss=1000)
    assert rig.ask("detach", 0, 0) == "0"
    rig.settle()
    rig.net()
    assert rig.app(0, 0) == 0
    rig.open(0, 0, 1000, "svc")
    assert [each.kind for each in rig.take(1, 0, Class.DATA)] == [RESET, OPEN]


def test_a_stream_of_an_application_that_leaves_is_opened_as_soon_as_it_is_free(rig: Rig) -> None:
    ours = rig.open(0, 0, 1000, "svc")
    rig.accept(1, 0, Class.DATA)
    assert rig.app(0, 1) == 0
    rig.net(loss=1000)
    rig.put(ours, 64, 1)
    rig.put(ours, 0, 0, kind=CLOSE)
    rig.turn(0)  # the peer hears of neither, so the first one is kept for a while
    rig.ask_open(0, 1, 1000, "svc")
    assert rig.ask("detach", 0, 0) == "0"
    assert not rig.take(0, 1, Class.DATA), "not refused meanwhile"
    rig.net()
    rig.settle()
    (opened,) = rig.take(0, 1, Class.DATA)
    assert (opened.kind, opened.code) == (OPENED, 0)


def test_a_late_reset_does_not_hit_a_stream_that_is_being_opened(rig: Rig) -> None:
    ours = rig.open(0, 0, 1000, "svc")
    theirs = rig.accept(1, 0, Class.DATA)
    rig.put(ours, 64, 1)
    rig.turn(0)  # on its way
    rig.put(theirs, 0, 0, kind=CLOSE)
    rig.net(reorder=0)
    rig.put(ours, 0, 0, kind=CLOSE)
    rig.settle()
    rig.take(0, 0, Class.DATA)
    assert answer(rig, 1000, "svc") == lib.VK_CODE_OK


def test_streams_end_when_their_peer_is_replaced(rig: Rig) -> None:
    ours = rig.open(0, 0, 1000, "svc")
    rig.ask("peer", 0, 2)
    rig.turn(0)
    (record,) = rig.take(0, 0, Class.DATA)
    assert (record.kind, record.code) == (RESET, lib.VK_CODE_NO_PEER)
    rig.put(ours, 64, 1)
    rig.turn(0)
    assert rig.count(0, Class.DATA)["refused_flow"] == 1


def test_messages_to_a_peer_that_is_gone_are_counted(rig: Rig) -> None:
    ours = rig.open(0, 0, 1000, "svc")
    rig.ask("peer", 0, 0)
    rig.put(ours, 64, 1)
    rig.turn(0)
    assert rig.count(0, Class.DATA)["drop_tx_unreachable"] == 1
    assert answer(rig, 1001, "svc") == lib.VK_CODE_NO_PEER


def test_ten_thousand_streams_find_their_messages(rig: Rig) -> None:
    for slot in (1, 2):
        assert rig.app(0, slot, ring=1 << 22) == rig.app(1, slot, ring=1 << 22) == 0
    rig.service(1, 1, "many")
    for stream in range(1000, 9000):
        rig.ask_open(0, 1, stream, "many")
        if stream % 500 == 0:
            rig.settle()
    rig.settle()
    opened = rig.take(0, 1, Class.DATA)
    assert len(opened) == 8000
    assert {each.code for each in opened} == {lib.VK_CODE_OK}
    assert rig.gauge(1, Gauge.FLOWS_OPEN) == 8000
    assert len(rig.take(1, 1, Class.DATA)) == 8000


def test_a_reset_that_is_owed_outlives_the_worker(rig: Rig) -> None:
    ours = rig.open(0, 0, 1000, "svc")
    rig.accept(1, 0, Class.DATA)
    rig.settle()
    rig.take(1, 0, Class.DATA)
    rig.net(loss=1000)
    rig.put(ours, 0, 0, kind=RESET, code=lib.VK_CODE_CANCELLED)
    rig.turn(0, 2)
    rig.ask("worker", 0, "kill")
    rig.net()
    rig.ask("worker", 0, "recover")
    rig.settle()
    kinds = [each.kind for each in rig.take(1, 0, Class.DATA)]
    assert kinds == [RESET]
    assert rig.gauge(1, Gauge.FLOWS_OPEN) == 0


BEYOND: dict[str, Frame] = {
    "1 the next": run_of(data(1).pack()),
    "2 a later one": run_of(data(7).pack()),
    "3 behind one that came before": run_of(data(0).pack(), data(1).pack()),
    "4 a shard of one": shard(1, 0, bytes(50), 100),
    "5 half of all numbers ahead": run_of(data(1 << 31).pack()),
}


@pytest.mark.parametrize("case", BEYOND)
def test_what_comes_beyond_a_streams_end_ends_it_and_is_given_to_nobody(
    rig: Rig, case: str
) -> None:
    ours, theirs = rig.open(0, 0, 1000, "svc"), rig.accept(1, 0, Class.DATA)
    rig.put(ours, 16, 0)
    rig.put(ours, 0, 0, kind=CLOSE)
    rig.exchange(4)
    assert [each.kind for each in rig.take(1, 0, Class.DATA)] == [lib.VK_RECORD_DATA, CLOSE]
    inject(rig, BEYOND[case])
    (reset,) = rig.take(1, 0, Class.DATA)
    assert (reset.kind, reset.code) == (RESET, Code.FLOW_CONTROL)
    assert (reset.flow, reset.generation) == (theirs.flow, theirs.generation)
    rig.exchange(4)
    assert rig.take(0, 0, Class.DATA)[-1].code == Code.FLOW_CONTROL
