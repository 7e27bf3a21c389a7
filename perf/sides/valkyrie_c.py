"""Valkyrie from applications in C: Python opens the streams, the loops are ``side.c``'s.

Shapes ``streams`` (of class data) and ``logs`` (of that class) have RATE streams of one
application, each message on one drawn at random; ``beside`` has one of class data with all
messages, and RATE - 1 of class logs that say nothing. Shape ``applications`` has RATE applications
with a stream each, whose figures are added up.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

import valkyrie
from perf.histogram import Histogram
from valkyrie.dataplane import ffi, lib

from .main import Order, begin, order, ready
from .result import Result, say, wait_for_the_end
from .valkyrie import RING_BYTES, SERVICE, STREAM_IDS, open_streams

LIBRARY = Path(__file__).parents[2] / "build" / "perf" / "sides" / "valkyrie.so"
"""What ``valkyrie.c`` is compiled into."""
RINGS_BYTES_MAX = RING_BYTES * 8
"""A class's rings of all applications together: beyond 8 each has less."""
PR_SET_PDEATHSIG = 1  # linux/prctl.h
READY, OPEN = "ready", "open"
ACCEPTED_S = 400.0
"""Until the last of many streams is accepted, or the last of many senders is there."""
NS = 1_000_000_000


def run_in_c(streams: list[Any], *, listens: bool) -> None:
    """Give open streams to the loops in C; does not return.

    The sender waits until then: what comes earlier is taken out of the ring by Python, unseen.
    """

    def pointer(item: Any) -> ctypes.c_void_p:
        return ctypes.c_void_p(int(ffi.cast("uintptr_t", item)))

    library = ctypes.CDLL(str(LIBRARY))
    client = streams[0]._driver.rings.client  # noqa: SLF001
    library.valkyrie_streams(pointer(client), ctypes.c_uint32(len(streams)))
    for stream in streams:
        flow = stream._flow  # noqa: SLF001
        first = ctypes.c_uint32(flow.expected)
        library.valkyrie_stream(pointer(flow.outlet), pointer(flow.inlet), first)
    if listens:
        streams[-1].send(READY.encode())
        lib.vk_client_wait(client, int(ACCEPTED_S * NS))
    else:
        streams[-1].recv(timeout=ACCEPTED_S)
    words = [word.encode() for word in ("valkyrie", *sys.argv[1:])]
    library.side_said()  # "ready" was, before the streams were accepted
    library.main(len(words), (ctypes.c_char_p * len(words))(*words))


def _fork(asked: Order, number: int, ring_size: int, go: tuple[int, int]) -> IO[str]:
    """Start an application; returns what it says. A sender begins when *go* is closed."""
    lines, out = os.pipe()
    if os.fork():
        os.close(out)
        return os.fdopen(lines)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # what is left would keep its names
    os.dup2(out, 1)
    os.close(go[1])
    try:
        streams = open_streams(
            asked,
            first=STREAM_IDS["stream"] + number,
            service=f"{SERVICE}{number}",
            ring_size=ring_size,
            accept_s=ACCEPTED_S,
        )
        if not asked.listens:
            say(OPEN)
            os.read(go[0], 1)
        run_in_c(streams, listens=asked.listens)
    except BaseException as error:
        print(f"application {number}: {error}", file=sys.stderr)
        raise
    finally:
        os._exit(1)  # run_in_c ends the process by itself


def _added(results: list[Result]) -> Result:
    """Return sums, and the longest time."""
    total, latencies = Result(), Histogram()
    for each in fields(Result):
        if each.name != "histogram":
            values = [getattr(result, each.name) for result in results]
            setattr(total, each.name, max(values) if each.name == "elapsed_ns" else sum(values))
    for result in results:
        latencies.add(Histogram.loads(result.histogram))
    total.histogram = latencies.dumps()
    return total


def _heard(lines: IO[str]) -> str:
    """Return what an application says next; one that has ended, and said why, ends all."""
    return lines.readline() or sys.exit(1)


def run_many(asked: Order, count: int) -> None:
    """Run *count* applications; senders begin when all have their streams."""
    _ = valkyrie.attach_sync  # loaded here, or each of them spends 0.2 s of one core on that
    ring_size = min(RING_BYTES, RINGS_BYTES_MAX >> (count - 1).bit_length())
    go = os.pipe()
    applications = [_fork(asked, number, ring_size, go) for number in range(count)]
    for lines in applications:
        _heard(lines)  # that it listens, or has its stream
    (ready if asked.listens else begin)()
    os.close(go[1])
    if not asked.listens:
        for lines in applications:
            _heard(lines)  # that it begins
    say(_added([Result(**json.loads(_heard(lines))) for lines in applications]).dumps())
    wait_for_the_end()
    for _ in applications:  # their time is ours, not that of others
        os.wait()


if __name__ == "__main__":
    asked = order()
    if asked.shape == "applications":
        run_many(asked, int(asked.rate))
    else:
        many = asked.shape in ("streams", "logs", "beside")
        streams = open_streams(asked, count=int(asked.rate) if many else 1)
        run_in_c(streams, listens=asked.listens)
