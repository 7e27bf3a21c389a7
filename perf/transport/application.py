"""An application of a flow: ``python -m perf.transport.application MODE NODE SECONDS [...]``.

It prints rows as ``tcp.c`` does, at the end; a ping's also tell its session's smoothed round trip
and lost packets. Servers print ``ready`` when their service is there, clients when their stream is,
and these go when a line comes. The seconds begin with the first message.

    sink NODE SECONDS                      echo NODE SECONDS
    pour NODE SECONDS PEER STREAM SIZE     ping NODE SECONDS PEER STREAM
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import valkyrie
from perf import blast
from valkyrie.controlplane.counters.readout import Page

if TYPE_CHECKING:
    from collections.abc import Callable

    from valkyrie.dataplane.application.node import SyncNode

SAMPLE_NS = 50_000_000
PING_S = 0.01
PING_SIZE = 64
LOST_NS = 2_000_000_000
RING_BYTES = 16 << 20
"""The ring is what is kept to be sent again: it must hold more than the network does."""
ENDLESS = 1 << 40
BATCH = 8
FIRST_NS = 30_000_000_000
"""How long a server waits for the first message."""


def _server(node: SyncNode, service: str) -> blast.Blast:
    """Serve the first stream of a service."""
    with node.listen(service) as listening:
        print("ready", flush=True)
        return blast.accept(listening)


def _client(node: SyncNode, service: str, peer: str, stream: str) -> blast.Blast:
    client = blast.begin(node.connect(peer).open(service, stream=int(stream)))
    print("ready", flush=True)
    sys.stdin.readline()
    return client


def _sink(node: SyncNode, seconds: float) -> None:
    stream = _server(node, "bulk")
    stream.receive(1, deadline_ns=FIRST_NS)
    end_ns = time.monotonic_ns() + round(seconds * 1e9)
    rows = []
    while (begin_ns := time.monotonic_ns()) < end_ns:
        result = stream.receive(ENDLESS, deadline_ns=SAMPLE_NS)
        now_ns = time.monotonic_ns()
        assert not result.corrupt, f"{result.corrupt} messages with wrong contents"
        rows.append((now_ns, result.bytes))
        if now_ns - begin_ns < SAMPLE_NS // 2:
            break  # the other end has closed the stream
    for row in rows:
        print(*row)


def _pour(node: SyncNode, seconds: float, peer: str, stream: str, size: str) -> None:
    flow = _client(node, "bulk", peer, stream)
    flow.send(int(size), ENDLESS, batch=BATCH, deadline_ns=round(seconds * 1e9))


def _echo(node: SyncNode, seconds: float) -> None:
    stream = _server(node, "ping")
    stream.echo(1, deadline_ns=FIRST_NS)
    stream.echo(ENDLESS, deadline_ns=round(seconds * 1e9))


def _tells(page: Page) -> tuple[int, int]:
    """Return the session's smoothed round trip and lost packets, with as little work as a look at
    TCP_INFO: to read the whole page takes half a millisecond of the worker's core.
    """
    for index in range(page.struct.peer_count):
        row = page.struct.signals[index]
        if row.live:
            return int(row.rtt_ns), int(row.lost)
    return 0, 0


def _ping(node: SyncNode, seconds: float, peer: str, stream: str, name: str) -> None:
    flow = _client(node, "ping", peer, stream)
    end_s, rows, due_s = time.monotonic() + seconds, [], 0.0
    tells = (0, 0)
    with Page(name) as page:
        while (sent_s := time.monotonic()) < end_s:
            if sent_s >= due_s:
                tells = _tells(page)
                due_s = sent_s + SAMPLE_NS / 1e9
            rows += [
                (round(sent_s * 1e9), rtt_ns, *tells)
                for rtt_ns in flow.ping(PING_SIZE, 1, deadline_ns=LOST_NS)
            ]
            time.sleep(max(0.0, sent_s + PING_S - time.monotonic()))
    for row in rows:
        print(*row)


def main() -> None:
    """Run one application."""
    mode, name, seconds, *rest = sys.argv[1:]
    modes: dict[str, Callable[..., None]]
    modes = {"sink": _sink, "pour": _pour, "echo": _echo, "ping": _ping}
    with valkyrie.attach_sync(name, ring_size=RING_BYTES) as node:
        modes[mode](node, float(seconds), *rest, *([name] if mode == "ping" else []))


if __name__ == "__main__":
    main()
