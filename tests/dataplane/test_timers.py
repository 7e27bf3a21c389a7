"""vk_timers: the oldest deadline comes first, however they were set, moved and cleared."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.native import library

NEVER = 2**64 - 1


class Timers:
    def __init__(self) -> None:
        self.ffi, self.lib = library("vk_timers.h", "vk_timers.c")
        self.it: Any = self.ffi.new("struct vk_timers *")

    def set(self, number: int, due: int) -> int:
        return int(self.lib.vk_timers_set(self.it, number, due))

    def clear(self, number: int) -> None:
        self.lib.vk_timers_clear(self.it, number)

    def pop(self, now: int) -> int:
        return int(self.lib.vk_timers_pop(self.it, now))

    def next(self) -> int:
        return int(self.it.due_ns[self.it.heap[0]]) if self.it.count else NEVER


@pytest.fixture
def timers() -> Iterator[Timers]:
    made = Timers()
    yield made
    made.lib.vk_timers_free(made.it)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 3, 200, 20_000]), st.integers(1, 600))
def test_they_come_in_the_order_of_a_sorted_list(seed: int, numbers: int, count: int) -> None:
    timers, model, generator = Timers(), dict[int, int](), random.Random(seed)
    for _ in range(count):
        number, due = generator.randrange(numbers), generator.randrange(50)
        match generator.randrange(8):
            case 0 | 1 | 2 | 3:
                assert timers.set(number, due) == 1
                model[number] = due
            case 4:
                timers.clear(number)
                model.pop(number, None)
            case 5:
                assert timers.set(number, NEVER) == 1
                model.pop(number, None)
            case _:
                first = min(model.values(), default=NEVER)
                popped = timers.pop(due)
                assert model.pop(popped, NEVER) == (first if first <= due else NEVER)
                assert (popped < 0) == (first > due)
        assert timers.it.count == len(model)
        assert timers.next() == min(model.values(), default=NEVER)
    rest = [timers.pop(NEVER - 1) for _ in model]
    assert [model[number] for number in rest] == sorted(model.values())
    assert len(set(rest)) == len(rest)
    timers.lib.vk_timers_free(timers.it)


def test_nothing_is_due_before_its_time(timers: Timers) -> None:
    timers.set(5, 1000)
    assert timers.pop(999) == -1
    assert timers.pop(1000) == 5
    assert timers.pop(NEVER) == -1


def test_memory_grows_with_the_highest_number_only(timers: Timers) -> None:
    assert timers.it.capacity == 0
    timers.set(3, 1)
    small = timers.it.capacity
    assert small < 100
    timers.set(100_000, 2)
    assert timers.it.capacity > 100_000
    timers.clear(100_000)
    timers.clear(4_000_000_000)
    assert timers.pop(5) == 3


def test_as_many_as_there_are_peers_are_kept_in_order(timers: Timers) -> None:
    count, generator = 20_000, random.Random(5)
    due = [generator.randrange(10**9) for _ in range(count)]
    for number in range(count):
        timers.set(number, due[number])
    for number in range(0, count, 3):
        due[number] = generator.randrange(10**9)
        timers.set(number, due[number])
    popped = [timers.pop(10**9) for _ in range(count)]
    assert [due[number] for number in popped] == sorted(due)
    assert sorted(popped) == list(range(count))
    assert timers.pop(NEVER) == -1


def test_freed_ones_may_be_used_again(timers: Timers) -> None:
    timers.set(1, 1)
    timers.lib.vk_timers_free(timers.it)
    assert timers.pop(NEVER) == -1
    timers.set(2, 2)
    assert timers.pop(2) == 2
