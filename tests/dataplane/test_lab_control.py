"""What congestion control makes of hosts that are not ideal: whole engines under virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from valkyrie.dataplane import lib
from valkyrie.dataplane.lab.scenario import App, Link, Node, Scenario, Traffic
from valkyrie.dataplane.lab.trial import Lab, Outcome

FIXED, DELAY, CUBIC = 0, 1, 2
WINDOW = 64 << 20
"""Never the limit."""
RING_BYTES = 1 << 20
"""It keeps what is to be sent again: more than the network holds."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def run(
    lab: Lab,
    controller: int,
    *,
    stall: float = 0,
    wake_us: float = 5,
    interval_us: float = 0,
    loss: float = 0,
    seed: int = 1,
) -> Outcome:
    """One stream over 1 Gbit/s and 1 ms; *stall*: share of the sender's turns that begin late."""
    more: dict[str, Any] = {
        "params": {"controller": controller},
        "session_window": WINDOW,
        "window_start": WINDOW,
    }
    return lab.run(
        Scenario(
            seed=seed,
            limit_s=20,
            sample_ms=20,
            link=Link(rate_mbps=1000, delay_ms=0.5, buffer_bytes=125_000, loss=loss),
            nodes=(
                Node(name="left", wake_us=wake_us, stall=stall, stall_us=300, **more),
                Node(name="right", wake_us=wake_us, **more),
            ),
            apps=tuple(
                App(name=name, node=name, ring_bytes=RING_BYTES) for name in ("left", "right")
            ),
            traffic=(
                Traffic(
                    source="left",
                    target="right",
                    klass="job",
                    messages=2000,
                    size=16_384,
                    interval_us=interval_us,
                ),
            ),
        )
    )


def took_ms(outcome: Outcome) -> float:
    assert outcome.ok, outcome.failures
    return outcome.traffic[0].finished_ms


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_worker_that_loses_its_core_does_not_take_the_path_for_shorter(
    lab: Lab, seed: int
) -> None:
    calm = took_ms(run(lab, DELAY, seed=seed))
    assert took_ms(run(lab, DELAY, stall=0.01, seed=seed)) < 1.5 * calm


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_late_worker_keeps_a_queue_that_lasts_until_it_comes(lab: Lab, seed: int) -> None:
    calm = took_ms(run(lab, DELAY, loss=0.01, seed=seed))
    assert took_ms(run(lab, DELAY, loss=0.01, stall=0.02, seed=seed)) < 1.03 * calm


@pytest.mark.parametrize("loss", [0, 0.01])
def test_hosts_that_wake_up_late_are_not_taken_for_a_queue(lab: Lab, loss: float) -> None:
    calm = took_ms(run(lab, DELAY, loss=loss))
    assert took_ms(run(lab, DELAY, loss=loss, wake_us=200)) < 1.15 * calm


@pytest.mark.parametrize("loss", [0, 0.01])
def test_the_fixed_rate_is_kept_by_a_worker_that_loses_its_core(lab: Lab, loss: float) -> None:
    calm = took_ms(run(lab, FIXED, loss=loss))
    assert took_ms(run(lab, FIXED, loss=loss, stall=0.1)) < 1.1 * calm


@pytest.mark.parametrize("controller", [FIXED, DELAY])
def test_what_a_turn_sends_of_large_messages_ends_with_a_datagram(
    lab: Lab, controller: int
) -> None:
    outcome = run(lab, controller, stall=0.02)
    assert outcome.ok, outcome.failures
    shards = sum(row[lib.VK_TX_SHARDS] for row in lab.counters(0).classes)
    # 11.6 datagrams a message, one of which is shared with the next.
    assert shards < 12.8 * outcome.traffic[0].sent


@pytest.mark.parametrize("controller", [FIXED, DELAY, CUBIC])
def test_windows_do_not_grow_that_nobody_fills(lab: Lab, controller: int) -> None:
    outcome = run(lab, controller, interval_us=1000)  # 131 Mbit/s of 1000
    assert outcome.ok, outcome.failures
    assert max(sample.window_bytes for sample in outcome.samples) < 1_000_000


@pytest.mark.parametrize("controller", [CUBIC, DELAY])
def test_marks_keep_a_queue_from_overflowing(lab: Lab, controller: int) -> None:
    row = Scenario(
        limit_s=60,
        link=Link(rate_mbps=100, delay_ms=5, buffer_bytes=400_000, mark_bytes=40_000),
        nodes=tuple(
            Node(name=name, params={"controller": controller, "window_bytes": 1 << 22})
            for name in ("left", "right")
        ),
        apps=tuple(App(name=name, node=name, ring_bytes=1 << 21) for name in ("left", "right")),
        traffic=(Traffic(source="left", target="right", klass="data", messages=2000, size=16_000),),
    )
    outcome = lab.run(row)
    assert outcome.ok, outcome.failures
    busy = max(outcome.links, key=lambda link: link.bytes)
    assert busy.marked > 0
    assert busy.overflowed == 0
    assert outcome.traffic[0].goodput_mbps > 80
