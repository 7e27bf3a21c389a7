"""What helpers use during a run, seen from outside and told by what they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from .arena import usage
from .syscalls import Counter


@dataclass
class Spent:
    """What was used, by part of the system."""

    cpu_ns: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    syscalls: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    switches: float = 0.0


class Watch:
    """Looks at helpers from now on."""

    def __init__(self, helpers: Mapping[int, str], counter: Counter | None) -> None:
        self._helpers = helpers
        self._counter = counter
        if counter:
            counter.watch(helpers)
        self._usage = {process: usage([process]) for process in helpers}
        self._calls = self._count()

    def _count(self) -> dict[int, int]:
        counter = self._counter
        return (
            {process: counter.calls(process).total for process in self._helpers} if counter else {}
        )

    def stop(self, share: float) -> Spent:
        """Return *share* of what was used since the start."""
        spent, calls = Spent(), self._count()
        for process, part in self._helpers.items():
            used = usage([process]) - self._usage[process]
            spent.cpu_ns[part] += used.cpu_ns * share
            spent.switches += used.switches * share
            if calls:
                spent.syscalls[part] += (calls[process] - self._calls[process]) * share
        return spent
