"""Runs with real sides: in Python and in C, whole, corrupted, and missing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from perf.arena import Arena
from perf.comparison import Suite
from perf.contestant import Contestant, MissingError
from perf.match import Run, play
from perf.peers import sides, sockets
from perf.scenario import SCENARIOS, Profile, Scenario

PROFILE = Profile("test", 0.01, 0.05, 2, ())
BY_NAME = {contestant.name: contestant for contestant in sockets.CONTESTANTS}
SIDE = (sys.executable, "-m", "perf.sides.sockets")
PYTHON = replace(BY_NAME["unix-python"], side=lambda: SIDE)
LARGE = 1 << 20
"""More than a socket takes at once."""


def scenario(
    shape: str, place: str = "local", size: int = 64, *, encrypted: bool = False
) -> Scenario:
    return Scenario("test", "Test", place, shape, size, 2000, encrypted)


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena("local")
    yield made
    made.close()


def checked(run: Run) -> Run:
    assert run.error == ""
    assert run.received > 0
    assert run.corrupt == run.disordered == run.lost == 0
    assert run.cpu_ns_per_message > 0
    return run


@pytest.mark.net
@pytest.mark.parametrize("contestant", [PYTHON, BY_NAME["unix-c"]], ids=["Python", "C"])
@pytest.mark.parametrize("shape", ["stream", "request", "open"])
def test_a_run_counts_and_checks_what_arrives(
    arena: Arena, contestant: Contestant, shape: str
) -> None:
    run = checked(play(arena, contestant, scenario(shape), PROFILE, 0))
    assert run.rate > 0
    assert bool(run.latency_ns) == (shape != "stream")
    if shape == "open":
        assert run.sent == round(2000 * PROFILE.run_s)
        assert run.received == run.sent - 1, "the first one starts the clock"


@pytest.mark.net
def test_sides_in_c_and_in_python_speak_of_the_same_messages(arena: Arena) -> None:
    def mixed() -> Iterator[tuple[str, ...]]:
        yield PYTHON.side()
        yield BY_NAME["unix-c"].side()

    commands = mixed()
    both = replace(PYTHON, side=lambda: next(commands))
    checked(play(arena, both, scenario("request", size=4096), PROFILE, 0))


@pytest.mark.net
@pytest.mark.parametrize("size", [20_000, LARGE])
@pytest.mark.parametrize("shape", ["stream", "request"])
def test_large_messages_arrive_whole_in_python(arena: Arena, shape: str, size: int) -> None:
    checked(play(arena, PYTHON, scenario(shape, size=size), PROFILE, 0))


@pytest.mark.net
@pytest.mark.parametrize("size", [64, 20_000, LARGE])
@pytest.mark.parametrize("turned", [False, True], ids=["to C", "to Python"])
def test_tls_in_c_and_in_python_speak_of_the_same_messages(size: int, turned: bool) -> None:
    tls = BY_NAME["tls-c"]
    commands = [tls.side(), SIDE]
    order = iter(commands[::-1] if turned else commands)
    made = Arena("network")
    try:
        tls.prepare(made)
        both = replace(tls, side=lambda: next(order))
        what = scenario("request", "network", size, encrypted=True)
        checked(play(made, both, what, PROFILE, 0))
    finally:
        made.close()


@pytest.mark.net
@pytest.mark.parametrize("size", [64, LARGE])
@pytest.mark.parametrize("name", ["tls-c", "tls-buffered-c"])
def test_two_hosts_speak_tls_in_c(name: str, size: int) -> None:
    with Suite([BY_NAME[name]], PROFILE, lambda _: None) as suite:
        suite.compete(scenario("stream", "network", size, encrypted=True))
    assert [run.error for run in suite.runs] == ["", ""]
    assert all(run.corrupt == 0 and run.received > 0 for run in suite.runs)


@pytest.mark.parametrize("language", ["C", "Python"])
def test_every_encrypted_scenario_has_tls_beside_it_in_each_language(language: str) -> None:
    beside = [one for one in sockets.CONTESTANTS if one.encrypted and one.language == language]
    for asked in (one for one in SCENARIOS if one.encrypted):
        assert any(one.fits(asked) for one in beside), asked.name


@pytest.mark.net
@pytest.mark.parametrize("name", ["tcp-c", "tcp-buffered-c", "udp-c", "udp-gso-c"])
def test_two_hosts_have_a_wire_between_them(name: str) -> None:
    with Suite([BY_NAME[name]], PROFILE, lambda _: None) as suite:
        suite.compete(scenario("stream", "network", 256))
    assert [run.error for run in suite.runs] == ["", ""]
    assert all(run.corrupt == 0 and run.received > 0 for run in suite.runs)


@pytest.mark.net
def test_contents_that_nobody_sent_are_an_error(arena: Arena) -> None:
    spoil = "import perf.sides.message as m; m.body = lambda size: bytes(size - m.HEAD.size)"
    code = f"{spoil}; import perf.sides.sockets as s; s.run(s.Sockets)"
    commands = iter([PYTHON.side(), (sys.executable, "-c", code)])
    run = play(arena, replace(PYTHON, side=lambda: next(commands)), scenario("stream"), PROFILE, 0)
    assert "contents that nobody sent" in run.error


@pytest.mark.net
def test_a_side_that_fails_is_told_with_its_last_word(arena: Arena) -> None:
    broken = replace(PYTHON, side=lambda: (sys.executable, "-c", "raise SystemExit('no luck')"))
    assert "no luck" in play(arena, broken, scenario("stream"), PROFILE, 0).error


@pytest.mark.net
def test_a_sender_that_does_not_say_that_it_begins_is_an_error(arena: Arena) -> None:
    silent = (sys.executable, "-c", "print('hello', flush=True); input()")
    commands = iter([PYTHON.side(), silent])
    run = play(arena, replace(PYTHON, side=lambda: next(commands)), scenario("stream"), PROFILE, 0)
    assert run.error == "the sender begins with 'hello' instead of 'begin'"


def _refuse(why: str) -> Callable[[], tuple[str, ...]]:
    def side() -> tuple[str, ...]:
        raise MissingError(why)

    return side


@pytest.mark.net
def test_who_cannot_be_had_is_missing_with_the_reason() -> None:
    absent = replace(PYTHON, name="absent", side=_refuse("no package"))
    with Suite([absent, PYTHON], PROFILE, lambda _: None) as suite:
        suite.compete(scenario("stream"))
    assert suite.missing == {"absent": "no package"}
    assert {run.contestant for run in suite.runs} == {PYTHON.name}


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(MissingError, match="no-such-package"):
        sides.python("sockets", "no-such-package", "no_such_module")()
