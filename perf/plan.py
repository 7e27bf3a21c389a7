"""How long a run takes: said before it begins, and kept."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from .contestant import Contestant
from .load import Sweep
from .noise import stolen_s
from .scale import Scale
from .scenario import Profile, Scenario

START_S = 0.45
"""Of a run, beside what it measures: two sides start, most of them in Python, and end."""
BEHIND = 1.4
"""Runs of a load sweep take so much longer: a sender that is behind finishes late."""
OPENED_S, ATTACHED_S = 0.0001, 0.04
"""To open one of many streams, to start one of many applications."""
ARENA_S = 3.0
"""Hosts and nodes of the contestants, made once; a share for every scenario."""
CLOSE_UP_S = {
    "limits": (5, 41),
    "classifier": (3, 42),
    "rings": (5, 28),
    "receive": (10, 98),
    "flood": (12, 88),
    "dpdk": (15, 85),
    "bare": (45, 115),
    "queues": (15, 76),
    "relay": (6, 20),
    "transport": (330, 1_320),
    "sessions": (35, 217),
    "isolation": (25, 120),
    "single": (10, 20),
    "joining": (3, 15),
    "handshakes": (8, 60),
}
"""Seconds of close-ups, short and long, as they took on two cores."""
STOLEN_MAX = 0.05
"""Of a part's time: more than that taken by the machine's host is told."""


def _runs_s(profile: Profile, count: int) -> float:
    return count * (profile.warm_s + profile.run_s + START_S)


def _scale_s(scale: Scale, profile: Profile, contestants: int) -> float:
    values = scale.within(profile)
    each_s = {"size": 0.0, "applications": ATTACHED_S}.get(scale.varied, OPENED_S)
    return contestants * (_runs_s(profile, len(values)) + sum(values) * each_s)


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
            once = BEHIND * _runs_s(profile, len(names) * (len(what.shares) + 1))
        else:
            once = _scale_s(what, profile, len(names))
    return ARENA_S + (once if once > (budget_s or once) else min(times * once, budget_s or 1e9))


@dataclass
class Plan:
    """The parts of a run, in their order, and when it is to be over."""

    parts: list[tuple[str, float]]
    """Name and about how many seconds."""
    limit_s: float | None
    """No part begins that would end after so long, as far as is known."""
    now_s: Callable[[], float] = time.monotonic
    stolen_s: Callable[[], float] = stolen_s
    """How long the machine's host has kept the processor to itself."""
    durations_s: dict[str, float] = field(default_factory=dict)
    """Of the parts that were run."""
    failed: dict[str, str] = field(default_factory=dict)
    """Parts that gave nothing, and why."""
    left_out: list[str] = field(default_factory=list)
    ended: str = ""
    """The part in which somebody ended the run."""
    stolen: dict[str, float] = field(default_factory=dict)
    """Of a part's time the share that the machine's host took, where it is much."""

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
    def part(self, name: str, title: str = "") -> Iterator[bool]:
        """Measure a part; what it gives says whether there is time for it.

        One that fails is told, and takes no figures of others with it. Behind one that somebody
        ends none fits.
        """
        begin_s, stolen_s = self.now_s(), self.stolen_s()
        spent_s = begin_s - self._begin_s
        late = self.limit_s and spent_s + self._known.get(name, 0) > self.limit_s
        fits = not late and not self.ended
        if not fits:
            self.left_out.append(name)
        if fits and title:
            print(f"\n{title}", flush=True)
        try:
            yield fits
        except SystemExit:
            self.ended = name
        except Exception as error:  # whatever it was, the other parts are good
            traceback.print_exc()
            self.failed[name] = str(error) or type(error).__name__
        if fits:
            spent_s = self.now_s() - begin_s
            self.durations_s[name] = round(spent_s, 1)
            stolen_s = self.stolen_s() - stolen_s
            if stolen_s > STOLEN_MAX * spent_s:
                self.stolen[name] = stolen_s / max(spent_s, stolen_s)

    def notes(self) -> list[str]:
        """Return what was left out and why, and what the machine's host did to the rest."""
        found = [f"failed: {name}: {why}" for name, why in self.failed.items()]
        if self.ended:
            found.append(f"ended by somebody during {self.ended}, which may lack figures")
        if self.left_out:
            over = f"no time was left of {(self.limit_s or 0) / 60:.0f} minutes"
            why = "the run was ended before" if self.ended else over
            found.append(f"left out: {', '.join(self.left_out)}: {why}; run them by --scenario")
        if self.stolen:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in self.stolen.items())
            found.append(f"of the processors' time the host of this machine took: {shares}")
        return found
