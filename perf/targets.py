"""What is asked of Valkyrie, beside what a report found: passed, missed, or not measured.

Figures of the design documents, of one machine without a name, and what the project asks of itself
beside other systems in the same run. Nothing is left out because it is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Document = Mapping[str, Any]
Measure = Callable[[Document], float | None]
Names = Callable[[str], bool]
"""Says whether the name of a contestant fits."""
KERNEL = "kernel sockets"
"""The family that is no messaging system."""


@dataclass(frozen=True)
class Target:
    """One figure that is asked for."""

    what: str
    asked: float
    unit: str
    measure: Measure
    source: str
    """Which figure of the report it is, or why there is none."""
    at_least: bool = True


@dataclass
class Verdict:
    """What a report says of a target."""

    group: str
    what: str
    asked: float
    at_least: bool
    unit: str
    measured: float | None
    verdict: Literal["pass", "miss", "not measured"]
    source: str


def judged(target: Target, group: str, document: Document) -> Verdict:
    """Return what *document* says of *target*."""
    found = target.measure(document)
    word: Literal["pass", "miss", "not measured"] = "not measured"
    if found is not None:
        kept_it = found >= target.asked if target.at_least else found <= target.asked
        word = "pass" if kept_it else "miss"
    return Verdict(
        group,
        target.what,
        target.asked,
        target.at_least,
        target.unit,
        None if found is None else round(found, 4),
        word,
        target.source,
    )


def nothing(_: Document) -> None:
    """Measure nothing: what the target is about is not there, or is no matter of speed."""


def _standings(document: Document, scenario: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for one in document["standings"]:
        if one["scenario"] == scenario:
            yield one["contestant"], one


def _figure(one: Mapping[str, Any], scenario: str) -> float | None:
    found = one["p50_ns"] if scenario.endswith("-rtt") else one["rate"]
    return float(found["median"]) if found and found["median"] else None


def best(scenario: str, names: Names) -> Measure:
    """Return what finds the best figure of those whose names fit: messages a second, or ns."""

    def measure(document: Document) -> float | None:
        found = [
            figure
            for name, one in _standings(document, scenario)
            if names(name) and (figure := _figure(one, scenario))
        ]
        least = scenario.endswith("-rtt")
        return (min(found) if least else max(found)) if found else None

    return measure


def ours(language: str, *, batch: bool | None = None, path: str = "") -> Names:
    """Say which names are Valkyrie's in a language; with batches, without, or either."""

    def fits(name: str) -> bool:
        head = name.startswith(f"valkyrie-{language}-") and path in name
        return head and (batch is None or ("-batch" in name) == batch)

    return fits


def one_of(*words: str) -> Names:
    """Say which names begin with one of the words."""
    return lambda name: name.startswith(words)


def times(measure: Measure, factor: float) -> Measure:
    """Return the figure in another unit."""

    def scaled(document: Document) -> float | None:
        found = measure(document)
        return None if found is None else found * factor

    return scaled


def over(measure: Measure, base: Measure) -> Measure:
    """Return a figure as a multiple of another."""

    def ratio(document: Document) -> float | None:
        above, below = measure(document), base(document)
        return above / below if above and below else None

    return ratio


def ahead(scenario: str, mine: Names, others: Names) -> Measure:
    """Return how many times as good our best is as the best of others."""
    measures = best(scenario, mine), best(scenario, others)
    return over(*(measures if not scenario.endswith("-rtt") else measures[::-1]))


def latency(scenario: str, names: Names, word: str) -> Measure:
    """Return the least of a percentile, ns."""

    def measure(document: Document) -> float | None:
        found = [
            float(one["latency_ns"][word])
            for name, one in _standings(document, scenario)
            if names(name) and word in one["latency_ns"]
        ]
        return min(found, default=None)

    return measure


def cost(scenario: str, language: str) -> Measure:
    """Return CPU a message of the cheapest other in a language, as a multiple of our cheapest.

    Sockets of the kernel are none of our kind: ``behind`` tells where they cost less.
    """

    def measure(document: Document) -> float | None:
        known = {one["name"]: one for one in document["contestants"]}
        found: dict[bool, list[float]] = {True: [], False: []}
        for name, one in _standings(document, scenario):
            peer, spent_ns = known[name], one["cpu_ns_per_message"]
            if peer["language"] == language and peer["family"] != KERNEL and spent_ns:
                found[peer["ours"]].append(float(spent_ns))
        return min(found[False]) / min(found[True]) if all(found.values()) else None

    return measure


def close_up(scenario: str, metric: str, word: str = "value") -> Measure:
    """Return a close-up's figure, by the beginning of its name."""

    def measure(document: Document) -> float | None:
        for row in document["rows"]:
            if row["scenario"] == scenario and row["metric"].startswith(metric):
                return None if row[word] is None else float(row[word])
        return None

    return measure


def error(scenario: str, metric: str) -> Measure:
    """Return how far a close-up's figure is from its baseline."""
    found, asked = (close_up(scenario, metric, word) for word in ("value", "baseline"))

    def measure(document: Document) -> float | None:
        value, base = found(document), asked(document)
        return None if value is None or base is None else abs(value - base)

    return measure


def most(measures: Sequence[Measure]) -> Measure:
    """Return the largest of the figures, if all are there."""
    return lambda document: max(_all(measures, document), default=None)


def least(measures: Sequence[Measure]) -> Measure:
    """Return the smallest of the figures, if all are there."""
    return lambda document: min(_all(measures, document), default=None)


def _all(measures: Sequence[Measure], document: Document) -> list[float]:
    """Return what all found, or nothing: without the worst one no other is the worst."""
    found = [measure(document) for measure in measures]
    known = [each for each in found if each is not None]
    return known if len(known) == len(found) else []


def _lines(document: Document, curve: str) -> dict[str, dict[float, float]]:
    """Return a curve as contestant -> what is varied -> messages a second, 0 where it failed."""
    return {
        line["contestant"]: {point["x"]: point["rate"] for point in line["points"]}
        for each in document["curves"]
        if each["name"] == curve
        for line in each["lines"]
    }


def at(curve: str, names: Sequence[str], x: float) -> Measure:
    """Return the best rate at a place of a curve."""

    def measure(document: Document) -> float | None:
        lines = _lines(document, curve)
        return max((lines.get(name, {}).get(x, 0.0) for name in names), default=0.0) or None

    return measure


def reached(curve: str, names: Sequence[str], x: float) -> Measure:
    """Return *x* if a curve goes as far."""
    rate = at(curve, names, x)
    return lambda document: x if rate(document) else None


def kept(curve: str, names: Sequence[str]) -> Measure:
    """Return the least share of the rate at a curve's beginning that is left at its end.

    None unless every name has a figure at both.
    """

    def measure(document: Document) -> float | None:
        every = _lines(document, curve)
        varied = {x for line in every.values() for x in line}
        lines = [every.get(name, {}) for name in names]
        if len(varied) < 2 or not all(
            line.get(x) for line in lines for x in (min(varied), max(varied))
        ):
            return None
        return min(line[max(varied)] / line[min(varied)] for line in lines)

    return measure
