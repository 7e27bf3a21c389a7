"""vk_window: about twice what is consumed in a round trip, against a model in exact numbers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.native import library

MS = 1_000_000
KIB = 1024
START = 64 * KIB
NONE, FIXED, ADAPTIVE = range(3)


class Window:
    """The window in C."""

    def __init__(self, kind: int, low: int, high: int, now: int = 0) -> None:
        self.ffi, self.lib = library("vk_window.h", "vk_window.c")
        self.rule = self.ffi.new("struct vk_window_rule *", {"kind": kind, "min": low, "max": high})
        self.it = self.ffi.new("struct vk_window *")
        self.lib.vk_window_init(self.it, self.rule, 0, now)

    def consumed(self, total: int, rtt: int, now: int) -> int:
        self.lib.vk_window_consumed(self.it, self.rule, total, rtt, now)
        return self.size

    @property
    def size(self) -> int:
        return int(self.it.size)


@dataclass
class Model:
    """The same rule, said in fractions: rates instead of spans' sums."""

    low: int
    high: int
    size: int
    begun: tuple[int, int] = (0, 0)

    def consumed(self, total: int, rtt: int, now: int) -> int:
        trip = max(rtt, MS)
        used, took = total - self.begun[0], now - self.begun[1]
        full = Fraction(used, self.size) >= 1
        late = Fraction(took, trip) > 2
        if not full and not late:
            return self.size
        if full and not late:
            self.size = min(self.size * 2, self.high)
        elif not full:
            per_trip = Fraction(used * trip, took)
            excess = self.size - int(2 * per_trip)
            if excess > 0:
                self.size = max(self.size - excess // 8, self.low)
        self.begun = (total, now)
        return self.size


steps = st.lists(
    st.tuples(
        st.integers(0, 1 << 22),  # consumed
        st.integers(0, 200 * MS),  # time passed
        st.integers(0, 100 * MS),  # RTT
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(steps, st.integers(1, 1 << 20), st.integers(0, 1 << 24))
def test_sizes_are_those_of_the_model(
    walk: list[tuple[int, int, int]], low: int, more: int
) -> None:
    real, model = Window(ADAPTIVE, low, low + more), Model(low, low + more, low)
    total = now = 0
    for bytes_, ns, rtt in walk:
        total, now = total + bytes_, now + ns
        assert real.consumed(total, rtt, now) == model.consumed(total, rtt, now)
        assert low <= real.size <= low + more


@settings(max_examples=50, deadline=None)
@given(steps, st.integers(1, 1 << 30))
def test_a_fixed_window_never_changes(walk: list[tuple[int, int, int]], size: int) -> None:
    real = Window(FIXED, min(size, START), size)
    total = now = 0
    assert real.size == size
    for bytes_, ns, rtt in walk:
        total, now = total + bytes_, now + ns
        assert real.consumed(total, rtt, now) == size


def drive(real: Window, rate: int, rtt: int, ms: int, state: list[int]) -> int:
    """Consume so many bytes a ms, in steps of a ms, for some time; returns the size."""
    for _ in range(ms):
        state[0] += rate
        state[1] += MS
        real.consumed(state[0], rtt, state[1])
    return real.size


# bytes a ms, RTT in ms
@pytest.mark.parametrize(("rate", "rtt"), [(1000, 200), (12_500, 40), (125_000, 10), (1 << 20, 1)])
def test_a_steady_reader_gets_two_to_four_times_its_round_trip(rate: int, rtt: int) -> None:
    real = Window(ADAPTIVE, START, 1 << 30)
    size = drive(real, rate, rtt * MS, 40 * rtt + 100, [0, 0])
    assert 2 * rate * rtt <= size + rate <= 4 * rate * rtt + rate
    assert size >= START


def test_it_comes_down_slowly_and_never_below_what_everybody_has() -> None:
    real, state = Window(ADAPTIVE, START, 1 << 30), [0, 0]
    high = drive(real, 125_000, 10 * MS, 500, state)
    once = drive(real, 1000, 10 * MS, 21, state)
    assert high * 3 // 4 < once < high
    assert drive(real, 1000, 10 * MS, 5000, state) == START


def test_a_pause_of_an_hour_costs_one_step() -> None:
    real, state = Window(ADAPTIVE, START, 1 << 30), [0, 0]
    high = drive(real, 125_000, 10 * MS, 500, state)
    state[1] += 3_600_000 * MS
    assert real.consumed(state[0] + 1, 10 * MS, state[1]) >= high * 7 // 8


def test_a_smaller_bound_holds_at_once() -> None:
    real, state = Window(ADAPTIVE, START, 1 << 30), [0, 0]
    assert drive(real, 125_000, 10 * MS, 500, state) > 1 << 20
    real.rule.max = 1 << 17
    assert drive(real, 125_000, 10 * MS, 1, state) == 1 << 17


def test_numbers_near_their_end_do_not_wrap() -> None:
    real: Any = Window(ADAPTIVE, START, 1 << 62, now=(1 << 63) - 1)
    assert real.consumed((1 << 63) - 1, 1 << 62, (1 << 63) + 10) == 2 * START
    assert real.consumed((1 << 63) + 5, 1, (1 << 64) - 1) > START
