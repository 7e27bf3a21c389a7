"""vk_spin.h and vk_wake.h: who waits polls while that pays, as long as a wake costs here."""

from __future__ import annotations

from pathlib import Path

from tests.shm import native


def test_every_case_of_waiting_holds_under_sanitizers(tmp_path: Path) -> None:
    native.run(native.build(tmp_path, "unit_spin.c", native.ADDRESS))
