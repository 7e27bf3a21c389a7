"""The report: one JSON document that everything else is made from (docs/BENCHMARKS.md)."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import limits, machine
from .asked import GROUPS
from .comparison import Suite
from .contestant import Contestant
from .curve import Curve
from .scenario import Profile, Scenario
from .targets import judged

FORMAT = 1
BASELINE = Path(__file__).with_name("baseline.json")
"""The report that the README's figures come from."""
ROOM_BYTES = 32 << 20
"""Of a disk, for a report and all that is made from it."""
NEEDED = {"date", "command", "machine", "profile", "contestants", "missing", "scenarios"} | {
    "standings",
    "runs",
    "rows",
    "shares",
}
"""What every version's reports have."""
Document = dict[str, Any]


class ReportError(ValueError):
    """A file is no report that this version can read."""


def _describe(contestant: Contestant) -> dict[str, Any]:
    words = ("name", "title", "family", "language", "place", "encrypted", "batched", "ours")
    return {word: getattr(contestant, word) for word in words}


def build(
    suite: Suite,
    scenarios: Sequence[Scenario],
    contestants: Sequence[Contestant],
    profile: Profile,
    *,
    command: str,
    facts: dict[str, Any] | None = None,
    rows: Sequence[dict[str, Any]] = (),
    curves: Sequence[Curve] = (),
) -> Document:
    """Return the report of a finished suite; *rows* are the close-ups' figures.

    *facts* are the machine's, as they were before it.
    """
    runs = [run.dumps() for run in suite.runs]
    standings = [asdict(one) for scenario in scenarios for one in suite.standings(scenario)]
    ours = [contestant.name for contestant in contestants if contestant.ours]
    for run in runs:
        del run["histogram"], run["syscalls_by_part"]  # the standings have them
    made = {
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "machine": facts or machine.facts(),
        "profile": {
            **asdict(profile),
            "scenarios": [one.name for one in scenarios],
            "cores": list(profile.cores),
        },
        "contestants": [_describe(contestant) for contestant in contestants],
        "missing": suite.missing,
        "notes": suite.notes,
        "scenarios": [{**asdict(one), "figure": one.figure} for one in scenarios],
        "standings": standings,
        "runs": runs,
        "rows": list(rows),
        "curves": [asdict(curve) for curve in curves],
        "shares": limits.shares(standings, rows, ours),
        "durations_s": dict(suite.durations_s),
    }
    return {**made, "targets": targets(made)}


def targets(document: Document) -> list[dict[str, Any]]:
    """Return what is asked, with what was found."""
    return [
        asdict(judged(target, group, document))
        for group, asked in GROUPS.items()
        for target in asked
    ]


def load(path: Path) -> Document:
    """Return the report at *path*; raises ReportError or OSError.

    It is judged by what is asked now, and by what bounds each figure.
    """
    try:
        document: Any = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ReportError(f"{path} is no JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ReportError(f"{path} is no report of format {FORMAT}: make a new one")
    if lacks := NEEDED - document.keys():
        raise ReportError(f"{path} is no report of a run: it has no {', '.join(sorted(lacks))}")
    wanted = {field.name for field in fields(Scenario) if field.default is MISSING}
    if any(wanted - scenario.keys() for scenario in document["scenarios"]):
        raise ReportError(f"{path} has scenarios without {sorted(wanted)}: make a new one")
    whole = {"curves": [], "notes": [], "durations_s": {}, **document}  # of older reports
    names = [one["name"] for one in whole["contestants"] if one["ours"]]
    shares = limits.shares(whole["standings"], whole["rows"], names)
    return {**whole, "shares": shares, "targets": targets(whole)}


def make_room(path: Path) -> None:
    """Make the folder of a report; raises ReportError or OSError where none can be kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise ReportError(f"{path} is a folder: name a file")
    with tempfile.TemporaryFile(dir=path.parent):
        free = shutil.disk_usage(path.parent).free
    if free < ROOM_BYTES:
        raise ReportError(f"{path.parent} has {free >> 20} MiB left: {ROOM_BYTES >> 20} are wanted")


def save(document: Document, path: Path) -> None:
    """Write the report, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(text, "utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def of_scenario(document: Document, scenario: str) -> list[dict[str, Any]]:
    """Return the standings in one scenario, the best first."""
    return [one for one in document["standings"] if one["scenario"] == scenario]


def main_figure(standing: dict[str, Any], scenario: dict[str, Any]) -> dict[str, float] | None:
    """Return the figure that the scenario compares: median and quartiles."""
    name = "rate" if scenario["figure"] == "rate" else "p50_ns"
    figure: dict[str, float] | None = standing[name]
    return figure
