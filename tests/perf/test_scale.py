"""Cost over size and number: where it grows, and sides that have many of something."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest

from perf import charts, scale
from perf.arena import Arena
from perf.contestant import ROOT, Contestant
from perf.curve import Point
from perf.match import play
from perf.peers import CONTESTANTS
from perf.scale import Growth, growth
from perf.scenario import Profile, Scenario
from perf.sides.result import Result
from perf.sides.valkyrie_c import _added

BY_NAME = {one.name: one for one in CONTESTANTS}
PROFILE = Profile("test", 0.02, 0.05, 1, ())


@pytest.mark.parametrize(
    ("costs", "found"),
    [
        ([100, 100, 100], None),
        ([100, 110, 120], None),
        ([100, 90, 120], Growth(2, 3, 90)),
        ([100, 200, 100, 300], Growth(3, 4, 100)),
        ([300, 100, 100, 200, 400], Growth(3, 4, 100)),
        ([100], None),
        ([], None),
    ],
)
def test_cost_has_grown_where_it_never_falls_back(costs: list[int], found: Growth | None) -> None:
    assert growth([(at + 1, cost) for at, cost in enumerate(costs)]) == found


def test_what_a_curve_shows_is_said() -> None:
    points = [Point(16, rate=1e7), Point(64, rate=1e7), Point(1024, rate=1e6)]
    assert "100 ns" in scale.remark(points)
    assert "up to 64; from 1,024 on" in scale.remark(points)
    assert "does not grow" in scale.remark(points[:2])
    assert "too few" in scale.remark(points[:1])


def test_where_cost_begins_to_grow_is_marked_in_its_plot_and_times_have_units_that_suit() -> None:
    points = [asdict(Point(x, rate=rate)) for x, rate in ((1, 1e7), (10, 1e7), (100, 1e2))]
    line = {"contestant": "c", "points": points, "remark": ""}
    curve = {"name": "", "title": "", "axis": "", "figure": "cost", "lines": [line]}
    known = {"name": "c", "title": "C", "ours": True}
    text = "".join(charts.html({"contestants": [known]}, curve))
    assert text.count("<circle") == 1
    assert all(f">{label}<" in text for label in ("100 ns", "1 µs", "10 ms"))


@pytest.mark.parametrize("one", scale.SCALES, ids=lambda one: one.name)
def test_every_value_of_a_scale_has_somebody_who_can_do_it(one: scale.Scale) -> None:
    assert list(one.values) == sorted(set(one.values))
    for name in one.contestants:
        assert BY_NAME[name].fits(one.at(one.values[0])), name
    for value in one.values:
        assert any(BY_NAME[name].fits(one.at(value)) for name in one.contestants), value


def test_figures_of_many_applications_are_added_up() -> None:
    one = Result(messages=3, elapsed_ns=10, cpu_ns=5, histogram=[[1, 2]])
    other = Result(messages=4, elapsed_ns=30, cpu_ns=6, histogram=[[1, 1], [9, 1]])
    total = json.loads(_added([one, other]).dumps())
    assert (total["messages"], total["elapsed_ns"], total["cpu_ns"]) == (7, 30, 11)
    assert total["histogram"] == [[1, 3], [9, 1]]


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    contestant = BY_NAME["valkyrie-c-udp"]
    made = Arena(contestant.place)
    try:
        contestant.prepare(made)
        yield made
    finally:
        made.close()


@pytest.mark.net
@pytest.mark.parametrize(
    ("shape", "count"),
    [("streams", 50), ("logs", 50), ("beside", 50), ("applications", 3), ("stream", 0)],
)
def test_many_streams_and_many_applications_carry_what_they_are_given(
    arena: Arena, shape: str, count: int
) -> None:
    scenario = Scenario("test", "Test", "network", shape, 64, count=count)
    run = play(arena, BY_NAME["valkyrie-c-udp"], scenario, PROFILE, 0)
    assert run.error == ""
    assert run.received > 0
    assert run.corrupt == 0


SIDE = "import perf.sides.valkyrie as s, perf.sides.valkyrie_c as c; "
IMPATIENT = "s.OPEN_S = 0.0; c.run_many(c.order(), 3)"
FORKED = "c.os.fork = lambda: c.os._exit('_asyncio' not in c.sys.modules); c.run_many(c.order(), 1)"
DEPARTING = "s.OPEN_S = c.ACCEPTED_S = 0.0; c.run_many(c.order(), 3)"


def _applications(code: str) -> Contestant:
    command = (sys.executable, "-c", SIDE + code)
    return replace(BY_NAME["valkyrie-c-udp"], side=lambda: command)


@pytest.mark.net
def test_many_applications_wait_until_the_last_of_the_others_is_there(arena: Arena) -> None:
    BY_NAME["valkyrie-c-udp"].side()  # compiled
    scenario = Scenario("test", "Test", "network", "applications", 64, count=3)
    run = play(arena, _applications(IMPATIENT), scenario, PROFILE, 0)
    assert run.error == ""
    assert run.received > 0


def test_what_applications_need_is_loaded_before_there_are_many() -> None:
    words = ["receiver", "applications", "rings", "b a", "64", "0", "0", "1"]
    done = subprocess.run(
        [sys.executable, "-c", SIDE + FORKED, *words], cwd=ROOT, check=False, timeout=60
    )
    assert done.returncode == 0


@pytest.mark.net
def test_a_receiver_that_ends_early_is_told_and_not_what_the_sender_missed(arena: Arena) -> None:
    scenario = Scenario("test", "Test", "network", "applications", 64, count=3)
    run = play(arena, _applications(DEPARTING), scenario, PROFILE, 0)
    assert run.error.startswith("the receiver ended: application ")
    assert "no stream came in" in run.error


@pytest.mark.net
@pytest.mark.parametrize("name", ["unix-c", "unix-python"])
@pytest.mark.parametrize("size", [16, 16_384, 1 << 20])
def test_the_last_word_is_heard_whatever_the_size(name: str, size: int) -> None:
    contestant = BY_NAME[name]
    if name == "unix-python":
        command = (sys.executable, "-m", "perf.sides.sockets")
        contestant = replace(contestant, side=lambda: command)
    made = Arena("local")
    try:
        run = play(made, contestant, Scenario("t", "T", "local", "stream", size), PROFILE, 0)
    finally:
        made.close()
    assert run.error == ""
    assert run.lost == run.corrupt == 0
