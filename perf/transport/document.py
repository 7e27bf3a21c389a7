"""docs/PERFORMANCE.md between its markers, and next to it the drawings and all figures."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perf import machine
from perf.contestant import ROOT

from . import svg
from .cases import ALONE, BAD, BAD_DELAY_S, BAD_LOSS, BESIDE, PAIR

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .cases import Case
    from .results import Course, Line, Results

DOCS = ROOT / "docs"
PAGE = "PERFORMANCE.md"
FOLDER = "performance"
BEGIN, END = "<!-- transport -->", "<!-- /transport -->"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    align = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (head, align, *body)]


def _ratio(value: float | None, base: float) -> str:
    return "-" if value is None else f"{value / base:.2f}"


def _mega(bps: float) -> str:
    return f"{bps / 1e6:.1f}"


def _alone(case: Case, line: Line) -> list[str]:
    (flow,), base = line.flows, case.network.rtt_s
    rates = [rate for (rate,) in line.rounds]
    return [
        line.name,
        _mega(flow.goodput_bps),
        f"{_mega(min(rates))} – {_mega(max(rates))}",
        _ratio(flow.goodput_bps, case.network.rate_bps),
        _ratio(flow.smoothed_s, base),
        _ratio(flow.ping_s, base),
        _ratio(flow.ping_p99_s, base),
        "-" if flow.retransmitted is None else f"{flow.retransmitted:.0f}",
        f"{line.relay['lost']:.0f}",
        f"{line.relay['overflowed']:.0f}",
    ]


ALONE_HEAD = (
    *("flow", "Mbit/s", "of all rounds", "of the link", "smoothed RTT / base", "ping p50 / base"),
    *("ping p99 / base", "sent again", "lost by chance", "queue full"),
)


def _together(line: Line) -> list[str]:
    first, second = (flow.goodput_bps for flow in line.flows)
    return [
        line.name,
        _mega(first),
        _mega(second),
        ", ".join(f"{_mega(one)}:{_mega(other)}" for one, other in line.rounds),
    ]


def _cases(results: Results) -> Iterator[str]:
    for case in (*ALONE, PAIR, BESIDE):
        lines = results.lines[case.key]
        yield from ("", f"### {case.title}", "", f"Asked of Valkyrie: {case.asked}.", "")
        if case in ALONE:
            yield from _table(ALONE_HEAD, [_alone(case, line) for line in lines])
        elif case is PAIR:
            head = ("flows", "first Mbit/s", "second", "rounds", "Jain's index")
            yield from _table(head, [[*_together(line), f"{line.jain:.3f}"] for line in lines])
        else:
            head = ("flow", "its Mbit/s", "kernel CUBIC's", "rounds", "of a fair share")
            yield from _table(head, [[*_together(line), f"{line.share:.2f}"] for line in lines])
        if case.key in results.courses:
            yield from ("", f"![{case.title}]({FOLDER}/{case.key}.svg)")


def _relay(results: Results) -> Iterator[str]:
    yield from ("", "### The relay itself", "")
    body = [
        [row["metric"], f"{row['value']:.4g}", f"{row['baseline']:g}", row["unit"]]
        for row in results.calibration
    ]
    yield from _table(("", "measured", "asked", "unit"), body)
    relays = [line.relay for lines in results.lines.values() for line in lines]
    faults = sum(relay["faults"] for relay in relays)
    late_us = [relay["late_s_mean"] * 1e6 for relay in relays]
    worst_ms = max(relay["late_s_max"] for relay in relays) * 1e3
    late = f"{min(late_us):.0f} to {max(late_us):.0f} µs"
    yield from (
        "",
        f"In the runs above frames left {late} after they were due (means of cases),",
        f"the worst one {worst_ms:.1f} ms; the relay dropped {faults:.0f} of its own accord.",
    )


def section(results: Results, command: str) -> str:
    """Return what stands between the markers."""
    settle, counted = results.seconds["alone"]
    shared = results.seconds["shared"]
    lines = [
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {machine.here()}.",
        f"Medians of {results.rounds} rounds; {counted:g} s each after {settle:g} s that do not",
        f"count, {shared[1]:g} s after {shared[0]:g} s where flows share.",
        f"Load of the machine before the first case {results.load[0]:g}; others may have used it.",
        *(f"Not taken part: {words}." for words in results.missing),
        *(f"Run once more: {words}." for words in results.again),
        *_cases(results),
        *("", f"### {BAD.title}", ""),
        f"The grey third adds {BAD_LOSS:.0%} loss and {BAD_DELAY_S * 1e3:g} ms each way.",
        *("", f"![{BAD.title}]({FOLDER}/{BAD.key}.svg)"),
        *_relay(results),
        *("", f"All figures, and the courses: [{FOLDER}/transport.json]({FOLDER}/transport.json)."),
    ]
    return "\n".join(lines)


def drawing(title: str, courses: Sequence[Course]) -> str:
    """Return throughput and latency over time, one line a flow."""
    panels = [
        svg.Panel("goodput, Mbit/s", [svg.Line(one.name, one.throughput) for one in courses]),
        svg.Panel("round trip beside it, ms", [svg.Line(one.name, one.latency) for one in courses]),
    ]
    end_s = max(at for one in courses for at, _ in one.throughput)
    return svg.chart(title, panels, end_s, courses[0].worse)


def data(results: Results, command: str) -> dict[str, Any]:
    """Return everything for other programs."""
    facts = {"command": command, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    return {**facts, "machine": machine.here(), **asdict(results)}


def write(results: Results, command: str, docs: Path = DOCS) -> None:
    """Replace what stands between the markers of the page, the drawings and the data."""
    folder = docs / FOLDER
    folder.mkdir(exist_ok=True)
    titles = {case.key: case.title for case in (*ALONE, BAD)}
    for key, courses in results.courses.items():
        (folder / f"{key}.svg").write_text(drawing(titles[key], courses), "utf-8")
    words = json.dumps(data(results, command), ensure_ascii=False)
    (folder / "transport.json").write_text(words + "\n", "utf-8")
    page = docs / PAGE
    text = page.read_text("utf-8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    between = f"\n{section(results, command)}\n"
    page.write_text(text[:begin] + between + text[end:], "utf-8")
