"""Sessions in the worker: their numbers and ids, and what they note of messages under way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeGuard

import pytest

from tests.dataplane.rig import Rig, Stream, rig_of
from tests.dataplane.test_worker import inner
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import (
    Class,
    Code,
    Session,
    Type,
    class_space,
    parse_frame,
    stream_class,
)

SKIP_MEAN = 512
"""Numbers between two that are left out, as in vk_session.h."""
MANY = 4_000_000


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rig_of() as made:
        yield made


@pytest.mark.parametrize("space", range(3))
def test_numbers_are_left_out_for_as_long_as_a_session_lives(rig: Rig, space: int) -> None:
    rig.pair()
    rig.settle()
    gaps, longest = map(int, rig.ask("numbers", 0, space, MANY).split())
    assert longest < 2 * SKIP_MEAN
    assert abs(gaps / (MANY / SKIP_MEAN) - 1) < 0.1


SMALL_MTU = 600
FITS_BEFORE = 1000
"""Bytes of a message that fits a datagram until the path carries only SMALL_MTU."""


def test_a_message_that_no_longer_fits_is_noted_once_however_often_it_is_probed(rig: Rig) -> None:
    ours, _ = rig.pair()
    rig.settle()
    rig.net(loss=1000)
    assert rig.put(ours, FITS_BEFORE, 1)
    rig.turn(0, 2)
    assert rig.ask("shards", 0) == "0"
    rig.ask("payload", 0, SMALL_MTU)
    for _ in range(5):
        rig.wait(2)
        rig.turn(0, 5)
        assert rig.ask("shards", 0) == "1"
    rig.net()
    rig.settle()
    assert [each.mark for each in rig.take(1, 0, Class.DATA)] == [1]
    assert rig.ask("shards", 0) == "0"


def sessions(rig: Rig, klass: Class) -> set[int]:
    """Return the ids on the frames of a class that node 0 has sent."""
    found = set()
    for each in rig.log():
        if (each.node, each.klass) == (0, klass):
            found |= {at.session for at in parse_frame(each.data).extensions if is_session(at)}
    return found


def is_session(extension: object) -> TypeGuard[Session]:
    return isinstance(extension, Session)


def test_a_session_made_anew_twice_sends_as_the_last_one_whose_keys_the_peer_has(rig: Rig) -> None:
    ours, _ = rig.pair()
    rig.settle()
    rig.ask("session", 0, 11, 21, 0, 0, 0)
    rig.turn(0)
    rig.log()
    assert rig.put(ours, 64, 1)
    rig.turn(0)
    assert sessions(rig, Class.DATA) == {0}
    rig.ask("session", 0, 12, 22, 0, 0, 0, 21)
    rig.turn(0)
    rig.log()
    assert rig.put(ours, 64, 2)
    rig.turn(0)
    assert sessions(rig, Class.DATA) == {11}


def test_an_acknowledgement_that_finds_no_room_goes_when_there_is_some(rig: Rig) -> None:
    ours, theirs = rig.pair()
    rig.settle()
    rig.log()
    rig.net(loss=1000)
    assert rig.put(ours, 64, 1)
    rig.turn(0)
    (message,) = rig.log()
    rig.net(room=1)
    assert rig.put(theirs, 64, 2)
    rig.turn(1)  # its way is full
    rig.ask("raw", 1, int(Class.DATA), 0, message.data.hex())
    rig.turn(1)
    rig.wait(0.01)
    rig.turn(1, 2)
    rig.net()
    rig.log()
    for _ in range(10):
        rig.wait(0.001)
        rig.turn(1)
    found = [each.header.type for sent in rig.log() for each in inner(sent)]
    assert found.count(Type.STREAM_ACK) == 1


SIZE = 960
COST = SIZE + lib.VK_MESSAGE_COST
"""Of a message."""


def consume(rig: Rig, *ends: Stream) -> None:
    """Have half a window of streams sent and read; their reader's worker owes them limits then."""
    for end in ends:
        for mark in range(lib.VK_WINDOW_START // COST // 2):
            assert rig.put(end, SIZE, mark)
    rig.settle()
    for end in ends:
        assert rig.take(1, 0, stream_class(end.stream))
    rig.log()


def test_a_limit_of_an_older_stream_with_the_same_id_is_none_of_the_new_one(rig: Rig) -> None:
    ours, _ = rig.pair()
    consume(rig, ours)
    rig.net(loss=1000)
    rig.turn(1)
    (late,) = rig.log()
    rig.net()
    rig.put(ours, 0, 0, kind=lib.VK_RECORD_RESET, code=Code.CANCELLED)
    rig.settle()
    rig.take(1, 0, Class.DATA)
    ours = rig.open(0, 0, ours.stream, "svc")
    rig.accept(1, 0, Class.DATA)
    rig.ask("raw", 0, int(late.klass), 1, late.data.hex())
    rig.turn(0)
    fits = lib.VK_WINDOW_START // COST
    for mark in range(fits + 5):
        assert rig.put(ours, SIZE, mark)
    rig.settle()
    assert [each.kind for each in rig.take(1, 0, Class.DATA)] == [lib.VK_RECORD_DATA] * fits


def test_limits_go_in_the_numbers_of_their_streams(rig: Rig) -> None:
    ours, _ = rig.pair()
    other = rig.open(0, 0, 5, "svc")
    rig.accept(1, 0, Class.SYSTEM)
    consume(rig, ours, other)
    rig.turn(1)
    told = []
    for sent in rig.log():
        for frame in inner(sent):
            if frame.header.type == Type.STREAM_ACK:
                space, count = frame.payload[0], frame.payload[3]
                limits = frame.payload[len(frame.payload) - 12 * count :]
                for at in range(0, len(limits), 12):
                    stream = int.from_bytes(limits[at : at + 4], "big")
                    assert class_space(stream_class(stream)) == space
                    told.append(stream)
    assert sorted(told) == [5, 1000]
