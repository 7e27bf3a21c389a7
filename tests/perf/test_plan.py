"""How long runs take: budgets, limits, and what is said of them before."""

from __future__ import annotations

import pytest

from perf import plan
from perf.__main__ import CLOSE_UPS, CURVES, PARTS
from perf.comparison import Rounds
from perf.peers import CONTESTANTS
from perf.scenario import PROFILES, SCENARIOS

MINUTES = {"quick": 3, "default": 25, "full": 90}


class Clock:
    """Time that passes when somebody says so."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def rounds(count: int, budget_s: float | None, each_s: float) -> list[bool]:
    """Return of each repetition whether it was known to be the last one."""
    clock = Clock()
    made, found = Rounds(count, budget_s, clock), []
    for _ in made:
        found.append(made.last)
        clock.s += each_s
    return found


@pytest.mark.parametrize(
    ("count", "budget_s", "each_s", "found"),
    [
        (3, None, 50, [False, False, True]),
        (9, 35, 10, [False, False, True]),
        (9, 40, 10, [False, False, False, True]),
        (9, 5, 10, [True]),
        (1, 100, 10, [True]),
    ],
)
def test_repetitions_end_within_their_budget_but_for_the_first(
    count: int, budget_s: float | None, each_s: float, found: list[bool]
) -> None:
    got = rounds(count, budget_s, each_s)
    assert len(got) == len(found)
    assert got[1:] == found[1:]


def test_a_part_that_would_end_too_late_is_left_out_and_told() -> None:
    clock = Clock()
    made = plan.Plan([("a", 60.0), ("b", 60.0), ("c", 10.0)], 100, clock, Clock())
    for name, spent_s in (("a", 80.0), ("b", 0.0), ("c", 10.0)):
        with made.part(name) as fits:
            clock.s += spent_s if fits else 0
    assert made.durations_s == {"a": 80, "c": 10}
    assert "left out: b:" in made.notes()[0]


def test_a_part_that_fails_takes_nothing_of_the_others_with_it() -> None:
    made = plan.Plan([("a", 1.0), ("b", 1.0)], None, Clock(), Clock())

    def fail() -> None:
        raise RuntimeError("no luck")

    with made.part("a"):
        fail()
    with made.part("b") as fits:
        assert fits
    assert made.notes() == ["failed: a: no luck"]


def test_what_the_host_took_of_a_part_is_told_where_it_is_much() -> None:
    clock, stolen = Clock(), Clock()
    made = plan.Plan([("a", 1.0), ("b", 1.0)], None, clock, stolen)
    for name, taken_s in (("a", 0.4), ("b", 3.0)):
        with made.part(name):
            clock.s += 10.0
            stolen.s += taken_s
    assert made.notes() == ["of the processors' time the host of this machine took: b 30%"]


def test_behind_a_part_that_somebody_ends_nothing_begins_and_that_is_told() -> None:
    made = plan.Plan([("a", 1.0), ("b", 1.0), ("c", 1.0)], None, Clock(), Clock())
    begun = []
    for name in ("a", "b", "c"):
        with made.part(name) as fits:
            if fits:
                begun.append(name)
            if name == "b":
                raise SystemExit(143)
    assert begun == ["a", "b"]
    assert made.ended == "b"
    ended, left_out = made.notes()
    assert ended.startswith("ended by somebody during b")
    assert left_out.startswith("left out: c: the run was ended before")


def test_without_a_limit_nothing_is_left_out() -> None:
    clock = Clock()
    made = plan.Plan([("a", 60.0)], None, clock, Clock())
    clock.s += 1e6
    with made.part("a") as fits:
        assert fits
    assert made.notes() == []


@pytest.mark.parametrize("name", ["default", "full"])
def test_all_parts_of_a_profile_are_expected_to_fit_into_its_limit(name: str) -> None:
    profile = PROFILES[name]
    parts = [*SCENARIOS, *CURVES.values(), *PARTS[name]]
    total = sum(plan.seconds(part, profile, CONTESTANTS) for part in parts)
    assert profile.limit_s is not None
    assert total < profile.limit_s == MINUTES[name] * 60


def test_the_time_of_every_close_up_is_known() -> None:
    assert plan.CLOSE_UP_S.keys() == CLOSE_UPS.keys()


def test_the_longest_close_up_comes_first_so_that_a_late_run_has_it() -> None:
    assert next(iter(CLOSE_UPS)) == max(CLOSE_UPS, key=lambda name: plan.CLOSE_UP_S[name][1])
