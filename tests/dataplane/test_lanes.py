"""Who of an application's streams goes first when a path carries no more: whole engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from valkyrie.dataplane.lab import Lab, Outcome
from valkyrie.dataplane.scenario import App, Link, Node, Scenario, Traffic

RING_BYTES = 1 << 22
SMALL = 1024


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def run(lab: Lab, *traffic: Traffic, rate_mbps: float = 1000) -> Outcome:
    """Let one application send another everything over a path that is full."""
    outcome = lab.run(
        Scenario(
            limit_s=60,
            timed=True,
            link=Link(rate_mbps=rate_mbps, delay_ms=0.5, buffer_bytes=125_000),
            nodes=tuple(
                Node(name=name, params={"window_bytes": RING_BYTES}) for name in ("left", "right")
            ),
            apps=tuple(
                App(name=name, node=name, ring_bytes=RING_BYTES) for name in ("left", "right")
            ),
            traffic=traffic,
        )
    )
    assert outcome.ok, outcome.failures
    return outcome


def bulk(klass: str, size: int, total: int) -> Traffic:
    return Traffic(source="left", target="right", klass=klass, messages=total // size, size=size)


@pytest.mark.parametrize("klass", ["data", "job"])
@pytest.mark.parametrize("size", [SMALL, 5000, 65_000])
def test_a_small_message_does_not_wait_for_what_another_stream_has_in_the_ring(
    lab: Lab, klass: str, size: int
) -> None:
    small = Traffic(
        source="left",
        target="right",
        klass=klass,
        messages=200,
        size=SMALL,
        interval_us=1000,
        start_ms=100,
    )
    outcome = run(lab, bulk(klass, size, 50_000_000), small)
    # 4 MiB of ring are 34 ms of the path; its own queue is 1 ms.
    assert outcome.traffic[0].delay_mean_ms > 20
    assert outcome.traffic[1].delay_mean_ms < 4


def test_a_large_message_goes_on_beside_any_number_of_small_ones(lab: Lab) -> None:
    small = Traffic(
        source="left",
        target="right",
        klass="data",
        streams=50,
        concurrent=50,
        messages=2000,
        size=SMALL,
    )
    outcome = run(lab, small, bulk("data", 65_000, 1_300_000), rate_mbps=200)
    assert outcome.traffic[1].finished_ms < outcome.traffic[0].finished_ms / 2
