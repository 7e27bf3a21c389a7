"""Lifetimes of logs: who waits too long is left out, wherever it waits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dataplane.rig import Rig, Stream, rig_of
from valkyrie.dataplane.wire import Class

RING = 1 << 16
LIFETIME_US = 1000
LATE_S = 0.002
SHARDED = 3000
LARGE = 40_000
"""More than the first window of congestion control."""


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rig_of() as made:
        yield made


def stream(rig: Rig) -> Stream:
    for node in (0, 1):
        assert rig.app(node, 0, ring=RING) == 0
    rig.service(1, 0, "svc")
    ours = rig.open(0, 0, 10_000, "svc")
    rig.accept(1, 0, Class.LOGS)
    rig.settle()
    return ours


def perishable(rig: Rig, end: Stream, size: int, mark: int) -> None:
    """Put a log that is worth sending for a short time."""
    assert rig.put(end, size, mark, code=LIFETIME_US, stamp=1)


def received(rig: Rig) -> list[tuple[int, int]]:
    """Let everything come to rest; returns sequences and marks of what came."""
    rig.settle()
    return [(each.sequence, each.mark) for each in rig.take(1, 0, Class.LOGS)]


def is_given_back(rig: Rig, end: Stream) -> bool:
    """Say whether the ring has room for all that it can hold."""
    size = 1024 - 8 - 40  # with the heads of record and message
    return all(rig.put(end, size, mark) for mark in range(RING // 1024))


def test_a_log_that_waits_for_its_turn_in_shards_is_left_out_when_it_is_late(rig: Rig) -> None:
    ours = stream(rig)
    perishable(rig, ours, SHARDED, 1)
    rig.turn(0)
    rig.wait(LATE_S)
    assert rig.put(ours, 64, 2)
    assert received(rig) == [(1, 2)]
    assert rig.count(0, Class.LOGS)["refused_late"] == 1
    assert rig.count(0, Class.LOGS)["tx_messages"] == 1
    assert rig.count(1, Class.LOGS)["rx_gaps"] == 1
    assert is_given_back(rig, ours)


def test_logs_behind_one_that_does_not_move_are_left_out_when_they_are_late(rig: Rig) -> None:
    ours = stream(rig)
    assert rig.put(ours, LARGE, 1)
    for mark in range(2, 12):
        perishable(rig, ours, 64, mark)
    assert rig.put(ours, 64, 12)
    rig.turn(0, 5)
    rig.wait(LATE_S)
    assert received(rig) == [(0, 1), (11, 12)]
    assert rig.count(0, Class.LOGS)["refused_late"] == 10
    assert rig.count(1, Class.LOGS)["rx_gaps"] == 10
    assert is_given_back(rig, ours)


def test_a_log_that_has_begun_in_time_goes_on(rig: Rig) -> None:
    ours = stream(rig)
    perishable(rig, ours, LARGE, 1)
    rig.turn(0, 5)
    rig.wait(LATE_S)
    assert received(rig) == [(0, 1)]
    assert rig.count(0, Class.LOGS)["refused_late"] == 0


def test_a_log_that_is_held_and_not_late_is_sent(rig: Rig) -> None:
    ours = stream(rig)
    perishable(rig, ours, SHARDED, 1)
    perishable(rig, ours, 64, 2)
    rig.turn(0)
    rig.wait(LATE_S / 4)
    rig.turn(0)
    assert received(rig) == [(0, 1), (1, 2)]
    assert rig.count(0, Class.LOGS)["refused_late"] == 0
