"""Rows: what a close-up finds, each figure beside the nearest thing to a limit."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def make_row(
    scenario: str,
    metric: str,
    value: float | None,
    unit: str,
    baseline: float | None = None,
    *,
    digits: int | None = 2,
    ratio: float | None = None,
) -> Row:
    """Return a row; of figures that are told to so many *digits*, or whole.

    *ratio* is for those that are not value over baseline.
    """
    if ratio is None and value is not None and baseline:
        ratio = value / baseline
    return {
        "scenario": scenario,
        "metric": metric,
        "value": value and round(value, digits),
        "unit": unit,
        "baseline": baseline and round(baseline, digits),
        "ratio": ratio and round(ratio, 3),
    }
