"""vk_session, vk_rekey: what a session's packets are numbered and named by."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dataplane.rig import Rig, rig_of
from valkyrie.dataplane.wire import Class, Session, parse_frame

SKIP_MEAN = 512
"""Numbers between two that are left out, as in vk_session.h."""
MANY = 4_000_000


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rig_of() as made:
        yield made


@pytest.mark.parametrize("space", range(3))
def test_numbers_are_left_out_for_as_long_as_a_session_lives(rig: Rig, space: int) -> None:
    rig.pair()
    rig.settle()
    gaps, longest = map(int, rig.ask("numbers", 0, space, MANY).split())
    assert longest < 2 * SKIP_MEAN
    assert abs(gaps / (MANY / SKIP_MEAN) - 1) < 0.1
