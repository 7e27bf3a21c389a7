"""Valkyrie from an application in C: ``vk_blast`` on an open stream; Python only opens it.

The loops in C take a count, not a time: a short run before tells how many messages fill the time.
Both sides agree on each count through the stream itself.
"""

from __future__ import annotations

import struct
from typing import Any

from perf.blast import Blast
from perf.blast import Result as Blasted
from perf.histogram import Histogram

from .main import Order, order
from .result import Meter, Result, say, wait_for_the_end
from .valkyrie import OPEN_S, _stream

COUNT = struct.Struct("<Q")
FIRST_BYTES = 1 << 20
FIRST_MIN = 200
"""Of the run that only tells how fast the next one will be."""
BATCH = 128
MARGIN_NS = 1_000_000_000


class Sender:
    """Tells the receiver how many will come, and sends them."""

    def __init__(self, asked: Order) -> None:
        self._order = asked
        self._stream: Any = _stream(asked)
        self._blast = Blast(self._stream)

    def _go(self, count: int) -> tuple[Result, list[int]]:
        self._stream.send(COUNT.pack(count))
        self._await()
        if not count:
            return Result(), []
        meter, result, times = Meter(), Result(), []
        meter.start()
        if self._order.two_way:
            times = self._blast.ping(self._order.size, count)
            result.messages = len(times)
        else:
            result.messages = self._blast.send(self._order.size, count, batch=BATCH).messages
        meter.stop(result)
        self._await()  # until then the receiver would take our next word for a message
        return result, times

    def _await(self) -> None:
        if self._stream.recv(timeout=OPEN_S) is None:
            raise RuntimeError("the receiver ended the stream")

    def run(self) -> Result:
        """Send three times: to learn the speed, to warm up, to measure."""
        first = 0 if self._order.two_way else FIRST_BYTES // self._order.size
        result, _ = self._go(max(first, FIRST_MIN))
        for seconds in (self._order.warm_s, self._order.run_s):
            speed = result.messages / max(result.elapsed_ns, 1) * 1e9
            result, times = self._go(max(round(speed * seconds), 1))
            result.histogram = Histogram.of(times).dumps()
        self._go(0)
        return result


def receive(asked: Order) -> Result:
    """Take what the sender announces; the figures are those of the last time."""
    stream = _stream(asked)
    blast, result = Blast(stream), Result()
    while (count := COUNT.unpack(stream.recv(timeout=OPEN_S).payload)[0]) > 0:
        meter, result = Meter(), Result()
        stream.send(b"ready")
        deadline_ns = round((asked.warm_s + asked.run_s) * 4e9) + MARGIN_NS
        meter.start()
        take = blast.echo if asked.two_way else blast.receive
        done: Blasted = take(count, deadline_ns=deadline_ns)
        meter.stop(result)
        result.messages, result.corrupt = done.messages, done.corrupt
        result.lost = count - done.messages
        result.elapsed_ns = done.elapsed_ns
        stream.send(b"done")
    stream.send(b"done")
    return result


if __name__ == "__main__":
    asked = order()
    say((receive(asked) if asked.listens else Sender(asked).run()).dumps())
    wait_for_the_end()
