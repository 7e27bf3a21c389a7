"""One run: flows through a relay, and what they and the relay saw."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perf.relay import Relay
from tests.lab import laboratory

from .cases import BAD_DELAY_S, BAD_LOSS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perf.relay import Count

    from .cases import Network
    from .flows import Contestant, Record


RELAY_CPU = 1
"""That of the receiving hosts: what is late there waits in a buffer, a late sender leaves the link
idle. Left to the scheduler the relay chose one for each run."""


@dataclass(frozen=True)
class Race:
    """What flows that ran at one time saw; times are seconds of CLOCK_MONOTONIC."""

    begin: float
    settled: float
    """From here on it counts."""
    end: float
    worse: tuple[float, float] | None
    """When the impairment held."""
    records: list[Record]
    there: Count
    back: Count


@dataclass(frozen=True)
class Span:
    """How long, in seconds."""

    settle: float
    """At the beginning, not counted."""
    counted: float

    @property
    def whole(self) -> float:
        """Return the time that flows run."""
        return self.settle + self.counted


def _until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def run(
    network: Network,
    contestants: Sequence[Contestant],
    span: Span,
    *,
    seed: int,
    impaired: bool = False,
) -> Race:
    """Let the contestants run at one time, each between hosts of its own, over one bottleneck.

    *impaired*: the middle third of the time is worse.
    """
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(laboratory())
        numbers = range(len(contestants))
        pairs = [(lab.host(f"a{number}"), lab.host(f"b{number}")) for number in numbers]
        relay = Relay(lab, pairs, *network.conditions(), seed=seed, cpu=RELAY_CPU)
        stack.callback(relay.close)
        flows = [
            contestant.make(relay.wires[number], number, span.whole)
            for number, contestant in enumerate(contestants)
        ]
        for flow in flows:
            stack.callback(flow.close)
            flow.prepare()
        begin = time.monotonic()
        for flow in flows:
            flow.start()
        worse = None
        if impaired:
            _until(begin + span.whole / 3)
            delay_s = network.rtt_s / 2 + BAD_DELAY_S
            with relay.worse(loss=BAD_LOSS, delay_s=delay_s):
                since = time.monotonic()
                _until(begin + span.whole * 2 / 3)
            worse = (since, time.monotonic())
        records = [flow.finish() for flow in flows]
        there, back = relay.counts()
    return Race(begin, begin + span.settle, begin + span.whole, worse, records, there, back)
