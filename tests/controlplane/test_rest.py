"""How seldom a node that has nothing to do takes a core."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from tests.lab import SOON_S, Lab, wait_until
from tests.nodes import joined, make_pair, running
from valkyrie.controlplane.rest import left_s

WAKES_MAX = {"broker": 8, "daemon": 20}
"""A second: twice 4 of counters and watchdogs; 10 looks at peers, 4 at files, and some to spare."""


@pytest.mark.parametrize(("now_s", "left"), [(10.0, 0.25), (10.125, 0.125), (10.1875, 0.0625)])
def test_what_is_due_together_is_done_at_multiples_of_its_period(now_s: float, left: float) -> None:
    assert left_s(0.25, now_s) == left


@pytest.mark.parametrize("part", ["broker", "daemon"])
def test_a_node_with_a_quiet_peer_wakes_seldom(lab: Lab, tmp_path: Path, part: str) -> None:
    a, b = make_pair(lab, tmp_path)
    with running(a, b):
        wait_until(lambda: joined(a, b), SOON_S, "a session")
        process = psutil.Process(a.status()[part]["pid"])

        def is_quiet() -> bool:
            begin_s, before = time.monotonic(), process.num_ctx_switches().voluntary
            wait_until(lambda: time.monotonic() > begin_s + 1, SOON_S, "a second")
            wakes = process.num_ctx_switches().voluntary - before
            return bool(wakes <= WAKES_MAX[part] * (time.monotonic() - begin_s))

        wait_until(is_quiet, SOON_S, f"a {part} that seldom wakes")
