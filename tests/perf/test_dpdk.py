"""DPDK's testpmd, which not every machine has."""

from __future__ import annotations

import shutil

import pytest

from perf import dpdk
from perf.contestant import MissingError


def test_without_testpmd_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(MissingError, match="install dpdk-dev"):
        dpdk.run(True)


def test_what_testpmd_received_is_the_sum_that_it_tells_last() -> None:
    listing = "RX-packets: 7  RX-dropped: 0\n+++ Accumulated\n  RX-packets: 12345     RX-total: 1\n"
    assert dpdk.received(listing) == 12345


def test_a_testpmd_that_does_not_start_is_told_with_its_last_word() -> None:
    with pytest.raises(MissingError, match="EAL: no driver"):
        dpdk.received("EAL: hello\nEAL: no driver\n")
