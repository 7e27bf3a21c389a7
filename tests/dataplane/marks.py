"""The marks of large messages' fragments, and what they say: one model, for both libraries."""

from __future__ import annotations

from collections.abc import Sequence

from valkyrie.dataplane.wire import Fragment

MORE = Fragment.MORE
LAST = Fragment.CONTINUES
MIDDLE = MORE | LAST
MARKS = (Fragment(0), MORE, LAST, MIDDLE)


def cut(counts: Sequence[int]) -> list[Fragment]:
    """Return the marks of messages of so many records each."""
    marks: list[Fragment] = []
    for count in counts:
        marks += [Fragment(0)] if count == 1 else [MORE, *[MIDDLE] * (count - 2), LAST]
    return marks


def contradict(marks: Sequence[Fragment], came: set[int], *, ordered: bool) -> bool:
    """Say whether neighbours of those that came do; if *ordered*, of those without a gap before."""
    known = came
    if ordered:
        known = {each for each in came if all(before in came for before in range(each))}
    return any(
        bool(marks[each] & LAST) != (each > 0 and bool(marks[each - 1] & MORE))
        for each in known
        if each == 0 or each - 1 in known
    )
