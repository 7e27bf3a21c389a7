"""Plots as SVG text: bars, and curves of percentiles. No script, no font of our own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape

WIDTH = 860
BAR = 22
LETTER = 7.5
"""Room for a letter of a label, which may be bold; fonts differ."""
GAP = 8
KEY = 34
"""From a plot to the names of its lines, with a piece of each."""
COLOURS = ("#0b6e4f", "#b5432a", "#2b5c8a", "#8a6d1f", "#6b3f87", "#3a7d7c", "#a1456e", "#5a5a5a")
DASHES = ("", ' stroke-dasharray="5 3"', ' stroke-dasharray="1 3"')
Place = Callable[[float], float]
"""Where a value lies along an axis."""
NINES = (50.0, 90.0, 99.0, 99.9, 99.99)


@dataclass(frozen=True)
class Bar:
    """One line of a bar chart."""

    label: str
    value: float
    low: float
    high: float
    note: str
    ours: bool = False


@dataclass(frozen=True)
class Curve:
    """One line of a plot; of percentiles the points are (percent, microseconds)."""

    label: str
    points: Sequence[tuple[float, float]]
    ours: bool = False
    mark: float | None = None
    """Where along the axis something begins: the point there gets a ring."""


def bars(items: Sequence[Bar], title: str) -> str:
    """Return horizontal bars from zero, with whiskers from low to high; of nothing only a note."""
    most = max((bar.high for bar in items), default=0) or 1
    left = _room((bar.label for bar in items), GAP)
    room = WIDTH - left - _room((bar.note for bar in items), 2 * GAP)
    height = BAR * len(items) + 8
    lines = [_open(height, title)]
    for index, bar in enumerate(items):
        y = 4 + index * BAR
        length = max(bar.value / most * room, 1) if bar.value else 0
        colour = COLOURS[0] if bar.ours else "#9aa5ab"
        weight = ' font-weight="bold"' if bar.ours else ""
        low, high = (left + value / most * room for value in (bar.low, bar.high))
        at, name, note = max(left + length, high) + GAP, escape(bar.label), escape(bar.note)
        size = f'width="{length:.1f}" height="{BAR - 6}"'
        lines += [
            f'<text x="{left - GAP:.1f}" y="{y + 15}" text-anchor="end"{weight}>{name}</text>',
            f'<rect x="{left:.1f}" y="{y + 3}" {size} fill="{colour}"/>',
            f'<path d="M{low:.1f} {y + BAR / 2}H{high:.1f}" stroke="#222"/>',
            f'<text x="{at:.1f}" y="{y + 15}">{note}</text>',
        ]
    return "\n".join([*lines, "</svg>"])


def _room(labels: Iterable[str], beside: float) -> float:
    """Return how wide the longest of *labels* is, with what stands beside it."""
    return max(map(len, labels), default=0) * LETTER + beside


def _right(items: Sequence[Curve]) -> float:
    """Return where a plot ends and the names of its lines begin."""
    return WIDTH - _room((item.label for item in items), KEY)


def curves(items: Sequence[Curve], title: str) -> str:
    """Return percentile curves: nines to the right, logarithm of the time upward."""
    times = [time for curve in items for _, time in curve.points if time > 0]
    if not times:
        return ""
    low = math.floor(math.log10(min(times)))
    high = max(math.ceil(math.log10(max(times))), low + 1)
    left, top, height = 70, 10, 300
    right, bottom = _right(items), height - 40

    def x(percent: float) -> float:
        return left + (right - left) * -math.log10(1 - percent / 100) / 4.2

    def y(time: float) -> float:
        share = (math.log10(max(time, 10**low)) - low) / (high - low)
        return bottom - (bottom - top) * share

    lines = [_open(max(height, 16 * len(items) + 40), title)]
    for power in range(low, high + 1):
        at = y(10**power)
        lines.append(f'<path d="M{left} {at:.1f}H{right:.1f}" stroke="#ddd"/>')
        lines.append(
            f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{10**power:g} µs</text>'
        )
    for percent in NINES:
        at = x(percent)
        lines.append(f'<path d="M{at:.1f} {top}V{bottom}" stroke="#eee"/>')
        lines.append(
            f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{percent:g}</text>'
        )
    middle = (left + right) / 2
    lines.append(f'<text x="{middle:.1f}" y="{bottom + 34}" text-anchor="middle">percentile</text>')
    lines += _lines(items, x, y, right)
    return "\n".join([*lines, "</svg>"])


def _lines(items: Sequence[Curve], x: Place, y: Place, right: float) -> Iterator[str]:
    for index, curve in enumerate(items):
        colour = COLOURS[index % len(COLOURS)]
        dash = DASHES[index // len(COLOURS) % len(DASHES)]
        path = " ".join(f"{x(percent):.1f},{y(time):.1f}" for percent, time in curve.points)
        width = 2.6 if curve.ours else 1.3
        stroke = f'stroke="{colour}" stroke-width="{width}"{dash}'
        yield f'<polyline points="{path}" fill="none" {stroke}/>'
        for across, upward in curve.points:
            if across == curve.mark:
                place = f'cx="{x(across):.1f}" cy="{y(upward):.1f}"'
                yield f'<circle {place} r="5" fill="#fff" {stroke}/>'
        at = 22 + index * 16
        yield f'<path d="M{right + 10:.1f} {at - 4}h18" {stroke}/>'
        weight = ' font-weight="bold"' if curve.ours else ""
        yield f'<text x="{right + KEY:.1f}" y="{at}"{weight}>{escape(curve.label)}</text>'


def _open(height: float, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
        f"<title>{escape(title)}</title>"
    )


@dataclass(frozen=True)
class Axis:
    """One axis of a plot, logarithmic."""

    title: str
    unit: str = ""


SECONDS = {"ns": 1e-9, "µs": 1e-6}


def _short(value: float, unit: str = "") -> str:
    """Return a power of ten as axes have it; of times in the unit that suits it."""
    if unit in SECONDS:
        time_s = value * SECONDS[unit]
        for least, word in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (0.0, "ns")):
            if time_s >= least * 0.999:
                return f"{time_s / (least or 1e-9):.3g} {word}"
    for most, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= most:
            return f"{value / most:g} {word}{unit}"
    return f"{value:g} {unit}".rstrip()


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low = math.floor(math.log10(min(values)))
    return low, max(math.ceil(math.log10(max(values))), low + 1)


def plot(items: Sequence[Curve], title: str, across: Axis, upward: Axis) -> str:
    """Return lines over two logarithmic axes; what is not above zero is left out."""
    kept = [
        replace(item, points=[(x, y) for x, y in item.points if x > 0 and y > 0]) for item in items
    ]
    kept = [item for item in kept if item.points]
    if not kept:
        return ""
    first, last = _decades([x for item in kept for x, _ in item.points])
    low, high = _decades([y for item in kept for _, y in item.points])
    left, top, height = 90, 10, 320
    right, bottom = _right(kept), height - 40

    def x(value: float) -> float:
        return left + (right - left) * (math.log10(value) - first) / (last - first)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (math.log10(value) - low) / (high - low)

    lines = [_open(max(height, 16 * len(kept) + 40), title)]
    for power in range(low, high + 1):
        at = y(10**power)
        text = _short(10**power, upward.unit)
        lines.append(f'<path d="M{left} {at:.1f}H{right:.1f}" stroke="#ddd"/>')
        lines.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    for power in range(first, last + 1):
        at, text = x(10**power), _short(10**power, across.unit)
        lines.append(f'<path d="M{at:.1f} {top}V{bottom}" stroke="#eee"/>')
        lines.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    name = f"{escape(upward.title)} over {escape(across.title)}"
    middle = (left + right) / 2
    lines.append(f'<text x="{middle:.1f}" y="{bottom + 34}" text-anchor="middle">{name}</text>')
    lines += _lines(kept, x, y, right)
    return "\n".join([*lines, "</svg>"])
