"""A report's curves, for people: plots and a table of all points."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from .markdown import number
from .report import Document
from .scale import GROWTH, growth
from .svg import Axis, Curve, plot

HOW = {
    "latency": "Messages are due at fixed times, and latency counts from then: what waits behind "
    "a slow message is late, however late its sender comes to send it. The last points ask for "
    "more than the closed loop carried.",
    "cost": "The time a message takes is that of the slowest on its way, one divided by the rate."
    f" Cost has grown when it is more than {GROWTH} times the least before, for good: "
    "a ring marks the first point where it has.",
}
DRAWN = {
    "latency": (
        ("p50", "median", "µs"),
        ("p99", "99th percentile", "µs"),
        ("p99.9", "99.9th percentile", "µs"),
    ),
    "cost": (("time", "time a message", "ns"), ("CPU", "CPU a message, all together", "ns")),
}
"""Figure of a curve -> what of its points is drawn, each in a plot of its own."""


def _value(point: dict[str, Any], word: str) -> float:
    """Return a latency in microseconds or a cost in nanoseconds, 0 if there is none."""
    if word == "time":
        return 1e9 / point["rate"] if point["rate"] else 0.0
    if word == "CPU":
        return float(point["cpu_ns_per_message"])
    return float(point["latency_ns"].get(word, 0)) / 1e3


def _mark(line: dict[str, Any]) -> float | None:
    """Return where the cost of a message starts to grow."""
    costs = [(point["x"], _value(point, "time")) for point in line["points"] if point["rate"]]
    found = growth(costs)
    return found.beyond if found else None


def html(document: Document, curve: dict[str, Any]) -> Iterator[str]:
    """Yield heading, plots, what the lines show, and all points."""
    known = {one["name"]: one for one in document["contestants"]}
    yield f"<h2>{escape(curve['title'])}</h2><p>{escape(HOW[curve['figure']])}</p>"
    for word, name, unit in DRAWN[curve["figure"]]:
        lines = [
            Curve(
                known[line["contestant"]]["title"],
                [(point["x"], _value(point, word)) for point in line["points"]],
                known[line["contestant"]]["ours"],
                _mark(line) if word == "time" else None,
            )
            for line in curve["lines"]
        ]
        if drawn := plot(lines, curve["title"], Axis(curve["axis"]), Axis(name, unit)):
            yield drawn
    yield "<ul>"
    for line in curve["lines"]:
        title = known[line["contestant"]]["title"]
        yield f"<li>{escape(title)}: {escape(line['remark'])}</li>"
    yield "</ul><details><summary>all points</summary><table>"
    yield "<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in HEAD) + "</tr>"
    for cells in _rows(document, curve):
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    yield "</table></details>"


HEAD = ("", "at", "arrived", "p50", "p99", "p99.9", "lost", "CPU a message", "remarks")


def _rows(document: Document, curve: dict[str, Any]) -> Iterator[list[str]]:
    known = {one["name"]: one for one in document["contestants"]}
    for line in curve["lines"]:
        for point in line["points"]:
            times = [_value(point, word) for word in ("p50", "p99", "p99.9")]
            lost = f"{point['lost_share']:.1%}" if point["lost_share"] else "-"
            noisy = "others used the machine" if point["noisy"] else ""
            yield [
                known[line["contestant"]]["title"],
                number(point["x"]),
                f"{number(point['rate'])}/s",
                *(f"{number(time)} µs" if time else "-" for time in times),
                lost,
                f"{number(point['cpu_ns_per_message'])} ns",
                "; ".join(filter(None, (point["error"], noisy))),
            ]


def markdown(document: Document, curve: dict[str, Any]) -> Iterator[str]:
    """Yield heading and table."""
    yield from ("", f"### {curve['title']}", "", f"At: {curve['axis']}.", "")
    for line in curve["lines"]:
        title = next(
            one["title"] for one in document["contestants"] if one["name"] == line["contestant"]
        )
        yield f"- {title}: {line['remark']}"
    yield ""
    yield f"| {' | '.join(HEAD)} |"
    yield "|---|" + "---:|" * 7 + "---|"
    for cells in _rows(document, curve):
        yield f"| {' | '.join(cells)} |"
