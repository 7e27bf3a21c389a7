"""A reader that is behind is no congestion: whole engines under virtual time."""

from __future__ import annotations

import pytest

from valkyrie.dataplane.lab.scenario import App, Event, Link, Node, Scenario, Traffic
from valkyrie.dataplane.lab.trial import Lab, Outcome


def run(*, frozen: bool, seed: int) -> Outcome:
    """Two applications send over one session; the reader of the first stands still again and again.

    Its eight streams may be sent 512 KiB, and its ring takes 64.
    """
    starts = range(20, 1020, 50)
    still = (
        *(Event(at_ms=at, kind="freeze", app="slow") for at in starts),
        *(Event(at_ms=at + 40, kind="thaw", app="slow") for at in starts),
    )
    rings = {"a": 1 << 20, "b": 1 << 20, "slow": 1 << 16, "quick": 1 << 20}
    with Lab() as lab:
        outcome = lab.run(
            Scenario(
                seed=seed,
                limit_s=60,
                sample_ms=10,
                link=Link(rate_mbps=100, delay_ms=2, buffer_bytes=100_000),
                nodes=(Node(name="left"), Node(name="right")),
                apps=tuple(
                    App(name=name, node="left" if name in "ab" else "right", ring_bytes=size)
                    for name, size in rings.items()
                ),
                events=still if frozen else (),
                traffic=(
                    Traffic(
                        source="a",
                        target="slow",
                        klass="data",
                        messages=300,
                        streams=8,
                        concurrent=8,
                        size=1000,
                    ),
                    Traffic(source="b", target="quick", klass="data", messages=10_000, size=1000),
                ),
            )
        )
    assert outcome.ok, outcome.failures
    return outcome


def window_min(outcome: Outcome) -> int:
    """Return the smallest window of the sender once slow start was over."""
    return min(sample.window_bytes for sample in outcome.samples if 100 < sample.at_ms < 1000)


@pytest.mark.parametrize("seed", range(1, 4))
def test_a_full_ring_does_not_shrink_the_window_of_the_sessions_other_streams(seed: int) -> None:
    calm, frozen = run(frozen=False, seed=seed), run(frozen=True, seed=seed)
    assert frozen.traffic[0].finished_ms > 1.5 * calm.traffic[0].finished_ms
    assert window_min(frozen) > 0.6 * window_min(calm)
    assert frozen.traffic[1].finished_ms < 1.5 * calm.traffic[1].finished_ms
