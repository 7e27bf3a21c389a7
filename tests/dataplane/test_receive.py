"""vk_receive: whatever arrives is checked again, and counted."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.dataplane.fuzzing import fuzz
from tests.dataplane.native import PARTS
from tests.dataplane.rig import RING, Rig, Stream, rig_of
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import (
    Class,
    Code,
    Flag,
    Frame,
    Seq,
    Session,
    Shard,
    Token,
    make_compact,
    make_compact_shard,
    make_frame,
    stream_class,
)

FUZZ_NODE = ["fuzz_node.c", "worker_rig.c"]
SESSION = Session(0, 1, space=1)
STREAM = 1000
LOGS = 10_000
OF_LOGS = Session(0, 1, space=2)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rig_of() as made:
        made.pair("svc", STREAM)
        yield made


@pytest.fixture
def logs() -> Iterator[Rig]:
    """The class that nothing is sent again of."""
    with rig_of() as made:
        made.pair("svc", LOGS)
        yield made


def log(rig: Rig, sequence: int) -> None:
    """Let a message come; what has the same sequence is a copy of its packet."""
    frame = make_frame(lib.VK_STREAM_DATA, LOGS, b"", OF_LOGS, Seq(sequence))
    inject(rig, frame, Class.LOGS, number=FIRST + sequence)


def data(sequence: int, payload: bytes = b"x" * 16, stream: int = STREAM) -> Frame:
    return make_frame(lib.VK_STREAM_DATA, stream, payload, Seq(sequence), priority=50)


def run_of(*parts: bytes, stream: int = STREAM, session: Session = SESSION, **fields: int) -> Frame:
    """Return an aggregate of inner frames, given as bytes."""
    align = lib.VK_AGG_ALIGN
    payload = b"".join(part + bytes(-len(part) % align) for part in parts)
    values = {"flags": Flag.AGG, "correlation": len(parts), **fields}
    return make_frame(lib.VK_STREAM_DATA, stream, payload, session, **values)


FIRST = 1 << 20
"""Packet number behind all that opening streams took."""
numbers = itertools.count(FIRST)


def inject(
    rig: Rig, frame: Frame | bytes, klass: int = Class.DATA, number: int | None = None
) -> None:
    """Put a frame into a socket; every packet has a number of its own, unless one is given."""
    packed = bytearray(frame if isinstance(frame, bytes) else frame.pack())
    if packed[24:26] == b"\x01\x04":
        packed[32:40] = (next(numbers) if number is None else number).to_bytes(8, "big")
    rig.ask("raw", 1, int(klass), 0, packed.hex())
    rig.turn(1)


def count(rig: Rig, counter: str, klass: Class = Class.DATA) -> int:
    return rig.count(1, klass)[counter]


def marks(rig: Rig, klass: Class = Class.DATA) -> list[int]:
    return [record.sequence for record in rig.take(1, 0, klass)]


INVALID = {
    "1 not a frame": bytes(64),
    "2 another class than its socket": make_frame(lib.VK_STREAM_DATA, 5, b"", Session(0, 1)).pack(),
    "3 longer than it says": data(0).pack() + bytes(8),
    "4 a handshake outside its class": make_frame(lib.VK_HELLO).pack(),
}


@pytest.mark.parametrize("case", INVALID)
def test_a_datagram_that_is_no_frame_of_its_class_is_dropped(rig: Rig, case: str) -> None:
    inject(rig, INVALID[case])
    assert count(rig, "drop_frame_invalid") == 1
    assert marks(rig) == []


@pytest.mark.parametrize("number", [2**62, 2**63, 2**64 - 1])
def test_numbers_of_more_than_62_bits_name_no_packet(rig: Rig, number: int) -> None:
    frames = [make_frame(lib.VK_STREAM_DATA, STREAM, b"", SESSION, Seq(each)) for each in range(2)]
    inject(rig, frames[0], number=number)
    assert (marks(rig), count(rig, "drop_frame_invalid")) == ([], 1)
    inject(rig, frames[0], number=2**62 - 1)
    inject(rig, frames[1], number=7)
    assert (marks(rig), count(rig, "drop_frame_invalid")) == ([0, 1], 1)


def test_a_sealed_frame_is_dropped_where_there_are_no_keys(rig: Rig) -> None:
    sealed = make_frame(
        lib.VK_STREAM_DATA, STREAM, b"", SESSION, tag=bytes(lib.VK_TAG_SIZE), flags=Flag.ENC
    )
    inject(rig, sealed)
    assert count(rig, "drop_frame_epoch") == 1
    assert marks(rig) == []


INNER_INVALID = {
    "1 aggregate in an aggregate": run_of(data(9).pack()).pack(),
    "2 with a session": make_frame(lib.VK_STREAM_DATA, STREAM, b"", SESSION, Seq(5)).pack(),
    "3 of another class": data(5, stream=5).pack(),
    "4 longer than the run": data(5).pack()[:-8],
    "5 no magic": b"\xff" * 32,
    "6 compact, longer than the run": struct.pack(">HH", lib.VK_COMPACT, 5) + bytes(4),
    "7 less than a compact frame": b"\xff",
    "8 compact, of another class": make_compact(b"", 5, 0),
    "9 compact, its stream cut off": make_compact(b"", 1000, 0)[:8],
    "10 compact, with a stream, longer than the run": make_compact(b"12345678", 1000, 2)[:-4],
    "11 compact, a shard, its place cut off": make_compact_shard(Shard(5, 0, 9), b"")[:8],
    "12 compact, a shard, longer than the run": make_compact_shard(Shard(5, 0, 9), b"12345678")[
        :-4
    ],
}


@pytest.mark.parametrize("case", INNER_INVALID)
def test_a_malformed_inner_frame_ends_its_run_and_spoils_nothing_before(
    rig: Rig, case: str
) -> None:
    inject(rig, run_of(data(0).pack(), data(1).pack(), INNER_INVALID[case]))
    assert marks(rig) == [0, 1]
    assert count(rig, "drop_inner_invalid") == 1


COMPACT: dict[str, tuple[list[int], list[bytes], list[int], int]] = {
    # before the run, in the run, delivered, stale
    "1 in order": ([], [data(0).pack(), *[make_compact(b"")] * 3], [0, 1, 2, 3], 0),
    "2 behind a gap": ([], [data(5).pack(), *[make_compact(b"")] * 3], [5, 6, 7, 8], 0),
    "3 over what came": ([2, 4], [data(1).pack(), *[make_compact(b"")] * 5], [2, 4, 1, 3, 5, 6], 2),
    "4 all came": ([0, 1], [data(0).pack(), make_compact(b"")], [0, 1], 2),
    "5 behind another header": (
        [],
        [data(0).pack(), data(1).pack(), make_compact(b"")],
        [0, 1, 2],
        0,
    ),
    "6 behind nothing": ([], [make_compact(b""), data(0).pack()], [], 0),
    "7 behind the end of a run": ([], [data(0).pack(), bytes(4), make_compact(b"")], [0], 0),
}


@pytest.mark.parametrize("case", COMPACT)
def test_compact_frames_are_the_messages_behind_one_another(rig: Rig, case: str) -> None:
    before, run, delivered, stale = COMPACT[case]
    for sequence in before:
        inject(rig, make_frame(lib.VK_STREAM_DATA, STREAM, b"", SESSION, Seq(sequence)))
    inject(rig, run_of(*run))
    assert marks(rig) == delivered
    assert count(rig, "drop_stale") == stale
    assert count(rig, "drop_inner_invalid") == (case[0] == "6")


def test_a_compact_frame_is_of_the_stream_before_it_whether_that_is_known_or_not(rig: Rig) -> None:
    strange = data(7, stream=1234).pack()
    inject(rig, run_of(data(0).pack(), make_compact(b""), strange, *[make_compact(b"")] * 2))
    assert marks(rig) == [0, 1]
    assert count(rig, "drop_unknown_stream") == 3
    assert count(rig, "drop_inner_invalid") == 0


def test_compact_frames_may_take_turns_on_streams(rig: Rig) -> None:
    rig.open(0, 0, STREAM + 1, "svc")
    rig.settle()
    rig.take(1, 0, Class.DATA)
    both = (STREAM, STREAM + 1)
    turns = [make_compact(b"", both[at % 2], at // 2) for at in range(1, 8)]
    inject(rig, run_of(data(0, b"").pack(), *turns, make_compact(b"")))
    got = [(each.stream, each.sequence) for each in rig.take(1, 0, Class.DATA)]
    assert got == [*((both[at % 2], at // 2) for at in range(8)), (both[1], 4)]
    inject(rig, run_of(data(3, b"").pack(), *turns, make_compact(b"", both[0], 4)))
    assert [each.sequence for each in rig.take(1, 0, Class.DATA)] == [4]
    assert count(rig, "drop_stale") == 8
    assert count(rig, "rx_messages") == 18


def test_a_compact_frame_of_a_stream_that_nobody_knows_spoils_no_other(rig: Rig) -> None:
    strange = [make_compact(b"", 1234, 5), make_compact(b"")]
    inject(rig, run_of(data(0).pack(), *strange, make_compact(b"", STREAM, 1)))
    assert marks(rig) == [0, 1]
    assert count(rig, "drop_unknown_stream") == 2
    assert count(rig, "drop_inner_invalid") == 0


def test_compact_frames_of_logs_count_what_is_missing(logs: Rig) -> None:
    first = make_frame(lib.VK_STREAM_DATA, LOGS, b"", Seq(0)).pack()
    parts = [make_compact(b"", LOGS, at) for at in (1, 2, 5, 4)]
    run = b"".join([first, *parts])
    inject(
        logs,
        make_frame(lib.VK_STREAM_DATA, LOGS, run, OF_LOGS, flags=Flag.AGG, correlation=6),
        Class.LOGS,
    )
    assert [each.sequence for each in logs.take(1, 0, Class.LOGS)] == [0, 1, 2, 5, 4]
    row = logs.count(1, Class.LOGS)
    assert (row["rx_gaps"], row["rx_messages"]) == (1, 5)


def test_compact_frames_repeat_all_but_length_and_sequence(rig: Rig) -> None:
    head: dict[str, Any] = {"flags": Flag.URG, "correlation": 77, "priority": 60, "trace": 3}
    first = make_frame(lib.VK_STATUS_UPDATE, STREAM, b"x" * 16, Seq(0), **head)
    other = make_frame(lib.VK_STATUS_UPDATE, STREAM, b"x" * 16, Seq(2), **head | {"correlation": 8})
    compact = make_compact(b"y" * 24)
    inject(rig, run_of(first.pack(), compact, other.pack(), compact, compact))
    got = rig.take(1, 0, Class.DATA)
    assert [each.size for each in got] == [16, 24, 16, 24, 24]
    assert [each.sequence for each in got] == [0, 1, 2, 3, 4]
    assert [each.correlation for each in got] == [77, 77, 8, 8, 8]
    assert {(each.type, each.flags, each.priority) for each in got} == {
        (lib.VK_STATUS_UPDATE, Flag.URG, 60)
    }


def test_padding_ends_a_run(rig: Rig) -> None:
    inject(rig, run_of(data(0).pack(), bytes(100), data(1).pack()))
    assert marks(rig) == [0]
    assert count(rig, "drop_inner_invalid") == 0


def test_a_run_longer_than_the_format_allows_is_cut(rig: Rig) -> None:
    parts = [make_compact(b"") for _ in range(lib.VK_AGG_MAX + 5)]
    inject(rig, run_of(data(0, b"").pack(), *parts))
    assert marks(rig) == list(range(lib.VK_AGG_MAX))
    assert count(rig, "drop_inner_invalid") == 1


def test_a_priority_outside_its_band_is_counted_and_delivered(rig: Rig) -> None:
    inject(rig, make_frame(lib.VK_STREAM_DATA, STREAM, b"", SESSION, Seq(0), priority=255))
    assert marks(rig) == [0]
    assert count(rig, "rx_qos_violations") == 1


def resets(rig: Rig) -> int:
    return sum(frame.data[3] == lib.VK_STREAM_RESET for frame in rig.log())


def test_messages_of_a_stream_that_nobody_opened_are_answered_by_a_reset(rig: Rig) -> None:
    rig.log()
    inject(rig, make_frame(lib.VK_STREAM_DATA, 4321, b"", SESSION, Seq(0), priority=50))
    assert count(rig, "drop_unknown_stream") == 1
    assert resets(rig) == 1
    inject(rig, make_frame(lib.VK_STREAM_DATA, 4321, b"", SESSION, Seq(1), priority=50))
    assert resets(rig) == 0  # not one for each


WINDOW = [
    # arrivals, delivered, gaps, copies
    ([0, 1, 2], [0, 1, 2], 0, 0),
    ([0, 2], [0, 2], 1, 0),
    ([0, 2, 1], [0, 2, 1], 0, 0),
    ([0, 0, 1, 1], [0, 1], 0, 2),
    ([5], [5], 5, 0),
    ([63, 0], [63, 0], 62, 0),
    ([1000, 0, 1, 1, 1000], [1000, 0, 1], 998, 2),
    ([0, 70, 6, 5, 69, 6, 134, 69, 71], [0, 70, 6, 5, 69, 134, 71], 128, 2),
    ([0, 300, 299, 200, 109, 108, 0], [0, 300, 299, 200, 109, 108], 295, 1),
    ([0, 2**31 - 1, 1], [0, 2**31 - 1, 1], 2**31 - 3, 0),
    ([0, 2**31 + 1], [0, 2**31 + 1], 0, 0),
]


@pytest.mark.parametrize("case", range(len(WINDOW)))
def test_order_repetition_and_loss_of_logs_are_told_apart(logs: Rig, case: int) -> None:
    arrivals, delivered, gaps, copies = WINDOW[case]
    for sequence in arrivals:
        log(logs, sequence)
    assert marks(logs, Class.LOGS) == delivered
    assert count(logs, "rx_gaps", Class.LOGS) == gaps
    assert count(logs, "drop_frame_twice", Class.LOGS) == copies
    assert count(logs, "drop_stale", Class.LOGS) == 0


@pytest.mark.parametrize("case", range(len(WINDOW)))
def test_what_is_sent_again_is_handed_over_once_however_late(rig: Rig, case: int) -> None:
    arrivals = [each for each in WINDOW[case][0] if each < 2**30]
    for sequence in arrivals:
        inject(rig, make_frame(lib.VK_STREAM_DATA, STREAM, b"", SESSION, Seq(sequence)))
    assert marks(rig) == list(dict.fromkeys(arrivals))
    assert count(rig, "rx_gaps") == 0
    assert count(rig, "drop_stale") == len(arrivals) - len(set(arrivals))


def test_sequences_of_logs_go_on_behind_the_largest_number(logs: Rig) -> None:
    start = 2**32 - 3
    steps = [2**31 - 1, start - 1]
    arrivals = [*steps, *((start + i) % 2**32 for i in range(6)), start]
    for sequence in arrivals:
        log(logs, sequence)
    assert marks(logs, Class.LOGS) == arrivals[:-1]
    assert count(logs, "drop_frame_twice", Class.LOGS) == 1


def test_a_copy_of_a_packet_that_was_not_taken_repeats_no_logs(logs: Rig) -> None:
    first = make_frame(lib.VK_STREAM_DATA, LOGS, b"", Seq(0)).pack()
    asked = make_frame(lib.VK_STREAM_OPEN, LOGS + 1, b"no such service", correlation=9).pack()
    packet = run_of(first, asked, stream=LOGS, session=OF_LOGS)
    for _ in range(3):
        inject(logs, packet, Class.LOGS, number=FIRST + 10)
    for sequence, number in ((2, 9), (1, 11)):
        frame = make_frame(lib.VK_STREAM_DATA, LOGS, b"", OF_LOGS, Seq(sequence))
        inject(logs, frame, Class.LOGS, number=FIRST + number)
    assert marks(logs, Class.LOGS) == [0, 2, 1]
    assert count(logs, "drop_frame_twice", Class.LOGS) == 2


def shard(sequence: int, offset: int, payload: bytes, total: int, stream: int = STREAM) -> Frame:
    place = Shard(sequence, offset, total)
    session = OF_LOGS if stream == LOGS else SESSION
    return make_frame(lib.VK_STREAM_DATA, stream, payload, session, place, flags=Flag.FRG)


def test_compact_shards_are_what_shards_with_headers_are(rig: Rig) -> None:
    places = [(1, 0, 200), (0, 200, 300), (0, 100, 300), (1, 100, 200)]
    parts = [
        make_compact_shard(Shard(sequence, offset, total), bytes([sequence + 1]) * 100)
        for sequence, offset, total in places
    ]
    inject(rig, shard(0, 0, b"\1" * 100, 300))
    inject(rig, run_of(parts[0], data(2).pack(), *parts[1:]))
    records = rig.take(1, 0, Class.DATA)
    assert [(record.sequence, record.size) for record in records] == [(2, 16), (0, 300), (1, 200)]
    assert [record.flags & Flag.FRG for record in records] == [0, 0, 0]
    assert count(rig, "rx_shards") == 5
    assert count(rig, "rx_reassembled") == 2


def test_shards_become_one_message_in_any_order(rig: Rig) -> None:
    for offset in (200, 0, 100):
        inject(rig, shard(0, offset, bytes(100), 300))
    (record,) = rig.take(1, 0, Class.DATA)
    assert (record.size, record.flags & Flag.FRG) == (300, 0)
    assert count(rig, "rx_shards") == 3
    assert count(rig, "rx_reassembled") == 1
    inject(rig, shard(0, 0, bytes(100), 300))
    assert count(rig, "drop_stale") == 1


@pytest.mark.parametrize(("stream", "left"), [(STREAM, 300), (LOGS, 0)])
def test_shards_of_logs_that_never_become_a_message_are_given_up_in_time(
    stream: int, left: int
) -> None:
    with rig_of() as rig:
        rig.pair("svc", stream)
        inject(rig, shard(0, 0, bytes(100), 300, stream), stream_class(stream))
        rig.wait(0.1)
        rig.turn(1)
        assert rig.gauge(1, lib.VK_REASSEMBLY_BYTES) == 300
        rig.wait(5)
        rig.turn(1, 2)
        assert rig.gauge(1, lib.VK_REASSEMBLY_BYTES) == left


def gaps(rig: Rig) -> tuple[int, int]:
    """Streams with gaps: by the pool, by what peers have of it."""
    pool, peers = map(int, rig.ask("gaps", 1).split())
    return pool, peers


def come(rig: Rig, sequence: int, size: int = 16) -> None:
    inject(rig, run_of(data(sequence, bytes(size)).pack()))


def reset_by_the_peer(rig: Rig, ours: Stream) -> None:
    assert rig.put(ours, 0, 0, kind=lib.VK_RECORD_RESET, code=Code.CANCELLED)
    rig.exchange(2)


def broken_here(rig: Rig, _ours: Stream) -> None:
    come(rig, 3, 30_000)
    come(rig, 5, 40_000)
    assert rig.take(1, 0, Class.DATA)[-1].code == Code.FLOW_CONTROL


def its_application_leaves(rig: Rig, _ours: Stream) -> None:
    assert rig.ask("detach", 1, 0) == "0"
    rig.wait(1)
    rig.exchange(2)


def its_peer_starts_anew(rig: Rig, _ours: Stream) -> None:
    rig.ask("peer", 1, 7)
    rig.exchange(2)


End = Callable[[Rig, Stream], object]
ENDS: list[End] = [
    reset_by_the_peer,
    broken_here,
    its_application_leaves,
    its_peer_starts_anew,
]


@pytest.mark.parametrize("end", ENDS, ids=[each.__name__ for each in ENDS])
def test_a_stream_that_ends_with_a_gap_gives_its_place_back(end: End) -> None:
    with rig_of() as rig:
        ours, _ = rig.pair("svc", STREAM)
        come(rig, 1)
        assert gaps(rig) == (1, 1)
        end(rig, ours)
        assert gaps(rig) == (0, 0)


def test_gaps_outlive_the_worker_and_are_counted_by_the_next(rig: Rig) -> None:
    come(rig, 1)
    rig.ask("worker", 1, "kill")
    rig.ask("worker", 1, "recover")
    assert gaps(rig) == (1, 1)
    come(rig, 0)
    assert gaps(rig) == (0, 0)
    assert marks(rig) == [1, 0]


@pytest.mark.parametrize("cuts", [(), (5_000,)])
def test_shards_beyond_the_window_end_their_stream_whether_one_is_all_or_not(
    rig: Rig, cuts: tuple[int, ...]
) -> None:
    for sequence in range(7):
        for begin, end in zip((0, *cuts), (*cuts, 10_000), strict=True):
            inject(rig, shard(sequence, begin, bytes(end - begin), 10_000))
    records = rig.take(1, 0, Class.DATA)
    assert [each.sequence for each in records[:-1]] == list(range(6))
    assert (records[-1].kind, records[-1].code) == (lib.VK_RECORD_RESET, Code.FLOW_CONTROL)


@pytest.mark.parametrize("how", ["at first", "with one in between"])
def test_shards_that_contradict_each_other_end_their_stream(rig: Rig, how: str) -> None:
    inject(rig, shard(0, 0, bytes(100), 300))
    if how != "at first":
        inject(rig, shard(1, 0, bytes(50), 50))
    inject(rig, shard(0, 100, bytes(100), 400))
    last = rig.take(1, 0, Class.DATA)[-1]
    assert (last.kind, last.code) == (lib.VK_RECORD_RESET, Code.SHARDS)
    assert rig.gauge(1, lib.VK_REASSEMBLY_BYTES) == 0


def test_a_peer_that_only_begins_messages_keeps_nobody_else_from_ending_theirs(rig: Rig) -> None:
    assert rig.app(1, 1) == 0
    rig.service(1, 1, "other")
    rig.open(0, 0, STREAM + 1, "other")
    rig.accept(1, 1, Class.DATA)
    for sequence in range(1, 1025):
        inject(rig, shard(sequence, 0, b"x", 2))
    assert 0 < count(rig, "drop_reassembly") < 1024
    for sequence in range(100):
        for offset in (0, 100):
            inject(rig, shard(sequence, offset, bytes(100), 200, STREAM + 1))
    assert [each.sequence for each in rig.take(1, 1, Class.DATA)] == list(range(100))


def exchange_for_a_second(rig: Rig) -> None:
    """By the rig's clock: while something is sent again and again nobody rests."""
    for _ in range(200):
        rig.exchange()
        rig.wait(0.005)


def test_an_application_that_stands_still_keeps_nobody_from_large_messages() -> None:
    """Its ring is full, and what has become whole for it waits."""
    with rig_of() as rig:
        assert rig.app(0, 0, ring=1 << 22) == rig.app(1, 0) == rig.app(1, 1) == 0
        rig.service(1, 0, "still")
        rig.service(1, 1, "other")
        still = [rig.open(0, 0, stream, "still") for stream in range(STREAM, STREAM + 24)]
        ours = rig.open(0, 0, STREAM + 24, "other")
        rig.accept(1, 1, Class.DATA)
        for end in still * 12:
            assert rig.put(end, 10_000, 0)
        exchange_for_a_second(rig)
        windows = 24 * (65_536 + 10_000)  # and a message each that was not whole
        assert 0 < rig.gauge(1, lib.VK_REASSEMBLY_BYTES) < windows - RING
        for mark in range(6):
            assert rig.put(ours, 10_000, mark)
        exchange_for_a_second(rig)
        assert [each.sequence for each in rig.take(1, 1, Class.DATA)] == list(range(6))


def test_a_handshake_goes_to_python_as_it_came(rig: Rig) -> None:
    inject(rig, make_frame(lib.VK_HELLO, 0, b"hello"), Class.CONTROL)
    assert count(rig, "rx_control", Class.CONTROL) == 1
    for _ in range(2000):
        rig.ask("raw", 1, 0, 0, make_frame(lib.VK_HELLO, 0, b"hello").pack().hex())
    rig.turn(1, 60)
    row = rig.count(1, Class.CONTROL)
    assert row["rx_control"] + row["drop_app_ring"] == 2001
    assert row["drop_app_ring"] > 0


def test_fuzzed_datagrams_leave_the_worker_whole_and_its_counters_balanced() -> None:
    opening = make_frame(lib.VK_STREAM_OPEN, STREAM, b"svc", SESSION, correlation=7)
    seeds = [
        opening,
        make_frame(lib.VK_STREAM_DATA, STREAM, b"payload", SESSION, Seq(1)),
        shard(2, 0, bytes(64), 128),
        shard(2, 64, bytes(64), 128),
        run_of(data(3).pack(), data(4).pack()),
        run_of(data(5).pack(), make_compact(b"next"), make_compact(b"")),
        run_of(data(7).pack(), make_compact(b"", 1001, 0), make_compact(b"", STREAM, 8)),
        make_frame(lib.VK_STREAM_CLOSE, STREAM, b"", SESSION, correlation=7),
        make_frame(lib.VK_STREAM_RESET, STREAM, b"\0\0\1\x2f", SESSION, correlation=7),
        make_frame(lib.VK_PING, STREAM, b"", SESSION),
    ]
    packed = [each.pack() for each in seeds]
    wrapped = [struct.pack(">BH", stream_class(STREAM), len(each)) + each for each in packed]
    sources = ["fuzz_receive.c", *FUZZ_NODE, *PARTS]
    fuzz("fuzz_receive", sources, [*wrapped, b"".join(wrapped)], lasting=True)


STEPS = {
    "seal": 0,
    "next": 4,
    "before": 5,
    "jump": 6,
    "flip": 7,
    "again": 8,
    "epoch": 9,
    "open": 10,
    "raw": 11,
    "renew": 12,
    "restart": 13,
    "time": 14,
}
"""``enum step`` of fuzz_sealed.c."""


def step(name: str, frame: Frame | None = None, which: int = 1) -> bytes:
    data = frame.pack() if frame else b""
    return struct.pack(">BBH", STEPS[name], which, len(data)) + data


def test_of_fuzzed_frames_of_a_session_only_those_sealed_as_they_should_be_are_taken_and_once() -> (
    None
):
    opening = make_frame(lib.VK_STREAM_OPEN, STREAM, b"svc", correlation=7)
    token = Token(generation=1, expiry=7, tag=8)
    frames = [
        data(1),
        make_frame(lib.VK_STREAM_DATA, STREAM, b"payload", token, Seq(1)),
        make_frame(lib.VK_STREAM_DATA, STREAM, bytes(64), Shard(2, 0, 128)),
        make_frame(lib.VK_STREAM_DATA, STREAM, bytes(64), Shard(2, 64, 128)),
        make_frame(lib.VK_STREAM_DATA, LOGS, bytes(64), Seq(3)),
        make_frame(lib.VK_STREAM_CLOSE, STREAM, b"", Seq(3), correlation=7),
        make_frame(lib.VK_STREAM_ACK, STREAM, bytes(28)),
        make_frame(
            lib.VK_STREAM_DATA,
            STREAM,
            data(4, bytes(8)).pack() + data(5, bytes(8)).pack() + make_compact(bytes(4)),
            flags=Flag.AGG,
            correlation=3,
        ),
    ]
    seeds = [step("seal", opening) + step(name, frame) for name in STEPS for frame in frames]
    again = step("again")
    for between in ("next", "renew", "restart", "jump", "time"):
        last = step("seal", data(6)) + again + step("before", data(7))
        seeds.append(step("seal", opening) + again + step(between, data(5), 20) + again + last)
    sources = ["fuzz_sealed.c", *FUZZ_NODE, *PARTS]
    fuzz("fuzz_sealed", sources, seeds, lasting=True)
