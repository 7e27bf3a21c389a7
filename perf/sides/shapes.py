"""The shapes of load, over any end that sends and receives messages."""

from __future__ import annotations

import ctypes
import time
from typing import Any, Protocol

from perf.histogram import Histogram

from .message import END, HEAD, PHASE_SHIFT, RUN, WARM, Checker, blank, end_count, look_every
from .result import Meter, Result

IDLE_S = 2.0
"""A receiver that hears nothing for so long takes the run for over."""
BEGIN_S = 10.0
PR_SET_TIMERSLACK = 29  # linux/prctl.h
now_ns = time.monotonic_ns


class End(Protocol):
    """One end of a connection; ``receive`` gives None when nothing came in time."""

    def send(self, message: bytearray) -> None: ...
    def receive(self, timeout_s: float) -> Any: ...
    def flush(self) -> None: ...


class QuietError(RuntimeError):
    """The other side was not heard."""


def stream_out(end: End, size: int, warm_s: float, run_s: float) -> Result:
    """Send for *warm_s* and then for *run_s* seconds, as fast as the end takes messages.

    Only those that the receiver looks at, if none are lost, get a number of their own.
    """
    message, send, pack = blank(size), end.send, HEAD.pack_into
    each = range(look_every(size))
    result, meter = Result(), Meter()
    for phase, seconds in ((WARM, warm_s), (RUN, run_s)):
        word, until_ns = phase << PHASE_SHIFT, now_ns() + round(seconds * 1e9)
        meter.start()
        number = 0
        while now_ns() < until_ns:
            pack(message, 0, word | number, 0)
            for _ in each:
                send(message)
            number += len(each)
        result.messages = number
    end.flush()
    meter.stop(result)
    _say_end(end, message)
    return result


def _say_end(end: End, message: bytearray) -> None:
    HEAD.pack_into(message, 0, END << PHASE_SHIFT, 0)
    for _ in range(end_count(len(message))):
        end.send(message)
    end.flush()


def open_out(end: End, size: int, warm_s: float, run_s: float, rate: float) -> Result:
    """Send *rate* messages a second at fixed times; what is late keeps the time it was due."""
    message, result, meter = blank(size), Result(), Meter()
    gap_ns = 1e9 / rate
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)  # ns, instead of 50 µs
    for phase, seconds in ((WARM, warm_s), (RUN, run_s)):
        word, count, begin_ns = phase << PHASE_SHIFT, round(seconds * rate), now_ns()
        give_up_ns = begin_ns + round((3 * seconds + 1) * 1e9)
        meter.start()
        for number in range(count):
            due_ns = begin_ns + round(number * gap_ns)
            if now_ns() < due_ns:
                end.flush()  # what is late goes out together, what is due waits for nobody
            while (now := now_ns()) < due_ns:
                time.sleep((due_ns - now) / 1e9)  # polling would take the core from helpers
            if now > give_up_ns:
                break
            HEAD.pack_into(message, 0, word | number, due_ns)
            end.send(message)
            result.messages = number + 1
        end.flush()
    meter.stop(result)
    _say_end(end, message)
    return result


def take_in(end: End, size: int, *, timed: bool = False) -> Result:
    """Receive until the sender has said that it is done, or is silent.

    Every message is looked at where it is timed, else one in ``LOOK``: looking is our cost.
    """
    checker = Checker(size, now_ns)
    message = end.receive(BEGIN_S)
    if message is None:
        raise QuietError(f"nothing came within {BEGIN_S:g} s")
    look, receive, step = checker.look, end.receive, 1 if timed else look_every(size)
    taken = 1
    while message is not None and look(message, taken, timed=timed):
        for taken in range(1, step + 1):  # noqa: B007  # counts
            message = receive(IDLE_S)
            if message is None:
                break
    result = checker.finish()
    result.histogram = Histogram.of(checker.latencies_ns).dumps()
    return result


def ask(end: End, size: int, warm_s: float, run_s: float) -> Result:
    """Send a message, wait for its echo, and again."""
    message, result, meter = blank(size), Result(), Meter()
    times_ns: list[int] = []
    for phase, seconds in ((WARM, warm_s), (RUN, run_s)):
        times_ns.clear()
        meter.start()
        until_ns = now_ns() + round(seconds * 1e9)
        while (begin_ns := now_ns()) < until_ns:
            HEAD.pack_into(message, 0, phase << PHASE_SHIFT | len(times_ns), begin_ns)
            end.send(message)
            end.flush()
            echo = end.receive(IDLE_S)
            if echo is None:
                raise QuietError(f"no echo within {IDLE_S:g} s")
            times_ns.append(now_ns() - begin_ns)
            result.corrupt += bytes(echo) != message
    meter.stop(result)
    result.messages = len(times_ns)
    result.histogram = Histogram.of(times_ns).dumps()
    _say_end(end, message)
    return result


def answer(end: End) -> Result:
    """Send back what comes until the sender has said that it is done."""
    result, meter, phase = Result(), Meter(), WARM
    message = end.receive(BEGIN_S)
    while message is not None:
        word, _ = HEAD.unpack_from(message)
        if word >> PHASE_SHIFT == END:
            break
        if word >> PHASE_SHIFT != phase:
            phase = RUN
            meter.start()
        end.send(message)
        end.flush()
        result.messages += phase == RUN
        message = end.receive(IDLE_S)
    meter.stop(result)
    return result
