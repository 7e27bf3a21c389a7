"""Runs all cases with everybody who can take part."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from perf import relay

from . import race, results
from .cases import ALONE, BAD, BESIDE, PAIR
from .flows import kernel, kernel_controllers
from .nodes import CONTROLLERS, valkyrie
from .race import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .cases import Case
    from .flows import Contestant
    from .results import Results

    Field = list[tuple[str, list[Contestant]]]

BASELINE = "cubic"
QUICK, FULL = 1, 3
"""Rounds."""
SPANS = {
    False: {"alone": Span(1, 5), "shared": Span(3, 12), "impaired": Span(0, 24)},
    True: {"alone": Span(1, 3), "shared": Span(3, 6), "impaired": Span(0, 12)},
}
"""By whether it has to be quick."""


def contestants() -> tuple[list[Contestant], list[str]]:
    """Return who can take part, and who cannot and why."""
    known = kernel_controllers()
    missing = [
        f"kernel TCP, {name}: this kernel does not have it"
        for name in (BASELINE, "bbr")
        if name not in known
    ]
    return [*map(kernel, known), *map(valkyrie, CONTROLLERS)], missing


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


class _Measurement:
    def __init__(self, quick: bool) -> None:
        self._spans = SPANS[quick]
        self._everybody, missing = contestants()
        self.results = results.Results(
            rounds=QUICK if quick else FULL,
            seconds={name: (span.settle, span.counted) for name, span in self._spans.items()},
            missing=missing,
            load=[],
            calibration=relay.run(quick),
        )

    def _fields(self) -> Iterator[tuple[Case, str, Field]]:
        """Yield each case, the name of its span, and who runs there together."""
        for case in ALONE:
            yield case, "alone", [(one.name, [one]) for one in self._everybody]
        yield PAIR, "shared", [(one.name, [one, one]) for one in self._everybody]
        beside = [(one.name, [one, kernel(BASELINE)]) for one in self._everybody]
        yield BESIDE, "shared", beside

    def _race(
        self,
        case: Case,
        together: list[Contestant],
        span: str,
        *,
        seed: int,
        impaired: bool = False,
    ) -> race.Race:
        """Run a race, and once more if it fails: one of hundreds must not cost all."""

        def run() -> race.Race:
            spans = self._spans[span]
            return race.run(case.network, together, spans, seed=seed, impaired=impaired)

        try:
            return run()
        except Exception as error:  # whatever it was, it is told
            names = " and ".join(one.name for one in together)
            self.results.again.append(f"{case.key}, {names}: {str(error) or type(error).__name__}")
            _say(f"once more: {self.results.again[-1]}")
        return run()

    def compare(self) -> None:
        """Run every case in rounds, so that all meet the same weather."""
        for case, span, field in self._fields():
            self.results.load.append(round(os.getloadavg()[0], 2))
            races: dict[str, list[race.Race]] = {name: [] for name, _ in field}
            for number in range(self.results.rounds):
                for name, together in field:
                    races[name].append(self._race(case, together, span, seed=number + 1))
            self.results.lines[case.key] = [
                results.line(name, several) for name, several in races.items()
            ]
            for line in self.results.lines[case.key]:
                rates = ", ".join(f"{flow.goodput_bps / 1e6:.1f}" for flow in line.flows)
                _say(f"{case.key:<9}{line.name:<22}{rates} Mbit/s")
            if case.key == "bloat":
                self.results.courses[case.key] = [
                    results.course(name, several[0]) for name, several in races.items()
                ]

    def impair(self) -> None:
        """Make the network worse under each."""
        self.results.courses[BAD.key] = [
            results.course(one.name, self._race(BAD, [one], "impaired", seed=1, impaired=True))
            for one in self._everybody
        ]
        _say(BAD.key)


def measure(quick: bool) -> Results:
    """Run everything."""
    measurement = _Measurement(quick)
    measurement.compare()
    measurement.impair()
    return measurement.results
