"""Single things that somebody waits for: a stream that opens, a log line, a file of 1 MB.

Encrypted, as nodes are by default, on both paths, with applications in Python; medians and the 99th
of a hundred. Baselines are the kernel's TCP and UDP between the same hosts in the clear, also in
Python, one thing at a time: a connection, a datagram, a file sent over a connection and stored as
files that nodes receive are: synced, with its SHA-256 known, renamed. Beside them stands how many
packets a second the lab simulates.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import math
import os
import select
import signal
import socket
import struct
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import valkyrie
from tests.lab import Host, laboratory
from valkyrie.dataplane.application.node import SyncNode, SyncService
from valkyrie.dataplane.lab.scenario import Link, Scenario, Traffic
from valkyrie.dataplane.lab.trial import Lab

from . import pair
from .network import Network
from .rows import Row, make_row

NAME = "single"
TCP_PORT = 9_100
STAMP = struct.Struct("!Q")
LINE_BYTES = 120
PAUSE_S = 0.002
FILE = 1_000_000
CLOSING_S = 10.0
LAB_BYTES, LAB_MESSAGES = 1_000, 50_000
DIGEST = hashlib.sha256().digest_size
Address = tuple[str, int]
Times = list[int]
"""Nanoseconds."""


def percentile(times: Sequence[int], percent: int) -> int:
    """Return the least of the times that so many of a hundred are not above."""
    return sorted(times)[math.ceil(len(times) * percent / 100) - 1]


def _line() -> bytes:
    return STAMP.pack(time.monotonic_ns()).ljust(LINE_BYTES, b".")


def _age_ns(line: bytes | memoryview) -> int:
    return time.monotonic_ns() - int(STAMP.unpack_from(line)[0])


def _opened(count: int) -> Times:
    """Return how long it took to open each stream: the other end has accepted it by then."""

    def accept(service: SyncService) -> None:
        for _ in range(count):
            service.accept(timeout=CLOSING_S)

    def connect(node: SyncNode) -> Times:
        peer = node.connect("b")
        times: Times = []
        for _ in range(count):
            begin = time.monotonic_ns()
            peer.open(pair.SERVICE, cls="data")
            times.append(time.monotonic_ns() - begin)
        return times

    return list(pair.run(NAME, accept, connect)[1])


def _lines(count: int) -> Times:
    """Return the ages of log lines when an application at the other end has them."""

    def receive(service: SyncService) -> Times:
        stream = service.accept(timeout=CLOSING_S)
        times: Times = []
        stream.send(b"ready")
        with suppress(TimeoutError):
            while len(times) < count and (message := stream.recv(timeout=1.0)) is not None:
                times.append(_age_ns(message.payload))
        return times

    def send(node: SyncNode) -> None:
        stream = node.connect("b").open(pair.SERVICE, cls="logs")
        stream.recv(timeout=CLOSING_S)
        for _ in range(count):
            stream.send(_line())
            time.sleep(PAUSE_S)

    return list(pair.run(NAME, receive, send)[0])


@contextmanager
def _child(work: Callable[[], object]) -> Iterator[None]:
    """Have *work* done by a process on host b's core until this is left."""
    if (pid := os.fork()) == 0:
        try:
            pair.pin(1)
            work()
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextmanager
def _on_a() -> Iterator[None]:
    """Stay on host a's core; for what starts behind all children."""
    before = os.sched_getaffinity(0)
    pair.pin(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _files(source: Path, directory: Path, count: int) -> Times:
    """Return how long a file takes until the other end has it on its disk."""
    reader, writer = os.pipe()

    async def receive() -> None:
        async with valkyrie.attach(f"{NAME}-b") as node:
            service = await node.listen("files", ordered=True)
            os.write(writer, b"\n")
            await valkyrie.receive_files(service, valkyrie.Directory(directory))

    async def send() -> Times:
        times = []
        async with valkyrie.attach(f"{NAME}-a") as node:
            peer = await node.connect("b")
            for number in range(count):
                begin = time.monotonic_ns()
                await valkyrie.send_file(peer, "files", source, name=f"v{number}")
                times.append(time.monotonic_ns() - begin)
        return times

    with _child(lambda: asyncio.run(receive())), _on_a():
        _read(reader, 1)
        os.close(reader)
        os.close(writer)
        return asyncio.run(send())


def _stored(connection: socket.socket, directory: Path, number: int) -> None:
    """Take a file from a connection and put it on the disk."""
    part, digest, left = directory / "tcp.part", hashlib.sha256(), FILE
    with part.open("wb") as file:
        while left and (piece := connection.recv(min(left, 1 << 16))):
            file.write(piece)
            digest.update(piece)
            left -= len(piece)
        file.flush()
        os.fsync(file.fileno())
    part.rename(directory / f"t{number}")
    connection.sendall(digest.digest())


def _take_lines(udp: socket.socket, out: int) -> None:
    while True:
        os.write(out, STAMP.pack(_age_ns(udp.recv(2048))))


def _take_files(tcp: socket.socket, directory: Path) -> None:
    for number in itertools.count():
        connection, _ = tcp.accept()
        with connection:
            if connection.recv(1, socket.MSG_PEEK):  # else it was opened for its own sake
                _stored(connection, directory, number)


def _over_tcp(host: Host, address: Address, content: bytes, count: int) -> Times:
    """Return how long it takes to connect and, if there is *content*, to have it stored."""
    times: Times = []
    for _ in range(count):
        with host.socket(kind=socket.SOCK_STREAM) as connection:
            connection.settimeout(CLOSING_S)
            begin = time.monotonic_ns()
            connection.connect(address)
            if content:
                connection.sendall(content)
                connection.recv(DIGEST)
            times.append(time.monotonic_ns() - begin)
    return times


def _over_udp(host: Host, address: Address, reader: int, count: int) -> Times:
    """Return the ages of datagrams, as their receiver writes them to *reader*'s other end."""
    with host.socket() as out:
        for _ in range(count):
            out.sendto(_line(), address)
            time.sleep(PAUSE_S)
    return [STAMP.unpack(_read(reader, STAMP.size))[0] for _ in range(count)]


def _read(reader: int, size: int) -> bytes:
    """Return what comes from a pipe; raises TimeoutError when nothing does."""
    if not select.select([reader], [], [], CLOSING_S)[0]:
        raise TimeoutError(f"{NAME}: nothing arrived within {CLOSING_S:.0f} s")
    return os.read(reader, size)


def _kernel(network: Network, content: bytes, directory: Path, count: int) -> dict[str, Times]:
    """Return the baselines' times."""
    a, b = network.wire
    address = str(b.v4.ip), TCP_PORT
    tcp, udp = (b.host.socket(kind=each) for each in (socket.SOCK_STREAM, socket.SOCK_DGRAM))
    for each in (tcp, udp):
        each.bind(address)
    tcp.listen(count)
    reader, writer = os.pipe()
    with (
        tcp,
        udp,
        _child(lambda: _take_lines(udp, writer)),
        _child(lambda: _take_files(tcp, directory)),
        _on_a(),
    ):
        return {
            "open": _over_tcp(a.host, address, b"", count),
            "line": _over_udp(a.host, address, reader, count),
            "file": _over_tcp(a.host, address, content, files_of(count)),
        }


def files_of(count: int) -> int:
    """Return how many files stand beside so many streams."""
    return max(count // 20, 3)


def _row(metric: str, times: Sequence[int], base: Sequence[int], percent: int) -> Row:
    value, baseline = (percentile(each, percent) / 1e3 for each in (times, base))
    which = "median" if percent == 50 else f"p{percent}"
    return make_row(NAME, f"{metric}, {which}", value, "µs", baseline, digits=1)


def _measure(path: str, count: int) -> Iterator[Row]:
    with (
        tempfile.TemporaryDirectory(prefix="valkyrie-perf-") as name,
        laboratory() as lab,
    ):
        directory, content = Path(name), os.urandom(FILE)
        source = directory / "source"
        source.write_bytes(content)
        (directory / "in").mkdir()
        network = Network(lab, path, name=NAME, modes=("noise",))
        base = _kernel(network, content, directory / "in", count)
        network.start()
        try:
            opened, lines = _opened(count), _lines(count)
            files = _files(source, directory / "in", files_of(count))
        finally:
            network.stop()
    for percent in (50, 99):
        yield _row(f"{path}: a stream opens", opened, base["open"], percent)
        yield _row(f"{path}: a log line of {LINE_BYTES} B arrives", lines, base["line"], percent)
    yield _row(f"{path}: a file of 1 MB is stored", files, base["file"], 50)


def simulated(messages: int) -> float:
    """Return how many packets a second of processor time the lab simulates: a clean bulk flow."""
    link = Link(rate_mbps=1_000, delay_ms=0.5, buffer_bytes=1 << 20)
    flow = Traffic(source="left", target="right", messages=messages, size=LAB_BYTES)
    with Lab() as lab:
        begin_s = time.process_time()
        outcome = lab.run(Scenario(link=link, traffic=(flow,)))
        spent_s = time.process_time() - begin_s
    assert outcome.ok, outcome.failures
    return outcome.packets / spent_s


def run(quick: bool) -> list[Row]:  # every scenario is called run(quick)
    """Return the rows of both paths, and the lab's."""
    count, rounds = (100, 3) if quick else (400, 7)
    rows = [row for path in ("udp", "xdp") for row in _measure(path, count)]
    rate = median(simulated(LAB_MESSAGES) for _ in range(rounds))
    return [*rows, make_row(NAME, "packets simulated a second", rate, "packets/s", digits=None)]
