"""Valkyrie through its public API; ADDRESS is ``RECEIVER SENDER``, the names of the two nodes.

``single`` sends and receives message by message, ``batch`` many a call. ``local`` and
``local-batch`` are the same between two applications of one host; ADDRESS is a path then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import valkyrie

from .bulk import HELD_MAX, BulkEnd, held
from .main import Order, ready, run
from .shapes import End

RING_BYTES = 4 << 20
RING_BYTES_LARGE = 1 << 20
"""Of large messages: what the worker sends was written a moment ago, and is in the cache."""
LARGE = 1 << 20
OPEN_S = 10.0
AHEAD = 500
"""Streams that are opened before the receiver has accepted them; it refuses more than 1024."""
SERVICE = "perf"
STREAM_IDS = {
    "stream": 1000,
    "request": 1,
    "open": 100,
    "marked": 100,
    "streams": 1000,
    "logs": 10_000,
    "beside": 1000,
}
"""Bulk goes as class data, what somebody waits for as class system, or as class job where messages
are due at fixed times.
"""
_attached = contextlib.ExitStack()
"""Never left: a side ends with its process."""


def _stream_id(order: Order, first: int | None, number: int) -> int:
    """Return the id of a stream; those that say nothing beside the first one are of class logs."""
    if order.shape == "beside" and number:
        return STREAM_IDS["logs"] + number
    return (first or STREAM_IDS[order.shape]) + number


def open_streams(
    order: Order,
    *,
    count: int = 1,
    first: int | None = None,
    service: str = SERVICE,
    ring_size: int = 0,
    accept_s: float = OPEN_S,
) -> list[Any]:
    """Attach to this host's node and return *count* open streams; the receiver's are accepted.

    Their ids ascend, from *first* where given: an id is free once between two nodes. Each comes
    within *accept_s*.
    """
    receiver, sender = order.address.split()
    name = receiver if order.listens else sender
    ring_size = ring_size or (RING_BYTES if order.size < LARGE else RING_BYTES_LARGE)
    node = _attached.enter_context(valkyrie.attach_sync(name, ring_size=ring_size))
    streams: list[Any] = []
    if order.listens:
        incoming = node.listen(service)
        ready()
        for number in range(count):
            streams.append(incoming.accept(accept_s))
            if number % AHEAD == AHEAD - 1:
                streams[-1].send(b"go on")
    else:
        peer = node.connect("b")
        for number in range(count):
            streams.append(peer.open(service, stream=_stream_id(order, first, number)))
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
    """A stream, many messages a call; at a fixed rate, what is due together."""

    def __init__(self, order: Order) -> None:
        (self._stream,) = open_streams(order)
        self.send_many = self._stream.send_many
        self._size = order.size
        self._held = bytearray()
        self._came: list[bytes] = []

    def receive_many(self, timeout_s: float) -> list[bytes]:
        """Return the payloads that are there, copied."""
        try:
            with self._stream.recv_many(HELD_MAX, timeout_s) as batch:
                payloads: list[bytes] = batch.payloads()
                return payloads
        except TimeoutError:
            return []

    def send(self, message: bytearray) -> None:
        """Hold the message until there are enough."""
        self._held += message
        if len(self._held) >= self._size * held(self._size):
            self.flush()

    def flush(self) -> None:
        """Send what is held."""
        if self._held:
            self._stream.send_many(self._held, self._size)
            self._held = bytearray()

    def receive(self, timeout_s: float) -> Any:
        """Return the next payload."""
        if not self._came:
            self._came = self.receive_many(timeout_s)[::-1]
        return self._came.pop() if self._came else None


class LocalSingle:
    """A channel between two applications of one host, message by message."""

    def __init__(self, order: Order) -> None:
        channel = _channel(order)
        self._send = channel.send
        self.receive = channel.recv

    def send(self, message: bytearray) -> None:
        """Send, waiting for room."""
        self._send(message, None)

    def flush(self) -> None:
        """Nothing is held back."""


class LocalBatch:
    """A channel, many messages a call."""

    def __init__(self, order: Order) -> None:
        self._channel = _channel(order)

    def send_many(self, messages: bytearray, size: int) -> None:
        """Send all, waiting for room."""
        rest = memoryview(messages)
        while rest:
            rest = rest[self._channel.send_buffer(rest, size) * size :]
            if rest:
                self._channel.wait(room=size)

    def receive_many(self, timeout_s: float) -> list[bytes]:
        """Return what is there."""
        messages: list[bytes] = self._channel.recv_list(HELD_MAX, timeout_s)
        return messages


ENDS: dict[str, Callable[[Order], End | BulkEnd]] = {
    "single": Single,
    "batch": Batch,
    "local": LocalSingle,
    "local-batch": LocalBatch,
}

if __name__ == "__main__":
    run(lambda order: ENDS[order.transport](order))
