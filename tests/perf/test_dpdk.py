"""DPDK's testpmd, which not every machine has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from perf import dpdk, unpacked
from perf.contestant import MissingError

PLAN = """\
Inst libnuma1 [2.0.15] (2.0.16 Debian:12.5 [amd64])
Inst librte-eal23 (22.11 Debian:12.5 [amd64])
Inst libdpdk-dev (22.11 Debian:12.5 [amd64])
Inst dpdk-dev (22.11 Debian:12.5 [amd64])
Conf dpdk-dev (22.11 Debian:12.5 [amd64])
"""


def test_what_is_fetched_runs_and_is_not_there() -> None:
    assert unpacked.needed(PLAN, ["dpdk-dev"]) == ["librte-eal23", "dpdk-dev"]


def test_a_package_that_is_unknown_is_missing_with_the_reason_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*command: object, **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 100, "", "E: Unable to locate package no-such\n")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(MissingError, match="apt-get: E: Unable to locate package no-such"):
        unpacked.unpacked(["no-such"], tmp_path / "folder")
    assert not list(tmp_path.iterdir())


def test_what_was_unpacked_before_stays(tmp_path: Path) -> None:
    assert unpacked.unpacked(["no-such"], tmp_path) == tmp_path


def test_what_testpmd_received_is_the_sum_that_it_tells_last() -> None:
    listing = "RX-packets: 7  RX-dropped: 0\n+++ Accumulated\n  RX-packets: 12345     RX-total: 1\n"
    assert dpdk.received(listing) == 12345


def test_a_testpmd_that_does_not_start_is_told_with_its_last_word() -> None:
    with pytest.raises(MissingError, match="EAL: no driver"):
        dpdk.received("EAL: hello\nEAL: no driver\n")
