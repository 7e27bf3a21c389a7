"""Alarms: when they come, when they end, and how much is remembered. No clock."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.controlplane.security.intrusion import (
    OTHERS,
    SLICES,
    SUBJECTS_MAX,
    Engine,
    Limit,
    Over,
    Raised,
    Totals,
)

S = 1_000_000_000
LIMIT = Limit("x", count=100, window_ns=10 * S, hold_ns=30 * S)


def test_an_alarm_comes_once_and_ends_when_it_has_been_calm_for_a_window() -> None:
    engine = Engine([LIMIT])
    engine.count(0, "a", 99, 0)
    assert engine.advance(0) == []
    engine.count(0, "a", 1, S)
    assert engine.advance(S) == [Raised(0, "a", 100)]
    engine.count(0, "a", 500, 2 * S)
    assert engine.advance(2 * S) == []
    assert engine.raised() == [(0, "a")]
    events = {second: engine.advance(second * S) for second in range(3, 60)}
    assert [(second, found) for second, found in events.items() if found] == [(31, [Over(0, "a")])]
    assert engine.size() == 0


def test_an_alarm_lasts_while_half_of_the_limit_is_seen() -> None:
    engine = Engine([LIMIT])
    engine.count(0, "a", 100, 0)
    ended = []
    for second in range(200):
        if second < 120:
            engine.count(0, "a", 6, second * S)  # 60 in a window: too few to raise one
        ended += [second for event in engine.advance(second * S) if isinstance(event, Over)]
    assert len(ended) == 1
    assert 120 + 10 <= ended[0] <= 120 + 2 * 11


def test_after_an_end_it_can_be_raised_again() -> None:
    engine = Engine([LIMIT])
    events = []
    for second in range(200):
        if second in (0, 100):
            engine.count(0, "a", 100, second * S)
        events += engine.advance(second * S)
    assert events == [Raised(0, "a", 100), Over(0, "a")] * 2


def test_slow_growth_is_no_alarm() -> None:
    engine = Engine([LIMIT])
    for second in range(1000):
        engine.count(0, "a", 9, second * S)  # 90 to 99 in a window and a slice
        assert engine.advance(second * S) == []


def test_subjects_and_rules_are_counted_apart() -> None:
    engine = Engine([LIMIT, Limit("y", 10, S, S)])
    engine.count(0, "a", 60, 0)
    engine.count(0, "b", 60, 0)
    engine.count(1, "a", 10, 0)
    assert engine.advance(0) == [Raised(1, "a", 10)]


def test_a_flood_of_subjects_takes_bounded_memory_and_raises_an_alarm_of_all() -> None:
    engine = Engine([LIMIT])
    for number in range(50_000):
        engine.count(0, f"source {number}", 1, 0)
    assert engine.size() == SUBJECTS_MAX + 1
    (raised,) = engine.advance(0)
    assert isinstance(raised, Raised)
    assert (raised.subject, raised.seen) == (OTHERS, 50_000 - SUBJECTS_MAX)
    engine.advance(60 * S)
    assert engine.size() <= 1


def test_a_clock_that_goes_back_loses_nothing_and_breaks_nothing() -> None:
    engine = Engine([LIMIT])
    engine.count(0, "a", 60, 100 * S)
    engine.count(0, "a", 60, 10 * S)
    assert engine.advance(10 * S) == [Raised(0, "a", 120)]


COUNTS = st.lists(
    st.tuples(st.integers(0, 3 * S), st.integers(1, 40)), min_size=1, max_size=60
)  # (time since the last, growth)


@settings(max_examples=200)
@given(COUNTS)
def test_what_a_window_has_is_found_and_what_it_has_not_is_not(
    counts: list[tuple[int, int]],
) -> None:
    engine, now_ns = Engine([LIMIT]), 0
    seen: list[tuple[int, int]] = []
    for passed, growth in counts:
        now_ns += passed
        seen.append((now_ns, growth))
        engine.count(0, "a", growth, now_ns)
        raised = engine.advance(now_ns) != [] or engine.raised() != []
        slice_ns = LIMIT.window_ns // SLICES
        least = sum(n for at, n in seen if at > now_ns - LIMIT.window_ns)
        most = sum(n for at, n in seen if at >= now_ns - LIMIT.window_ns - slice_ns)
        if least >= LIMIT.count:
            assert raised
        if raised:
            assert most >= LIMIT.count
            return


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 50))))
def test_growth_is_never_negative_and_adds_up(looks: list[dict[str, int]]) -> None:
    totals = Totals()
    for look in looks:
        for subject, growth in totals.growth(0, look):
            assert 0 <= growth <= look[subject]


@pytest.mark.parametrize(
    ("looks", "growth"),
    [([5, 5], 0), ([5, 9], 4), ([5, 9, 2], 6), ([0, 1], 1)],
)
def test_what_was_there_before_is_no_growth(looks: list[int], growth: int) -> None:
    totals = Totals()
    assert sum(n for each in looks for _, n in totals.growth(0, {"a": each})) == growth
