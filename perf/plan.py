"""How long a run takes: said before it begins, and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from .contestant import Contestant
from .load import Sweep
from .scale import Scale
from .scenario import Profile, Scenario

START_S = 0.45
"""Of a run, beside what it measures: two sides start, most of them in Python, and end."""
OPENED_S = 0.0008
"""To open one of many streams."""
ARENA_S = 3.0
"""Hosts and nodes of the contestants, made once; a share for every scenario."""
CLOSE_UP_S = {
    "limits": (9, 30),
    "classifier": (3, 8),
    "rings": (5, 15),
    "receive": (20, 40),
    "flood": (15, 40),
    "dpdk": (15, 30),
    "hosts": (25, 90),
    "bare": (30, 60),
    "relay": (20, 40),
    "transport": (60, 900),
    "sessions": (40, 120),
    "isolation": (20, 60),
    "single": (20, 30),
    "joining": (5, 20),
    "handshakes": (40, 120),
}
"""Seconds of close-ups, short and long, as they took on two cores."""


def _runs_s(profile: Profile, count: int, *, opened: int = 0) -> float:
    each = profile.warm_s + profile.run_s + START_S
    return count * each + opened * OPENED_S


def seconds(
    what: Scenario | Sweep | Scale | str, profile: Profile, contestants: Sequence[Contestant]
) -> float:
    """Return about how long a part of a run takes; its budget bounds repetitions, not the first."""
    if isinstance(what, str):
        return CLOSE_UP_S.get(what, (30, 60))[profile.long]
    if isinstance(what, Scenario):
        able = sum(one.fits(what) for one in contestants)
        once, times, budget_s = _runs_s(profile, able), profile.repetitions + 1, profile.budget_s
    else:
        names = [one.name for one in contestants if one.name in what.contestants]
        times, budget_s = profile.curve_repetitions, profile.curve_budget_s
        if isinstance(what, Sweep):
            once = _runs_s(profile, len(names) * (len(what.shares) + 1))
        else:
            values = what.within(profile)
            many = sum(values) if what.varied in ("streams", "logs") else 0
            once = _runs_s(profile, len(names) * len(values), opened=len(names) * many)
    return ARENA_S + (once if once > (budget_s or once) else min(times * once, budget_s or 1e9))


@dataclass
class Plan:
    """The parts of a run, in their order, and when it is to be over."""

    parts: list[tuple[str, float]]
    """Name and about how many seconds."""
    limit_s: float | None
    """No part begins that would end after so long, as far as is known."""
    now_s: Callable[[], float] = time.monotonic
    durations_s: dict[str, float] = field(default_factory=dict)
    """Of the parts that were run."""
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin."""
        self._begin_s = self.now_s()
        self._known = dict(self.parts)

    def lines(self) -> Iterator[str]:
        """Say how long it takes, before it is begun."""
        total = sum(each for _, each in self.parts)
        bound = f", at most {self.limit_s / 60:.0f}" if self.limit_s else ""
        if len(self.parts) > 1:
            yield f"{len(self.parts)} parts, about {total / 60:.0f} minutes{bound}"

    @contextmanager
    def part(self, name: str) -> Iterator[bool]:
        """Measure a part; what it gives says whether there is time for it."""
        begin_s = self.now_s()
        spent_s = begin_s - self._begin_s
        fits = not self.limit_s or spent_s + self._known.get(name, 0) <= self.limit_s
        if not fits:
            self.left_out.append(name)
        yield fits
        if fits:
            self.durations_s[name] = round(self.now_s() - begin_s, 1)

    def notes(self) -> list[str]:
        """Return what was left out, and why."""
        if not self.left_out or not self.limit_s:
            return []
        over = f"no time was left of {self.limit_s / 60:.0f} minutes"
        return [f"left out: {', '.join(self.left_out)}: {over}; run them by --scenario"]
