"""Rings between two applications of one host, in C and in Python.

Baselines of the same run: one slot of shared memory each way with the same message (C), and
``multiprocessing.Pipe`` (Python). Contents are checked and counted at the receiver.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from valkyrie.shm import local
from valkyrie.shm.ring import Channel

from .contestant import ROOT
from .program import compiled
from .rows import Row, make_row

MESSAGE = bytes(range(64))
BATCH = 1000
_row = partial(make_row, "rings", digits=3)


def _c(messages: int, pings: int, rounds: int) -> list[Row]:
    include = [f"-I{ROOT / layer}" for layer in ("shm", "bpf")]
    binary = compiled("rings", *include, ROOT / "shm" / "vk_channel.c")
    runs = []
    for _ in range(rounds):
        done = subprocess.run(
            [binary, str(messages), str(pings)], capture_output=True, check=True, timeout=120
        )
        runs.append([int(word) for word in done.stdout.split()])
    rate, trip, slot, line = (median(run[i] for run in runs) for i in range(4))
    return [
        _row("C to C, 64 B", rate, "msg/s", 1e9 / slot),
        _row("C round trip p50, 64 B", trip / 1e3, "µs", slot / 1e3),
        _row("C round trip p50, against a bare cache line", trip / 1e3, "µs", line / 1e3),
    ]


def _pair(
    far: Callable[[Channel], None], near: Callable[[Channel], Any], *, pin: bool = True
) -> Any:
    """Run both ends, each on a core of its own, or where the scheduler puts them."""
    here, there = local.pair()
    pid = os.fork()
    if pid == 0:
        if pin:
            os.sched_setaffinity(0, {1})
        try:
            far(there)
        finally:
            os._exit(0)
    before = os.sched_getaffinity(0)
    if pin:
        os.sched_setaffinity(0, {0})
    try:
        return near(here)
    finally:
        os.sched_setaffinity(0, before)
        os.waitpid(pid, 0)
        here.close()
        there.close()


def _until(channel: Channel) -> bytes:
    message = channel.recv(5)
    assert message is not None, "nothing came within 5 s"
    return message


def _rate_single(count: int) -> float:
    def far(channel: Channel) -> None:
        for _ in range(count):
            assert _until(channel) == MESSAGE
        channel.send(b"done")

    def near(channel: Channel) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            assert channel.send(MESSAGE, 5)
        assert _until(channel) == b"done"
        return count / (time.perf_counter() - begin)

    return float(_pair(far, near))


def _rate_batch(count: int) -> float:
    def far(channel: Channel) -> None:
        seen = 0
        while seen < count:
            messages = channel.recv_list(timeout_s=5)
            seen += len(messages)
            assert messages[-1] == MESSAGE
        channel.send(b"done")

    def near(channel: Channel) -> float:
        messages, sent = [MESSAGE] * BATCH, 0
        begin = time.perf_counter()
        while sent < count:
            went = channel.send_many(messages[: min(BATCH, count - sent)])
            sent += went
            if went < BATCH and sent < count:
                channel.wait(5, room=BATCH * 2 * len(MESSAGE))
        assert _until(channel) == b"done"
        return count / (time.perf_counter() - begin)

    return float(_pair(far, near))


async def _answer_async(channel: Channel, count: int) -> None:
    for _ in range(count):
        channel.send(await channel.recv_async())


async def _ask_async(channel: Channel, count: int) -> list[int]:
    times = []
    for _ in range(count):
        begin = time.perf_counter_ns()
        channel.send(MESSAGE)
        await channel.recv_async()
        times.append(time.perf_counter_ns() - begin)
    return times


def _answer(channel: Channel, count: int) -> None:
    for _ in range(count):
        channel.send(_until(channel))


def _ask(channel: Channel, count: int) -> list[int]:
    times = []
    for _ in range(count):
        begin = time.perf_counter_ns()
        channel.send(MESSAGE)
        _until(channel)
        times.append(time.perf_counter_ns() - begin)
    return times


def _trips(count: int, *, loop: bool) -> float:
    """Return the median round trip (µs) of three pairs: how one begins may last."""
    return median(_trip(count, loop=loop) for _ in range(3))


def _trip(count: int, *, loop: bool) -> float:
    if loop:
        times = _pair(
            lambda channel: asyncio.run(_answer_async(channel, count)),
            lambda channel: asyncio.run(_ask_async(channel, count)),
            pin=False,
        )
    else:
        times = _pair(
            lambda channel: _answer(channel, count),
            lambda channel: _ask(channel, count),
            pin=False,
        )
    return float(median(times)) / 1e3


def _pipe(count: int) -> tuple[float, float]:
    """Return messages a second and the median round trip (µs) of multiprocessing.Pipe."""
    near, far = multiprocessing.Pipe()
    pid = os.fork()
    if pid == 0:
        for _ in range(count):
            far.recv_bytes()
        far.send_bytes(b"done")
        for _ in range(count // 10):
            far.send_bytes(far.recv_bytes())
        os._exit(0)
    begin = time.perf_counter()
    for _ in range(count):
        near.send_bytes(MESSAGE)
    near.recv_bytes()
    rate = count / (time.perf_counter() - begin)
    times = []
    for _ in range(count // 10):
        start = time.perf_counter_ns()
        near.send_bytes(MESSAGE)
        near.recv_bytes()
        times.append(time.perf_counter_ns() - start)
    os.waitpid(pid, 0)
    return rate, median(times) / 1e3


def run(quick: bool) -> list[Row]:  # every scenario is called run(quick)
    """Return the rows of rings between two applications."""
    scale = 1 if quick else 5
    rows = _c(20_000_000 * scale, 100_000, 3 if quick else 9)
    pipe_rate, pipe_trip = _pipe(50_000 * scale)
    single = median(_rate_single(500_000 * scale) for _ in range(3))
    batch = median(_rate_batch(4_000_000 * scale) for _ in range(3))
    return [
        *rows,
        _row("Python to Python, one at a time, 64 B", single, "msg/s", pipe_rate),
        _row("Python to Python, batches, 64 B", batch, "msg/s", pipe_rate),
        _row("Python round trip p50, blocking", _trips(20_000, loop=False), "µs", pipe_trip),
        _row("Python round trip p50, asyncio", _trips(20_000, loop=True), "µs", pipe_trip),
    ]
