"""Senders with endless data that share one link: see bottleneck.h."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.dataplane.sender import MS, NEVER, SECOND, SIZE, controllers

MBIT = 125_000
"""Bytes a second."""
TEXTBOOK = 100

Path = dict[str, Any]
"""Arguments of share() that make a link."""


@dataclass(frozen=True)
class Flow:
    """One sender: its controller, and another that takes over at some time."""

    controller: int
    switch_to: int = 0
    switch_ns: int = 0
    start_ns: int = 0
    stop_ns: int = 0


@dataclass(frozen=True)
class Shown:
    """What a flow did from measure_ns on. share is of the link's rate, RTTs in base RTTs."""

    share: float
    srtt: float
    srtt_max: float
    loss: float
    window_min: int
    window_max: int
    base: float


def share(
    *flows: Flow,
    rate: int = 1000 * MBIT,
    rtt_ns: int = MS,
    buffer: float = 1,
    end_ns: int = 10 * SECOND,
    measure_ns: int | None = None,
    loss_ppm: int = 0,
    jitter_ns: int = 0,
    mark_above: int = 0,
    later: tuple[int, int] = (0, 0),
    ack_every: int = 10,
    size: int = SIZE,
    seed: int = 1,
) -> list[Shown]:
    """Run flows through a link; buffer in bandwidth-delay products, later = (time, RTT)."""
    ffi, native = controllers()
    it = ffi.new("struct bottleneck *")
    it.rate, it.rtt_ns, it.buffer = rate, rtt_ns, int(buffer * rate * rtt_ns / SECOND)
    it.end_ns, it.measure_ns = end_ns, end_ns // 3 if measure_ns is None else measure_ns
    it.loss_ppm, it.jitter_ns, it.mark_above, it.seed = loss_ppm, jitter_ns, mark_above, seed
    it.later_ns, it.rtt_later_ns = later
    it.ack_every, it.ack_delay_ns, it.datagram_size = ack_every, min(MS, rtt_ns // 4), size
    it.flow_count = len(flows)
    for index, flow in enumerate(flows):
        each = it.flows[index]
        each.controller, each.start_ns, each.stop_ns = flow.controller, flow.start_ns, flow.stop_ns
        each.switch_to, each.switch_ns = flow.switch_to, flow.switch_ns
    assert native.bottleneck_run(it) == 0
    time = (it.end_ns - it.measure_ns) / SECOND
    rtt = later[1] or rtt_ns
    return [
        Shown(
            share=each.delivered / time / rate,
            srtt=each.srtt_sum / max(1, each.delivered) / rtt,
            srtt_max=each.srtt_max / rtt,
            loss=each.lost / max(1, each.sent),
            window_min=each.window_min,
            window_max=each.window_max,
            base=-1 if each.base_ns == NEVER else each.base_ns / rtt,
        )
        for each in it.flows[0 : len(flows)]
    ]


def jain(flows: list[Shown]) -> float:
    """Return Jain's index of fairness: 1 = equal, 1/n = one has everything."""
    return sum(f.share for f in flows) ** 2 / len(flows) / sum(f.share**2 for f in flows)


def used(flows: list[Shown]) -> float:
    """Return the share of the link that is used."""
    return sum(f.share for f in flows)
