"""Contestants in turn, and ratios with their spread."""

from __future__ import annotations

import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Self

from .arena import Arena, Pinning
from .contestant import Contestant
from .histogram import PERCENTILES, Histogram
from .match import Run, play
from .scenario import Profile, Scenario
from .syscalls import Counter, UncountableError

ENOUGH = 3
"""Repetitions: a figure of fewer is in doubt. Behind so many, the last one that there is time for
counts system calls instead.
"""
SPREAD_MAX = 0.15
"""A figure whose quartiles lie further apart than this share of its median is called noisy."""


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the lower and the upper quartile, by linear interpolation."""

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    ordered = sorted(values)
    return at(0.25), at(0.75)


@dataclass
class Figure:
    """A value over the repetitions."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure | None:
        """Return median and quartiles, or None of nothing."""
        return cls(median(values), *quartiles(values)) if values else None

    @property
    def spread(self) -> float:
        """Return how far the quartiles lie apart, as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


@dataclass
class Standing:
    """How one contestant did in one scenario."""

    contestant: str
    scenario: str
    rate: Figure | None = None
    latency_ns: dict[str, float] = field(default_factory=dict)
    """Percentiles over all repetitions together."""
    p50_ns: Figure | None = None
    lost_share: float = 0.0
    cpu_ns_per_message: float = 0.0
    cpu_ns_by_part: dict[str, float] = field(default_factory=dict)
    """Of that: ``sender``, ``receiver``, and each kind of helper."""
    syscalls_per_message: float | None = None
    """From a run that counted them, of which nothing else is used."""
    syscalls_by_part: dict[str, float] = field(default_factory=dict)
    switches_per_message: float = 0.0
    memory_kib: float = 0.0
    memory_kib_by_part: dict[str, float] = field(default_factory=dict)
    ratio: Figure | None = None
    """The reference's figure against this one's, run by run: above 1 the reference is ahead."""
    reference: str = ""
    """The contestant of ours that the ratio is taken against."""
    histogram: list[list[int]] = field(default_factory=list)
    """Latencies of all repetitions together."""
    noisy: str = ""
    """Why the figures are in doubt."""
    error: str = ""


def value(run: Run, scenario: Scenario) -> float:
    """Return the figure that the scenario compares."""
    return run.rate if scenario.figure == "rate" else float(run.latency_ns.get("p50", 0))


def standing(runs: Sequence[Run], reference: Sequence[Run], scenario: Scenario) -> Standing:
    """Return what the runs of one contestant say, against those of the reference."""
    good = [run for run in runs if not run.error]
    found = Standing(runs[0].contestant, scenario.name)
    if failed := [run.error for run in runs if run.error]:
        found.error = f"{len(failed)} of {len(runs)} runs failed: {failed[0]}"
    if not good:
        return found
    found.rate = Figure.of([run.rate for run in good])
    together = Histogram()
    for run in good:
        together.add(Histogram.loads(run.histogram))
    if together.total:
        found.histogram = together.dumps()
        found.latency_ns = {f"p{p:g}": together.percentile(p) for p in PERCENTILES}
        found.p50_ns = Figure.of([float(run.latency_ns["p50"]) for run in good])
    expected = sum(run.received + run.lost for run in good)
    found.lost_share = sum(run.lost for run in good) / max(expected, 1)
    found.cpu_ns_per_message = median(run.cpu_ns_per_message for run in good)
    found.cpu_ns_by_part = _by_part([run.cpu_ns_by_part for run in good])
    found.switches_per_message = median(run.switches_per_message for run in good)
    found.memory_kib = median(run.memory_kib for run in good)
    found.memory_kib_by_part = _by_part([run.memory_kib_by_part for run in good])
    found.ratio = Figure.of(_ratios(good, reference, scenario))
    found.noisy = _doubts(found, good, scenario)
    return found


def _by_part(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return medians, part by part."""
    return {part: median(run.get(part, 0.0) for run in runs) for part in runs[0]}


def _ratios(runs: Iterable[Run], reference: Iterable[Run], scenario: Scenario) -> list[float]:
    """Return ratios of runs of the same repetition; above 1 the reference is the better one."""
    by_repetition = {run.repetition: value(run, scenario) for run in reference if not run.error}
    ratios = []
    for run in runs:
        ours, theirs = by_repetition.get(run.repetition, 0.0), value(run, scenario)
        if ours and theirs:
            ratios.append(ours / theirs if scenario.figure == "rate" else theirs / ours)
    return ratios


def _doubts(found: Standing, runs: Sequence[Run], scenario: Scenario) -> str:
    figure = found.rate if scenario.figure == "rate" else found.p50_ns
    doubts = []
    if len(runs) < ENOUGH:
        doubts.append(f"{len(runs)} run{'s' * (len(runs) > 1)} only")
    if figure and figure.spread > SPREAD_MAX:
        doubts.append(f"quartiles {figure.spread:.0%} of the median apart")
    if noisy := sum(run.noisy for run in runs):
        doubts.append(f"others used the machine in {noisy} of {len(runs)} runs")
    return "; ".join(doubts)


class Rounds:
    """Repetitions, as many as fit into a budget of seconds; the first is there in any case.

    ``last`` says whether no further one will follow, as far as the longest tells.
    """

    def __init__(
        self,
        count: int,
        budget_s: float | None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count, self._budget_s, self._now_s = count, budget_s, now_s
        self.last = False

    def __iter__(self) -> Iterator[int]:
        begin_s = last_s = self._now_s()
        longest_s = 0.0
        for repetition in range(self._count):
            left_s = (self._budget_s or float("inf")) - (last_s - begin_s)
            if repetition and left_s < longest_s:
                return
            self.last = repetition == self._count - 1 or left_s < 2 * longest_s
            yield repetition
            now_s = self._now_s()
            longest_s, last_s = max(longest_s, now_s - last_s), now_s


class Suite:
    """Arenas and runs of one invocation."""

    def __init__(
        self, contestants: Sequence[Contestant], profile: Profile, say: Callable[[Run], None]
    ) -> None:
        self._contestants = contestants
        self._by_name = {contestant.name: contestant for contestant in contestants}
        self._profile = profile
        self._say = say
        self._arenas: dict[str, Arena] = {}
        self.missing: dict[str, str] = {}
        self.runs: list[Run] = []
        self.counted: dict[tuple[str, str], Run] = {}
        """(scenario, contestant) -> the run that counted system calls."""
        self.notes: list[str] = []
        """What could not be measured, and why."""
        self.durations_s: dict[str, float] = {}
        """How long each part of the run took."""
        self._counter: Counter | None = None

    def _arena(self, contestant: Contestant) -> Arena | None:
        """Return the contestant's hosts, made and prepared once; None if it cannot run here."""
        if contestant.name in self.missing:
            return None
        try:
            contestant.side()
            if contestant.arena not in self._arenas:
                self._arenas[contestant.arena] = self._prepare(contestant)
        except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError) as error:
            self.missing[contestant.name] = str(error) or type(error).__name__
            return None
        return self._arenas[contestant.arena]

    def _prepare(self, contestant: Contestant) -> Arena:
        arena = Arena(contestant.place, Pinning(self._profile.pin, self._profile.cores))
        try:
            contestant.prepare(arena)
            if contestant.place == "network":
                arena.join()
        except BaseException:
            arena.close()
            raise
        return arena

    def compete(self, scenario: Scenario) -> None:
        """Let all who can answer *scenario* run in turn, as often as the profile says.

        The order turns by one place with every repetition, so nobody is always the first.
        """
        able = self.able(scenario)
        rounds = Rounds(self._profile.repetitions + 1, self._profile.budget_s)
        for repetition in rounds:
            if repetition >= min(ENOUGH, self._profile.repetitions) and rounds.last:
                self._count(scenario, able)
                break
            turn = repetition % max(len(able), 1)
            for contestant in able[turn:] + able[:turn]:
                self.runs.append(self.play(contestant, scenario, repetition))

    def _count(self, scenario: Scenario, able: Sequence[Contestant]) -> None:
        """Let everybody run once more, for system calls only."""
        if self.notes:
            return
        try:
            self._counter = self._counter or Counter()
        except UncountableError as error:
            self.notes.append(str(error))
            return
        for one in able:
            arena = self._arenas[one.arena]
            run = play(arena, one, scenario, self._profile, -1, counter=self._counter)
            self.counted[scenario.name, one.name] = run

    def able(self, scenario: Scenario, names: Sequence[str] = ()) -> list[Contestant]:
        """Return who can answer *scenario*, of *names* if there are any, each with its hosts."""
        fit = (one for one in self._contestants if one.fits(scenario))
        return [one for one in fit if (not names or one.name in names) and self._arena(one)]

    def play(self, contestant: Contestant, scenario: Scenario, repetition: int) -> Run:
        """Let one of those that are able run once."""
        arena = self._arenas[contestant.arena]
        run = play(arena, contestant, scenario, self._profile, repetition)
        self._say(run)
        return run

    def standings(self, scenario: Scenario) -> list[Standing]:
        """Return how everybody did in *scenario*, the best first."""
        by_name: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs:
            if run.scenario == scenario.name:
                by_name[run.contestant].append(run)
        found = []
        for name, runs in by_name.items():
            reference = self._reference(self._by_name[name], by_name, scenario)
            found.append(standing(runs, by_name.get(reference, []), scenario))
            found[-1].reference = reference
            counted = self.counted.get((scenario.name, name))
            if counted and not counted.error:
                found[-1].syscalls_by_part = counted.syscalls_by_part
                found[-1].syscalls_per_message = sum(counted.syscalls_by_part.values())
        return sorted(found, key=lambda one: _order(one, scenario))

    def _reference(
        self, contestant: Contestant, by_name: dict[str, list[Run]], scenario: Scenario
    ) -> str:
        """Return the best of ours that is most like *contestant*: same language, same batching."""

        def likeness(name: str) -> tuple[bool, bool, float]:
            ours = self._by_name[name]
            values = [value(run, scenario) for run in by_name[name] if not run.error]
            good = median(values) if values else 0.0
            return (
                ours.language == contestant.language,
                ours.batched == contestant.batched,
                good if scenario.figure == "rate" else -(good or float("inf")),
            )

        ours = [name for name in by_name if self._by_name[name].ours]
        return max(ours, key=likeness, default="")

    def close(self) -> None:
        """End everything that was started."""
        for arena in self._arenas.values():
            arena.close()
        self._arenas.clear()
        if self._counter:
            self._counter.close()
            self._counter = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _order(found: Standing, scenario: Scenario) -> float:
    if scenario.figure == "rate":
        return -found.rate.median if found.rate else 1.0
    return found.p50_ns.median if found.p50_ns else float("inf")
