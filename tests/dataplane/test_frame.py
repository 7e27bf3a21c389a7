"""vk_frame: what it makes of bytes is what the format's other readers make of them."""

from __future__ import annotations

import os
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.fuzzing import fuzz
from tests.dataplane.native import library
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import (
    Extension,
    Flag,
    Fragment,
    Frame,
    FrameError,
    Seq,
    Session,
    Shard,
    Time,
    Token,
    Trace,
    Type,
    make_compact,
    make_compact_shard,
    make_frame,
    parse_frame,
)

ERRORS = {
    "VK_FRAME_TRUNCATED": "DROP_TRUNCATED",
    "VK_FRAME_MAGIC": "DROP_MAGIC",
    "VK_FRAME_VERSION": "DROP_VERSION",
    "VK_FRAME_TYPE": "DROP_TYPE",
    "VK_FRAME_EXTENSION": "DROP_EXTENSION",
    "VK_FRAME_LENGTH": "DROP_LENGTH",
}
"""The worker's reason -> the kernel program's."""

u16 = st.integers(0, 2**16 - 1)
totals = st.integers(1, 2**16)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
fragments = st.integers(0, 3).map(Fragment)
extension = st.one_of(
    st.builds(Session, u32, u64, space=st.integers(0, 3), epoch=st.integers(0, 255)),
    st.builds(Token, st.integers(0, 65535), u32, u64),
    st.builds(Seq, u32, fragments),
    st.builds(Shard, u32, u16, totals, fragments),
    st.builds(Time, u64),
    st.builds(Trace, st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8)),
    st.builds(Extension, st.integers(8, 255), st.integers(0, 65535), st.just(b"abcd")),
)
types = st.sampled_from(sorted(Type))


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    chain = draw(st.lists(extension, max_size=8))
    flags = draw(st.integers(0, 255))
    return make_frame(
        draw(types),
        draw(u32),
        draw(st.binary(max_size=64)),
        *chain,
        tag=bytes(lib.VK_TAG_SIZE) if flags & Flag.ENC else b"",
        flags=flags,
        priority=draw(st.integers(0, 255)),
        correlation=draw(u32),
    )


def parse(data: bytes, exact: int = 1) -> tuple[str, Any, Any]:
    """Return the name of the parser's answer, the parsed frame, and what keeps it alive."""
    ffi, native = library("vk_frame.h", "vk_frame.c")
    frame, memory = ffi.new("struct vk_frame *"), ffi.from_buffer("uint8_t[]", data)
    answer = native.vk_frame_parse(frame, memory, len(data), exact)
    return ffi.typeof("enum vk_frame_error").elements[answer], frame, (memory, ffi)


@settings(max_examples=400, deadline=None)
@given(frames())
def test_a_frame_is_read_as_it_was_built(built: Frame) -> None:
    answer, frame, (memory, ffi) = parse(built.pack())
    assert answer == "VK_FRAME_OK"
    header = built.header
    assert (frame.type, frame.flags, frame.priority) == (header.type, header.flags, header.priority)
    assert (frame.stream, frame.correlation) == (header.stream, header.correlation)
    assert bytes(ffi.buffer(frame.payload, frame.length)) == built.payload
    assert frame.size == len(memory)
    firsts = list({type(each): each for each in reversed(built.extensions)}.values())
    firsts.sort(key=built.extensions.index)  # the first of a kind counts
    for each in firsts:
        match each:
            case Session():
                found = frame.session, frame.number, frame.space
                assert found == (each.session, each.number, each.space)
            case Time():
                assert frame.time_ns == each.ns
            case _:
                continue
    if not any(isinstance(each, Time) for each in firsts):
        assert frame.time_ns == 0
    places = [each for each in firsts if isinstance(each, Seq | Shard)]
    if places:
        last_place = places[-1]
        assert (frame.sequence, frame.fragment) == (last_place.sequence, last_place.fragment)


@settings(max_examples=2000, deadline=None)
@given(frames(), st.integers(0, 200), st.integers(0, 255), st.integers(0, 3))
def test_damage_is_refused_for_the_reason_that_the_other_readers_give(
    built: Frame, at: int, value: int, cut: int
) -> None:
    data = bytearray(built.pack())
    data[at % len(data)] = value
    damaged = bytes(data[: len(data) - cut])
    answer, _, _ = parse(damaged)
    try:
        parse_frame(damaged)
        wanted = "VK_FRAME_OK"
    except FrameError as error:
        wanted = next(ours for ours, name in ERRORS.items() if name == error.verdict.name)
    # Of two faults in one frame the readers may name either.
    assert (answer == "VK_FRAME_OK") == (wanted == "VK_FRAME_OK")


u8s = st.binary(max_size=12)
single = st.builds(
    make_frame,
    st.sampled_from([Type.STREAM_DATA, Type.JOB_START, Type.PING, Type.STREAM_ACK]),
    u32,
    u8s,
    st.builds(Seq, u32, st.sampled_from([Fragment(0), Fragment(0), Fragment(1)])),
    flags=st.sampled_from([0, Flag.URG, Flag.EOS | Flag.RTX]),
    correlation=u32,
)
"""Frames of one extension: compact ones may follow most of them."""
compact = st.one_of(u8s.map(make_compact), st.builds(make_compact, u8s, u32, u32))
places = st.builds(Shard, u32, u16, totals, fragments)
part = st.builds(make_compact_shard, places, u8s, again=st.booleans())
inner = st.one_of(single.map(Frame.pack), compact, compact, part)
odd = st.one_of(inner, inner, inner, frames().map(Frame.pack))


def run_of(parts: list[bytes]) -> bytes:
    """Return a run of inner frames."""
    return b"".join(part + bytes(-len(part) % lib.VK_AGG_ALIGN) for part in parts)


Told = tuple[int, int, int, int, int, bytes]
"""Type, flags, priority, stream, correlation, payload of an inner frame."""
Place = tuple[int, int, int, int]
"""Sequence, fragment, offset, total; the last two of a shard only."""
OUTER = 1005
"""Stream of an aggregate."""


def read_run(data: bytes) -> tuple[list[tuple[Told, Place]], bool]:
    """Return what the worker's parser reads in a run, and whether it liked all."""
    ffi, native = library("vk_frame.h", "vk_frame.c")
    frame, like = ffi.new("struct vk_frame *"), ffi.new("uint8_t **")
    memory, at = ffi.from_buffer("uint8_t[]", data), 0
    found: list[tuple[Told, Place]] = []
    while any(data[at : at + 2]):
        if not native.vk_frame_inner(frame, like, OUTER, memory + at, len(data) - at):
            return found, False
        payload = bytes(ffi.buffer(frame.payload, frame.length))
        head = (frame.type, frame.flags, frame.priority, frame.stream, frame.correlation)
        shard = frame.present & 1 << lib.VK_EXT_SHARD
        part = (frame.offset, frame.total) if shard else (0, 0)
        found.append(((*head, payload), (frame.sequence, frame.fragment, *part)))
        at += -(-frame.size // lib.VK_AGG_ALIGN) * lib.VK_AGG_ALIGN
    return found, True


def modelled_run(data: bytes) -> tuple[list[tuple[Told, Place]], bool]:
    """Return what the format's view in Python reads in it."""
    found: list[tuple[Told, Place]] = []
    try:
        for each in make_frame(Type.STREAM_DATA, OUTER, data, flags=Flag.AGG).inner():
            head = each.header
            told = (head.type, head.flags, head.priority, head.stream, head.correlation)
            places = [each for each in each.extensions if isinstance(each, Seq | Shard)]
            firsts = {type(place): place for place in reversed(places)}
            last = max(firsts.values(), key=places.index, default=Seq(0))
            shard = firsts.get(Shard)
            part = (shard.offset, shard.total) if isinstance(shard, Shard) else (0, 0)
            place = (last.sequence, last.fragment, *part)
            found.append(((*told, each.payload), place))
    except FrameError:
        return found, False
    return found, True


@settings(max_examples=1500, deadline=None)
@given(st.lists(odd, max_size=8), st.integers(0, 400), st.integers(0, 255), st.integers(0, 9))
def test_a_run_is_read_as_the_other_reader_reads_it_damaged_or_not(
    parts: list[bytes], at: int, value: int, cut: int
) -> None:
    data = bytearray(run_of(parts))
    assert read_run(bytes(data)) == modelled_run(bytes(data))
    if data:
        data[at % len(data)] = value
    damaged = bytes(data[: max(0, len(data) - cut)])
    assert read_run(damaged) == modelled_run(damaged)


def test_a_compact_frame_says_what_comes_next_on_the_stream() -> None:
    first = make_frame(Type.JOB_START, 500, b"first", Seq(2**32 - 1), correlation=9, flags=Flag.URG)
    run = run_of([first.pack(), make_compact(b"second"), make_compact(b""), bytes(40)])
    head = (Type.JOB_START, Flag.URG, 0, 500, 9)
    texts = {2**32 - 1: b"first", 0: b"second", 1: b""}
    told = [((*head, text), (sequence, 0, 0, 0)) for sequence, text in texts.items()]
    assert read_run(run) == (told, True)


def test_a_compact_frame_may_name_another_stream_and_is_what_the_next_ones_go_on_with() -> None:
    first = make_frame(Type.JOB_START, 500, b"first", Seq(2), correlation=9, flags=Flag.URG)
    named = make_compact(b"other", 501, 2**32 - 1)
    run = run_of([first.pack(), named, make_compact(b""), make_compact(b"back", 500, 3)])
    head = (Type.JOB_START, Flag.URG, 0)
    assert read_run(run) == (
        [
            ((*head, 500, 9, b"first"), (2, 0, 0, 0)),
            ((*head, 501, 9, b"other"), (2**32 - 1, 0, 0, 0)),
            ((*head, 501, 9, b""), (0, 0, 0, 0)),
            ((*head, 500, 9, b"back"), (3, 0, 0, 0)),
        ],
        True,
    )


def test_a_compact_shard_is_of_the_outer_frames_stream_wherever_it_stands() -> None:
    message = make_frame(Type.JOB_START, 1500, b"whole", Seq(2), correlation=9, priority=77)
    tail = make_compact_shard(Shard(7, 65000, 65536, Fragment(2)), b"tail", again=True)
    begin = make_compact_shard(Shard(8, 0, 1), b"")
    head = (Type.STREAM_DATA, Flag.FRG, 50, OUTER, 0)
    told = [
        ((Type.STREAM_DATA, Flag.FRG | Flag.RTX, 50, OUTER, 0, b"tail"), (7, 2, 65000, 65536)),
        ((*head, b""), (8, 0, 0, 1)),
        ((Type.JOB_START, 0, 77, 1500, 9, b"whole"), (2, 0, 0, 0)),
        ((*head, b""), (8, 0, 0, 1)),
    ]
    run = run_of([tail, begin, message.pack(), begin, bytes(9)])
    assert read_run(run) == (told, True)
    assert read_run(run) == modelled_run(run)
    assert read_run(run_of([begin, make_compact(b"")])) == (told[1:2], False)
    for cut in range(1, len(begin)):
        assert read_run(begin[:-cut]) == ([], False)


UNREPEATED = {
    "1 nothing": b"",
    "2 a frame without sequence": make_frame(Type.STREAM_DATA, 5).pack(),
    "3 a fragment": make_frame(Type.STREAM_DATA, 5, b"", Seq(1, Fragment(1))).pack(),
    "4 a shard": make_frame(Type.STREAM_DATA, 5, b"", Shard(1, 0, 9)).pack(),
    "5 a message with its time": make_frame(Type.STREAM_DATA, 5, b"", Seq(1), Time(2)).pack(),
    "6 the end of a stream": make_frame(Type.STREAM_CLOSE, 5, b"", Seq(1)).pack(),
    "7 an unknown extension": make_frame(Type.STREAM_DATA, 5, b"", Seq(1), Extension(99)).pack(),
}


@pytest.mark.parametrize("case", UNREPEATED)
@pytest.mark.parametrize("named", [False, True])
def test_a_compact_frame_is_refused_where_there_is_no_message_to_repeat(
    case: str, named: bool
) -> None:
    compact = make_compact(b"x", 5, 7) if named else make_compact(b"x")
    run = run_of([part for part in (UNREPEATED[case], compact) if part])
    assert read_run(run) == modelled_run(run)
    assert (len(read_run(run)[0]), read_run(run)[1]) == (bool(UNREPEATED[case]), False)


def test_every_truncation_of_a_frame_is_refused() -> None:
    whole = make_frame(lib.VK_STREAM_DATA, 7, b"payload!", Session(1, 2), Seq(3), Time(4)).pack()
    assert parse(whole)[0] == "VK_FRAME_OK"
    for size in range(len(whole)):
        assert parse(whole[:size])[0] != "VK_FRAME_OK"
        assert parse(whole[:size], exact=0)[0] != "VK_FRAME_OK"


def test_a_frame_of_a_run_may_be_followed_by_others() -> None:
    whole = make_frame(lib.VK_STREAM_DATA, 7, b"12345678", Seq(3)).pack()
    assert parse(whole + bytes(24))[0] == "VK_FRAME_LENGTH"
    answer, frame, _ = parse(whole + bytes(24), exact=0)
    assert (answer, frame.size) == ("VK_FRAME_OK", len(whole))


def test_a_length_near_the_largest_number_does_not_wrap() -> None:
    whole = bytearray(make_frame(lib.VK_STREAM_DATA, 7).pack())
    for length in (2**32 - 1, 2**32 - 24, 2**31):
        struct.pack_into(">I", whole, 12, length)
        for exact in (0, 1):
            assert parse(bytes(whole), exact)[0] == "VK_FRAME_LENGTH"


def test_the_parser_reads_nothing_beside_its_input() -> None:
    corpus = [make_frame(kind, 7, os.urandom(16), Session(1, 2), Seq(3)).pack() for kind in Type]
    token = Token(generation=1, expiry=7, tag=8)
    session = Session(1, 2)
    corpus += [
        make_frame(Type.STREAM_DATA, 7, bytes(32), session, token, Shard(3, 0, 64), Time(5)).pack(),
        make_frame(Type.STREAM_DATA, 7, bytes(32), session, token, token).pack(),
        make_frame(Type.STREAM_DATA, 7, bytes(32), token, session).pack(),
        make_frame(Type.STREAM_DATA, 7, bytes(32), token).pack(),
        run_of([make_frame(Type.STREAM_DATA, 7, b"run", Seq(3)).pack(), make_compact(b"next")]),
        run_of([make_frame(Type.STREAM_DATA, 7, b"r", Seq(3)).pack(), make_compact(b"n", 9, 4)]),
        run_of(
            [
                make_compact_shard(Shard(2, 9, 12), b"end"),
                make_compact_shard(Shard(3, 0, 9), b"next"),
            ]
        ),
    ]
    fuzz("fuzz_frame", ["fuzz_frame.c", "vk_frame.c"], corpus)
