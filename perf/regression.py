"""Two reports side by side: what got better, what got worse, what cannot be told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .report import Document, main_figure

CHANGE_MIN = 0.05
"""Less than this share is no change, however still the machine was."""


@dataclass(frozen=True)
class Change:
    """One contestant's figure in one scenario, before and after."""

    scenario: str
    contestant: str
    before: float
    after: float
    unit: str
    share: float
    """Above 0: better."""
    verdict: str
    """``better``, ``worse``, ``same``, or ``unclear`` where the quartiles overlap."""


def _verdict(old: dict[str, float], new: dict[str, float], share: float) -> str:
    if abs(share) < CHANGE_MIN:
        return "same"
    if old["low"] <= new["high"] and new["low"] <= old["high"]:
        return "unclear"
    return "better" if share > 0 else "worse"


def changes(old: Document, new: Document) -> Iterator[Change]:
    """Yield what both reports have."""
    before = {(one["scenario"], one["contestant"]): one for one in old["standings"]}
    scenarios: dict[str, dict[str, Any]] = {one["name"]: one for one in new["scenarios"]}
    for one in new["standings"]:
        scenario = scenarios[one["scenario"]]
        past = before.get((one["scenario"], one["contestant"]))
        then = main_figure(past, scenario) if past else None
        now = main_figure(one, scenario)
        if not then or not now or not then["median"] or not now["median"]:
            continue
        rate = scenario["figure"] == "rate"
        better = now["median"] / then["median"] if rate else then["median"] / now["median"]
        yield Change(
            one["scenario"],
            one["contestant"],
            then["median"],
            now["median"],
            "/s" if rate else "ns",
            better - 1,
            _verdict(then, now, better - 1),
        )


def same_machine(old: Document, new: Document) -> str:
    """Return an empty string, or how the machines of two reports differ."""
    words = ("processor", "cores", "kernel")
    differ = [word for word in words if old["machine"][word] != new["machine"][word]]
    return ", ".join(
        f"{word}: {old['machine'][word]} and {new['machine'][word]}" for word in differ
    )
