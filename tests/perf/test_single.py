"""Percentiles of single things."""

from __future__ import annotations

import pytest

from perf.single import percentile, simulated


@pytest.mark.parametrize(
    ("count", "percent", "found"),
    [(100, 99, 99), (100, 50, 50), (400, 99, 396), (5, 50, 3), (5, 99, 5), (1, 50, 1)],
)
def test_a_percentile_is_the_least_that_so_many_are_not_above(
    count: int, percent: int, found: int
) -> None:
    assert percentile(range(count, 0, -1), percent) == found


def test_the_lab_simulates_packets() -> None:
    assert simulated(100) > 0
