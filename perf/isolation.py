"""Critical messages while a flood fills everything: round trips against calm.

One flood is of log messages, which may be lost, from applications that are less urgent; the other
one is bulk of class data, reliable, from applications like any others. Each must be a flood: one
that ends, or that carries less than a tenth of what it carries alone, fails the close-up.
"""

from __future__ import annotations

import mmap
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import NoReturn, TypeVar

import valkyrie
from tests.lab import laboratory, wait_until
from valkyrie.dataplane.application.node import SyncNode, SyncService

from . import blast, pair
from .network import Network
from .rows import Row, make_row

T = TypeVar("T")
PATHS = ("xdp", "udp")
SIZE = 64
DEADLINE_NS = 60_000_000_000
SLICE_NS = 20_000_000
"""How often a receiver says what it has."""
ALONE_S = 0.5
KEPT_MIN = 0.1
"""Of a flood's rate alone: with less beside critical messages, whose ends share its cores and whose
class goes first, it is none."""
_row = partial(make_row, "isolation")


class FloodError(RuntimeError):
    """What was to be a flood was none."""


@dataclass(frozen=True)
class Kind:
    """What a flood consists of."""

    name: str
    stream: int
    """Its id, which selects the class."""
    size: int
    batch: int
    ring_bytes: int
    nice: int


KINDS = (
    # An application that fills its ring in one go keeps a shared core that long.
    Kind("log flood", 10_000, SIZE, batch=128, ring_bytes=131_072, nice=5),
    Kind("bulk", 1_000, 65_000, batch=1, ring_bytes=pair.RING_BYTES, nice=0),
)


def _child(work: Callable[[], object], nice: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.nice(nice)
            work()
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    return pid


class Flood:
    """Messages from a to b as fast as rings take them, by two applications in C.

    They stay on their hosts' cores. Where the scheduler may move them from one host to the other,
    as no two hosts' schedulers do, a critical message finds all of them on its core now and then.
    """

    def __init__(self, name: str, kind: Kind) -> None:
        self._kind = kind
        self._arrived = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        reader, writer = os.pipe()

        def receive() -> NoReturn:
            pair.pin(1)
            with valkyrie.attach_sync(f"{name}-b", ring_size=kind.ring_bytes) as node:
                service = node.listen("flood")
                os.close(writer)
                stream = blast.accept(service)
                while True:
                    came = stream.receive(1 << 60, deadline_ns=SLICE_NS)
                    self._arrived[0] += came.messages

        def send() -> None:
            pair.pin(0)
            with valkyrie.attach_sync(f"{name}-a", ring_size=kind.ring_bytes) as node:
                stream = node.connect("b").open("flood", stream=kind.stream)
                blast.begin(stream).send(
                    kind.size, 1 << 60, batch=kind.batch, deadline_ns=DEADLINE_NS
                )

        self._pids = [_child(receive, kind.nice)]
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        self._pids.append(_child(send, kind.nice))
        wait_until(lambda: self._arrived[0], what=f"the {kind.name} begins")

    def beside(self, work: Callable[[], T]) -> tuple[T, float]:
        """Do *work*; returns what that does, and how many messages a second arrived meanwhile."""
        count, begin_s = self._arrived[0], time.monotonic()
        done = work()
        rate = (self._arrived[0] - count) / (time.monotonic() - begin_s)
        for pid in self._pids:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                raise FloodError(f"an application of the {self._kind.name} ended")
        return done, rate

    def stop(self) -> None:
        """End both applications."""
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def checked(kind: str, beside: float, alone: float) -> float:
    """Return a flood's rate beside critical messages; raises FloodError where it was none."""
    if not beside >= KEPT_MIN * alone > 0:
        raise FloodError(
            f"no {kind}: {beside:,.0f} messages a second beside critical ones, {alone:,.0f} alone"
        )
    return beside


def _critical(name: str, count: int) -> list[int]:
    def echo(service: SyncService) -> None:
        valkyrie.prefer_latency()
        blast.accept(service).echo(count, deadline_ns=DEADLINE_NS)

    def ping(node: SyncNode) -> list[int]:
        valkyrie.prefer_latency()
        stream = node.connect("b").open(pair.SERVICE, stream=0)
        return blast.begin(stream).ping(SIZE, count, deadline_ns=DEADLINE_NS)

    _, times = pair.run(name, echo, ping)
    return list(times)


@dataclass(frozen=True)
class Round:
    """Sorted round trips, calm and beside a flood, and that one's messages a second."""

    calm: list[int]
    loaded: list[int]
    alone: float
    beside: float


def _round(kind: Kind, count: int) -> Round:
    calm = _critical("perf", count)
    flood = Flood("perf", kind)
    try:
        _, alone = flood.beside(lambda: time.sleep(ALONE_S))  # what is measured is a span
        loaded, beside = flood.beside(lambda: _critical("perf", count))
    finally:
        flood.stop()
    return Round(calm, loaded, alone, checked(kind.name, beside, alone))


def _rounds(path: str, count: int, rounds: int) -> dict[Kind, list[Round]]:
    """Return what every round on a path came to; floods take turns."""
    found: dict[Kind, list[Round]] = {kind: [] for kind in KINDS}
    with laboratory() as lab:
        network = Network(lab, path, name="perf")
        network.start()
        try:
            for _ in range(rounds):
                for kind, so_far in found.items():
                    so_far.append(_round(kind, count))
        finally:
            network.stop()
    return found


def _rows(path: str, kind: Kind, rounds: list[Round], count: int) -> list[Row]:
    where = f"under {kind.name}, {path}"
    rows = []
    for label, share in (("p50", 0.50), ("p99", 0.99)):
        value, base = (
            median(times[int(len(times) * share)] / 1e3 for times in each)
            for each in ([one.loaded for one in rounds], [one.calm for one in rounds])
        )
        rows.append(_row(f"critical {label} {where}", value, "µs", base))
    lost = sum(count - len(one.loaded) for one in rounds)
    rows.append(_row(f"critical messages lost {where}", lost, "msg", 0))
    metric = f"{kind.name} beside critical messages, {path}"
    beside, alone = (
        median(rates) for rates in zip(*((one.beside, one.alone) for one in rounds), strict=True)
    )
    return [*rows, _row(metric, beside, "msg/s", alone)]


def run(quick: bool) -> list[Row]:  # every scenario is called run(quick)
    """Return the rows: round trips of critical messages under floods, against calm; and losses.

    Calm and flood take turns; medians of the rounds, as a host stands still now and then.
    """
    count, rounds = (5_000, 3) if quick else (10_000, 5)
    return [
        row
        for path in PATHS
        for kind, found in _rounds(path, count, rounds).items()
        for row in _rows(path, kind, found, count)
    ]
