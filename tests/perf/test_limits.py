"""What the machine can do at all, and shares of it."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from perf import limits, markdown, receive
from perf.scenario import SCENARIOS
from tests.census import needs
from tests.perf.test_report import document


def row(metric: str, value: float, unit: str) -> dict[str, Any]:
    return {"scenario": "limits", "metric": metric, "value": value, "unit": unit}


def standing(scenario: str, *, rate: float = 0.0, p50_ns: float = 0.0) -> dict[str, Any]:
    figure = {"low": 0.0, "high": 0.0}
    return {
        "scenario": scenario,
        "contestant": "valkyrie-c-local",
        "rate": {**figure, "median": rate or 1.0},
        "p50_ns": {**figure, "median": p50_ns} if p50_ns else None,
    }


def test_a_rate_is_bounded_by_the_slowest_part_and_a_trip_by_all() -> None:
    ours = ["valkyrie-c-local"]
    seal, opening = limits.sealed("AES-256-GCM", 64)
    rows = [row(seal, 200, "ns"), row(opening, 400, "ns"), row(limits.LINE, 250, "ns")]
    tls, trip = standing("tls-64", rate=500_000), standing("ipc-rtt", p50_ns=1000)
    first, second = limits.shares([trip, tls], rows, ours)
    assert (first["scenario"], first["limit"], first["share"]) == ("ipc-rtt", 250, 0.25)
    assert (second["scenario"], second["limit"], second["share"]) == ("tls-64", 2.5e6, 0.2)


@pytest.mark.parametrize(
    ("name", "limit"),
    [("valkyrie-c-xdp-tx", 2e6), ("valkyrie-c-xdp", 4e6), ("valkyrie-c-udp", None)],
)
def test_af_xdp_bounds_only_what_goes_that_way(name: str, limit: float | None) -> None:
    pair = (limits.RECEIVE, 4e6), (limits.SEND, 2e6)
    rows = [row(metric, rate, "packets/s") for metric, rate in pair]
    found = limits.shares([{**standing("net-1k", rate=1e6), "contestant": name}], rows, [name])
    assert [share["limit"] for share in found] == ([] if limit is None else [pytest.approx(limit)])


def test_datagrams_of_the_kernel_come_into_a_bare_socket() -> None:
    needs("root")
    with receive.ready() as bench:
        if len(bench.cpus) < 2:
            pytest.skip("both ends poll: each wants a core")
        assert bench.caught(bytes(1400), 20_000_000) > 0


def test_a_trip_between_hosts_is_bounded_by_a_packets_and_by_what_seals_it() -> None:
    seal, opening = limits.sealed("AES-256-GCM", 64)
    rows = [row(limits.TRIP, 5000, "ns"), row(seal, 200, "ns"), row(opening, 300, "ns")]
    trips = [standing(name, p50_ns=12_000) for name in ("net-rtt", "tls-rtt")]
    plain, safe = limits.shares(trips, rows, ["valkyrie-c-local"])
    assert (plain["limit"], safe["limit"], safe["share"]) == (5000, 6000, 0.5)
    assert safe["against"] == f"{limits.TRIP} and {seal} and {opening}"


def test_a_packet_comes_back_from_the_echo() -> None:
    needs("root")
    with receive.ready() as bench:
        if len(bench.cpus) < 2:
            pytest.skip("both ends poll: each wants a core")
        packet = receive.headed(bench.source, bench.target, bytes(64))
        assert 0 < bench.answered_ns(packet, 20_000_000) < 1e9


def test_there_is_no_share_of_what_was_not_measured_nor_of_others() -> None:
    rows = [row(limits.LINE, 250, "ns")]
    assert limits.shares([standing("ipc-rtt", p50_ns=1000)], rows, ["somebody-else"]) == []
    assert limits.shares([standing("ipc-rtt", p50_ns=1000)], [], ["valkyrie-c-local"]) == []


def test_limits_are_of_scenarios_that_there_are() -> None:
    assert {limit.scenario for limit in limits.LIMITS} <= {one.name for one in SCENARIOS}


def test_shares_are_shown() -> None:
    made = document()
    made["shares"] = [
        {
            "scenario": "net-64",
            "contestant": "valkyrie-c-udp",
            "against": "memcpy",
            "why": "it is copied",
            "value": 1e6,
            "limit": 2e6,
            "share": 0.5,
        }
    ]
    assert "| 1.00 M/s | 2.00 M/s | 0.50 | memcpy: it is copied |" in markdown.full(made)


def test_each_measurement_prints_what_is_read() -> None:
    binary = limits._program()
    for words, count in (("copy 64", 1), ("aead AES-256-GCM 64", 4)):
        argv = [str(binary), *words.split(), "0.01"]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        values = [float(word) for word in done.stdout.split()]
        assert len(values) == count
        assert all(0 < value < 1e6 for value in values)
    assert subprocess.run([binary, "nothing"], check=False).returncode == 64
