"""vk_burst: messages that share what was checked for the first of them are judged as if alone."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.dataplane.rig import Rig, Stream, rig_of
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.wire import HEADER_SIZE, Class, Flag, Gauge, parse_frame, stream_class

LIKE = {"type": 0, "flags": 0, "priority": 0, "correlation": 0}
ALIKE = [LIKE] * 6
LEVELS = [lib.VK_PRIORITY_DATA, lib.VK_PRIORITY_DATA + 1]
CASES = {
    "alike": ALIKE,
    "correlations": [{**LIKE, "correlation": number} for number in range(12)],
    "types": [*ALIKE, *[{**LIKE, "type": lib.VK_STATUS_UPDATE}] * 3, *ALIKE],
    "priorities": [{**LIKE, "priority": LEVELS[number // 4 % 2]} for number in range(16)],
    "flags": [*ALIKE, {**LIKE, "flags": lib.VK_FLAG_URG}, *ALIKE],
}


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rig_of() as made:
        yield made


@pytest.mark.parametrize("case", CASES)
def test_each_message_arrives_as_it_was_put(rig: Rig, case: str) -> None:
    ours, _ = rig.pair()
    rig.settle()
    for mark, head in enumerate(CASES[case]):
        assert rig.put(ours, 8 + 8 * (mark % 5), mark, **head)
    rig.settle()
    got = rig.take(1, 0, Class.DATA)
    assert [each.mark for each in got] == list(range(len(CASES[case])))
    assert [each.sequence for each in got] == list(range(len(CASES[case])))
    assert [each.size for each in got] == [8 + 8 * (mark % 5) for mark in range(len(got))]
    for each, head in zip(got, CASES[case], strict=True):
        assert each.correlation == head["correlation"]
        assert each.type == (head["type"] or lib.VK_STREAM_DATA)
        assert each.flags == head["flags"]
        assert each.priority == (head["priority"] or lib.VK_PRIORITY_DATA)
    row = rig.count(0, Class.DATA)
    assert row["tx_messages"] == len(got)
    assert row["tx_bytes"] == sum(each.size for each in got)


@pytest.mark.parametrize("seed", range(4))
def test_logs_of_many_sizes_keep_their_order_and_give_their_ring_back(rig: Rig, seed: int) -> None:
    dice = random.Random(seed)
    ours, _ = rig.pair("svc", 10_000)
    ends = [ours, *several(rig, 4, 10_000)]
    put: dict[int, list[tuple[int, int]]] = {end.stream: [] for end in ends}
    got: dict[int, list[tuple[int, int]]] = {end.stream: [] for end in ends}
    for start in range(0, 6000, 60):  # several times what the ring holds
        for mark in range(start, start + 60):
            end, size = dice.choice(ends), dice.choice([8, 64, 64, 64, 64, 200, 3000])
            assert rig.put(end, size, mark)
            put[end.stream].append((mark, size))
        rig.settle()
        for each in rig.take(1, 0, Class.LOGS):
            got[each.stream].append((each.mark, each.size))
    assert got == put
    row = rig.count(0, Class.LOGS)
    assert row["tx_messages"] == sum(map(len, put.values()))
    assert row["tx_bytes"] == sum(size for each in put.values() for _, size in each)


def test_only_the_first_of_a_datagram_has_a_header_when_the_others_go_on_like_it(rig: Rig) -> None:
    ours, _ = rig.pair()
    rig.settle()
    rig.log()
    for mark in range(50):
        assert rig.put(ours, 64, mark)
    rig.turn(0)
    frames = [parse_frame(each.data) for each in rig.log() if each.klass == Class.DATA]
    runs = [frame for frame in frames if frame.header.flags & Flag.AGG]
    assert sum(frame.header.correlation for frame in runs) == 50
    head = HEADER_SIZE + ffi.sizeof("struct vk_ext_seq")
    size = ffi.sizeof("struct vk_compact") + 64
    for frame in runs:
        inner = list(frame.inner())
        assert len(frame.payload) == head + 64 + (len(inner) - 1) * size
        assert frame.header.correlation == len(inner)


def several(rig: Rig, count: int, first: int = 1000) -> list[Stream]:
    """Open streams of one application to another's."""
    ends = [rig.open(0, 0, first + number, "svc") for number in range(1, count)]
    rig.settle()
    rig.take(1, 0, stream_class(first))
    return ends


@pytest.mark.parametrize("first", [1000, 10_000])
def test_of_streams_that_take_turns_each_message_names_its_own(rig: Rig, first: int) -> None:
    ours, _ = rig.pair("svc", first)
    ends = [ours, *several(rig, 5, first)]
    klass = stream_class(first)
    rig.log()
    for mark in range(50):
        assert rig.put(ends[mark % 5], 64, mark)
    rig.turn(0)
    frames = [parse_frame(each.data) for each in rig.log() if each.klass == klass]
    runs = [frame for frame in frames if frame.header.flags & Flag.AGG]
    assert sum(frame.header.correlation for frame in runs) == 50
    head = HEADER_SIZE + ffi.sizeof("struct vk_ext_seq")
    size = ffi.sizeof("struct vk_compact_stream") + 64
    for frame in runs:
        assert len(frame.payload) == head + 64 + (len(list(frame.inner())) - 1) * size
    rig.settle()
    got = rig.take(1, 0, klass)
    assert [each.mark for each in got] == list(range(50))
    assert [each.stream for each in got] == [first + mark % 5 for mark in range(50)]
    assert [each.sequence for each in got] == [mark // 5 for mark in range(50)]
    assert rig.count(0, klass)["tx_messages"] == rig.count(1, klass)["rx_delivered"] == 50


@pytest.mark.parametrize("seed", range(8))
def test_streams_drawn_at_random_lose_nothing_and_pay_for_what_they_send(
    rig: Rig, seed: int
) -> None:
    dice = random.Random(seed)
    ours, _ = rig.pair()
    ends = [ours, *several(rig, 7)]
    rig.net(loss=50 * (seed % 4), reorder=100 * (seed % 3), twice=50 * (seed % 2), seed=seed + 1)
    put: dict[int, list[tuple[int, int, int]]] = {end.stream: [] for end in ends}
    head = {"correlation": 0, "type": 0}
    for mark in range(400):
        if not dice.randrange(20):
            head = {"correlation": dice.randrange(3), "type": dice.choice([0, lib.VK_LOG_ENTRY])}
        end = dice.choice(ends)
        size = dice.choice([8, 64, 64, 64, 200, 3000]) if dice.randrange(50) else 0
        assert rig.put(end, size, mark, **head)
        put[end.stream].append((mark if size else 0, size, head["correlation"]))
        if not dice.randrange(30):
            rig.exchange()
    rig.net()
    rig.settle()
    got: dict[int, dict[int, tuple[int, int, int]]] = {end.stream: {} for end in ends}
    for each in rig.take(1, 0, Class.DATA):
        assert each.sequence not in got[each.stream]
        got[each.stream][each.sequence] = (each.mark, each.size, each.correlation)
    found = {stream: [one for _, one in sorted(all_.items())] for stream, all_ in got.items()}
    assert found == put
    assert rig.count(1, Class.DATA)["drop_reassembly"] == 0


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_stream_that_ends_between_others_takes_none_of_them_along(rig: Rig, end: str) -> None:
    ours, _ = rig.pair()
    other, third = several(rig, 3)
    kind = {"close": lib.VK_RECORD_CLOSE, "reset": lib.VK_RECORD_RESET}[end]
    for mark in range(30):
        assert rig.put((ours, other, third)[mark % 3], 64, mark)
        if mark == 13:
            assert rig.put(other, 0, 0, kind=kind)
    rig.settle()
    got = [each for each in rig.take(1, 0, Class.DATA) if each.kind == lib.VK_RECORD_DATA]
    whole = [each.mark for each in got if each.stream != 1001]
    assert whole == [mark for mark in range(30) if mark % 3 != 1]
    assert rig.count(0, Class.DATA)["refused_flow"] == 5
    if end == "close":
        assert [each.mark for each in got if each.stream == 1001] == [1, 4, 7, 10, 13]


def test_what_several_streams_held_goes_in_full_datagrams(rig: Rig) -> None:
    ours, _ = rig.pair()
    ends = [ours, *[rig.open(0, 0, 1000 + number, "svc") for number in range(1, 5)]]
    rig.settle()
    rig.take(1, 0, Class.DATA)
    for mark in range(650 * len(ends)):  # in turns; credit pays for 512 of each
        assert rig.put(ends[mark % len(ends)], 64, mark)
    rig.settle()
    got = rig.take(1, 0, Class.DATA)
    assert len(got) == 512 * len(ends)
    rig.log()
    rig.settle()
    runs = [parse_frame(each.data) for each in rig.log() if each.klass == Class.DATA]
    messages = [run.header.correlation for run in runs if run.header.flags & Flag.AGG]
    assert sum(messages) >= 138 * len(ends)
    assert sum(messages) / len(messages) > 15  # with five entries it would be five
    got += rig.take(1, 0, Class.DATA)
    assert sorted(each.mark for each in got) == list(range(650 * len(ends)))


def test_what_is_lost_is_sent_again_with_a_header_of_its_own(rig: Rig) -> None:
    ours, _ = rig.pair()
    rig.settle()
    rig.net(loss=200, reorder=100, twice=50, seed=7)
    for mark in range(300):
        assert rig.put(ours, 64, mark, correlation=mark // 50)
        if mark % 40 == 39:
            rig.exchange()
    rig.net()
    rig.settle()
    got = sorted(rig.take(1, 0, Class.DATA), key=lambda each: each.sequence)
    assert [(each.mark, each.sequence) for each in got] == [(mark, mark) for mark in range(300)]
    assert [each.correlation for each in got] == [mark // 50 for mark in range(300)]
    again = [
        inner
        for each in rig.log()
        if (frame := parse_frame(each.data)).header.flags & Flag.AGG
        for inner in frame.inner()
        if inner.header.flags & Flag.RTX
    ]
    assert again


@pytest.mark.parametrize("odd", [1, 2, 3, 4, 11, 12])
def test_a_stream_spends_what_its_messages_cost(rig: Rig, odd: int) -> None:
    ours, _ = rig.pair()
    rig.settle()
    cost = 64 + lib.VK_MESSAGE_COST
    sent = 0
    while sent + odd <= lib.VK_WINDOW_START // cost:
        for _ in range(odd):
            assert rig.put(ours, 64, sent)
            sent += 1
        rig.exchange(2)
    for mark in range(sent, sent + 50):
        assert rig.put(ours, 64, mark)
    rig.settle()
    assert rig.count(1, Class.DATA)["rx_delivered"] == lib.VK_WINDOW_START // cost


def test_what_cannot_go_in_the_middle_ends_its_stream_there(rig: Rig) -> None:
    ours, _ = rig.pair()
    rig.settle()
    for mark in range(20):
        assert rig.put(ours, 64, mark, type=lib.VK_PING if mark == 7 else 0)
    rig.settle()
    row = rig.count(0, Class.DATA)
    assert (row["tx_messages"], row["refused_policy"], row["refused_flow"]) == (7, 1, 12)


@pytest.mark.parametrize("behind", [0, 600])
def test_a_stream_that_waited_for_credit_brings_all_before_its_end(rig: Rig, behind: int) -> None:
    ours, theirs = rig.pair()
    rig.settle()
    for mark in range(1200):
        assert rig.put(ours, 64, mark)
    rig.exchange(5)
    for mark in range(1200, 1200 + behind):
        assert rig.put(ours, 64, mark)
    assert rig.put(ours, 0, 0, kind=lib.VK_RECORD_CLOSE)
    assert rig.put(theirs, 0, 0, kind=lib.VK_RECORD_CLOSE)
    got = []
    rig.settle(lambda: got.extend(rig.take(1, 0, Class.DATA)))
    data = [each.mark for each in got if each.kind == lib.VK_RECORD_DATA]
    assert data == list(range(1200 + behind))
    assert got[-1].kind == lib.VK_RECORD_CLOSE
    for _ in range(30):
        rig.wait(1)
        rig.settle()
    assert rig.gauge(0, Gauge.FLOWS_OPEN) == rig.gauge(1, Gauge.FLOWS_OPEN) == 0
