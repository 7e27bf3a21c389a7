"""What the repo shows of the kept report: a part of the README, and docs/FIGURES.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import behind, charts, markdown
from .contestant import ROOT
from .markdown import figure, number
from .report import Document, main_figure, of_scenario

README, FIGURES = ROOT / "README.md", ROOT / "docs" / "FIGURES.md"
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
HEADLINES = {
    ("classifier", "steer, against parse and drop"): "the XDP program steers a packet, "
    "against a bare parse and drop",
    ("rings", "C to C, 64 B"): "a ring between two processes, C, against a one-slot ping-pong",
    ("rings", "Python to Python, batches, 64 B"): "the same in Python by batches, against a pipe",
    ("rings", "Python round trip p50, asyncio"): "and its round trip by asyncio, against a pipe",
}
"""Close-ups that the README has too, and what it calls them."""


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


def _headlines(document: Document) -> Iterator[str]:
    """Yield a few of the close-ups."""
    found = {(row["scenario"], row["metric"]): row for row in document["rows"]}
    chosen = [(found[key], name) for key, name in HEADLINES.items() if key in found]
    if chosen:
        yield from ("", "| | | baseline | ratio |", "|---|---:|---:|---:|")
    for row, name in chosen:
        value, base, ratio = (number(row[word]) for word in ("value", "baseline", "ratio"))
        yield f"| {name} | {value} {row['unit']} | {base} | {ratio} |"


def _misses(document: Document) -> Iterator[str]:
    """Yield what was asked for and is not there."""
    measured = [one for one in document["targets"] if one["verdict"] != "not measured"]
    missed = [one for one in measured if one["verdict"] == "miss"]
    if not measured:
        return
    yield from (
        "",
        f"Of {len(measured)} figures asked for that this run has, {len(missed)} are missed:",
    )
    yield ""
    for one in missed:
        what, asked, found, _, _ = markdown.cells_of(one)
        yield f"- {one['group'].lower()}: {what}: {found}, asked {asked}"
    yield from ("", "All figures of that run: [docs/FIGURES.md](docs/FIGURES.md).")


def _behind(document: Document) -> Iterator[str]:
    """Yield where others carry more or answer sooner; who only costs less is told in FIGURES.md."""
    if found := list(behind.lines(document, costs=False)):
        yield from ("", "Where others are ahead:", "", *(f"- {line}" for line in found))


def whole(document: Document) -> str:
    """Return everything, with tables of the curves."""
    curves = (line for curve in document["curves"] for line in charts.markdown(document, curve))
    return "\n".join([markdown.full(document).rstrip(), *curves]) + "\n"


def summary(document: Document) -> str:
    """Return the README's tables: for each scenario and language our best and the best peer."""
    lines = [markdown.head(document), ""]
    lines += ["| | Valkyrie | | best of the others | | ahead by |", "|---|---|---:|---|---:|---:|"]
    for scenario in document["scenarios"]:
        for language in ("C", "Python"):
            lines += _best(document, scenario, language)
    lines += ["", *markdown.missing(document)]
    return "\n".join([*lines, *_headlines(document), *_behind(document), *_misses(document)])


def write(document: Document) -> None:
    """Make docs/FIGURES.md, and what stands between the README's markers."""
    text = README.read_text("utf-8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    README.write_text(f"{text[:begin]}\n{summary(document)}\n{text[end:]}", "utf-8")
    FIGURES.write_text(whole(document), "utf-8")
