"""The table of ``valkyrie top``."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .client import plain

_CLASS_COLUMNS = (
    ("rx_frames", "frames in/s"),
    ("rx_delivered", "delivered/s"),
    ("rx_delivered_bytes", "bytes in/s"),
    ("rx_gaps", "gaps/s"),
    ("tx_messages", "sent/s"),
    ("tx_bytes", "bytes out/s"),
)
_APP_COLUMNS = (
    ("delivered", "delivered/s"),
    ("dropped", "ring full/s"),
    ("sent", "sent/s"),
    ("sent_bytes", "bytes out/s"),
    ("refused", "refused/s"),
)


def render(view: dict[str, Any]) -> RenderableType:
    """Return the screen of one view (see ``counters.view``)."""
    state = "up" if view["up"] else "DOWN: these are its last counters"
    modes = ", ".join(
        f"{each['interface']} {each['rx']}/{each['tx']}" for each in view["interfaces"]
    )
    head = Text(f"node {plain(view['node'])}: {state}   {plain(modes)}", style="bold")
    parts: list[RenderableType] = [head, _classes(view["classes"])]
    if view["applications"]:
        parts.append(_applications(view["applications"]))
    if view["sessions"]:
        parts.append(_sessions(view["sessions"]))
    if view["drops"]:
        parts.append(_drops(view["drops"]))
    return Group(*parts)


def _table(*heads: str, words: int) -> Table:
    """Return an empty table whose first ``words`` columns are text, the others numbers."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i < words else "right", no_wrap=True)
    return table


def _classes(classes: dict[str, dict[str, float]]) -> Table:
    table = _table("class", *(title for _, title in _CLASS_COLUMNS), words=1)
    for klass, rates in classes.items():
        table.add_row(klass, *(short(rates[name]) for name, _ in _CLASS_COLUMNS))
    return table


def _applications(applications: list[dict[str, Any]]) -> Table:
    heads = ("application", "uid", "class", *(title for _, title in _APP_COLUMNS), "ring fill")
    table = _table(*heads, words=3)
    for app in applications:
        for klass, rates in (app["per_second"] or {"-": {}}).items():
            fill = app["fill"].get(klass, "") if isinstance(app["fill"], dict) else ""
            name = Text(plain(app["name"]) or f"slot {app['slot']}")
            cells = (short(rates.get(field, 0.0)) for field, _ in _APP_COLUMNS)
            table.add_row(name, str(app["uid"]), klass, *cells, _fill(fill))
    return table


def _sessions(sessions: list[dict[str, Any]]) -> Table:
    heads = ("rtt µs", "least", "window", "in flight", "packets/s", "lost/s", "window-limited")
    table = _table("session", "controller", *heads, "credit-limited", words=2)
    for row in sessions:
        least = f"{row['rtt_min_ns'] / 1000:.0f}" if "rtt_min_ns" in row else "-"
        table.add_row(
            row["peer"],
            row["controller"],
            f"{row['rtt_ns'] / 1000:.0f}",
            least,
            short(row["window"]),
            short(row["in_flight"]),
            short(row["per_second"]["sent"]),
            short(row["per_second"]["lost"]),
            f"{row['share']['window']:.0%}",
            f"{row['share']['credit']:.0%}",
        )
    return table


def _fill(fill: Any) -> str:
    if isinstance(fill, dict):
        return " ".join(f"{key} {value:.0%}" for key, value in fill.items())
    return f"{fill:.0%}" if isinstance(fill, int | float) else ""


def _drops(drops: list[dict[str, Any]]) -> Table:
    table = _table("dropped by", "class", "reason", "per second", "so far", words=3)
    for row in drops:
        cells = (row["where"], row["class"], row["reason"])
        table.add_row(*map(plain, cells), short(row["per_second"]), str(row["total"]))
    return table


def short(value: float) -> str:
    """Return a rate in at most six characters."""
    for unit in ("", "k", "M", "G"):
        if abs(value) < 1000:
            return f"{value:.0f}{unit}" if not unit or value >= 100 else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}T"
