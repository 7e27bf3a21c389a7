"""Reports as Markdown: whole, and the short table of the README."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import machine
from .report import Document, main_figure, of_scenario

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"


def number(value: float | None) -> str:
    """Return a number as people read it."""
    if value is None:
        return "-"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.2f} M"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def figure(standing: dict[str, Any], scenario: dict[str, Any]) -> str:
    """Return what the scenario compares, with its unit."""
    found = main_figure(standing, scenario)
    if found is None:
        return "failed"
    if scenario["figure"] == "rate":
        return f"{number(found['median'])}/s"
    return f"{number(found['median'] / 1e3)} µs"


def ratio(standing: dict[str, Any]) -> str:
    """Return how far the reference is ahead, with quartiles."""
    found = standing["ratio"]
    if found is None or standing["reference"] == standing["contestant"]:
        return "-"
    return f"{found['median']:.2f} ({found['low']:.2f}–{found['high']:.2f})"


def titles(document: Document) -> dict[str, str]:
    """Return contestants' names -> what people call them."""
    return {one["name"]: one["title"] for one in document["contestants"]}


def loss(standing: dict[str, Any]) -> str:
    """Return the share that was lost, or a dash."""
    return f"{standing['lost_share']:.1%}" if standing["lost_share"] else "-"


def remark(standing: dict[str, Any]) -> str:
    """Return what to know before believing the line."""
    return "; ".join(filter(None, (standing["error"], standing["noisy"])))


def parts(standing: dict[str, Any]) -> str:
    """Return how CPU time divides: the sender, the receiver, each kind of helper."""
    found = standing.get("cpu_ns_by_part", {})
    return ", ".join(f"{part} {number(value)}" for part, value in found.items()) or "-"


def calls(standing: dict[str, Any]) -> str:
    """Return system calls a message, if they were counted."""
    found = standing.get("syscalls_per_message")
    return "-" if found is None else f"{found:.3g}"


def _scenario(document: Document, scenario: dict[str, Any]) -> Iterator[str]:
    names = titles(document)
    yield from ("", f"### {scenario['title']}", "")
    yield (
        "| | figure | p99 | lost | CPU a message | of that | switches | syscalls "
        "| Valkyrie ahead by | remarks |"
    )
    yield "|---|---:|---:|---:|---:|---|---:|---:|---:|---|"
    for one in of_scenario(document, scenario["name"]):
        p99 = one["latency_ns"].get("p99")
        yield (
            f"| {names[one['contestant']]} | {figure(one, scenario)} "
            f"| {number(p99 / 1e3) + ' µs' if p99 else '-'} | {loss(one)} "
            f"| {number(one['cpu_ns_per_message'])} ns | {parts(one)} "
            f"| {one['switches_per_message']:.2f} | {calls(one)} "
            f"| {ratio(one)} | {remark(one)} |"
        )


def full(document: Document) -> str:
    """Return the whole report."""
    lines = ["# Benchmarks", "", _head(document), "", *missing(document)]
    for scenario in document["scenarios"]:
        lines += _scenario(document, scenario)
    if document["rows"]:
        lines += ["", "### Close-ups", "", *_rows(document)]
    if document["shares"]:
        lines += ["", "### Shares of what the machine can do", "", *_shares(document)]
    return "\n".join(lines) + "\n"


def _head(document: Document) -> str:
    return (
        f"`{document['command']}`, {document['date'][:10]}, {machine.sentence(document['machine'])}"
        f", revision {document['machine']['revision']}."
    )


def missing(document: Document) -> list[str]:
    """Return a line for every contestant that could not take part, and figure that is not here."""
    names = titles(document)
    lines = [f"- missing: {names[name]}: {why}" for name, why in document["missing"].items()]
    return lines + [f"- {note}" for note in document["notes"]]


def _rows(document: Document) -> Iterator[str]:
    yield from ("| | value | unit | baseline | ratio |", "|---|---:|---|---:|---:|")
    for row in document["rows"]:
        yield (
            f"| {row['scenario']}: {row['metric']} | {number(row['value'])} | {row['unit']} "
            f"| {number(row['baseline'])} | {number(row['ratio'])} |"
        )


def shares(document: Document) -> Iterator[tuple[str, ...]]:
    """Yield contestant, scenario, figure, limit, share and reason of each figure with a limit."""
    names = titles(document)
    scenarios = {one["name"]: one for one in document["scenarios"]}
    for one in document["shares"]:
        rate = scenarios[one["scenario"]]["figure"] == "rate"
        figures = (one["value"], one["limit"])
        yield (
            names[one["contestant"]],
            scenarios[one["scenario"]]["title"],
            *(f"{number(each)}/s" if rate else f"{number(each / 1e3)} µs" for each in figures),
            f"{one['share']:.2f}",
            f"{one['against']}: {one['why']}",
        )


SHARES_HEAD = ("", "scenario", "figure", "limit", "share", "what bounds it")


def _shares(document: Document) -> Iterator[str]:
    yield f"| {' | '.join(SHARES_HEAD)} |"
    yield "|---|---|---:|---:|---:|---|"
    for cells in shares(document):
        yield f"| {' | '.join(cells)} |"


def _best(document: Document, scenario: dict[str, Any], language: str) -> Iterator[str]:
    """Yield the README's line of a scenario and a language: our best beside the best peer."""
    known = {one["name"]: one for one in document["contestants"]}
    able = [
        one
        for one in of_scenario(document, scenario["name"])
        if main_figure(one, scenario) and known[one["contestant"]]["language"] == language
    ]
    ours = next((one for one in able if known[one["contestant"]]["ours"]), None)
    peer = next((one for one in able if not known[one["contestant"]]["ours"]), None)
    if ours is None or peer is None:
        return
    mine, theirs = (main_figure(one, scenario) for one in (ours, peer))
    assert mine is not None
    assert theirs is not None
    ahead = mine["median"] / theirs["median"]
    if scenario["figure"] != "rate":
        ahead = 1 / ahead
    yield (
        f"| {scenario['title']}, {language} | {known[ours['contestant']]['title']} "
        f"| {figure(ours, scenario)} | {known[peer['contestant']]['title']} "
        f"| {figure(peer, scenario)} | {ahead:.2f} |"
    )


def summary(document: Document) -> str:
    """Return the README's tables: for each scenario and language our best and the best peer."""
    lines = [_head(document), ""]
    lines += ["| | Valkyrie | | best of the others | | ahead by |", "|---|---|---:|---|---:|---:|"]
    for scenario in document["scenarios"]:
        for language in ("C", "Python"):
            lines += _best(document, scenario, language)
    lines += ["", *missing(document)]
    return "\n".join([*lines, "", *_rows(document)] if document["rows"] else lines)


def write_readme(document: Document) -> None:
    """Replace what stands between the README's markers."""
    text = README.read_text("utf-8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    README.write_text(f"{text[:begin]}\n{summary(document)}\n{text[end:]}", "utf-8")
