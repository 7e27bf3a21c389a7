"""A report as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from . import behind, charts, machine, markdown
from .histogram import Histogram
from .report import Document, main_figure, of_scenario
from .svg import Bar, Curve, bars, curves

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2em auto; padding: 0 1em;
       color: #1c2326; background: #fff }
h1 { font-size: 1.6em } h2 { font-size: 1.15em; margin-top: 2.2em }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: #1c2326 }
table { border-collapse: collapse; width: 100%; font-size: 13px }
th, td { padding: 3px 8px; border-bottom: 1px solid #e3e7e9; text-align: right;
         vertical-align: top }
th:first-child, td:first-child, td.text { text-align: left }
tr.ours td { font-weight: 600 } tr.pass td:nth-child(4) { color: #0b6e4f }
tr.miss td:nth-child(3), tr.miss td:nth-child(4) { color: #a33b1f; font-weight: 600 }
tr.not td { color: #77838a } tr.pass td:last-child, tr.miss td:last-child,
tr.not td:last-child { text-align: left } details { overflow-x: auto }
.absent { color: #77838a; font-size: 13px }
h3 { font-size: 1em; margin: 1.2em 0 .3em }
.doubt { color: #a33b1f } details { margin: .6em 0 }
.facts td { text-align: left }
"""
PERCENTS = (0, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99)
HOW = """Contestants take turns; every figure is the median over the repetitions, whiskers and
brackets are the quartiles. A ratio is taken run by run, each run of a contestant against the run of
the same repetition of the Valkyrie contestant most like it (same language, batching alike); above 1
Valkyrie is ahead, below 1 it is behind. Messages are counted at the receiver, contents are checked.
CPU is that of both applications and of every daemon or broker in between."""


def table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """Yield a table; each row is its class and its cells."""
    yield "<table><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"
    for kind, cells in rows:
        inner = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        yield f'<tr class="{kind}">{inner}</tr>'
    yield "</table>"


def _bar(one: dict[str, Any], scenario: dict[str, Any], known: dict[str, Any]) -> Bar:
    figure = main_figure(one, scenario)
    if figure is None:
        return Bar(known["title"], 0, 0, 0, "failed", known["ours"])
    scale = 1 if scenario["figure"] == "rate" else 1e-3
    notes = [markdown.figure(one, scenario)]
    if one["ratio"] and one["reference"] != one["contestant"]:
        notes.append(f"× {one['ratio']['median']:.2f}")
    if one["lost_share"] >= 0.0005:
        notes.append(f"{one['lost_share']:.1%} lost")
    if one["noisy"]:
        notes.append("noisy")
    median, low, high = (figure[word] * scale for word in ("median", "low", "high"))
    return Bar(known["title"], median, low, high, ", ".join(notes), known["ours"])


def _curve(one: dict[str, Any], known: dict[str, Any]) -> Curve | None:
    histogram = Histogram.loads(one["histogram"])
    if not histogram.total:
        return None
    least = 100 - 100 / histogram.total  # more nines than that were not measured
    percents = [percent for percent in PERCENTS if percent <= least]
    points = [(percent, histogram.percentile(percent) / 1e3) for percent in percents]
    return Curve(known["title"], points, known["ours"])


def _scenario(document: Document, scenario: dict[str, Any]) -> Iterator[str]:
    known = {one["name"]: one for one in document["contestants"]}
    found = of_scenario(document, scenario["name"])
    yield f"<h2>{escape(scenario['title'])}</h2>"
    if not any(known[one["contestant"]]["ours"] for one in found):
        yield "<p>Valkyrie does not offer this.</p>"
    yield bars([_bar(one, scenario, known[one["contestant"]]) for one in found], scenario["title"])
    lines = [_curve(one, known[one["contestant"]]) for one in found]
    if shown := [line for line in lines if line]:
        yield curves(shown, f"{scenario['title']}: latency percentiles")
    rows = []
    for one in found:
        kind = "ours" if known[one["contestant"]]["ours"] else ""
        p99 = one["latency_ns"].get("p99")
        rows.append(
            (
                kind,
                [
                    known[one["contestant"]]["title"],
                    markdown.figure(one, scenario),
                    f"{markdown.number(p99 / 1e3)} µs" if p99 else "-",
                    markdown.loss(one),
                    f"{markdown.number(one['cpu_ns_per_message'])} ns",
                    markdown.parts(one),
                    f"{one['switches_per_message']:.2f}",
                    markdown.calls(one),
                    f"{one['memory_kib'] / 1024:,.0f} MiB",
                    markdown.ratio(one),
                    markdown.remark(one),
                ],
            )
        )
    yield "<details><summary>all figures</summary>"
    words = ("", "figure", "p99", "lost", "CPU a message", "of that", "switches", "syscalls")
    yield from table([*words, "memory of both sides", "Valkyrie ahead by", "remarks"], rows)
    yield "</details>"


def _asked(document: Document) -> Iterator[str]:
    """Yield what is asked, with what was found: of each group a table."""
    targets = document["targets"]
    counts = {word: sum(one["verdict"] == word for one in targets) for word in ("pass", "miss")}
    yield "<h2>What is asked, and what was found</h2>"
    yield f"<p>{counts['pass']} passed, {counts['miss']} missed, the others not in this run.</p>"
    for group, lines, absent in markdown.groups(document):
        yield f"<h3>{escape(group)}</h3>"
        if lines:
            rows = [(one["verdict"].split()[0], markdown.cells_of(one)) for one in lines]
            yield from table(markdown.ASKED_HEAD, rows)
        if absent:
            yield f'<p class="absent">Not in this run: {escape("; ".join(absent))}.</p>'


def _durations(document: Document) -> Iterator[str]:
    """Yield how long the parts of the run took."""
    if found := document["durations_s"]:
        total = sum(found.values())
        each = ", ".join(f"{name} {spent:.0f}" for name, spent in found.items())
        yield f"<p>The run took {total / 60:.1f} minutes; seconds by part: {escape(each)}.</p>"


def _machine(document: Document) -> Iterator[str]:
    facts = {**document["machine"]}
    versions = facts.pop("versions")
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield '<h2>Machine</h2><div class="facts">'
    yield from table(("", ""), [("", (name, str(fact))) for name, fact in facts.items()])
    yield "</div>"


def render(document: Document) -> str:
    """Return the page."""
    names = markdown.titles(document)
    where = machine.sentence(document["machine"])
    when = document["date"][:16].replace("T", " ")
    doubts = sum(bool(one["noisy"]) for one in document["standings"])
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>Valkyrie benchmarks</title><style>{STYLE}</style><h1>Valkyrie benchmarks</h1>",
        f"<p>{escape(when)} UTC, {escape(where)}: <code>{escape(document['command'])}</code></p>",
        f"<p>{HOW}</p>",
    ]
    if doubts:
        total = len(document["standings"])
        parts.append(
            f'<p class="doubt">This was a noisy run: {doubts} of {total} figures are in doubt, '
            "each says why. Ratios hold better than figures do.</p>"
        )
    if document["missing"] or document["notes"]:
        parts.append("<h2>Missing</h2><ul>")
        parts += [f"<li>{escape(note)}</li>" for note in document["notes"]]
        for name, why in document["missing"].items():
            parts.append(f"<li>{escape(names[name])}: {escape(why)}</li>")
        parts.append("</ul>")
    parts += _asked(document)
    if ahead := list(behind.lines(document)):
        parts.append("<h2>Where others are ahead</h2><ul>")
        parts += [f"<li>{escape(line)}</li>" for line in ahead]
        parts.append("</ul>")
    for scenario in document["scenarios"]:
        parts += _scenario(document, scenario)
    for curve in document["curves"]:
        parts += charts.html(document, curve)
    if document["rows"]:
        cells = [
            (
                "",
                [
                    f"{row['scenario']}: {row['metric']}",
                    *(markdown.number(row[word]) for word in ("value", "baseline", "ratio")),
                    row["unit"],
                ],
            )
            for row in document["rows"]
        ]
        parts.append("<h2>Close-ups</h2>")
        parts += table(("", "value", "baseline", "ratio", "unit"), cells)
    if document["shares"]:
        parts.append("<h2>Shares of what the machine can do</h2>")
        parts += table(markdown.SHARES_HEAD, [("", row) for row in markdown.shares(document)])
    parts += _durations(document)
    parts += _machine(document)
    return "\n".join(parts) + "</html>\n"
