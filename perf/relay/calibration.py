"""``scripts/bench --scenario relay``: how exact the relay is, against what was asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from perf.rows import Row, make_row
from tests.lab import laboratory

from .path import Conditions, Count, Relay
from .probe import Probe, rate_bps

FRAME = 1514
"""Bytes of a full Ethernet frame without its FCS."""
LOSS_FRAME = 100
RATES_BPS = (10e6, 100e6, 1e9)
DELAYS_S = (0.0005, 0.02)
_row = partial(make_row, "relay", digits=4)


def _rate_metric(asked_bps: float) -> str:
    return f"rate, asked {asked_bps / 1e6:g} Mbit/s"


def _delay_metric(which: str, asked_s: float) -> str:
    return f"delay {which}, asked {asked_s * 1e3:g} ms"


TOLERANCES = {_rate_metric(bps): ("Mbit/s", bps / 1e6 * 0.01) for bps in RATES_BPS} | {
    _delay_metric(which, asked_s): ("ms", max(0.1, asked_s * 1e3 * 0.01))
    for asked_s in DELAYS_S
    for which in ("p50", "p99")
}
"""By how much a figure may differ from what was asked: 1 %, of delays at least 100 µs."""


def out_of_calibration(rows: Sequence[Row]) -> list[str]:
    """Return which figures differ by more than they may."""
    return [
        f"{row['metric']}: {row['value']:g}"
        for row in rows
        if row["metric"] in TOLERANCES
        and abs(row["value"] - row["baseline"]) > TOLERANCES[row["metric"]][1]
    ]


def _checked(relay: Relay) -> Count:
    """Return the counts there; a relay that drops frames of its own accord measures nothing."""
    there, back = relay.counts()
    if there.faults or back.faults:
        raise RuntimeError(f"the relay dropped frames by itself: {there}, {back}")
    return there


def _rate(asked_bps: float, duration_s: float) -> list[Row]:
    count = round(asked_bps * duration_s / 8 / (FRAME + 24))
    with laboratory() as lab:
        relay = Relay(lab, [(lab.host("a"), lab.host("b"))], Conditions(rate_bps=asked_bps))
        probe = Probe(relay)
        try:
            arrivals = probe.send(count, FRAME)
            _checked(relay)
        finally:
            probe.close()
            relay.close()
    found_mbps = rate_bps(arrivals, FRAME) / 1e6
    return [_row(_rate_metric(asked_bps), found_mbps, "Mbit/s", asked_bps / 1e6)]


def _delay(asked_s: float, count: int) -> list[Row]:
    with laboratory() as lab:
        relay = Relay(lab, [(lab.host("a"), lab.host("b"))], Conditions(delay_s=asked_s))
        probe = Probe(relay)
        try:
            arrivals = probe.send(count, LOSS_FRAME, gap_s=0.001)
            late_s = _checked(relay).late_s_mean
        finally:
            probe.close()
            relay.close()
    delays = sorted((came.came_ns - came.sent_ns) / 1e6 for came in arrivals)
    asked_ms = asked_s * 1e3
    return [
        _row(_delay_metric("p50", asked_s), delays[len(delays) // 2], "ms", asked_ms),
        _row(_delay_metric("p99", asked_s), delays[len(delays) * 99 // 100], "ms", asked_ms),
        _row(f"mean lateness it reports itself, {asked_ms:g} ms", late_s * 1e6, "µs", 0),
    ]


def _loss(asked: float, count: int) -> list[Row]:
    with laboratory() as lab:
        relay = Relay(lab, [(lab.host("a"), lab.host("b"))], Conditions(loss=asked))
        probe = Probe(relay)
        try:
            lost = 1 - len(probe.send(count, LOSS_FRAME)) / count
            _checked(relay)
        finally:
            probe.close()
            relay.close()
    return [_row(f"frames lost, asked {asked:.0%}", lost * 100, "%", asked * 100)]


def run(quick: bool) -> list[Row]:  # every scenario is called run(quick)
    """Return the rows; baseline is what was asked."""
    duration_s, pings, frames = (0.3, 300, 20_000) if quick else (1.0, 3_000, 200_000)
    rows: list[Row] = []
    for asked_bps in RATES_BPS:
        rows += _rate(asked_bps, duration_s)
    for asked_s in DELAYS_S:
        rows += _delay(asked_s, pings)
    return rows + _loss(0.01, frames)
