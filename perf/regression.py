"""Two reports side by side: what got better, what got worse, what cannot be told.

Of one machine the figures themselves are compared, of two only what each run itself compares them
with: peers, limits and baselines that met the same processor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .report import Document, main_figure

CHANGE_MIN = 0.05
"""Less than this share is no change, however still the machine was."""
CHANGE_MIN_ALONE = 0.15
"""The same of a figure that has no quartiles."""
LESS_IS_BETTER = {"ns", "µs", "ms", "bytes"}
"""Units of close-ups; those of the classifier (ns/packet) have the ratio of speeds."""
NO_MERIT = {"relay"}
"""Close-ups that tell how exact something is."""
Figure = Mapping[str, float]
"""Median and quartiles: ``median``, ``low``, ``high``."""


@dataclass(frozen=True)
class Change:
    """A figure before and after."""

    scenario: str
    what: str
    """The contestant, or what a close-up measures."""
    before: float
    after: float
    unit: str
    share: float
    """Above 0: better."""
    verdict: str
    """``better``, ``worse``, ``same``, or ``unclear`` where the quartiles overlap."""


def _verdict(old: Figure, new: Figure, share: float) -> str:
    alone = old["low"] == old["high"] and new["low"] == new["high"]
    if abs(share) < (CHANGE_MIN_ALONE if alone else CHANGE_MIN):
        return "same"
    if old["low"] <= new["high"] and new["low"] <= old["high"]:
        return "unclear"
    return "better" if share > 0 else "worse"


def _change(
    where: tuple[str, str], old: Figure, new: Figure, unit: str, *, more_is_better: bool
) -> Iterator[Change]:
    then, now = old["median"], new["median"]
    if then and now:
        share = (now / then if more_is_better else then / now) - 1
        yield Change(*where, then, now, unit, share, _verdict(old, new, share))


def _standings(old: Document, new: Document) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    before = {(one["scenario"], one["contestant"]): one for one in old["standings"]}
    for one in new["standings"]:
        if past := before.get((one["scenario"], one["contestant"])):
            yield past, one


def figures(old: Document, new: Document) -> Iterator[Change]:
    """Yield the contestants' own figures that both reports have."""
    scenarios = {one["name"]: one for one in new["scenarios"]}
    for past, one in _standings(old, new):
        scenario = scenarios[one["scenario"]]
        then, now = main_figure(past, scenario), main_figure(one, scenario)
        rate = scenario["figure"] == "rate"
        if then and now:
            where = one["scenario"], one["contestant"]
            yield from _change(where, then, now, "/s" if rate else "ns", more_is_better=rate)


def _alone(value: float) -> Figure:
    return dict.fromkeys(("median", "low", "high"), value)


def _plain(document: Document) -> Iterator[tuple[tuple[str, str], float, bool]]:
    """Yield shares of limits and ratios of close-ups, and whether more of each is better."""
    for one in document["shares"]:
        yield (one["scenario"], f"{one['contestant']}, of its limit"), one["share"], True
    for row in document["rows"]:
        if row["ratio"] and row["scenario"] not in NO_MERIT:
            yield (row["scenario"], row["metric"]), row["ratio"], row["unit"] not in LESS_IS_BETTER


def ratios(old: Document, new: Document) -> Iterator[Change]:
    """Yield how far we are ahead of each peer, of limits and of baselines, in both reports."""
    for past, one in _standings(old, new):
        if past["ratio"] and one["ratio"] and one["reference"] != one["contestant"]:
            where = one["scenario"], f"ahead of {one['contestant']}"
            yield from _change(where, past["ratio"], one["ratio"], "×", more_is_better=True)
    before = {where: value for where, value, _ in _plain(old)}
    for where, value, more in _plain(new):
        if where in before:
            figure = _alone(before[where]), _alone(value)
            yield from _change(where, *figure, "×", more_is_better=more)


def changes(old: Document, new: Document) -> Iterator[Change]:
    """Yield what both reports have and may be compared."""
    yield from (ratios if other_processor(old, new) else figures)(old, new)


def _differing(old: Document, new: Document, words: tuple[str, ...]) -> str:
    differ = [word for word in words if old["machine"][word] != new["machine"][word]]
    return ", ".join(
        f"{word}: {old['machine'][word]} and {new['machine'][word]}" for word in differ
    )


def other_processor(old: Document, new: Document) -> str:
    """Return an empty string, or how the processors differ: figures are not to be compared."""
    return _differing(old, new, ("processor", "cores", "hypervisor"))


def same_machine(old: Document, new: Document) -> str:
    """Return an empty string, or how the machines of two reports differ."""
    return _differing(old, new, ("processor", "cores", "hypervisor", "kernel"))
