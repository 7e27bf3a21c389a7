"""Alarms: what has grown too much in a window. Sans-IO; time is an argument, memory is bounded.

    engine.count(rule, subject, growth, now_ns)   something grew
    engine.advance(now_ns)                        what is raised now, and what is over

A window is cut into SLICES: what counts is the growth of the last window and of at most one slice
before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SLICES = 10
SUBJECTS_MAX = 1024
"""Of a rule; those there is no room for are counted together."""
OTHERS = "(others)"


@dataclass(frozen=True, slots=True)
class Limit:
    """How much growth in how long raises an alarm, which lasts ``hold_ns`` at least."""

    name: str
    count: int
    window_ns: int
    hold_ns: int


@dataclass(frozen=True, slots=True)
class Raised:
    """Event: the limit was reached."""

    rule: int
    subject: str
    seen: int


@dataclass(frozen=True, slots=True)
class Over:
    """Event: it has been below half of the limit for a window."""

    rule: int
    subject: str


Event = Raised | Over


@dataclass(slots=True)
class _Track:
    slices: list[int] = field(default_factory=lambda: [0] * (SLICES + 1))
    """Growth by slice; the last is the present one."""
    slice: int = 0
    """Number of the present slice, since time 0."""
    raised_ns: int | None = None
    hot: int = 0
    """The last slice in which half of the limit was seen."""

    def turn(self, now: int) -> None:
        """Make slice ``now`` the present one."""
        passed = max(0, now - self.slice)
        self.slice = max(self.slice, now)
        kept = self.slices[min(passed, SLICES + 1) :]
        self.slices = kept + [0] * (SLICES + 1 - len(kept))

    @property
    def seen(self) -> int:
        return sum(self.slices)


class Engine:
    """All rules, and what they have seen."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self._limits = list(limits)
        self._tracks: list[dict[str, _Track]] = [{} for _ in self._limits]

    def count(self, rule: int, subject: str, growth: int, now_ns: int) -> None:
        """Something of a subject grew."""
        if growth <= 0:
            return
        tracks = self._tracks[rule]
        if subject not in tracks and len(tracks) >= SUBJECTS_MAX:
            subject = OTHERS
        now = self._slice(rule, now_ns)
        track = tracks.get(subject)
        if track is None:
            track = tracks[subject] = _Track(slice=now)
        track.turn(now)
        track.slices[-1] += growth

    def _slice(self, rule: int, now_ns: int) -> int:
        return now_ns * SLICES // self._limits[rule].window_ns

    def advance(self, now_ns: int) -> list[Event]:
        """Return what has been raised and what is over, since the last time."""
        events: list[Event] = []
        for rule, limit in enumerate(self._limits):
            now = self._slice(rule, now_ns)
            for subject, track in list(self._tracks[rule].items()):
                track.turn(now)
                if 2 * track.seen >= limit.count:
                    track.hot = now
                if track.raised_ns is None:
                    if track.seen >= limit.count:
                        track.raised_ns = now_ns
                        events.append(Raised(rule, subject, track.seen))
                    elif track.seen == 0:
                        del self._tracks[rule][subject]
                elif now_ns - track.raised_ns >= limit.hold_ns and now - track.hot >= SLICES:
                    track.raised_ns = None
                    events.append(Over(rule, subject))
        return events

    def raised(self) -> list[tuple[int, str]]:
        """Return the rules and subjects that have an alarm."""
        return [
            (rule, subject)
            for rule, tracks in enumerate(self._tracks)
            for subject, track in tracks.items()
            if track.raised_ns is not None
        ]

    def size(self) -> int:
        """Return how many subjects are remembered."""
        return sum(map(len, self._tracks))


class Totals:
    """Turns counters that only grow into growth; what was there before the first look is none."""

    def __init__(self) -> None:
        self._seen: dict[int, dict[str, int]] = {}

    def growth(self, rule: int, totals: Mapping[str, int]) -> list[tuple[str, int]]:
        """Return by how much a rule's counters have grown; one that shrank has begun anew.

        Subjects that are not among them any more are forgotten.
        """
        seen = self._seen.get(rule, {})
        found = [(subject, total - seen.get(subject, total)) for subject, total in totals.items()]
        self._seen[rule] = dict(totals)
        return [(each, totals[each] if growth < 0 else growth) for each, growth in found]
