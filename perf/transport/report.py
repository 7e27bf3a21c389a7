"""``scripts/bench --scenario transport``: rows for the table, and the page in docs/."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from perf.relay.calibration import out_of_calibration
from perf.rows import Row, make_row

from . import document
from .cases import ALONE, BESIDE, PAIR
from .measure import measure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .results import Line, Results

_row = partial(make_row, "transport", digits=3)
BASELINE = "kernel TCP, cubic"


def _rate(line: Line) -> float:
    return round(line.flows[0].goodput_bps / 1e6, 2)


def rows(results: Results) -> Iterator[Row]:
    """Yield goodputs against kernel CUBIC, round trips against an empty network, and shares."""
    for case in ALONE:
        lines = results.lines[case.key]
        base = next((_rate(line) for line in lines if line.name == BASELINE), None)
        base_ms = case.network.rtt_s * 1e3
        for line in lines:
            metric, rtt_s = f"{case.key}: {line.name}", line.flows[0].rtt_s
            yield _row(f"{metric}, goodput", _rate(line), "Mbit/s", base)
            yield _row(f"{metric}, rtt", rtt_s and round(rtt_s * 1e3, 3), "ms", base_ms)
    for line in results.lines[PAIR.key]:
        yield _row(f"{PAIR.key}: {line.name}, Jain", round(line.jain, 3), "", 1.0)
    for line in results.lines[BESIDE.key]:
        yield _row(f"{BESIDE.key}: {line.name}, of fair", line.share, "share", 1.0)


def run(quick: bool, *, command: str = "") -> list[Row]:  # every scenario is called run(quick)
    """Return the rows; with the *command* to be named there, also write docs/PERFORMANCE.md.

    A run whose relay was out of calibration does not write there.
    """
    results = measure(quick)
    if astray := out_of_calibration(results.calibration):
        words = f"the relay is out of calibration: {'; '.join(astray)}"
        print(f"{words}: docs/{document.PAGE} stays as it was", file=sys.stderr, flush=True)
    elif command:
        document.write(results, command)
    return [*rows(results), _row("relay: figures out of calibration", len(astray), "", 0)]
