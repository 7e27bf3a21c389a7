"""Very many sessions: the worker's half checks what it measures, and the daemon's enters them."""

from __future__ import annotations

import subprocess

import pytest

from perf import sessions
from tests.dataplane.native import PARTS, program

IDLE_KEPT = 1024
"""VK_IDLE_KEPT"""


@pytest.mark.parametrize(("count", "used"), [(1, 1), (3_000, 2_000)])
def test_sessions_take_sealed_frames_and_those_that_are_idle_are_given_up(
    count: int, used: int
) -> None:
    built = program("sessions", "perf/sessions.c", *PARTS)
    words = [str(built), str(count), str(used), "2048"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    figures = dict(line.split() for line in done.stdout.splitlines())
    assert int(figures["kept"]) == min(used, IDLE_KEPT)
    assert float(figures["receive_ns"]) > 0


def test_a_daemon_enters_sessions_one_by_one() -> None:
    spent = sessions.install(100)
    assert set(spent) == {"peer", "session", "memory"}
    assert spent["peer"] > 0 < spent["session"]
