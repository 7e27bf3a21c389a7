"""What the machine can do at all, and which share of it Valkyrie's figures are.

AF_XDP without a protocol (receive and drop, send only, echo), a copy of memory, a cache line to
another core and back, libcrypto. Nothing that carries messages can be faster than what it is made
of. Beside libcrypto stands what sealing and opening cost a session, which calls it for each frame.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from tests.dataplane.native import INCLUDES, find

from .program import compiled
from .receive import _packet, ready
from .rows import Row, make_row

_row = partial(make_row, "limits", digits=3)
COPIED = (64, 1024, 65_000)
SEALED = (64, 1024, 1400, 16_384)
CIPHERS = ("AES-256-GCM", "ChaCha20-Poly1305")
PACKETS = {"66 B": 0, "1100 B": 1034}
"""Packet on the link -> payload behind Ethernet, IPv4, UDP and frame header."""
TRIP = "AF_XDP, to an echo and back, 130 B"
TRIP_PAYLOAD = 64
RECEIVE, SEND = (f"AF_XDP, {what}, 1100 B" for what in ("receive and drop", "send only"))
WAYS = ("xdp-tx", "xdp", "udp")
"""As names of contestants tell them: AF_XDP both ways, to receive only, not at all."""
LINE = "a cache line to another core and back"


def copied(size: int) -> str:
    """Return the metric's name."""
    return f"memcpy of {size} B from ring to ring"


def sealed(cipher: str, size: int) -> tuple[str, str]:
    """Return the metrics' names: to seal a message, and to open it."""
    return f"{cipher}, {size} B, seal", f"{cipher}, {size} B, open"


def _program() -> Path:
    return compiled("limits", *INCLUDES, find("vk_keyring.c"), find("vk_aead.c"), "-lcrypto")


def _memory_and_ciphers(rounds: int, seconds: float) -> Iterator[Row]:
    binary = _program()

    def ask(*words: object) -> list[float]:
        argv = [str(binary), *map(str, words), str(seconds)]
        runs = []
        for _ in range(rounds):
            done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)
            runs.append([float(word) for word in done.stdout.split()])
        return [median(values) for values in zip(*runs, strict=True)]

    for size in COPIED:
        yield _row(copied(size), ask("copy", size)[0], "ns")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        yield _row(LINE, ask("line", cores[0], cores[-1])[0], "ns")
    for cipher in CIPHERS:
        for size in SEALED:
            found = ask("aead", cipher, size)
            raw, ours = found[:2], found[2:]
            for metric, bare, own in zip(sealed(cipher, size), raw, ours, strict=True):
                yield _row(metric, bare, "ns")
                yield _row(f"{metric} by a session", own, "ns", bare)


def _af_xdp(rounds: int, duration_ns: int) -> Iterator[Row]:
    with ready() as bench:
        measures: Mapping[str, Callable[[bytes, int], float]] = {
            "receive and drop": bench.baseline,
            "send only": bench.transmit,
        }
        for size, payload_size in PACKETS.items():
            packet = _packet(bench.source, bench.target, payload_size)
            for name, measure in measures.items():
                found = median(measure(packet, duration_ns) for _ in range(rounds))
                yield _row(f"AF_XDP, {name}, {size}", found, "packets/s")
        if len(bench.cpus) > 1:
            packet = _packet(bench.source, bench.target, TRIP_PAYLOAD)
            trips = [bench.answered_ns(packet, duration_ns) for _ in range(rounds)]
            yield _row(TRIP, median(trips), "ns")


def run(quick: bool) -> list[Row]:  # every scenario is called run(quick)
    """Return the rows of the limits."""
    rounds = 3 if quick else 7
    return [
        *_memory_and_ciphers(rounds, 0.05 if quick else 0.2),
        *_af_xdp(rounds, 100_000_000 if quick else 300_000_000),
    ]


@dataclass(frozen=True)
class Limit:
    """What bounds the figure of a scenario: of a rate the slowest part, of a trip the sum."""

    scenario: str
    metrics: tuple[str, ...]
    why: str
    ways: tuple[str, ...] = WAYS
    """Of receiving and sending: whom it bounds."""

    def bounds(self, name: str) -> bool:
        """Say whether a contestant's messages pass what is measured."""
        way = next((way for way in WAYS if way in name), "")
        return not way or way in self.ways


LIMITS = (
    Limit("ipc-64", (copied(64),), "every message is copied into a ring"),
    Limit("ipc-1k", (copied(1024),), "every message is copied into a ring"),
    Limit("ipc-rtt", (LINE,), "the other core has to see the message, and back"),
    Limit("net-64", (copied(64),), "every message is copied into a ring"),
    Limit("net-rtt", (TRIP,), "one packet there, one back", WAYS[:1]),
    Limit(
        "tls-rtt",
        (TRIP, *sealed("AES-256-GCM", 64), *sealed("AES-256-GCM", 64)),
        "one packet there, one back, each sealed and opened",
        WAYS[:1],
    ),
    Limit("net-64k", (copied(65_000),), "every message is copied"),
    Limit("net-1k", (RECEIVE, SEND), "one message is one packet", WAYS[:1]),
    Limit("net-1k", (RECEIVE,), "one message is one packet", WAYS[1:2]),
    Limit("tls-64", sealed("AES-256-GCM", 64), "one core seals each message, another opens it"),
    Limit("tls-1k", sealed("AES-256-GCM", 1024), "one core seals each message, another opens it"),
)


def shares(
    standings: Sequence[Mapping[str, Any]], rows: Sequence[Row], ours: Sequence[str]
) -> list[dict[str, Any]]:
    """Return Valkyrie's figures as shares of their limits, where both were measured.

    ``value`` and ``limit`` are messages a second, or ns of a round trip. A share may be above 1
    where messages share what is measured for each alone.
    """
    values = {row["metric"]: row for row in rows if row["scenario"] == "limits"}
    found = []
    for bound in LIMITS:
        known = [values[metric] for metric in bound.metrics if metric in values]
        if len(known) < len(bound.metrics):
            continue
        costs = [row["value"] if row["unit"] == "ns" else 1e9 / row["value"] for row in known]
        for one in standings:
            trip = one["p50_ns"]
            if (
                one["scenario"] != bound.scenario
                or one["contestant"] not in ours
                or not bound.bounds(one["contestant"])
                or not one["rate"]
            ):
                continue
            limit = sum(costs) if trip else 1e9 / max(costs)
            value = (trip or one["rate"])["median"]
            found.append(
                {
                    "scenario": bound.scenario,
                    "contestant": one["contestant"],
                    "against": " and ".join(dict.fromkeys(bound.metrics)),
                    "why": bound.why,
                    "value": value,
                    "limit": limit,
                    "share": round(limit / value if trip else value / limit, 4),
                }
            )
    return found
