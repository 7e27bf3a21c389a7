"""Who of an application's streams goes first when a path carries no more: whole engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from valkyrie.dataplane.lab.scenario import App, Event, Link, Node, Path, Scenario, Traffic
from valkyrie.dataplane.lab.trial import Lab, Outcome

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


@pytest.mark.parametrize("size", [200, 20_000])
@pytest.mark.parametrize("consume_mbps", [0, 1])
def test_a_peer_that_takes_nothing_keeps_no_other_waiting(
    lab: Lab, size: int, consume_mbps: int
) -> None:
    """0: its application stands still for two seconds."""
    still = (
        Event(at_ms=0.1, kind="hold", app="slow"),
        Event(at_ms=2000, kind="take", app="slow"),
    )
    names = ("left", "slow", "quick")
    outcome = lab.run(
        Scenario(
            limit_s=60,
            link=Link(rate_mbps=1000, delay_ms=0.1, buffer_bytes=125_000),
            nodes=tuple(Node(name=name) for name in names),
            apps=tuple(
                App(
                    name=name,
                    node=name,
                    ring_bytes=1 << 20,
                    consume_mbps=consume_mbps if name == "slow" else 0,
                )
                for name in names
            ),
            events=() if consume_mbps else still,
            traffic=tuple(
                Traffic(source="left", target=name, klass="data", messages=total // size, size=size)
                for name, total in (("slow", 2_000_000), ("quick", 10_000_000))
            ),
        )
    )
    assert outcome.ok, outcome.failures
    assert outcome.traffic[0].finished_ms > 2000
    assert outcome.traffic[1].finished_ms < 250


@pytest.mark.parametrize("klass", ["data", "job", "logs"])
def test_streams_that_open_and_close_to_a_full_path_keep_no_other_waiting(
    lab: Lab, klass: str
) -> None:
    names = ("left", "slow", "quick")
    bulk, many, quick = (
        Traffic(source="left", target="slow", klass=klass, messages=200, size=5000, start_ms=50),
        Traffic(
            source="left",
            target="slow",
            klass=klass,
            streams=50,
            concurrent=50,
            messages=1,
            size=SMALL,
            start_ms=100,
        ),
        Traffic(
            source="left",
            target="quick",
            klass=klass,
            messages=500,
            size=SMALL,
            interval_us=1000,
        ),
    )
    outcome = lab.run(
        Scenario(
            limit_s=120,
            timed=True,
            link=Link(rate_mbps=1000, delay_ms=0.1),
            paths=(Path(source="left", target="slow", rate_mbps=1, buffer_bytes=20_000),),
            nodes=tuple(Node(name=name, params={"window_bytes": 1 << 20}) for name in names),
            apps=tuple(App(name=name, node=name, ring_bytes=1 << 22) for name in names),
            traffic=(bulk, many, quick),
        )
    )
    assert outcome.ok, outcome.failures
    assert outcome.traffic[2].delay_mean_ms < 4
    assert outcome.traffic[2].finished_ms < 1000
