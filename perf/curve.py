"""Figures over something that is varied: offered load, size, count; lines of points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from .histogram import PERCENTILES, Histogram
from .match import Run


@dataclass
class Point:
    """What the runs at one place of a curve say; medians over them, latencies of all together."""

    x: float
    rate: float = 0.0
    """Messages a second that arrived."""
    latency_ns: dict[str, float] = field(default_factory=dict)
    lost_share: float = 0.0
    cpu_ns_per_message: float = 0.0
    noisy: bool = False
    error: str = ""

    @classmethod
    def of(cls, x: float, runs: Sequence[Run]) -> Point:
        """Return the point of *runs*; one that failed is told and not averaged."""
        found = cls(x)
        good = [run for run in runs if not run.error]
        if failed := [run.error for run in runs if run.error]:
            found.error = f"{len(failed)} of {len(runs)} runs failed: {failed[0]}"
        if not good:
            return found
        together = Histogram()
        for run in good:
            together.add(Histogram.loads(run.histogram))
        if together.total:
            found.latency_ns = {f"p{p:g}": together.percentile(p) for p in PERCENTILES}
        expected = sum(run.received + run.lost for run in good)
        found.rate = median(run.rate for run in good)
        found.lost_share = sum(run.lost for run in good) / max(expected, 1)
        found.cpu_ns_per_message = median(run.cpu_ns_per_message for run in good)
        found.noisy = any(run.noisy for run in good)
        return found


@dataclass
class Line:
    """One contestant's points."""

    contestant: str
    points: list[Point] = field(default_factory=list)
    remark: str = ""
    """What the line shows, in a sentence."""


@dataclass
class Curve:
    """Lines over one axis."""

    name: str
    title: str
    axis: str
    """What ``x`` is, with its unit."""
    figure: str
    """What is drawn: ``latency`` or ``cost``."""
    lines: list[Line] = field(default_factory=list)
