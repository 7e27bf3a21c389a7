"""Reports as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import behind, machine
from .report import Document, main_figure, of_scenario


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
    lines = ["# Benchmarks", "", head(document), "", *missing(document)]
    lines += ["", "### What is asked, and what was found", "", *asked(document)]
    if ahead := list(behind.lines(document)):
        lines += ["", "### Where others are ahead", "", *(f"- {line}" for line in ahead)]
    for scenario in document["scenarios"]:
        lines += _scenario(document, scenario)
    if document["rows"]:
        lines += ["", "### Close-ups", "", *_rows(document)]
    if document["shares"]:
        lines += ["", "### Shares of what the machine can do", "", *_shares(document)]
    return "\n".join(lines) + "\n"


def head(document: Document) -> str:
    return (
        f"`{document['command']}`, {document['date'][:10]}, {machine.sentence(document['machine'])}"
        f", revision {document['machine']['revision']}."
    )


def missing(document: Document) -> list[str]:
    """Return a line for every contestant that could not take part, and figure that is not here."""
    names = titles(document)
    lines = [f"- missing: {names[name]}: {why}" for name, why in document["missing"].items()]
    return lines + [f"- {note}" for note in document["notes"]]


def cells_of(target: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a target: what, asked, measured, verdict, which figure it is."""
    word = "at least" if target["at_least"] else "at most"
    unit = "" if target["unit"] == "times" else f" {target['unit']}"
    times = " ×" if target["unit"] == "times" else ""
    found = target["measured"]
    close = found is not None and target["verdict"] == "miss"
    exact = close and number(found) == number(target["asked"])
    measured = f"{found:.4g}" if exact else number(found)
    return (
        target["what"],
        f"{word} {number(target['asked'])}{unit}{times}",
        "-" if found is None else f"{measured}{unit}{times}",
        target["verdict"],
        target["source"],
    )


ASKED_HEAD = ("", "asked", "measured", "", "which figure")


def groups(document: Document) -> Iterator[tuple[str, list[dict[str, Any]], list[str]]]:
    """Yield each group of targets: its lines, and what else it has that this run did not measure.

    Figures of the design documents are lines all of them, measured or not.
    """
    targets = document["targets"]
    whole = targets[0]["group"] if targets else ""
    for group in dict.fromkeys(one["group"] for one in targets):
        every = [one for one in targets if one["group"] == group]
        lines = [one for one in every if group == whole or one["verdict"] != "not measured"]
        yield group, lines, [one["what"] for one in every if one not in lines]


def asked(document: Document) -> Iterator[str]:
    """Yield tables of what is asked, a group each."""
    for group, lines, absent in groups(document):
        yield from (f"**{group}**", "")
        if lines:
            yield from (f"| {' | '.join(ASKED_HEAD)} |", "|---|---:|---:|---|---|")
        for target in lines:
            what, wanted, found, verdict, source = cells_of(target)
            strong = f"**{verdict}**" if verdict == "miss" else verdict
            yield f"| {what} | {wanted} | {found} | {strong} | {source} |"
        if absent:
            yield from (*([""] if lines else []), f"Not in this run: {'; '.join(absent)}.")
        yield ""


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
