"""What a report is, as types: its JSON schema is made from them, and it is checked by them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from .comparison import Standing
from .contestant import ROOT
from .curve import Curve
from .match import Run
from .report import FORMAT
from .scenario import Profile, Scenario
from .targets import Verdict

SCHEMA = ROOT / "docs" / "report.schema.json"


@dataclass
class MachineFacts:
    """The machine that a report was made on."""

    processor: str
    cores: int
    hypervisor: bool
    memory_mib: int
    kernel: str
    governor: str
    python: str
    revision: str
    versions: dict[str, str]


@dataclass
class ContestantFacts:
    """Who took part, or is missing."""

    name: str
    title: str
    family: str
    language: str
    place: Literal["network", "local"]
    encrypted: bool
    batched: bool
    ours: bool


@dataclass(frozen=True)
class ScenarioFacts(Scenario):
    """What was asked, and which figure is compared."""

    figure: Literal["rate", "p50_ns"] = "rate"


@dataclass
class Row:
    """A figure of a close-up."""

    scenario: str
    metric: str
    value: float
    unit: str
    baseline: float | None
    ratio: float | None


@dataclass
class Share:
    """How near a figure is to what the machine can do: messages a second, or ns of a round trip."""

    scenario: str
    contestant: str
    against: str
    why: str
    value: float
    limit: float
    share: float


@dataclass
class Report:
    """The document."""

    format: Literal[1]
    date: str
    command: str
    machine: MachineFacts
    profile: Profile
    contestants: list[ContestantFacts]
    missing: dict[str, str]
    notes: list[str]
    scenarios: list[ScenarioFacts]
    standings: list[Standing]
    runs: list[Run]
    rows: list[Row]
    curves: list[Curve]
    shares: list[Share]
    durations_s: dict[str, float]
    targets: list[Verdict]


MAY_LACK = {"histogram", "syscalls_by_part"}
"""Runs have none in a report: standings have them."""


def schema() -> dict[str, Any]:
    """Return the JSON schema of reports as this version makes them: with every key."""
    made: dict[str, Any] = msgspec.json.schema(Report)
    for definition in made["$defs"].values():
        keys = definition["properties"]
        definition["required"] = [key for key in keys if key not in MAY_LACK]
        for key in keys.values():
            key.pop("default", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Report of Valkyrie's benchmarks, format {FORMAT}",
        **made,
    }


def text() -> str:
    """Return what docs/report.schema.json holds."""
    return json.dumps(schema(), indent=1) + "\n"


def check(document: Any) -> None:
    """Raise ``msgspec.ValidationError``, which names the key, unless *document* is a report."""
    msgspec.convert(document, Report)
