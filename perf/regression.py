"""Two reports side by side: what got better, what got worse, what cannot be told.

Of one machine the contestants' figures themselves are compared, of two only what each run itself
compares them with: peers, limits and baselines that met the same processor. Close-ups are compared
by their baselines wherever they have some.
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
Where = tuple[str, str]
Value = tuple[float, str, bool]
"""What it is, its unit, and whether more is better."""
Plain = tuple[Where, Value]


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
    yield from _compared(dict(_close_ups(old, alone=True)), dict(_close_ups(new, alone=True)))


def gone(old: Document, new: Document) -> Iterator[tuple[str, str, str]]:
    """Yield scenario, contestant and why of each that had a figure and was asked again in vain."""
    scenarios = {one["name"]: one for one in new["scenarios"]}
    asked = {one["name"] for one in new["contestants"]}
    after = {(one["scenario"], one["contestant"]): one for one in new["standings"]}
    for past in old["standings"]:
        where = past["scenario"], past["contestant"]
        scenario, now = scenarios.get(where[0]), after.get(where)
        if scenario is None or where[1] not in asked or not main_figure(past, scenario):
            continue
        if now is None or not main_figure(now, scenario):
            yield *where, (now and now["error"]) or new["missing"].get(where[1], "no run of it")


def _alone(value: float) -> Figure:
    return dict.fromkeys(("median", "low", "high"), value)


def _close_ups(document: Document, *, alone: bool) -> Iterator[Plain]:
    """Yield ratios to baselines; *alone*: and figures that have none, if they have a merit."""
    for row in document["rows"]:
        where, less = (row["scenario"], row["metric"]), row["unit"] in LESS_IS_BETTER
        if row["scenario"] in NO_MERIT:
            continue
        if row["ratio"]:
            yield where, (row["ratio"], "×", not less)
        elif alone and row["value"] and (less or row["unit"].endswith("/s")):
            yield where, (row["value"], row["unit"], not less)


def _compared(before: Mapping[Where, Value], after: Mapping[Where, Value]) -> Iterator[Change]:
    for where, (now, unit, more) in after.items():
        then, unit_then, _ = before.get(where, (0.0, unit, more))
        if unit == unit_then:
            yield from _change(where, _alone(then), _alone(now), unit, more_is_better=more)


def ratios(old: Document, new: Document) -> Iterator[Change]:
    """Yield how far we are ahead of each peer, of limits and of baselines, in both reports."""
    ours = {one["name"] for one in new["contestants"] if one["ours"]}
    for past, one in _standings(old, new):
        if past["ratio"] and one["ratio"] and one["contestant"] not in ours:
            where = one["scenario"], f"ahead of {one['contestant']}"
            yield from _change(where, past["ratio"], one["ratio"], "×", more_is_better=True)

    def plain(document: Document) -> dict[Where, Value]:
        shares = {
            (one["scenario"], f"{one['contestant']}, of its limit"): (one["share"], "×", True)
            for one in document["shares"]
        }
        return {**shares, **dict(_close_ups(document, alone=False))}

    yield from _compared(plain(old), plain(new))


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
