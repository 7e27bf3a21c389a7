"""Reports of parts of a run put together: for who has a machine for an hour at a time."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from typing import Any

from . import limits, regression, report
from .report import Document, ReportError
from .scenario import EVERY

PARTS = {"scenarios": "name", "standings": "scenario", "runs": "scenario"} | {
    "rows": "scenario",
    "curves": "name",
}
"""Lists of a report -> the key that says which part of a run an item belongs to."""
PART = re.compile(r"(?:ended by somebody during|failed:|missing:) ([^,:]+)")
"""How notes begin that are no longer true when that part has been run again."""
LEFT_OUT = re.compile(r"left out: (.+?): (.+)")


def _settings(document: Document) -> dict[str, Any]:
    return {key: value for key, value in document["profile"].items() if key != "scenarios"}


def _still(note: str, ran: Container[str]) -> str:
    """Return what is true of a note behind a report in which other parts *ran*."""
    if found := PART.match(note):
        return "" if found[1] in ran else note
    if found := LEFT_OUT.fullmatch(note):
        rest = [name for name in found[1].split(", ") if name not in ran]
        return f"left out: {', '.join(rest)}: {found[2]}" if rest else ""
    return note


def _notes(first: Document, second: Document) -> list[str]:
    old = [_still(note, second["durations_s"]) for note in first["notes"]]
    new = [
        _still(note, first["durations_s"]) if LEFT_OUT.match(note) else note
        for note in second["notes"]
    ]
    return [note for note in dict.fromkeys([*old, *new]) if note]


def _together(first: Document, second: Document) -> Document:
    """Return both; what the second has of a part takes the place of what the first has."""
    if differ := regression.same_machine(first, second):
        raise ReportError(f"reports of two machines cannot be one: {differ}")
    if _settings(first) != _settings(second):
        raise ReportError("reports of runs of another length or pinning cannot be one")
    made = {**first, "date": second["date"]}
    for key, part in PARTS.items():
        again = {one[part] for one in second[key]}
        made[key] = [*(one for one in first[key] if one[part] not in again), *second[key]]
    everybody = {one["name"]: one for one in [*first["contestants"], *second["contestants"]]}
    made["contestants"] = list(everybody.values())
    came = {one["contestant"] for one in second["runs"]}
    absent = {name: why for name, why in first["missing"].items() if name not in came}
    made["missing"] = {**absent, **second["missing"]}
    made["durations_s"] = {**first["durations_s"], **second["durations_s"]}
    made["notes"] = _notes(first, second)
    if first["command"] != second["command"]:
        made["command"] = f"{first['command']}; {second['command']}"
    revisions = [one["machine"]["revision"] for one in (first, second)]
    if revisions[0] != revisions[1]:
        made["notes"].append(f"of two revisions: {' and '.join(revisions)}")
    return made


def merged(documents: Sequence[Document]) -> Document:
    """Return one report of several of one machine; raises ReportError."""
    made = documents[0]
    for one in documents[1:]:
        made = _together(made, one)
    order = {name: at for at, name in enumerate(EVERY)}
    made["scenarios"] = sorted(made["scenarios"], key=lambda one: order.get(one["name"], 0))
    names = [one["name"] for one in made["scenarios"]]
    made["profile"] = {**made["profile"], "scenarios": names}
    ours = [one["name"] for one in made["contestants"] if one["ours"]]
    made["shares"] = limits.shares(made["standings"], made["rows"], ours)
    return {**made, "targets": report.targets(made)}
