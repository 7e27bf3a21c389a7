"""Latency against offered load: what a message waits when so many are due a second.

Each contestant first tells what it carries as fast as it goes (closed loop); then messages are due
at fixed times at shares of that, also more than it carries. Latency counts from the time a message
was due, so what waits behind a slow one is late, however late the sender comes to send it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .comparison import Rounds, Suite
from .contestant import Contestant
from .curve import Curve, Line, Point
from .markdown import number
from .match import Run
from .scenario import Profile, Scenario

KEPT_UP = 0.98
"""A sender is behind when less than this share of what was due arrived in the time."""


@dataclass(frozen=True)
class Sweep:
    """One question about load."""

    name: str
    title: str
    place: str
    size: int
    shares: tuple[float, ...]
    """Of what the closed loop carried."""
    contestants: tuple[str, ...]

    def closed(self) -> Scenario:
        """Return the scenario that finds out what is carried."""
        return Scenario(self.name, self.title, self.place, "stream", self.size)


SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2)
SWEEPS = (
    Sweep(
        "load-64",
        "Two hosts, 64 B, latency against offered load",
        "network",
        64,
        SHARES,
        (
            *("valkyrie-c-udp", "valkyrie-c-xdp", "valkyrie-python-udp"),
            *("udp-c", "tcp-c", "zeromq-c-tcp", "grpc-plain-python"),
        ),
    ),
    Sweep(
        "load-1k",
        "Two hosts, 1 KiB, latency against offered load",
        "network",
        1024,
        SHARES,
        ("valkyrie-c-udp", "valkyrie-c-xdp", "udp-c", "zeromq-c-tcp", "grpc-plain-python"),
    ),
    Sweep(
        "load-ipc",
        "One host, 64 B, latency against offered load",
        "local",
        64,
        SHARES,
        ("valkyrie-c-local", "valkyrie-python-local", "unix-c", "zeromq-c-ipc", "grpc-uds-python"),
    ),
)


def measure(suite: Suite, sweep: Sweep, profile: Profile) -> Curve:
    """Let contestants sweep in turn; every repetition finds anew what is carried."""
    found: dict[str, list[list[Run]]] = defaultdict(list)
    able = suite.able(sweep.closed(), sweep.contestants)
    for repetition in Rounds(max(profile.curve_repetitions, 1), profile.curve_budget_s):
        turn = repetition % max(len(able), 1)
        for one in able[turn:] + able[:turn]:
            found[one.name].append(_climb(suite, one, sweep, repetition))
    curve = Curve(sweep.name, sweep.title, "messages offered a second", "latency")
    curve.lines = [_line(name, found[name]) for name in found]
    return curve


def _climb(suite: Suite, one: Contestant, sweep: Sweep, repetition: int) -> list[Run]:
    """Return the closed loop's run and, unless that failed, one for each share of it."""
    runs = [suite.play(one, sweep.closed(), repetition)]
    carried = 0.0 if runs[0].error else runs[0].rate
    for share in sweep.shares if carried else ():
        at = Scenario(sweep.name, sweep.title, sweep.place, "open", sweep.size, carried * share)
        runs.append(suite.play(one, at, repetition))
    return runs


def _line(name: str, climbs: Sequence[Sequence[Run]]) -> Line:
    """Return the points of one contestant, one a share; its climbs differ in what was offered."""
    whole = [climb for climb in climbs if len(climb) > 1]
    if not whole:
        return Line(name, remark=f"failed: {climbs[0][0].error}")
    points = [
        Point.of(median(run.offered for run in runs), runs)
        for runs in zip(*(climb[1:] for climb in whole), strict=True)
    ]
    carried = median(climb[0].rate for climb in whole)
    kept = [point.x for point in points if kept_up(point)]
    most = f"{max(kept) / carried:.0%} of it" if kept else "none of the loads"
    return Line(name, points, f"closed loop {number(carried)}/s; kept up with {most}")


def kept_up(point: Point) -> bool:
    """Say whether all that was due arrived, in the time in which it was due."""
    return not point.error and point.rate >= KEPT_UP * point.x and not point.lost_share
