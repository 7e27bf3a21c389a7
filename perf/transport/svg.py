"""Line charts as SVG: a panel above another over one time axis, readable on light and dark."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log10
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP, BOTTOM = 760, 190, 64, 16, 30, 34, 58
"""Pixels: of the drawing, of a panel's height, and of the space around and between."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette: it is told apart with any eyes."""
INK = "#808080"
TICKS = 5


@dataclass(frozen=True)
class Line:
    """One flow in a panel."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """What is drawn over one vertical axis."""

    title: str
    lines: Sequence[Line]


def _step(span: float) -> float:
    """Return a round distance between ticks."""
    rough = span / TICKS
    power: float = 10.0 ** floor(log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


def _ticks(top: float) -> list[float]:
    step = _step(top)
    return [step * index for index in range(int(top / step + 1e-9) + 1)]


class _Scale:
    """Where a value stands in pixels."""

    def __init__(self, end_x: float, top_y: float, offset: float) -> None:
        self._x = (WIDTH - LEFT - RIGHT) / end_x
        self._y = PANEL / top_y
        self._base = offset + PANEL

    def x(self, value: float) -> float:
        return round(LEFT + value * self._x, 1)

    def y(self, value: float) -> float:
        return round(self._base - value * self._y, 1)


def _label(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{INK}">{escape(words)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1} {y1}L{x2} {y2}" stroke="{INK}" stroke-opacity="0.3"/>'


def _panel(
    panel: Panel, offset: float, end_x: float, shade: tuple[float, float] | None
) -> list[str]:
    top_y = 1.05 * max((y for line in panel.lines for _, y in line.points), default=1) or 1
    scale = _Scale(end_x, top_y, offset)
    parts = [_label(LEFT, offset - 8, panel.title, "start")]
    if shade is not None:
        left, right = (scale.x(edge) for edge in shade)
        parts.append(
            f'<rect x="{left}" y="{offset}" width="{right - left:.1f}" height="{PANEL}"'
            f' fill="{INK}" fill-opacity="0.15"/>'
        )
    for tick in _ticks(top_y):
        y = scale.y(tick)
        parts += [_rule(LEFT, y, WIDTH - RIGHT, y), _label(LEFT - 6, y + 4, f"{tick:g}", "end")]
    for line, colour in zip(panel.lines, COLOURS, strict=False):
        points = " ".join(f"{scale.x(x)},{scale.y(y)}" for x, y in line.points if x <= end_x)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        )
    return parts


def chart(
    title: str, panels: Sequence[Panel], end_s: float, shade: tuple[float, float] | None = None
) -> str:
    """Return a drawing of the panels over 0 to *end_s* seconds; *shade*: an interval marked."""
    height = TOP + len(panels) * (PANEL + GAP) + BOTTOM
    size = f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        f"<title>{escape(title)}</title>",
    ]
    offset = float(TOP)
    for panel in panels:
        parts += _panel(panel, offset, end_s, shade)
        offset += PANEL + GAP
    axis = offset - GAP
    scale = _Scale(end_s, 1, axis - PANEL)
    parts += [_label(scale.x(tick), axis + 16, f"{tick:g} s") for tick in _ticks(end_s)]
    x = float(LEFT)
    for line, colour in zip(panels[0].lines, COLOURS, strict=False):
        y = height - 14
        parts.append(f'<path d="M{x} {y - 4}h18" stroke="{colour}" stroke-width="3"/>')
        parts.append(_label(x + 24, y, line.name, "start"))
        x += 40 + 6.6 * len(line.name)
    return "\n".join([*parts, "</svg>", ""])
