"""vk_behind: messages that wait for credit stay in their ring, unless something else lies there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dataplane.rig import Record, Rig, Stream, rig_of
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import Class, Gauge

COST = 64 + lib.VK_MESSAGE_COST
PAID = lib.VK_WINDOW_START // COST
MANY = 3 * PAID
"""Messages of 64 bytes, three times what a stream's first limit pays for."""


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rig_of() as made:
        yield made


def blocked(rig: Rig) -> Stream:
    """Return the end of a stream of which twice as much waits as was sent."""
    ours, _ = rig.pair()
    rig.settle()
    for mark in range(MANY):
        assert rig.put(ours, 64, mark)
    rig.exchange(3)
    assert rig.count(1, Class.DATA)["rx_delivered"] == PAID
    return ours


def test_what_waits_for_credit_arrives_in_order_once_it_has_some(rig: Rig) -> None:
    blocked(rig)
    assert rig.count(0, Class.DATA)["tx_messages"] == PAID
    got: list[Record] = []
    rig.settle(lambda: got.extend(rig.take(1, 0, Class.DATA)))
    assert [each.mark for each in got] == list(range(MANY))


def test_a_stream_that_begins_behind_messages_that_wait_does_not_wait(rig: Rig) -> None:
    ours = blocked(rig)
    token = rig.ask_open(0, 0, ours.stream + 1, "svc")
    rig.exchange(3)
    kinds = [each.kind for each in rig.take(1, 0, Class.DATA)]
    assert kinds == [lib.VK_RECORD_DATA] * PAID + [lib.VK_RECORD_OPEN]
    (answer,) = rig.take(0, 0, Class.DATA)
    assert (answer.kind, answer.correlation) == (lib.VK_RECORD_OPENED, token)


def test_messages_of_another_stream_overtake_those_that_wait(rig: Rig) -> None:
    ours, _ = rig.pair()
    other = rig.open(0, 0, ours.stream + 1, "svc")
    rig.accept(1, 0, Class.DATA)
    for mark in range(MANY):
        assert rig.put(ours, 64, mark)
    rig.exchange(3)
    assert rig.put(other, 64, 7777)
    rig.exchange(3)
    assert rig.take(1, 0, Class.DATA)[-1].mark == 7777


def test_the_end_of_a_stream_comes_behind_all_that_waited(rig: Rig) -> None:
    ours = blocked(rig)
    assert rig.put(ours, 0, 0, kind=lib.VK_RECORD_CLOSE)
    got: list[Record] = []
    rig.settle(lambda: got.extend(rig.take(1, 0, Class.DATA)))
    assert [each.mark for each in got[:-1]] == list(range(MANY))
    assert got[-1].kind == lib.VK_RECORD_CLOSE


def test_a_reset_does_not_wait_behind_messages_that_do(rig: Rig) -> None:
    ours = blocked(rig)
    assert rig.put(ours, 0, 0, kind=lib.VK_RECORD_RESET)
    rig.exchange(3)
    assert rig.count(0, Class.DATA)["tx_messages"] == PAID
    assert [each.kind for each in rig.take(1, 0, Class.DATA)][-1] == lib.VK_RECORD_RESET
    for _ in range(30):
        rig.wait(1)
        rig.settle()
    assert rig.gauge(0, Gauge.FLOWS_OPEN) == 0


@pytest.mark.parametrize("kind", [lib.VK_RECORD_DATA, lib.VK_RECORD_RESET])
def test_a_worker_that_goes_to_sleep_looks_at_what_came_behind_those_that_wait(
    rig: Rig, kind: int
) -> None:
    ours, _ = rig.pair()
    other = rig.open(0, 0, ours.stream + 1, "svc")
    rig.accept(1, 0, Class.DATA)
    for mark in range(MANY):
        assert rig.put(ours, 64, mark)
    rig.exchange(3)
    assert rig.ask("pending", 0) == "0"
    assert rig.put(other, 64, 7777, kind=kind)
    assert rig.ask("pending", 0) == "1"
    rig.exchange(3)
    assert rig.ask("pending", 0) == "0"
