"""vk_ring.h: its own source, as it stands, under every tool that could prove it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shm import native

INTERLEAVINGS = 200_000
KILLS = 300
FUZZ_SECONDS = 10


def test_every_case_holds_under_sanitizers(tmp_path: Path) -> None:
    native.run(native.build(tmp_path, "unit_ring.c", native.ADDRESS))


@pytest.mark.parametrize("flags", [native.THREAD, native.ADDRESS], ids=["thread", "address"])
def test_two_threads_pass_every_message_whole_and_in_order(
    tmp_path: Path, flags: list[str]
) -> None:
    program = native.build(tmp_path, "stress_ring.c", flags)
    naps = native.run(program, 50_000).split()
    assert all(int(nap) > 0 for nap in naps), "both sides slept and were woken"


def test_no_interleaving_shows_a_race_or_a_wrong_message(model: Path) -> None:
    told = native.run(model, "ring", INTERLEAVINGS)
    assert f"iterations={INTERLEAVINGS} result=SUCCESS" in told


@pytest.mark.parametrize("weakened", ["vk_tx_publish", "vk_rx_peek", "vk_tx_room", "vk_rx_release"])
def test_the_model_notices_when_an_order_is_weakened(model: Path, weakened: str) -> None:
    told = native.run(model, "ring", INTERLEAVINGS, weakened, status=1)
    assert "result=DATA RACE" in told


@pytest.mark.parametrize("victim", ["producer", "consumer"])
def test_whoever_is_killed_the_survivor_misses_nothing(tmp_path: Path, victim: str) -> None:
    program = native.build(tmp_path, "crash_ring.c", native.PLAIN)
    kills, messages = map(int, native.run(program, victim, KILLS, 5243).split())
    assert kills == KILLS
    assert messages > KILLS


def test_a_hostile_peer_never_makes_an_end_leave_the_ring(tmp_path: Path) -> None:
    program = native.build(tmp_path, "fuzz_ring.c", native.FUZZER)
    native.run(program, f"-max_total_time={FUZZ_SECONDS}", "-max_len=512", "-seed=1")
