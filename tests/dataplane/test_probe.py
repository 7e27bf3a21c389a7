"""Probes on paths that take one packet now and then: a policer that is always empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from valkyrie.dataplane.lab.scenario import Path, Scenario, Traffic
from valkyrie.dataplane.lab.trial import Lab, Outcome

PACKETS_A_SECOND = 7
MESSAGES = 5


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def policed(lab: Lab, klass: str, seed: int, packet_bytes: int) -> Outcome:
    """Send a few messages to the right, whose policer never holds more than a packet or two."""
    rate_mbps = PACKETS_A_SECOND * packet_bytes * 8 / 1e6
    path = Path(
        source="left",
        target="right",
        policer_mbps=rate_mbps,
        policer_bytes=packet_bytes * 3 // 2,
    )
    traffic = Traffic(source="left", target="right", klass=klass, messages=MESSAGES, size=10)
    return lab.run(
        Scenario(
            seed=seed,
            reliable=klass != "logs",
            paths=(path,),
            traffic=(traffic,),
            limit_s=120,
            linger_ms=30_000,
        )
    )


@pytest.mark.parametrize("klass", ["critical", "system", "job", "data", "logs"])
def test_what_is_missing_gets_through_and_then_it_is_silent(lab: Lab, klass: str) -> None:
    for seed in range(1, 11):
        outcome = policed(lab, klass, seed, packet_bytes=400)
        assert outcome.ok, outcome.failures
        assert outcome.traffic[0].finished == 1
        assert outcome.links[0].packets < 1000
