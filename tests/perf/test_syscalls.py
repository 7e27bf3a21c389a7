"""System calls, counted exactly, and told by part."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from perf.arena import Arena
from perf.match import play
from perf.peers import CONTESTANTS
from perf.scenario import Profile, Scenario
from perf.syscalls import Counter

PROFILE = Profile("t", 0.02, 0.1, 1, ())
BY_NAME = {one.name: one for one in CONTESTANTS}


@pytest.fixture
def counter() -> Iterator[Counter]:
    with Counter() as made:
        yield made


def measure(calls: int) -> None:
    resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(calls):
        os.getppid()
    resource.getrusage(resource.RUSAGE_SELF)


@pytest.mark.net
def test_what_lies_between_two_looks_at_the_usage_is_counted_exactly(counter: Counter) -> None:
    counter.watch([os.getpid()])
    measure(3)
    measure(17)
    assert counter.calls(os.getpid()).measured == 17
    assert counter.calls(os.getpid()).total > 20


@pytest.mark.net
def test_who_is_not_watched_is_not_counted(counter: Counter) -> None:
    measure(5)
    assert counter.calls(os.getpid()).total == 0
    counter.watch([os.getpid()])
    counter.watch([os.getpid()])
    measure(5)
    assert counter.calls(os.getpid()).measured == 5
    counter.forget(os.getpid())
    assert counter.calls(os.getpid()).total == 0


@pytest.mark.net
def test_a_unix_socket_takes_one_call_to_write_and_a_large_read_for_many(counter: Counter) -> None:
    arena = Arena("local")
    try:
        scenario = Scenario("t", "T", "local", "stream", 64)
        run = play(arena, BY_NAME["unix-c"], scenario, PROFILE, 0, counter=counter)
    finally:
        arena.close()
    assert run.error == ""
    assert 0.9 < run.syscalls_by_part["sender"] < 1.5
    assert run.cpu_ns_per_message == pytest.approx(sum(run.cpu_ns_by_part.values()))


@pytest.mark.net
@pytest.mark.parametrize("language", ["c", "python"])
def test_a_round_trip_by_a_unix_socket_takes_two_calls_a_side(
    counter: Counter, language: str
) -> None:
    one = BY_NAME[f"unix-{language}"]
    if language == "python":
        one = replace(one, side=lambda: (sys.executable, "-m", "perf.sides.sockets"))
    arena = Arena("local")
    try:
        scenario = Scenario("t", "T", "local", "request", 64)
        run = play(arena, one, scenario, PROFILE, 0, counter=counter)
    finally:
        arena.close()
    assert run.error == ""
    assert 1.9 < run.syscalls_by_part["sender"] < 2.5
    assert 1.9 < run.syscalls_by_part["receiver"] < 2.5


@pytest.mark.net
def test_helpers_are_told_by_what_they_are(counter: Counter) -> None:
    one = BY_NAME["valkyrie-c-udp"]
    arena = Arena(one.place)
    try:
        one.prepare(arena)
        one.side()
        scenario = Scenario("t", "T", "network", "request", 64)
        run = play(arena, one, scenario, PROFILE, 0, counter=counter)
    finally:
        arena.close()
    assert run.error == ""
    assert run.cpu_ns_by_part.keys() == {"sender", "receiver", "worker", "daemon", "broker"}
    assert run.syscalls_by_part["worker"] > 1
