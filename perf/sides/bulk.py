"""A stream over an end that takes and gives many messages a call; else like ``shapes``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from .message import END, HEAD, PHASE_SHIFT, RUN, WARM, Checker, blank, end_count, look_every
from .result import Meter, Result
from .shapes import BEGIN_S, IDLE_S, QuietError, now_ns

HELD_BYTES_MAX = 65_536
HELD_MAX = 256
"""Messages of a call at most, like ``recv_many``'s own limit."""


@runtime_checkable
class BulkEnd(Protocol):
    """One end of a connection; messages that come are one sequence, empty if none came in time."""

    def send_many(self, messages: bytearray, size: int) -> None: ...
    def receive_many(self, timeout_s: float) -> Sequence[Any]: ...


def held(size: int) -> int:
    """Return how many messages go in a call."""
    count, step = min(HELD_BYTES_MAX // size, HELD_MAX), look_every(size)
    return max(count // step, 1) * step


def stream_out(end: BulkEnd, size: int, warm_s: float, run_s: float) -> Result:
    """Send for *warm_s* and then for *run_s* seconds, as fast as the end takes messages."""
    count, step = held(size), look_every(size)
    messages, result, meter = blank(size) * count, Result(), Meter()
    for phase, seconds in ((WARM, warm_s), (RUN, run_s)):
        word, until_ns = phase << PHASE_SHIFT, now_ns() + round(seconds * 1e9)
        meter.start()
        number = 0
        while now_ns() < until_ns:
            for at in range(0, count, step):
                HEAD.pack_into(messages, at * size, word | number + at, 0)
            end.send_many(messages, size)
            number += count
        result.messages = number
    meter.stop(result)
    last = blank(size)
    HEAD.pack_into(last, 0, END << PHASE_SHIFT, 0)
    end.send_many(last * end_count(size), size)
    return result


def take_in(end: BulkEnd, size: int) -> Result:
    """Receive until the sender has said that it is done, or is silent."""
    checker, step = Checker(size, now_ns), look_every(size)
    messages = end.receive_many(BEGIN_S)
    if not messages:
        raise QuietError(f"nothing came within {BEGIN_S:g} s")
    at, taken, going = 0, 1, True
    while messages and going:
        while going and at < len(messages):
            going = checker.look(messages[at], taken)
            at, taken = at + step, step
        at -= len(messages)
        if going:
            messages = end.receive_many(IDLE_S)
    return checker.finish()
