"""What runs come to: figures of flows, medians of rounds, courses over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from .flows import jain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perf.relay import Count

    from .flows import Record
    from .race import Race

BIN_S = 0.2


@dataclass(frozen=True)
class Figures:
    """Of one flow."""

    goodput_bps: float
    """At the receiving application, payload only."""
    smoothed_s: float | None
    """The sender's smoothed round-trip time, mean over the time that counts."""
    ping_s: float | None
    """Round trip of a small request beside it: median."""
    ping_p99_s: float | None
    retransmitted: int | None

    @property
    def rtt_s(self) -> float | None:
        """Return the smoothed round trip, or where it is not known that of the pings."""
        return self.ping_s if self.smoothed_s is None else self.smoothed_s


@dataclass(frozen=True)
class Line:
    """What a case came to for one kind of flow: every figure is the median of the rounds."""

    name: str
    flows: list[Figures]
    jain: float
    rounds: list[list[float]]
    """Goodput in bits a second, of every flow in every round."""
    relay: dict[str, float]
    """Of the way there, means of the rounds."""

    @property
    def share(self) -> float:
        """Return what the first flow got, as a share of an equal part."""
        rates = [flow.goodput_bps for flow in self.flows]
        return round(rates[0] * len(rates) / sum(rates), 3) if sum(rates) else 0.0


@dataclass(frozen=True)
class Course:
    """A run over time, from its beginning; (seconds, value)."""

    name: str
    throughput: list[tuple[float, float]]
    """Mbit/s."""
    latency: list[tuple[float, float]]
    """Milliseconds: the mean of the pings sent in a bin."""
    worse: tuple[float, float] | None


@dataclass
class Results:
    """Everything measured."""

    rounds: int
    seconds: dict[str, tuple[float, float]]
    """What runs last, by kind: at first without counting, and then counted."""
    missing: list[str]
    """What could not take part, and why."""
    load: list[float]
    """Processes that wanted to run, mean of a minute, before each case: others use the machine."""
    calibration: list[dict[str, Any]]
    """Rows of the scenario ``relay``, just before."""
    lines: dict[str, list[Line]] = field(default_factory=dict)
    """By case."""
    courses: dict[str, list[Course]] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)
    """Runs that failed and were made once more, and why."""


def _figures(record: Record, of: Race) -> Figures:
    span = of.settled, of.end
    return Figures(
        goodput_bps=record.goodput_bps(*span),
        smoothed_s=record.smoothed_s(*span),
        ping_s=record.ping_s(*span),
        ping_p99_s=record.ping_s(*span, share=0.99),
        retransmitted=record.retransmitted,
    )


def _middle(values: Sequence[float | None]) -> Any:
    """Return the median of what there is, else nothing."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _relay(counts: Sequence[Count]) -> dict[str, float]:
    names = ("packets", "lost", "overflowed", "marked", "faults", "late_s_mean")
    means = {name: sum(getattr(count, name) for count in counts) / len(counts) for name in names}
    return {**means, "late_s_max": max(count.late_s_max for count in counts)}


def line(name: str, races: Sequence[Race]) -> Line:
    """Return what rounds of one case came to."""
    rounds = [[_figures(record, one) for record in one.records] for one in races]
    names = Figures.__dataclass_fields__
    flows = [
        Figures(**{key: _middle([getattr(figures, key) for figures in same]) for key in names})
        for same in zip(*rounds, strict=True)
    ]
    rates = [[figures.goodput_bps for figures in one] for one in rounds]
    return Line(name, flows, median(map(jain, rates)), rates, _relay([one.there for one in races]))


def course(name: str, one: Race) -> Course:
    """Return a run over time."""
    (record,) = one.records
    bins = round((one.end - one.begin) / BIN_S)
    sums = [0.0] * bins
    pings: list[list[float]] = [[] for _ in range(bins)]
    for at, count in record.arrived:
        if 0 <= (index := int((at - one.begin) / BIN_S)) < bins:
            sums[index] += count
    for at, rtt_s in record.pings:
        if 0 <= (index := int((at - one.begin) / BIN_S)) < bins:
            pings[index].append(rtt_s)
    middle = [round((index + 0.5) * BIN_S, 2) for index in range(bins)]
    return Course(
        name,
        throughput=[
            (at, round(8 * count / BIN_S / 1e6, 3)) for at, count in zip(middle, sums, strict=True)
        ],
        latency=[
            (at, round(1e3 * fmean(some), 3))
            for at, some in zip(middle, pings, strict=True)
            if some
        ],
        worse=one.worse and (one.worse[0] - one.begin, one.worse[1] - one.begin),
    )
