"""Where a message's time goes: events put together, and functions as perf lists them."""

from __future__ import annotations

import pytest

from perf import explain
from perf.explain import ExplainError, functions
from perf.passage import (
    ARRIVES,
    KERNEL,
    MARK,
    NO_CALL,
    RECEIVES,
    SENDS,
    TO_APPLICATION,
    TO_KERNEL,
    TO_WORKER,
    Event,
    Side,
    middle,
    round_trips,
)
from perf.scenario import SCENARIOS, Profile, Scenario

A, B = Side(application=1, worker=2, place=3), Side(application=11, worker=12, place=13)
TRIP = [
    *((MARK, 1), (SENDS, 2), (ARRIVES, 13), (RECEIVES, 12), (MARK, 11)),
    *((SENDS, 12), (ARRIVES, 3), (RECEIVES, 2), (MARK, 1)),
]


def events(*happened: tuple[int, int], step: int = 10) -> list[Event]:
    return [Event(at * step, what, who) for at, (what, who) in enumerate(happened)]


def test_stages_of_both_directions_are_added_up() -> None:
    (trip,) = round_trips(events(*TRIP), A, B)
    assert trip == {TO_KERNEL: 20, KERNEL: 20, TO_WORKER: 20, TO_APPLICATION: 20}


def test_a_worker_that_takes_packets_out_of_memory_has_one_stage_less() -> None:
    silent = [event for event in TRIP if event[0] != RECEIVES]
    (trip,) = round_trips(events(*silent), A, B)
    assert trip == {TO_KERNEL: 20, KERNEL: 20, NO_CALL: 20}


def test_what_else_workers_do_belongs_to_nobody() -> None:
    noisy = [(ARRIVES, 3), *TRIP[:2], (SENDS, 2), (RECEIVES, 2), *TRIP[2:5], (SENDS, 2), *TRIP[5:]]
    (trip,) = round_trips(events(*noisy), A, B)
    assert sum(trip.values()) == 110


@pytest.mark.parametrize("missing", [1, 2, 4, 5, 6, 8])
def test_a_round_trip_that_was_not_seen_whole_is_left_out(missing: int) -> None:
    torn = [event for at, event in enumerate(TRIP) if at != missing]
    assert len(list(round_trips(events(*torn, *TRIP), A, B))) == 1


def test_stages_of_the_middle_half_add_up_to_its_mean() -> None:
    trips = [{TO_KERNEL: time, KERNEL: 100} for time in (1, 10, 20, 30, 40_000)]
    passage = middle(trips)
    assert passage is not None
    assert passage.count == 3
    assert passage.stages == {TO_KERNEL: 20, KERNEL: 100}
    assert passage.total_ns == 120
    assert middle([]) is None


def test_functions_of_perf_are_read_and_small_ones_are_one() -> None:
    listing = (
        " 40.50% \t[.] vk_engine_turn   \t-  -\n 39.50% \t[k] do_syscall_64 \t- -\n\n"
        "  0.50% \t[.] small \t- -\n"
    )
    found = functions(listing)
    assert [name for name, _ in found] == ["vk_engine_turn", "do_syscall_64 (kernel)", "all others"]
    assert sum(share for _, share in found) == pytest.approx(1)
    assert functions("") == []


def test_a_scenario_without_a_network_is_refused() -> None:
    local = next(one for one in SCENARIOS if one.place == "local")
    with pytest.raises(ExplainError, match="between two hosts"):
        explain.explain(local, Profile("test", 0.1, 0.1, 1, ()))


@pytest.mark.net
def test_the_tables_of_a_real_scenario_add_up() -> None:
    scenario = Scenario("t", "T", "network", "request", 64)
    found = explain.explain(scenario, Profile("test", 0.05, 0.1, 1, ()))
    assert [one.contestant for one in found] == list(explain.CONTESTED)
    for one in found:
        assert one.passage is not None
        assert one.passage.count > 10
        assert sum(one.passage.stages.values()) == pytest.approx(one.passage.total_ns)
        assert one.run is not None
        assert sum(one.run.cpu_ns_by_part.values()) == pytest.approx(one.run.cpu_ns_per_message)
        assert one.programs
        assert any("sum" in line for line in explain.lines(one))
    stages = [one.passage.stages for one in found if one.passage]
    assert TO_WORKER in stages[0]
    assert NO_CALL in stages[1]
