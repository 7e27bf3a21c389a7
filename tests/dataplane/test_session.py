"""Sessions in the worker: their numbers and ids, and what they note of messages under way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeGuard

import pytest

from tests.dataplane.rig import Rig, rig_of
from tests.dataplane.test_worker import inner
from valkyrie.dataplane.wire import Class, Session, Type, parse_frame

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
