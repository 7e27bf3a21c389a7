"""What a side has seen, and what it cost."""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass, field


@dataclass
class Result:
    """One side's figures of the measured part of a run; warm-up is in none of them."""

    messages: int = 0
    """Sent, received, or answered."""
    lost: int = 0
    """Of those that should have come between the first and the last."""
    corrupt: int = 0
    """Messages of the checked sample with contents that were not sent."""
    disordered: int = 0
    """Messages looked at that came again, or after a later one."""
    elapsed_ns: int = 0
    """From the first to the last."""
    cpu_ns: int = 0
    """User and system time of all threads of the process."""
    switches: int = 0
    """Of context, wanted or not."""
    histogram: list[list[int]] = field(default_factory=list)
    """Latencies in ns, buckets of ``histogram.Histogram``."""

    def dumps(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))


class Meter:
    """Time and processor time of this process from ``start`` to ``stop``."""

    def __init__(self) -> None:
        self._begin_ns = 0
        self._usage = resource.getrusage(resource.RUSAGE_SELF)

    def start(self) -> None:
        """Begin to measure."""
        self._usage = resource.getrusage(resource.RUSAGE_SELF)
        self._begin_ns = time.monotonic_ns()

    def stop(self, result: Result, *, end_ns: int = 0) -> None:
        """Put what was used since into *result*; the last message came at *end_ns*, or now."""
        result.elapsed_ns = (end_ns or time.monotonic_ns()) - self._begin_ns
        before, after = self._usage, resource.getrusage(resource.RUSAGE_SELF)
        spent_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        result.cpu_ns = round(spent_s * 1e9)
        result.switches = after.ru_nvcsw - before.ru_nvcsw + after.ru_nivcsw - before.ru_nivcsw


def say(line: str) -> None:
    """Write a line to the harness."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def wait_for_the_end() -> None:
    """Return when the harness lets this side go."""
    sys.stdin.read()
