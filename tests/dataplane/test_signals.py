"""What a session is tuned to changes what its engine does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from valkyrie.dataplane import lib
from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.lab.scenario import App, Link, Node, Scenario, Traffic
from valkyrie.dataplane.lab.trial import Lab, Outcome


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def run(
    lab: Lab, left: dict[str, int] | None = None, right: dict[str, int] | None = None
) -> Outcome:
    """Send 10 MB over 1 Gbit/s and 20 ms: the reader's window is the limit, or the path."""
    outcome = lab.run(
        Scenario(
            limit_s=60,
            sample_ms=20,
            link=Link(rate_mbps=1000, delay_ms=10, buffer_bytes=500_000),
            nodes=(
                Node(name="left", tuning=left or {}),
                Node(name="right", tuning=right or {}),
            ),
            apps=tuple(App(name=name, node=name, ring_bytes=1 << 22) for name in ("left", "right")),
            traffic=(
                Traffic(source="left", target="right", klass="data", messages=1000, size=10_000),
            ),
        )
    )
    assert outcome.ok, outcome.failures
    return outcome


def mbps(outcome: Outcome) -> float:
    return outcome.traffic[0].goodput_mbps


def test_a_streams_window_stays_within_its_bounds(lab: Lab) -> None:
    plain = mbps(run(lab))
    least = run(lab, right={"stream_max": lib.VK_WINDOW_START})
    # 64 KiB in 20 ms are 26 Mbit/s.
    assert mbps(least) < 30 < plain / 2
    assert mbps(run(lab, right={"stream_min": 1 << 20})) > plain
    assert mbps(run(lab, left={"stream_max": lib.VK_WINDOW_START})) == pytest.approx(plain, rel=0.1)


def test_no_packet_is_larger_than_a_sessions_bound(lab: Lab) -> None:
    plain, small = run(lab).links[0], run(lab, left={"mtu": 1200}).links[0]
    assert small.packets > 1.1 * plain.packets


def test_without_pacing_a_window_leaves_at_once(lab: Lab) -> None:
    fixed = {"controller": 1, "rate": 12_500_000}  # 100 Mbit/s
    paced, burst = run(lab, left=fixed), run(lab, left={**fixed, "pacing": 2})
    assert mbps(paced) < 100 < mbps(burst)


def test_a_key_that_no_tuning_has_is_refused(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="colour"):
        run(lab, left={"colour": 1})
