"""Critical messages while a flood of log messages fills everything: round trips against calm."""

from __future__ import annotations

import os
import signal
from functools import partial
from statistics import median
from typing import Any

import valkyrie
from tests.lab import laboratory
from valkyrie.dataplane.application.node import SyncNode, SyncService

from . import blast, pair
from .network import Network
from .rows import Row, make_row

PATHS = ("xdp", "udp")
SIZE = 64
FLOOD_DEADLINE_NS = 60_000_000_000
RING_BYTES = 131_072
"""Of the flood: an application that fills its ring in one go keeps a shared core that long."""
_row = partial(make_row, "isolation")


def _child(work: Any) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.nice(5)  # a flood is not the urgent work of a host
            work()
        finally:
            os._exit(0)
    return pid


class Flood:
    """Log messages from a to b as fast as rings take them, by two applications in C.

    They stay on their hosts' cores. Where the scheduler may move them from one host to the other,
    as no two hosts' schedulers do, a critical message finds all of them on its core now and then.
    """

    def __init__(self, name: str) -> None:
        reader, writer = os.pipe()

        def receive() -> None:
            pair.pin(1)
            with valkyrie.attach_sync(f"{name}-b", ring_size=RING_BYTES) as node:
                service = node.listen("flood")
                os.close(writer)
                blast.accept(service).receive(1 << 60, deadline_ns=FLOOD_DEADLINE_NS)

        def send() -> None:
            pair.pin(0)
            with valkyrie.attach_sync(f"{name}-a", ring_size=RING_BYTES) as node:
                stream = node.connect("b").open("flood", stream=10_000)
                blast.begin(stream).send(SIZE, 1 << 60, batch=128, deadline_ns=FLOOD_DEADLINE_NS)

        self._pids = [_child(receive)]
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        self._pids.append(_child(send))

    def stop(self) -> None:
        """End both applications."""
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _critical(name: str, count: int) -> list[int]:
    def echo(service: SyncService) -> None:
        valkyrie.prefer_latency()
        blast.accept(service).echo(count, deadline_ns=FLOOD_DEADLINE_NS)

    def ping(node: SyncNode) -> list[int]:
        valkyrie.prefer_latency()
        stream = node.connect("b").open(pair.SERVICE, stream=0)
        return blast.begin(stream).ping(SIZE, count, deadline_ns=FLOOD_DEADLINE_NS)

    _, times = pair.run(name, echo, ping)
    return list(times)


def _rounds(path: str, count: int, rounds: int) -> list[tuple[list[int], list[int]]]:
    """Return sorted round trips, calm and under flood, of every round on a path."""
    found = []
    with laboratory() as lab:
        network = Network(lab, path, name="perf")
        network.start()
        try:
            for _ in range(rounds):
                calm = _critical("perf", count)
                flood = Flood("perf")
                try:
                    found.append((calm, _critical("perf", count)))
                finally:
                    flood.stop()
        finally:
            network.stop()
    return found


def run(quick: bool) -> list[Row]:  # every scenario is called run(quick)
    """Return the rows: round trips of critical messages under flood, against calm; and losses.

    Calm and flood take turns; medians of the rounds, as a host stands still now and then.
    """
    count, rounds = (5_000, 3) if quick else (10_000, 5)
    rows = []
    for path in PATHS:
        found = _rounds(path, count, rounds)
        for label, share in (("p50", 0.50), ("p99", 0.99)):
            base, value = (
                median(times[int(len(times) * share)] / 1e3 for times in each)
                for each in zip(*found, strict=True)
            )
            rows.append(_row(f"critical {label} under log flood, {path}", value, "µs", base))
        lost = sum(count - len(loaded) for _, loaded in found)
        rows.append(_row(f"critical messages lost under log flood, {path}", lost, "msg", 0))
    return rows
