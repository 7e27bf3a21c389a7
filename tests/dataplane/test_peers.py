"""Peers in the worker: a million are found in batches about as fast as a thousand."""

from __future__ import annotations

import subprocess

import pytest

from tests.dataplane.native import PARTS, program
from valkyrie.dataplane import lib

MOST: int = lib.VK_PEERS_MAX


@pytest.mark.parametrize("count", [3, 1_000, MOST])
def test_peers_are_found_move_and_leave(count: int) -> None:
    built = program("peers_many", "peers_many.c", *PARTS)
    done = subprocess.run(
        [built, str(count), "20000"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *_, bytes_each, wrong = map(float, done.stdout.split())
    assert wrong == 0
    # Few have their sessions at hand before they are used; of many, only rows are there.
    assert count < 10_000 or bytes_each <= 1_024


def test_a_node_has_room_for_a_million_peers() -> None:
    assert MOST >= 1_000_000
