"""Latency against offered load: what is offered, what kept up, and how it is shown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from xml.etree import ElementTree as ET

import pytest

from perf import charts, load
from perf.comparison import Suite
from perf.contestant import Contestant
from perf.histogram import Histogram
from perf.match import Run
from perf.peers import CONTESTANTS, sockets
from perf.scenario import PROFILES, Profile, Scenario

SWEEP = load.Sweep("load", "Load", "local", 64, (0.5, 1.0, 2.0), ("unix-c", "unix-python"))


ONCE, TWICE = (Profile("test", 0.1, 0.1, 1, (), curve_repetitions=n) for n in (1, 2))


class Scripted(Suite):
    """Contestants that carry 1000 a second in the first repetition, twice that in the second."""

    def __init__(self) -> None:
        super().__init__(CONTESTANTS, PROFILES["quick"], lambda _: None)
        self.order: list[str] = []

    def able(self, scenario: Scenario, names: Sequence[str] = ()) -> list[Contestant]:
        return [one for one in CONTESTANTS if one.name in names and one.fits(scenario)]

    def play(self, contestant: Contestant, scenario: Scenario, repetition: int) -> Run:
        self.order.append(contestant.name)
        carried = 1000.0 * (repetition + 1)
        rate = min(scenario.rate or carried, carried)
        run = Run(contestant.name, scenario.name, repetition, rate=rate, offered=scenario.rate)
        run.received = 100
        run.histogram = Histogram.of([1000 + repetition]).dumps()
        if contestant.name == "unix-python":
            run.error = "no luck"
        return run


def test_load_is_a_share_of_what_each_repetition_found_to_be_carried() -> None:
    curve = load.measure(Scripted(), SWEEP, TWICE)
    line = next(line for line in curve.lines if line.contestant == "unix-c")
    assert [point.x for point in line.points] == [750, 1500, 3000]
    assert line.points[0].latency_ns["p50"] == pytest.approx(1000, rel=0.02)
    assert line.remark == "closed loop 1,500/s; kept up with 100% of it"


def test_who_fails_without_load_is_offered_none_and_says_why() -> None:
    line = load.measure(Scripted(), SWEEP, ONCE).lines[1]
    assert (line.points, line.remark) == ([], "failed: no luck")


def test_contestants_take_turns_at_being_the_first() -> None:
    suite = Scripted()
    load.measure(suite, SWEEP, TWICE)
    first = [name for at, name in enumerate(suite.order) if name not in suite.order[at - 1 : at]]
    assert first == ["unix-c", "unix-python", "unix-c"]


def test_a_curve_is_drawn_and_tabled() -> None:
    curve = asdict(load.measure(Scripted(), SWEEP, ONCE))
    known = {"contestants": [{"name": n, "title": n, "ours": False} for n in SWEEP.contestants]}
    text = "\n".join(charts.html(known, curve))
    for plot in text.split("<svg")[1:]:
        ET.fromstring("<svg" + plot.split("</svg>")[0] + "</svg>")  # our own
    assert text.count("<polyline") == 3
    assert "| unix-c | 2,000 | 1,000/s |" in "\n".join(charts.markdown(known, curve))


@pytest.mark.parametrize("sweep", load.SWEEPS, ids=lambda sweep: sweep.name)
def test_sweeps_name_contestants_that_can_be_paced(sweep: load.Sweep) -> None:
    known = {one.name: one for one in CONTESTANTS}
    paced = replace(sweep.closed(), shape="open", rate=1.0)
    for name in sweep.contestants:
        assert known[name].fits(sweep.closed()), name
        assert known[name].fits(paced), name


@pytest.mark.net
def test_a_sender_that_is_given_too_much_falls_behind_and_its_messages_are_late() -> None:
    profile = Profile("test", 0.01, 0.1, 1, ())
    python = next(one for one in sockets.CONTESTANTS if one.name == "unix-python")
    command = (sys.executable, "-m", "perf.sides.sockets")
    with Suite([replace(python, side=lambda: command)], profile, lambda _: None) as suite:
        (line,) = load.measure(suite, replace(SWEEP, shares=(0.01, 4.0)), profile).lines
    calm, flooded = line.points
    assert not calm.error
    assert not flooded.error
    assert flooded.rate < flooded.x / 2
    assert flooded.latency_ns["p50"] > 10 * calm.latency_ns["p50"]
