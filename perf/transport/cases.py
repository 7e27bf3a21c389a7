"""The networks of the comparisons, each with what is asked on it."""

from __future__ import annotations

from dataclasses import dataclass

from perf.relay import Conditions

MTU_WIRE = 1538
"""Bytes of Ethernet's time that a packet of 1500 bytes takes."""
BUFFER_MIN = 16 * MTU_WIRE


@dataclass(frozen=True)
class Network:
    """A bottleneck with a queue one way; the same rate and delay, and no limit, the other."""

    rate_bps: float
    rtt_s: float
    """Without any waiting."""
    buffer_bdp: float = 1.0
    """What may wait, in bandwidth-delay products."""
    loss: float = 0.0
    """By chance, on the way there."""

    def conditions(self) -> tuple[Conditions, Conditions]:
        """Return those there and back."""
        delay_s = self.rtt_s / 2
        bdp_bytes = self.rate_bps * self.rtt_s / 8
        there = Conditions(
            rate_bps=self.rate_bps,
            delay_s=delay_s,
            buffer_bytes=max(round(bdp_bytes * self.buffer_bdp), BUFFER_MIN),
            loss=self.loss,
        )
        return there, Conditions(rate_bps=self.rate_bps, delay_s=delay_s)


@dataclass(frozen=True)
class Case:
    """A network and what is looked at there."""

    key: str
    title: str
    asked: str
    """Of Valkyrie."""
    network: Network


LONG = Network(100e6, 0.040)

ALONE = (
    Case(
        "clean",
        "Alone on 1 Gbit/s, 1 ms, no loss",
        "nothing: it shows what these hosts and the relay can carry",
        Network(1e9, 0.001),
    ),
    Case(
        "loss",
        "Alone on 1 Gbit/s, 1 ms, 1 % random loss",
        "`fixed` and `delay` at least 0.9 of the link, `cubic` at least 0.9 of the kernel's",
        Network(1e9, 0.001, loss=0.01),
    ),
    Case("long", "Alone on 100 Mbit/s, 40 ms, buffer of one BDP", "at least 0.9 of the link", LONG),
    Case(
        "bloat",
        "Alone on 100 Mbit/s, 40 ms, buffer of ten BDP",
        "`delay` keeps the smoothed round trip under 1.5 of the base",
        Network(100e6, 0.040, buffer_bdp=10),
    ),
)
"""One flow of every kind at a time."""

PAIR = Case(
    "pair", "Two of a kind on 100 Mbit/s, 40 ms, one BDP", "Jain's index at least 0.9", LONG
)
BESIDE = Case(
    "beside",
    "Beside a kernel CUBIC flow on 100 Mbit/s, 40 ms, one BDP",
    "`cubic` takes between half and one and a half of a fair share",
    LONG,
)
BAD = Case(
    "impaired",
    "Before, during and after an impairment: 100 Mbit/s, 20 ms, one BDP",
    "to come back",
    Network(100e6, 0.020),
)
BAD_LOSS, BAD_DELAY_S = 0.02, 0.010
"""What comes on top in the impairment, each way."""
