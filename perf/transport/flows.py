"""Bulk flows and pings between two hosts, of the kernel and of Valkyrie, with what they saw."""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Protocol

from perf.program import compiled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.lab import Host, Link

PATIENCE_S = 30.0
NS = 1e9

Series = list[tuple[float, float]]
"""(seconds of CLOCK_MONOTONIC, value)."""


@dataclass
class Record:
    """What a flow saw."""

    arrived: Series = field(default_factory=list)
    """Bytes that reached the receiving application since the row before."""
    smoothed: Series = field(default_factory=list)
    """The sender's smoothed round-trip time, seconds."""
    pings: Series = field(default_factory=list)
    """Round trips of a small request beside the flow, seconds, by when it was sent."""
    retransmitted: int | None = None
    """Packets sent again."""

    def goodput_bps(self, begin: float, end: float) -> float:
        """Return the mean rate at the receiving application between two times."""
        rows = [row for row in self.arrived if begin <= row[0] <= end]
        if len(rows) < 2:
            return 0.0
        return 8 * sum(count for _, count in rows[1:]) / (rows[-1][0] - rows[0][0])

    def smoothed_s(self, begin: float, end: float) -> float | None:
        """Return the mean of the smoothed round-trip time."""
        values = [value for at, value in self.smoothed if begin <= at <= end]
        return fmean(values) if values else None

    def ping_s(self, begin: float, end: float, share: float = 0.5) -> float | None:
        """Return a percentile of the pings."""
        values = sorted(value for at, value in self.pings if begin <= at <= end)
        return values[min(int(len(values) * share), len(values) - 1)] if values else None


class Flow(Protocol):
    """A bulk flow and a ping beside it, for a given time."""

    def prepare(self) -> None:
        """Bring up what must run before."""

    def start(self) -> None:
        """Begin both."""

    def finish(self) -> Record:
        """Wait for the end and say what was."""

    def close(self) -> None:
        """Take down what was brought up."""


@dataclass(frozen=True)
class Contestant:
    """A kind of flow."""

    name: str
    make: Callable[[tuple[Link, Link], int, float], Flow]
    """Takes the wire, the number of the flow among those of a run, and seconds."""


@functools.cache
def _compiled() -> Path:
    return compiled("transport/tcp")


def _rows(process: subprocess.Popen[bytes]) -> list[list[int]]:
    out, _ = process.communicate(timeout=PATIENCE_S)
    if process.returncode:
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
    return [[int(word) for word in line.split()] for line in out.splitlines()]


class Kernel:
    """TCP of the kernel, with one of its controllers."""

    def __init__(
        self, wire: tuple[Link, Link], controller: str, duration_s: float, *, port: int = 5000
    ) -> None:
        """The flow goes from the first end of *wire* to the second."""
        self._wire = wire
        self._controller = controller
        self._duration_s = duration_s
        self._port = port
        self._programs: list[subprocess.Popen[bytes]] = []

    def prepare(self) -> None:
        """Nothing: the kernel is there."""

    def _popen(self, host: Host, cpu: int, *arguments: str) -> subprocess.Popen[bytes]:
        head = ["taskset", "-c", str(cpu), str(_compiled())]
        return host.popen([*head, *arguments], stdout=subprocess.PIPE)

    def start(self) -> None:
        """Begin both."""
        a, b = self._wire
        address = str(b.v4.ip)
        servers = []
        for number, mode in enumerate(("sink", "echo")):
            server = self._popen(b.host, 1, mode, address, str(self._port + number))
            assert server.stdout is not None
            server.stdout.readline()
            servers.append(server)
        clients = [
            self._popen(
                a.host,
                0,
                *(mode, address, str(self._port + number)),
                *(self._controller, str(self._duration_s)),
            )
            for number, mode in enumerate(("pour", "ping"))
        ]
        self._programs = [*servers, *clients]

    def finish(self) -> Record:
        """Wait for the end and say what was."""
        # The clients end first, and then what they have sent arrives.
        ping, pour = (_rows(process) for process in (self._programs[3], self._programs[2]))
        echo, sink = (_rows(process) for process in (self._programs[1], self._programs[0]))
        assert not echo
        return Record(
            arrived=[(at / NS, float(count)) for at, count in sink],
            smoothed=[(row[0] / NS, row[1] / 1e6) for row in pour],
            pings=[(at / NS, rtt / NS) for at, rtt in ping],
            retransmitted=pour[-1][4],
        )

    def close(self) -> None:
        """Nothing: programs end with their host."""


def kernel(controller: str) -> Contestant:
    """Return the kernel's TCP as a contestant."""
    return Contestant(
        f"kernel TCP, {controller}",
        lambda wire, _number, duration_s: Kernel(wire, controller, duration_s),
    )


def kernel_controllers() -> list[str]:
    """Return those of cubic and bbr that this kernel has."""
    known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text("ascii").split()
    return [name for name in ("cubic", "bbr") if name in known]


def jain(values: Sequence[float]) -> float:
    """Return Jain's fairness index: 1 = all equal, 1/n = one has everything."""
    squares = len(values) * sum(value * value for value in values)
    return sum(values) ** 2 / squares if squares else 0.0
