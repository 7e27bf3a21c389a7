"""Where contestants run: which core is whose."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from perf.arena import Arena, Pinning

ASK = "import os; print(sorted(os.sched_getaffinity(0)))"


@pytest.mark.parametrize(
    ("how", "place", "cores"),
    [
        ("hosts", "network", (4, 7)),
        ("hosts", "local", (None, None)),
        ("sides", "network", (4, 7)),
        ("sides", "local", (4, 7)),
        ("none", "network", (None, None)),
        ("none", "local", (None, None)),
    ],
)
def test_a_side_has_the_core_that_was_asked_for(
    how: str, place: str, cores: tuple[int | None, int | None]
) -> None:
    pinning = Pinning(how, (4, 7))
    assert (pinning.core("sender", place), pinning.core("receiver", place)) == cores


@pytest.mark.net
def test_processes_run_where_they_are_pinned() -> None:
    last = max(os.sched_getaffinity(0))
    arena = Arena("local", Pinning("sides", (last, last)))
    try:
        process = arena.start("sender", [sys.executable, "-c", ASK], stdout=subprocess.PIPE)
        said, _ = process.communicate(timeout=20)
    finally:
        arena.close()
    assert said.decode().strip() == f"[{last}]"
