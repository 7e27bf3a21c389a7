"""What is measured: places, shapes and sizes, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """One question; contestants that can answer it do so in turn."""

    name: str
    title: str
    place: str
    """``network``: two hosts joined by a veth. ``local``: two processes of one host."""
    shape: str
    """``stream``, ``request``, ``open``, or one of those that have many: ``sides`` says what."""
    size: int
    """Bytes of a message."""
    rate: float = 0.0
    """Of ``open``: messages a second."""
    encrypted: bool = False
    count: int = 0
    """Of ``streams``, ``logs`` and ``applications``: how many."""

    @property
    def figure(self) -> str:
        """What is compared: messages a second, or nanoseconds at the median."""
        return "p50_ns" if self.shape in ("request", "open", "marked") else "rate"


SCENARIOS = (
    Scenario("net-64", "Two hosts, 64 B one way", "network", "stream", 64),
    Scenario("net-1k", "Two hosts, 1 KiB one way", "network", "stream", 1024),
    Scenario("net-64k", "Two hosts, 64 KiB one way", "network", "stream", 65_000),
    Scenario("net-64m", "Two hosts, 64 MiB one way", "network", "stream", 64 << 20),
    Scenario("net-rtt", "Two hosts, round trip of 64 B", "network", "request", 64),
    Scenario("net-open", "Two hosts, 64 B at 5 000 a second", "network", "open", 64, 5_000),
    Scenario("tls-64", "Two hosts, encrypted, 64 B one way", "network", "stream", 64, 0, True),
    Scenario("tls-1k", "Two hosts, encrypted, 1 KiB one way", "network", "stream", 1024, 0, True),
    Scenario("tls-64k", "Two hosts, encrypted, 64 KiB", "network", "stream", 65_000, 0, True),
    Scenario("tls-rtt", "Two hosts, encrypted, round trip", "network", "request", 64, 0, True),
    Scenario("ipc-64", "One host, 64 B one way", "local", "stream", 64),
    Scenario("ipc-1k", "One host, 1 KiB one way", "local", "stream", 1024),
    Scenario("ipc-rtt", "One host, round trip of 64 B", "local", "request", 64),
)


NODES = ("valkyrie-c-udp", "valkyrie-c-xdp")
"""Valkyrie between two hosts, from C, on both paths."""


@dataclass(frozen=True)
class Profile:
    """How long and how often, and of what."""

    name: str
    warm_s: float
    run_s: float
    repetitions: int
    scenarios: tuple[str, ...]
    """What is run when nothing is asked for by name; curves too, unless they have no repetition."""
    curve_repetitions: int = 1
    count_max: int = 50_000
    """Of streams in curves: to open one takes longer than a run."""
    budget_s: float | None = None
    """No repetition of a scenario begins that would end later; the first is always whole."""
    curve_budget_s: float | None = None
    """The same of a curve."""
    limit_s: float | None = None
    """No part of a run begins that would end later than so long behind its begin."""
    long: bool = False
    """Close-ups take their time."""
    pin: str = "hosts"
    """What is pinned: ``arena.PINS`` says what there is."""
    cores: tuple[int, ...] = ()
    """Of sender and receiver; empty: the first two that there are."""


EVERY = tuple(scenario.name for scenario in SCENARIOS)
PROFILES = {
    "quick": Profile(
        "quick",
        0.05,
        0.15,
        3,
        ("net-64", "net-rtt", "tls-64", "ipc-64", "ipc-rtt"),
        0,
        budget_s=24,
        limit_s=175,
    ),
    "default": Profile(
        *("default", 0.1, 0.3, 5, EVERY), budget_s=42, curve_budget_s=40, limit_s=1_500
    ),
    "full": Profile(
        *("full", 0.3, 0.7, 9, EVERY, 3, 200_000),
        budget_s=110,  # three repetitions of all, and one more that counts system calls
        curve_budget_s=80,
        limit_s=5_400,
        long=True,
    ),
}
