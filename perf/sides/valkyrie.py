"""Valkyrie through its public API; ADDRESS is ``RECEIVER SENDER``, the names of the two nodes.

``single`` sends and receives message by message, ``batch`` many a call. ``local`` and
``local-batch`` are the same between two applications of one host; ADDRESS is a path then.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import valkyrie

from .main import Order, ready, run
from .shapes import End

RING_BYTES = 4 << 20
HELD_BYTES_MAX = 65_536
HELD_MAX = 256
"""Messages that one call carries, like ``recv_many``'s own limit."""
OPEN_S = 10.0
AHEAD = 500
"""Streams that are opened before the receiver has accepted them; it refuses more than 1024."""
SERVICE = "perf"
STREAM_IDS = {
    "stream": 1000,
    "request": 100,
    "open": 100,
    "marked": 100,
    "streams": 1000,
    "logs": 10_000,
}
"""Bulk goes as class data, what somebody waits for as class job."""
_attached = contextlib.ExitStack()
"""Never left: a side ends with its process."""


def open_streams(
    order: Order,
    *,
    count: int = 1,
    first: int | None = None,
    service: str = SERVICE,
    ring_size: int = RING_BYTES,
) -> list[Any]:
    """Attach to this host's node and return *count* open streams; the receiver's are accepted.

    Their ids ascend from *first*: an id is free once between two nodes.
    """
    receiver, sender = order.address.split()
    name = receiver if order.listens else sender
    node = _attached.enter_context(valkyrie.attach_sync(name, ring_size=ring_size))
    streams: list[Any] = []
    if order.listens:
        incoming = node.listen(service)
        ready()
        for number in range(count):
            streams.append(incoming.accept(OPEN_S))
            if number % AHEAD == AHEAD - 1:
                streams[-1].send(b"go on")
    else:
        peer, begin = node.connect("b"), first or STREAM_IDS[order.shape]
        for number in range(count):
            streams.append(peer.open(service, stream=begin + number))
            if number % AHEAD == AHEAD - 1:
                streams[-1].recv(timeout=OPEN_S)
    return streams


def _channel(order: Order) -> Any:
    if not order.listens:
        return valkyrie.local.connect(order.address)
    server = valkyrie.local.serve(order.address)
    ready()
    return server.accept(OPEN_S)


class Single:
    """A stream, message by message."""

    def __init__(self, order: Order) -> None:
        (self._stream,) = open_streams(order)
        self.send = self._stream.send
        self._receive = self._stream.recv

    def receive(self, timeout_s: float) -> Any:
        """Return the next payload."""
        try:
            message = self._receive(timeout_s)
        except TimeoutError:
            return None
        return None if message is None else message.payload

    def flush(self) -> None:
        """Nothing is held back."""


class Batch:
    """A stream, many messages a call; payloads are looked at where they lie in the ring."""

    def __init__(self, order: Order) -> None:
        self._open(order)
        self._size = order.size
        self._count_max = max(min(HELD_BYTES_MAX // order.size, HELD_MAX), 1)
        self._held = bytearray()
        self._lent: Any = None
        self._views: Iterator[memoryview] = iter(())

    def _open(self, order: Order) -> None:
        (self._stream,) = open_streams(order)

    def send(self, message: bytearray) -> None:
        """Hold the message until there are enough."""
        self._held += message
        if len(self._held) >= self._size * self._count_max:
            self.flush()

    def flush(self) -> None:
        """Send what is held."""
        if self._held:
            self._stream.send_many(self._held, self._size)
            self._held = bytearray()

    def receive(self, timeout_s: float) -> Any:
        """Return the next payload; it is valid until the next call."""
        for view in self._views:
            return view
        if self._lent is not None:
            self._lent.release()
            self._lent = None
        try:
            self._lent = self._take(timeout_s)
        except TimeoutError:
            return None
        self._views = iter(self._lent)
        return next(self._views, None)

    def _take(self, timeout_s: float) -> Any:
        return self._stream.recv_many(HELD_MAX, timeout_s)


class LocalSingle:
    """A channel between two applications of one host, message by message."""

    def __init__(self, order: Order) -> None:
        channel = _channel(order)
        self.send = functools.partial(channel.send, timeout_s=None)
        self.receive = channel.recv

    def flush(self) -> None:
        """Nothing is held back."""


class LocalBatch(Batch):
    """A channel, many messages a call."""

    def _open(self, order: Order) -> None:
        self._channel = _channel(order)

    def flush(self) -> None:
        """Send what is held, waiting for room."""
        rest = memoryview(self._held)
        while rest:
            rest = rest[self._channel.send_buffer(rest, self._size) * self._size :]
            if rest:
                self._channel.wait(room=self._size)
        self._held = bytearray()

    def _take(self, timeout_s: float) -> Any:
        while not (batch := self._channel.recv_many(HELD_MAX)):
            if not self._channel.wait(timeout_s):
                break
        return batch


ENDS: dict[str, Callable[[Order], End]] = {
    "single": Single,
    "batch": Batch,
    "local": LocalSingle,
    "local-batch": LocalBatch,
}

if __name__ == "__main__":
    run(lambda order: ENDS[order.transport](order))
