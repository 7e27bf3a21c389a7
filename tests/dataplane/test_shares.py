"""vk_shares: what each party has of the memory for partial messages, and leaves to all others."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.native import library

PARTIALS = 1024
APPS = 64
MEMORY = 1 << 24
SMALL, LARGE = 2000, 65_536
SYSTEM, JOB, DATA, LOGS = 2, 3, 4, 5


class Shares:
    """Shares, and a model of who has what."""

    def __init__(self, memory: int = MEMORY) -> None:
        self.ffi, self.lib = library("vk_shares.h", "vk_shares.c")
        self.shares = self.ffi.new("struct vk_shares *")
        self.lib.vk_shares_limit(self.shares, memory)
        self.free = list(range(PARTIALS))

    def party(self, peer: int, app: int, klass: int) -> Any:
        return self.ffi.new("struct vk_party *", (peer, app, klass, klass != LOGS))

    def take(self, peer: int = 0, app: int = 0, klass: int = DATA, size: int = SMALL) -> bool:
        party = self.party(peer, app, klass)
        if not self.free or not self.lib.vk_shares_may(self.shares, party, size):
            return False
        self.lib.vk_shares_take(self.shares, self.free.pop(), party, size)
        return True

    def give(self, partial: int) -> None:
        self.lib.vk_shares_give(self.shares, partial)
        self.free.append(partial)

    def fill(self, peer: int = 0, app: int = 0, klass: int = DATA, size: int = SMALL) -> int:
        """Take as many as there are to have; returns how many."""
        count = 0
        while self.take(peer, app, klass, size):
            count += 1
        return count


def test_one_that_stands_still_has_a_quarter_and_the_next_half_as_much() -> None:
    shares = Shares()
    assert [shares.fill(app=app) for app in range(6)] == [193, 97, 50, 26, 14, 8]


def test_so_it_is_with_bytes() -> None:
    shares = Shares()
    assert [shares.fill(app=app, size=LARGE) for app in range(6)] == [48, 24, 12, 7, 3, 2]


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_every_application_has_something_when_any_others_stand_still(size: int) -> None:
    """From the one peer that there may be."""
    for still in range(1, APPS):
        shares = Shares()
        for app in range(still):
            shares.fill(app=app, size=size)
        for app in range(still, APPS):
            assert shares.take(app=app, size=size)


def test_a_peer_that_sends_only_beginnings_leaves_to_others_what_they_need() -> None:
    shares = Shares()
    taken = sum(shares.fill(0, app, klass) for app in range(APPS) for klass in (SYSTEM, JOB, DATA))
    assert taken < 0.8 * PARTIALS
    assert shares.fill(1, 7) > 20
    assert shares.fill(2, 7) > 10


def test_streams_of_a_class_leave_something_to_those_of_others() -> None:
    shares = Shares()
    counts = [shares.fill(klass=klass) for klass in (DATA, JOB, SYSTEM)]
    assert counts == [193, 96, 48]


def test_logs_leave_at_least_half_and_have_nothing_of_what_is_kept_for_anybody() -> None:
    shares = Shares()
    taken = sum(shares.fill(peer, app, LOGS) for peer in range(40) for app in range(APPS))
    assert PARTIALS // 4 < taken < PARTIALS // 2
    assert shares.fill(100, 3) > 50
    for app in range(APPS):
        assert shares.take(101, app)


@pytest.mark.parametrize("memory", [1 << 17, 100_000, 65_536])
def test_where_there_is_little_memory_one_large_message_goes_at_a_time(memory: int) -> None:
    shares = Shares(memory)
    if memory > LARGE:
        assert shares.take(size=LARGE - 20_000)
        shares.give(PARTIALS - 1)
    assert shares.take(size=memory // 2)
    assert not shares.take(size=memory // 2)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_all_together_never_have_more_than_there_is(data: st.DataObject) -> None:
    memory = data.draw(st.sampled_from([1 << 20, MEMORY]))
    shares = Shares(memory)
    there: dict[int, int] = {}
    seed = random.Random(data.draw(st.integers(0, 2**32)))
    for _ in range(3000):
        if there and seed.random() < 0.1:
            gone = seed.choice(list(there))
            del there[gone]
            shares.give(gone)
            continue
        app, size = seed.randrange(APPS), seed.choice((100, SMALL, LARGE))
        partial = shares.free[-1] if shares.free else -1
        if shares.take(seed.randrange(9), app, seed.choice((JOB, DATA, LOGS)), size):
            there[partial] = size
        assert sum(there.values()) == shares.shares.all.bytes <= memory
        assert len(there) == shares.shares.all.count <= PARTIALS
    for partial in list(there):
        shares.give(partial)
    assert (shares.shares.all.count, shares.shares.beyond.count) == (0, 0)
    assert (shares.shares.all.bytes, shares.shares.beyond.bytes) == (0, 0)
