"""The applications of the demonstration: ordinary unprivileged programs that ``import valkyrie``.

On host "a" one sender a class, on host "b" one receiver a class. Every message begins with the
index of the phase it was sent in, so that what is lost is known by phase.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import valkyrie
from valkyrie.dataplane.application.message import Message
from valkyrie.dataplane.application.node import SyncNode
from valkyrie.dataplane.application.stream import SyncStream

from .eavesdrop import MARKER
from .tally import PHASES, Column, Row, Tally

PEER = "b"
STREAMS = {"critical": 0, "system": 7, "job": 100, "data": 1000, "logs": 10_000}
IDLE_S = 0.05
"""How long a receiver waits before it looks whether the run is over."""

HEARTBEAT = MARKER.ljust(47)
CHUNK_SIZE = 32_768
FILE_WINDOW = 16
"""Chunks under way before the receiver has to say that it has them: best effort has no window."""
DIGEST_MARK = b"\xff"
LOG_LINE = b" worker[17] request served: " + MARKER.ljust(71)


def _rows(tally: Tally, name: str) -> list[Row]:
    return [tally.row(phase, name) for phase in range(len(PHASES))]


def _open(node: SyncNode, name: str) -> SyncStream:
    return node.connect(PEER).open(name, stream=STREAMS[name])


def _next(stream: SyncStream, timeout: float = IDLE_S) -> Message | None:
    try:
        return stream.recv(timeout=timeout)
    except TimeoutError:
        return None


def _paced(tally: Tally, per_second: int) -> Callable[[], bool]:
    """Return a function that waits for the next beat and says whether to go on."""
    period, due = 1.0 / per_second, time.monotonic()

    def beat() -> bool:
        nonlocal due
        due += period
        if (left := due - time.monotonic()) > 0:
            time.sleep(left)
        else:
            due = max(due, time.monotonic() - 10 * period)
        return tally.sending

    return beat


def send_paced(tally: Tally, node: SyncNode, name: str, per_second: int) -> None:
    """Send small messages at a steady rate (critical heartbeats, system messages)."""
    if name == "critical":
        valkyrie.prefer_latency()
    stream, rows, beat = _open(node, name), _rows(tally, name), _paced(tally, per_second)
    while beat():
        phase = tally.phase
        rows[phase].add(Column.SENT)
        stream.send(bytes([phase]) + HEARTBEAT, stamp=True)


def receive_stamped(tally: Tally, node: SyncNode, name: str) -> None:
    """Count what arrives and how long it took."""
    if name == "critical":
        valkyrie.prefer_latency()
    stream, rows = _accept(tally, node, name), _rows(tally, name)
    while stream is not None and tally.receiving:
        message = _next(stream)
        if message is None:
            continue
        row = rows[message.payload[0]]
        row.latency(max(time.time_ns() - message.time_ns, 0))
        row.add(Column.DELIVERED)
        row.add(Column.DELIVERED_BYTES, len(message.payload))


def request_jobs(tally: Tally, node: SyncNode, per_second: int) -> None:
    """Send jobs and wait for each reply; a job counts as delivered when its reply is there."""
    stream, rows, beat = _open(node, "job"), _rows(tally, "job"), _paced(tally, per_second)
    number = 0
    while beat():
        phase, begin = tally.phase, time.monotonic_ns()
        number += 1
        rows[phase].add(Column.SENT)
        stream.send(bytes([phase]) + HEARTBEAT, correlation=number)
        reply = _next(stream, 1.0)
        while reply is not None and reply.correlation != number:
            reply = _next(stream, 1.0)
        if reply is not None:
            rows[phase].latency(time.monotonic_ns() - begin)
            rows[phase].add(Column.DELIVERED)
            rows[phase].add(Column.DELIVERED_BYTES, len(reply.payload))


def answer_jobs(tally: Tally, node: SyncNode) -> None:
    """Answer every job."""
    stream = _accept(tally, node, "job")
    while stream is not None and tally.receiving:
        message = _next(stream)
        if message is not None:
            stream.send(message.payload, correlation=message.correlation)


def send_file(tally: Tally, node: SyncNode, path: Path) -> None:
    """Send a file once, then go on with chunks at a gentle rate."""
    stream, rows = _open(node, "data"), _rows(tally, "data")
    content = path.read_bytes()
    for number, at in enumerate(range(0, len(content), CHUNK_SIZE), start=1):
        rows[tally.phase].add(Column.SENT)
        stream.send(bytes([tally.phase]) + content[at : at + CHUNK_SIZE], stamp=True)
        if number % FILE_WINDOW == 0:  # wait until the receiver has seen this far
            _next(stream, 1.0)
    stream.send(DIGEST_MARK + hashlib.sha256(content).digest())
    beat = _paced(tally, 200)
    while beat():
        phase = tally.phase
        rows[phase].add(Column.SENT)
        stream.send(bytes([phase]) + MARKER.ljust(8191), stamp=True)


def receive_file(tally: Tally, node: SyncNode, size: int) -> None:
    """Take the file, say every window how far it got, compare digests; then count chunks."""
    stream, rows = _accept(tally, node, "data"), _rows(tally, "data")
    digest, arrived, chunks = hashlib.sha256(), 0, 0
    while stream is not None and tally.receiving:
        message = _next(stream)
        if message is None:
            continue
        mark = message.payload[0]
        if mark >= len(PHASES):
            equal = digest.digest() == bytes(message.payload[1:])
            tally.file_state = 1 if equal and arrived == size else 2
            continue
        rows[mark].latency(max(time.time_ns() - message.time_ns, 0))
        rows[mark].add(Column.DELIVERED)
        rows[mark].add(Column.DELIVERED_BYTES, len(message.payload))
        if arrived < size:
            digest.update(message.payload[1:])
            arrived += len(message.payload) - 1
            chunks += 1
            tally.file_bytes = arrived
            if chunks % FILE_WINDOW == 0:
                stream.send(b"ok")


def send_logs(tally: Tally, node: SyncNode, per_second: int) -> None:
    """Send log lines gently in the calm phase, as fast as the ring takes them in the flood."""
    stream, rows, beat = _open(node, "logs"), _rows(tally, "logs"), _paced(tally, per_second // 20)
    while tally.sending:
        phase = tally.phase
        count = 20 if phase == 0 else 512
        stamp = phase.to_bytes(1, "big") + time.time_ns().to_bytes(8, "big")
        stream.send_many((stamp + LOG_LINE) * count, len(stamp) + len(LOG_LINE))
        rows[phase].add(Column.SENT, count)
        if phase == 0:
            beat()


def receive_logs(tally: Tally, node: SyncNode) -> None:
    """Count log lines in batches; the latency of the first of each batch."""
    stream, rows = _accept(tally, node, "logs"), _rows(tally, "logs")
    while stream is not None and tally.receiving:
        try:
            batch = stream.recv_many(256, timeout=IDLE_S)
        except TimeoutError:
            continue
        with batch:
            for payload in batch:
                row = rows[payload[0]]
                row.add(Column.DELIVERED)
                row.add(Column.DELIVERED_BYTES, len(payload))
            if len(batch):
                sent_ns = int.from_bytes(batch[0][1:9], "big")
                rows[batch[0][0]].latency(max(time.time_ns() - sent_ns, 0))


def _accept(tally: Tally, node: SyncNode, name: str) -> SyncStream | None:
    service = node.listen(name)
    while tally.receiving:
        try:
            return service.accept(timeout=IDLE_S)
        except TimeoutError:
            continue
    return None
