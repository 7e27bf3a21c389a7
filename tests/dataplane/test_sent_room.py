"""More packets than can be noted: the oldest that were given up make room, and nothing else is sent
until an acknowledgement does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.dataplane.native import library
from tests.dataplane.rig import Rig, rig_of
from valkyrie.dataplane.wire import Class

FLYING, LOST, SKIPPED = 1, 2, 4
FIRST = 7


class Table:
    """A table of packets, of which all numbers are in use up to what is nearly too many."""

    def __init__(self, *states: int) -> None:
        self.ffi, self.lib = library("ledger_rig.h", "ledger_rig.c", "vk_ledger.c", "vk_sent.c")
        self.it = self.ffi.gc(self.ffi.new("struct vk_sent *"), self.lib.vk_sent_free)
        for number, state in enumerate(states, FIRST):
            packet = self.lib.vk_sent_put(self.it, number)
            packet.state, packet.flags = state & ~SKIPPED, state & SKIPPED
        self.it.issued = FIRST + self.lib.VK_SENT_MAX - self.lib.VK_SENT_SPARE

    def room(self) -> bool:
        return bool(self.lib.vk_sent_make_room(self.it))

    def put(self, number: int) -> Any:
        return self.lib.vk_sent_put(self.it, number)


@pytest.mark.parametrize(
    ("states", "forgotten"),
    [
        ((FLYING, LOST), None),
        ((LOST, FLYING), 1),
        ((SKIPPED, LOST, FLYING, LOST), 1),
        ((LOST,), 1),
    ],
)
def test_the_oldest_that_were_given_up_make_room_and_those_in_flight_do_not(
    states: tuple[int, ...], forgotten: int | None
) -> None:
    table = Table(*states)
    assert table.room() == (forgotten is not None)
    assert table.it.oldest == FIRST + (forgotten or 0)


def test_nothing_is_forgotten_before_that() -> None:
    table = Table(LOST, FLYING)
    table.it.issued -= 1
    assert table.room()
    assert table.it.oldest == FIRST


def test_where_there_is_room_the_next_number_and_one_left_out_before_it_find_it() -> None:
    table = Table(FLYING)
    most = table.it.issued
    for number in range(FIRST + 1, most):
        table.it.issued = number
        assert table.room()
        assert number + 1 - FIRST <= table.it.mask
    table.it.issued = most
    assert not table.room()
    for number in range(most, most + table.lib.VK_SENT_SPARE):
        assert table.put(number)
    assert not table.put(most + table.lib.VK_SENT_SPARE)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rig_of() as made:
        yield made


SPACE_OF_DATA = 1
MESSAGES = 20


@pytest.mark.parametrize("beyond", [-500, 5000])
def test_who_can_note_no_more_waits_for_an_acknowledgement_and_goes_on(
    rig: Rig, beyond: int
) -> None:
    ours, _ = rig.pair()
    rig.settle()
    rig.net(loss=1000)
    assert rig.put(ours, 64, 0)
    rig.turn(0)
    rig.ask("numbers", 0, SPACE_OF_DATA, Table().lib.VK_SENT_MAX + beyond)
    rig.log()
    for mark in range(1, MESSAGES):
        assert rig.put(ours, 64, mark)
    rig.turn(0, 10)
    assert not rig.log()
    rig.net()
    rig.settle()
    assert len(rig.log()) < 5 * MESSAGES
    assert [each.mark for each in rig.take(1, 0, Class.DATA)] == list(range(MESSAGES))
