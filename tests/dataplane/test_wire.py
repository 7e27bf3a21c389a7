"""The Python views of the wire format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bpf import model
from tests.bpf.bases import SEQ, SESSION, TIME
from tests.bpf.rig import extension, frame
from valkyrie.dataplane import lib, wire
from valkyrie.dataplane.errors import LocalProtocolError
from valkyrie.dataplane.wire import Class, Flag, FrameError, Type, Verdict


def test_the_documented_header_is_24_bytes_with_these_fields() -> None:
    assert wire.HEADER_SIZE == 24
    assert wire.Header.fields() == [
        ("magic", 0, "H"),
        ("version", 2, "B"),
        ("type", 3, "B"),
        ("flags", 4, "B"),
        ("priority", 5, "B"),
        ("trace", 6, "B"),
        ("ext", 7, "B"),
        ("stream", 8, "I"),
        ("length", 12, "I"),
        ("correlation", 16, "I"),
        ("timestamp", 20, "I"),
    ]


def test_the_documented_numbers_stand() -> None:
    assert {kind.value for kind in Type} == model.TYPES
    flags = {"ACK": 1, "EOS": 2, "CMP": 4, "ENC": 8, "FRG": 16, "URG": 32, "RTX": 64, "AGG": 128}
    assert {str(flag.name): flag.value for flag in Flag} == flags
    assert {
        kind: view.layout.size // 4 for kind, view in wire.KNOWN.items()
    } == model.EXTENSION_WORDS
    assert [klass.name for klass in Class] == [
        "CONTROL",
        "CRITICAL",
        "SYSTEM",
        "JOB",
        "DATA",
        "LOGS",
    ]
    assert (wire.PORT, int(lib.VK_MAGIC)) == (
        model.DOCUMENTED_PORT,
        int.from_bytes(model.DOCUMENTED_MAGIC, "big"),
    )
    assert Verdict.STEER == 0


@pytest.mark.parametrize(
    ("stream", "klass"),
    [
        (0, "CRITICAL"),
        (1, "SYSTEM"),
        (99, "SYSTEM"),
        (100, "JOB"),
        (999, "JOB"),
        (1000, "DATA"),
        (9999, "DATA"),
        (10000, "LOGS"),
        (0xFFFFFFFF, "LOGS"),
    ],
)
def test_a_stream_selects_its_class(stream: int, klass: str) -> None:
    assert wire.stream_class(stream).name == klass


def test_classes_have_their_packet_number_spaces() -> None:
    spaces = {klass.name: wire.class_space(klass).name for klass in Class}
    assert spaces == {
        "CONTROL": "E",
        "CRITICAL": "E",
        "SYSTEM": "E",
        "JOB": "B",
        "DATA": "B",
        "LOGS": "L",
    }


EXAMPLES: list[wire.AnyExtension] = [
    wire.Session(7, 1 << 40 | 5, epoch=3, space=2, path=9),
    wire.Token(1, 2, 1 << 63 | 1),
    wire.Seq(3),
    wire.Shard(4, 5, 6),
    wire.Time(1_900_000_000_123_456_789),
    wire.Trace(b"t" * 16, b"s" * 8),
    wire.Extension(77, 8, b"12345678"),
]


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda value: type(value).__name__)
def test_an_extension_survives_packing(value: wire.AnyExtension) -> None:
    assert list(wire.parse_extensions(value.pack())) == [value]


def test_a_frame_survives_packing_and_knows_its_class() -> None:
    made = wire.make_frame(
        Type.STREAM_DATA, 2000, b"hello", *EXAMPLES, flags=Flag.ENC, tag=b"t" * 16
    )
    assert wire.parse_frame(made.pack()) == made
    assert made.klass == Class.DATA
    assert wire.make_frame(Type.PING, 2000).klass == Class.CONTROL
    assert wire.make_frame(Type.PING, 2000, b"", wire.Session(0, 1)).klass == Class.DATA


def test_session_packs_its_arg_as_documented() -> None:
    assert wire.Session(0, 0, epoch=0xAB, space=2, path=5).pack()[:4] == b"\x01\x04\xab\x85"


def test_an_aggregate_is_a_run_of_aligned_inner_frames() -> None:
    inner = [wire.make_frame(Type.STREAM_DATA, 5, b"x" * size, wire.Seq(size)) for size in (1, 8)]
    run = b"".join(each.pack() + bytes(-len(each.pack()) % lib.VK_AGG_ALIGN) for each in inner)
    outer = wire.make_frame(
        Type.STREAM_DATA, 5, run + bytes(40), wire.Session(0, 1), flags=Flag.AGG, correlation=2
    )
    assert list(wire.parse_frame(outer.pack()).inner()) == inner


def test_compact_frames_are_the_next_messages_of_their_stream() -> None:
    whole = [wire.make_frame(Type.JOB_START, 500, b"abcd", wire.Seq(number)) for number in (7, 8)]
    run = whole[0].pack() + wire.make_compact(b"abcd") + wire.make_compact(b"") + bytes(2)
    found = list(wire.make_frame(Type.STREAM_DATA, 500, run, flags=Flag.AGG).inner())
    assert found == [*whole, wire.make_frame(Type.JOB_START, 500, b"", wire.Seq(9))]


def test_compact_frames_may_name_another_stream() -> None:
    first = wire.make_frame(Type.JOB_START, 500, b"abcd", wire.Seq(7))
    run = first.pack() + wire.make_compact(b"efgh", 501, 3) + wire.make_compact(b"ijkl")
    found = list(wire.make_frame(Type.STREAM_DATA, 500, run, flags=Flag.AGG).inner())
    other = [(b"efgh", 3), (b"ijkl", 4)]
    assert found == [
        first,
        *(wire.make_frame(Type.JOB_START, 501, text, wire.Seq(at)) for text, at in other),
    ]


def test_an_aggregate_with_a_malformed_inner_frame_says_so() -> None:
    good = wire.make_frame(Type.STREAM_DATA, 5).pack()
    outer = wire.make_frame(Type.STREAM_DATA, 5, good + b"RC" + bytes(30), flags=Flag.AGG)
    inner = outer.inner()
    next(inner)
    with pytest.raises(FrameError):
        next(inner)


def test_values_that_do_not_fit_are_the_callers_error() -> None:
    with pytest.raises(LocalProtocolError, match="vk_header"):
        wire.make_frame(Type.STREAM_DATA, 1 << 32).pack()
    with pytest.raises(LocalProtocolError, match="multiple of 4"):
        wire.Extension(9, 0, b"123").pack()


chains = st.lists(
    st.sampled_from([SESSION, SEQ, TIME, extension(99, 3), extension(6, 2), bytes(4)]), max_size=18
)
frames = st.builds(
    lambda kind, stream, payload, chain, over: frame(
        kind, stream, payload, b"".join(chain), **over
    ),
    st.integers(0, 255),
    st.integers(0, 20000),
    st.binary(max_size=20),
    chains,
    st.fixed_dictionaries(
        {},
        optional={
            "flags": st.integers(0, 255),
            "length": st.integers(0, 30),
            "ext": st.integers(0, 80),
            "version": st.integers(1, 3),
        },
    ),
)


@given(data=frames, cut=st.integers(0, 40))
def test_parsing_agrees_with_the_independent_model(data: bytes, cut: int) -> None:
    data = data[: len(data) - cut] if cut > 30 else data
    session = False
    try:
        session, size = model.frame_start(data)
        verdict = "steer" if size == len(data) else "drop_length"
    except model.Ended as end:
        verdict = str(end)
    if verdict != "steer":
        with pytest.raises(FrameError) as caught:
            wire.parse_frame(data)
        assert caught.value.verdict.name.lower() == verdict
        return
    parsed = wire.parse_frame(data)
    assert parsed.klass.name.lower() == model.frame_class(data, session)
    assert parsed.pack() == data
