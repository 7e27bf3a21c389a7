"""The shapes of load for libraries that are used with asyncio; the same as ``shapes``."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from perf.histogram import Histogram

from .main import Order
from .message import END, HEAD, PHASE_SHIFT, RUN, WARM, Checker, blank, end_count, look_every
from .result import Meter, Result
from .shapes import BEGIN_S, IDLE_S, QuietError, now_ns


class AsyncEnd(Protocol):
    """One end of a connection; ``receive`` raises TimeoutError when nothing came in time."""

    async def send(self, message: bytes) -> None: ...
    async def receive(self, timeout_s: float) -> Any: ...
    async def flush(self) -> None: ...


async def _say_end(end: AsyncEnd, message: bytearray) -> None:
    HEAD.pack_into(message, 0, END << PHASE_SHIFT, 0)
    for _ in range(end_count(len(message))):
        await end.send(bytes(message))
    await end.flush()


async def stream_out(end: AsyncEnd, order: Order) -> Result:
    """Send as fast as the end takes messages."""
    message, result, meter = blank(order.size), Result(), Meter()
    each = range(look_every(order.size))
    for phase, seconds in ((WARM, order.warm_s), (RUN, order.run_s)):
        word, until_ns = phase << PHASE_SHIFT, now_ns() + round(seconds * 1e9)
        meter.start()
        number = 0
        while now_ns() < until_ns:
            HEAD.pack_into(message, 0, word | number, 0)
            for _ in each:
                await end.send(bytes(message))
            number += len(each)
        result.messages = number
    await end.flush()
    meter.stop(result)
    await _say_end(end, message)
    return result


async def open_out(end: AsyncEnd, order: Order) -> Result:
    """Send at fixed times; what is late keeps the time it was due."""
    message, result, meter = blank(order.size), Result(), Meter()
    for phase, seconds in ((WARM, order.warm_s), (RUN, order.run_s)):
        word, count, begin_ns = phase << PHASE_SHIFT, round(seconds * order.rate), now_ns()
        give_up_ns = begin_ns + round((3 * seconds + 1) * 1e9)
        meter.start()
        for number in range(count):
            due_ns = begin_ns + round(number * 1e9 / order.rate)
            if now_ns() < due_ns:
                await end.flush()
            while (now := now_ns()) < due_ns:  # noqa: ASYNC110  # a time is no event
                await asyncio.sleep(max((due_ns - now - 100_000) / 1e9, 0))
            if now > give_up_ns:
                break
            HEAD.pack_into(message, 0, word | number, due_ns)
            await end.send(bytes(message))
            result.messages = number + 1
        await end.flush()
    meter.stop(result)
    await _say_end(end, message)
    return result


async def _next(end: AsyncEnd, timeout_s: float) -> Any:
    try:
        return await end.receive(timeout_s)
    except TimeoutError:
        return None


async def take_in(end: AsyncEnd, order: Order) -> Result:
    """Receive until the sender has said that it is done, or is silent."""
    timed = order.shape == "open"
    checker, step = Checker(order.size, now_ns), 1 if timed else look_every(order.size)
    message, taken = await _next(end, BEGIN_S), 1
    if message is None:
        raise QuietError(f"nothing came within {BEGIN_S:g} s")
    while message is not None and checker.look(message, taken, timed=timed):
        for taken in range(1, step + 1):  # noqa: B007  # counts
            message = await _next(end, IDLE_S)
            if message is None:
                break
    result = checker.finish()
    result.histogram = Histogram.of(checker.latencies_ns).dumps()
    return result


async def ask(end: AsyncEnd, order: Order) -> Result:
    """Send a message, wait for its echo, and again."""
    message, result, meter = blank(order.size), Result(), Meter()
    times_ns: list[int] = []
    for phase, seconds in ((WARM, order.warm_s), (RUN, order.run_s)):
        times_ns.clear()
        meter.start()
        until_ns = now_ns() + round(seconds * 1e9)
        while (begin_ns := now_ns()) < until_ns:
            HEAD.pack_into(message, 0, phase << PHASE_SHIFT | len(times_ns), begin_ns)
            await end.send(bytes(message))
            await end.flush()
            echo = await _next(end, IDLE_S)
            if echo is None:
                raise QuietError(f"no echo within {IDLE_S:g} s")
            times_ns.append(now_ns() - begin_ns)
            result.corrupt += bytes(echo) != message
    meter.stop(result)
    result.messages = len(times_ns)
    result.histogram = Histogram.of(times_ns).dumps()
    await _say_end(end, message)
    return result


async def answer(end: AsyncEnd) -> Result:
    """Send back what comes until the sender has said that it is done."""
    result, meter, phase = Result(), Meter(), WARM
    message = await _next(end, BEGIN_S)
    while message is not None:
        word, _ = HEAD.unpack_from(message)
        if word >> PHASE_SHIFT == END:
            break
        if word >> PHASE_SHIFT != phase:
            phase = RUN
            meter.start()
        await end.send(bytes(message))
        await end.flush()
        result.messages += phase == RUN
        message = await _next(end, IDLE_S)
    meter.stop(result)
    return result


async def carry_out(order: Order, end: AsyncEnd) -> Result:
    """Do what is asked over *end*."""
    if order.listens:
        return await (answer(end) if order.two_way else take_in(end, order))
    if order.two_way:
        return await ask(end, order)
    return await (open_out if order.shape == "open" else stream_out)(end, order)
