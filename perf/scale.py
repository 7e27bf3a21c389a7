"""Cost per message over size and number: where it starts to grow is where something runs out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from .comparison import Rounds, Suite
from .curve import Curve, Line, Point
from .markdown import number
from .match import Run
from .scenario import NODES, Profile, Scenario

GROWTH = 1.25
"""Cost has grown when it is so many times the least at smaller values, there and beyond."""


@dataclass(frozen=True)
class Scale:
    """One question: what is varied, ``size`` or what a shape of Valkyrie's has many of."""

    name: str
    title: str
    place: str
    varied: str
    axis: str
    values: tuple[int, ...]
    contestants: tuple[str, ...]
    size: int = 64
    """Bytes of a message, where that is not what is varied."""

    def at(self, value: int) -> Scenario:
        """Return the scenario at one place of the curve."""
        if self.varied == "size":
            return Scenario(self.name, self.title, self.place, "stream", value)
        return Scenario(self.name, self.title, self.place, self.varied, self.size, count=value)

    def within(self, profile: Profile) -> list[int]:
        """Return what is varied, as far as a profile goes."""
        return [value for value in self.values if self.at(value).count <= profile.count_max]


KIB = 1024
SMALL = (16, 64, 256, KIB, 4 * KIB, 16 * KIB, 65_000)
LARGE = (256 * KIB, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
SCALES = (
    Scale(
        "size",
        "Two hosts, cost a message by its size",
        "network",
        "size",
        "bytes of a message",
        SMALL + LARGE,
        (*NODES, "valkyrie-python-udp", "valkyrie-python-xdp", "tcp-c"),
    ),
    Scale(
        "size-ipc",
        "One host, cost a message by its size",
        "local",
        "size",
        "bytes of a message",
        SMALL,
        ("valkyrie-c-local", "valkyrie-c-local-batch", "valkyrie-python-local", "unix-c"),
    ),
    Scale(
        "open",
        "Two hosts, 64 B on one stream, beside open ones that say nothing",
        "network",
        "beside",
        "open streams",
        (1, 100, 10_000, 50_000, 200_000),
        NODES,
    ),
    Scale(
        "streams",
        "Two hosts, 64 B, each on one of many streams",
        "network",
        "streams",
        "streams",
        (1, 10, 100, 1_000, 4_000, 9_000),
        NODES,
    ),
    Scale(
        "logs",
        "Two hosts, 64 B, each on one of very many streams of logs",
        "network",
        "logs",
        "streams",
        (1, 10, 100, 1_000, 10_000, 50_000, 200_000),
        NODES,
    ),
    Scale(
        "applications",
        "Two hosts, 64 B from many applications to as many",
        "network",
        "applications",
        "applications on each host",
        (1, 2, 4, 8, 16, 32, 63),
        NODES,
    ),
)


@dataclass(frozen=True)
class Growth:
    """Where cost starts to grow: the last value without, the first one with, and what it was."""

    until: float
    beyond: float
    least: float
    """Nanoseconds a message, the least up to ``until``."""


def growth(points: Sequence[tuple[float, float]]) -> Growth | None:
    """Return where the cost of points (value, ns a message), ascending, starts to grow for good."""
    for at in range(1, len(points)):
        least = min(cost for _, cost in points[:at])
        if all(cost > GROWTH * least for _, cost in points[at:]):
            return Growth(points[at - 1][0], points[at][0], least)
    return None


def measure(suite: Suite, scale: Scale, profile: Profile) -> Curve:
    """Let contestants take turns at every value that they can do."""
    values = scale.within(profile)
    runs: dict[str, dict[int, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for repetition in Rounds(max(profile.curve_repetitions, 1), profile.curve_budget_s):
        for value in values:
            scenario = scale.at(value)
            for one in suite.able(scenario, scale.contestants):
                runs[one.name][value].append(suite.play(one, scenario, repetition))
    curve = Curve(scale.name, scale.title, scale.axis, "cost")
    for name, by_value in runs.items():
        points = [Point.of(value, by_value[value]) for value in values if value in by_value]
        curve.lines.append(Line(name, points, remark(points)))
    return curve


def remark(points: Sequence[Point]) -> str:
    """Say where the cost of a message starts to grow."""
    costs = [(point.x, 1e9 / point.rate) for point in points if point.rate]
    if len(costs) < 2:
        return "too few points to say where cost grows"
    found = growth(costs)
    if found is None:
        return (
            f"{number(min(cost for _, cost in costs))} ns a message at the least; it does not grow"
        )
    return (
        f"{number(found.least)} ns a message at the least up to {number(found.until)}; "
        f"from {number(found.beyond)} on it costs more"
    )
