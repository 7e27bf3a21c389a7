"""Who else used the machine: processes that are not part of a run, and the host of a guest."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from typing import NamedTuple

from .arena import usage


class Shares(NamedTuple):
    """Of the time of all cores."""

    foreign: float
    """Used by processes that are not part of it."""
    stolen: float
    """Not given to this machine by its host, which had others on the processor."""


def _stat_s() -> tuple[float, float]:
    """Return the seconds that the cores together worked, and that the host did not give them."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _iowait, irq, soft, steal = (
            int(word) / os.sysconf("SC_CLK_TCK") for word in file.readline().split()[1:9]
        )
    return user + nice + system + irq + soft, steal


def stolen_s() -> float:
    """Return how long the host has kept each core to itself since the machine began, on average."""
    return _stat_s()[1] / (os.cpu_count() or 1)


class Noise:
    """Looks at the machine from now on; *helpers* are ours beside our own children."""

    def __init__(self, helpers: Sequence[int] = ()) -> None:
        self._helpers = helpers
        self._before = self._read()

    def _read(self) -> tuple[float, float, float, float]:
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        own_s = sum(used.ru_utime + used.ru_stime for used in own)
        own_s += usage(self._helpers).cpu_ns / 1e9
        return time.monotonic(), *_stat_s(), own_s

    def shares(self) -> Shares:
        """Return what others had since the start."""
        elapsed, busy, stolen, own = (
            b - a for a, b in zip(self._before, self._read(), strict=True)
        )
        whole = elapsed * (os.cpu_count() or 1) or 1.0
        return Shares(max(0.0, (busy - own) / whole), max(0.0, stolen / whole))
