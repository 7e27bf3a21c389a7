"""Ratios, their spread, and what a noisy run says."""

from __future__ import annotations

import pytest

from perf.comparison import Figure, quartiles, standing
from perf.histogram import Histogram
from perf.match import OTHERS_SHARE_MAX, Run
from perf.scenario import Scenario

RATE = Scenario("rate", "Rates", "network", "stream", 64)
TRIP = Scenario("trip", "Round trips", "network", "request", 64)


def rates(name: str, *values: float, foreign: float = 0.0) -> list[Run]:
    return [
        Run(name, "rate", number, rate=value, received=100, foreign_share=foreign)
        for number, value in enumerate(values)
    ]


def trips(name: str, *values_ns: int) -> list[Run]:
    return [
        Run(
            name,
            "trip",
            number,
            received=1,
            latency_ns={"p50": value},
            histogram=Histogram.of([value]).dumps(),
        )
        for number, value in enumerate(values_ns)
    ]


@pytest.mark.parametrize(
    ("values", "found"),
    [([3.0], (3.0, 3.0)), ([1.0, 2.0, 3.0], (1.5, 2.5)), ([4.0, 1.0, 3.0, 2.0], (1.75, 3.25))],
)
def test_quartiles_lie_between_the_values(values: list[float], found: tuple[float, float]) -> None:
    assert quartiles(values) == found


def test_a_ratio_is_taken_run_by_run_so_that_a_slow_minute_does_not_show() -> None:
    found = standing(rates("peer", 10, 5, 1), rates("ours", 20, 10, 2), RATE)
    assert found.ratio == Figure(2.0, 2.0, 2.0)
    assert found.rate is not None
    assert found.rate.median == 5


def test_of_round_trips_the_shorter_one_is_ahead() -> None:
    found = standing(trips("peer", 100, 100), trips("ours", 50, 50), TRIP)
    assert found.ratio is not None
    assert found.ratio.median == pytest.approx(2.0, rel=0.03)


def test_a_figure_that_varies_much_is_called_noisy() -> None:
    assert "quartiles" in standing(rates("peer", 1, 2, 3), [], RATE).noisy
    assert not standing(rates("peer", 2, 2.01, 2.02), [], RATE).noisy


def test_a_figure_of_few_runs_has_no_spread_and_says_so() -> None:
    assert standing(rates("peer", 2), [], RATE).noisy == "1 run only"
    assert standing(rates("peer", 2, 2), [], RATE).noisy == "2 runs only"
    assert not standing(rates("peer", 2, 2, 2), [], RATE).noisy


def test_a_run_that_others_disturbed_says_so() -> None:
    disturbed = rates("peer", 2, 2, foreign=OTHERS_SHARE_MAX * 2)
    assert "others used the machine in 2 of 2 runs" in standing(disturbed, [], RATE).noisy


def test_a_failed_run_is_told_and_not_averaged() -> None:
    runs = rates("peer", 4, 0)
    runs[1].error = "nothing arrived"
    found = standing(runs, rates("ours", 8, 8), RATE)
    assert found.error == "1 of 2 runs failed: nothing arrived"
    assert found.rate == Figure(4, 4, 4)
    assert found.ratio == Figure(2, 2, 2)


def test_who_never_succeeded_has_no_figures() -> None:
    runs = rates("peer", 0)
    runs[0].error = "nothing arrived"
    found = standing(runs, rates("ours", 8), RATE)
    assert (found.rate, found.ratio) == (None, None)
    assert found.error


def test_losses_are_a_share_of_what_should_have_come() -> None:
    runs = rates("peer", 1)
    runs[0].lost = 300
    assert standing(runs, [], RATE).lost_share == 0.75
