"""vk_bell.h: nobody sleeps through a wake-up, and nobody is held up by ringing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shm import native

INTERLEAVINGS = 200_000


def test_no_interleaving_loses_a_wake_up(model: Path) -> None:
    told = native.run(model, "bell", INTERLEAVINGS)
    assert f"iterations={INTERLEAVINGS} result=SUCCESS" in told


@pytest.mark.parametrize(
    "mistake", ["vk_bell_wanted", "vk_sleep_begin", "same count", "no last look"]
)
def test_the_model_notices_every_mistake_in_the_protocol(model: Path, mistake: str) -> None:
    told = native.run(model, "bell", INTERLEAVINGS, mistake, status=1)
    assert "result=DEADLOCK" in told
