"""Two hosts: messages a second that arrive, and round trips, on both paths.

Baseline of the rates: kernel UDP sockets in C, one message a datagram, sendmmsg and recvmmsg by 64,
on the same wire in the same run. Baseline of the round trips: a blocking UDP ping-pong in C.
"""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path
from statistics import median

from tests.lab import Link, laboratory
from valkyrie.dataplane.application.node import SyncNode, SyncService

from . import blast, pair
from .network import Network
from .rows import Row, make_row

ROOT = Path(__file__).resolve().parent.parent
UDP_PORT = 9000
SIZE = 64
BULK = 1024
_row = partial(make_row, "hosts")


def _compile() -> Path:
    binary = ROOT / "build" / "perf" / "udp"
    binary.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cc", "-O2", "-Wall", "-o", binary, ROOT / "perf" / "udp.c"], check=True)
    return binary


def _udp(
    wire: tuple[Link, Link], binary: Path, modes: tuple[str, str], size: int, count: int
) -> list[int]:
    """Run a server at b and a client at a; returns the numbers of the side that measures."""
    a, b = wire
    head = [str(b.v4.ip), str(UDP_PORT), str(size), str(count)]
    server = b.host.popen(["taskset", "-c", "1", binary, modes[0], *head], stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    client = a.host.popen(["taskset", "-c", "0", binary, modes[1], *head], stdout=subprocess.PIPE)
    sent, _ = client.communicate(timeout=60)
    if modes[0] == "echo":
        server.kill()
        return [int(word) for word in sent.split()]
    received, _ = server.communicate(timeout=60)
    return [int(word) for word in received.split()]


def _rate(name: str, size: int, count: int) -> dict[str, float]:
    def receive(service: SyncService) -> dict[str, float]:
        result = blast.accept(service).receive(count, deadline_ns=count * 2000)
        assert not result.corrupt, f"{result.corrupt} messages with wrong contents"
        return {"rate": result.per_second, "messages": result.messages}

    def send(node: SyncNode) -> None:
        stream = node.connect("b").open(pair.SERVICE, stream=1000)
        blast.begin(stream).send(size, count, batch=128)

    received, _ = pair.run(name, receive, send)
    return dict(received)


def _round_trips(name: str, count: int) -> list[int]:
    def echo(service: SyncService) -> None:
        blast.accept(service).echo(count)

    def ping(node: SyncNode) -> list[int]:
        return blast.begin(node.connect("b").open(pair.SERVICE, stream=100)).ping(SIZE, count)

    _, times = pair.run(name, echo, ping)
    return list(times)


def _measure(path: str, binary: Path, *, quick: bool) -> list[Row]:
    """All figures of one path. Baselines run before the nodes: XDP changes what a veth does."""
    rounds, count, pings = (3, 1_500_000, 5_000) if quick else (7, 6_000_000, 50_000)
    rows: list[Row] = []
    with laboratory() as lab:
        network = Network(lab, path, name="perf")
        wire = network.wire
        floods = [_udp(wire, binary, ("receive", "send"), SIZE, 400_000) for _ in range(rounds)]
        bulk = [_udp(wire, binary, ("receive", "send"), BULK, 200_000) for _ in range(rounds)]
        trips = _udp(wire, binary, ("echo", "ping"), SIZE, pings)
        network.start()
        try:
            for size, plain in ((SIZE, floods), (BULK, bulk)):
                share = 1 if size == SIZE else 8
                runs = [_rate("perf", size, count // share) for _ in range(rounds)]
                base = median(row[0] * 1e9 / max(row[1], 1) for row in plain)
                rate = median(run["rate"] for run in runs)
                lost = 1 - median(run["messages"] for run in runs) / (count // share)
                rows.append(_row(f"{path}: {size} B delivered", rate, "msg/s", base))
                rows.append(_row(f"{path}: {size} B lost of what was sent", lost, "share", 0))
            times = _round_trips("perf", pings)
            p50, p99 = times[len(times) // 2] / 1e3, times[len(times) * 99 // 100] / 1e3
            rows.append(_row(f"{path}: round trip 64 B p50", p50, "µs", trips[1] / 1e3))
            rows.append(_row(f"{path}: round trip 64 B p99", p99, "µs", trips[2] / 1e3))
        finally:
            network.stop()
    return rows


def run(quick: bool) -> list[Row]:  # every scenario is called run(quick)
    """Return the rows of both paths."""
    binary = _compile()
    return [row for path in ("udp", "xdp") for row in _measure(path, binary, quick=quick)]
