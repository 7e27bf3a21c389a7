"""A report for other programs: CSV with a figure a line, and Prometheus's text format."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from .report import Document

COLUMNS = ("kind", "scenario", "contestant", "x", "metric", "unit", "value", "low", "high")
PLAIN = {
    "lost_share": "share",
    "cpu_ns_per_message": "ns",
    "switches_per_message": "switches",
    "memory_kib": "KiB",
}
"""Figures of a standing that have no quartiles, and their units."""
Figure = tuple[str, str, float | None, float | None, float | None]
"""Metric, unit, value, quartiles or None."""
Where = tuple[str, str, str, float | str]
"""The first columns."""


def _plain(metric: str, unit: str, value: float | None) -> Figure:
    return metric, unit, value, None, None


def _figures(one: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield what a standing or a point of a curve says."""
    for name, unit in (("rate", "1/s"), ("p50_ns", "ns"), ("ratio", "ratio")):
        found = one.get(name)
        if isinstance(found, dict):
            yield name, unit, found["median"], found["low"], found["high"]
        elif found:
            yield name, unit, found, None, None
    for name, value in one["latency_ns"].items():
        yield f"latency_{name}", "ns", value, None, None
    for name, unit in PLAIN.items():
        if name in one:
            yield name, unit, one[name], None, None
    for part, value in one.get("cpu_ns_by_part", {}).items():
        yield f"cpu_ns_per_message_{part}", "ns", value, None, None
    for part, value in one.get("syscalls_by_part", {}).items():
        yield f"syscalls_per_message_{part}", "calls", value, None, None


def _contested(document: Document) -> Iterator[tuple[Where, Figure]]:
    """Yield where and what each contestant's figures are; nothing of what failed."""
    for one in document["standings"]:
        for figure in _figures(one) if one["rate"] else ():
            yield ("standing", one["scenario"], one["contestant"], ""), figure
    for curve in document["curves"]:
        for line in curve["lines"]:
            for point in line["points"]:
                for figure in _figures(point) if point["rate"] else ():
                    yield ("point", curve["name"], line["contestant"], point["x"]), figure
    for one in document["shares"]:
        figure = _plain(f"of {one['against']}", "share", one["share"])
        yield ("share", one["scenario"], one["contestant"], ""), figure


def _alone(document: Document) -> Iterator[tuple[Where, Figure]]:
    """Yield close-ups with their baselines, and what is asked with what was measured."""
    for row in document["rows"]:
        metric, unit = row["metric"], row["unit"]
        words = ("", unit, "value"), (": baseline", unit, "baseline"), (": ratio", "ratio", "ratio")
        for more, its, word in words:
            yield ("close-up", row["scenario"], "", ""), _plain(metric + more, its, row[word])
    for one in document["targets"]:
        for more, word in (("", "measured"), (": asked", "asked")):
            figure = _plain(one["what"] + more, one["unit"], one[word])
            yield ("target", one["group"], "", ""), figure


def csv_text(document: Document) -> str:
    """Return all figures, one a line."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for where, figure in (*_contested(document), *_alone(document)):
        if figure[2] is not None:
            table.writerow([*where, *figure])
    return text.getvalue()


def _labels(**labels: object) -> str:
    def escape(value: object) -> str:
        return str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    inner = ",".join(f'{name}="{escape(value)}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""


def _metric(name: str, help_text: str, samples: Iterable[tuple[str, float]]) -> Iterator[str]:
    lines = [f"valkyrie_bench_{name}{labels} {value!r}" for labels, value in samples]
    if lines:
        yield f"# HELP valkyrie_bench_{name} {help_text}"
        yield f"# TYPE valkyrie_bench_{name} gauge"
        yield from lines


QUARTILES = (("0.25", "low"), ("0.5", "median"), ("0.75", "high"))


def _judgements(document: Document) -> Iterator[str]:
    """Yield close-ups, shares of limits and what became of what is asked."""
    rows = document["rows"]
    close_ups = (
        (_labels(scenario=row["scenario"], metric=row["metric"], unit=row["unit"]), row["value"])
        for row in rows
    )
    ratios = (
        (_labels(scenario=row["scenario"], metric=row["metric"]), row["ratio"])
        for row in rows
        if row["ratio"] is not None
    )
    limits = (
        (
            _labels(scenario=one["scenario"], contestant=one["contestant"], limit=one["against"]),
            one["share"],
        )
        for one in document["shares"]
    )
    targets = (
        (_labels(group=one["group"], target=one["what"]), float(one["verdict"] == "pass"))
        for one in document["targets"]
        if one["verdict"] != "not measured"
    )
    yield from _metric("close_up", "A part of Valkyrie, in the unit that is told.", close_ups)
    yield from _metric("close_up_ratio", "The same over its baseline.", ratios)
    yield from _metric("limit_ratio", "Share of what the machine can do.", limits)
    yield from _metric("target_met", "Whether what is asked was reached: 1, or missed: 0.", targets)


def prometheus(document: Document) -> str:
    """Return all but the curves as gauges; a report is a moment, so nothing counts.

    Standings are in base units; each close-up has a unit of its own, which a label tells.
    """
    good = [one for one in document["standings"] if one["rate"]]

    def where(one: Mapping[str, Any], **more: str) -> str:
        return _labels(scenario=one["scenario"], contestant=one["contestant"], **more)

    def spread(name: str) -> Iterator[tuple[str, float]]:
        for one in good:
            for label, word in QUARTILES if one[name] else ():
                yield where(one, quartile=label), float(one[name][word])

    def plain(name: str, scale: float) -> Iterator[tuple[str, float]]:
        return ((where(one), one[name] * scale) for one in good)

    latencies = (
        (where(one, quantile=f"{float(name[1:]) / 100:.6g}"), value / 1e9)
        for one in good
        for name, value in one["latency_ns"].items()
    )
    by_part = (
        (where(one, part=part), value)
        for one in good
        for part, value in one.get("syscalls_by_part", {}).items()
    )
    machine = document["machine"]
    facts = {word: machine[word] for word in ("revision", "processor", "kernel", "cores")}
    moment = datetime.fromisoformat(document["date"]).timestamp()
    lines = [
        *_metric("info", "What was measured, and where.", [(_labels(**facts), 1)]),
        *_metric("timestamp_seconds", "When the report was made.", [("", moment)]),
        *_metric("messages_per_second", "Messages that arrived.", spread("rate")),
        *_metric("ahead_ratio", "How far Valkyrie is ahead.", spread("ratio")),
        *_metric("latency_seconds", "Latency.", latencies),
        *_metric("lost_ratio", "Share of messages lost.", plain("lost_share", 1)),
        *_metric(
            "cpu_seconds_per_message",
            "Processor time of all parties.",
            plain("cpu_ns_per_message", 1e-9),
        ),
        *_metric(
            "context_switches_per_message",
            "Context switches of all parties.",
            plain("switches_per_message", 1),
        ),
        *_metric("syscalls_per_message", "System calls, by who makes them.", by_part),
        *_metric("resident_bytes", "Memory of both sides.", plain("memory_kib", 1024)),
        *_judgements(document),
        *_metric(
            "missing",
            "Who could not take part.",
            ((_labels(contestant=name), 1) for name in document["missing"]),
        ),
    ]
    return "\n".join(lines) + "\n"
