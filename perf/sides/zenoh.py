"""Zenoh's Python API, peer to peer over TCP, no router, no multicast."""

from __future__ import annotations

import queue
from typing import Any

import zenoh

from .main import Order, ready, run


class Zenoh:
    """A publisher and a subscriber whose samples wait in a queue."""

    def __init__(self, order: Order) -> None:
        config = zenoh.Config()
        config.insert_json5("mode", '"peer"')
        config.insert_json5("scouting/multicast/enabled", "false")
        config.insert_json5("transport/shared_memory/enabled", "false")  # leaves a file behind
        where = "listen" if order.listens else "connect"
        config.insert_json5(f"{where}/endpoints", f'["{order.address}"]')
        if not order.listens:
            config.insert_json5("listen/endpoints", "[]")
        self._session: Any = zenoh.open(config)
        names = ("back", "there") if order.listens else ("there", "back")
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._incoming = self._session.declare_subscriber(
            names[1], lambda sample: self._queue.put(sample.payload)
        )
        self._outgoing = self._session.declare_publisher(
            names[0], congestion_control=zenoh.CongestionControl.BLOCK
        )
        if order.listens:
            ready()
        elif not self._matched():
            raise RuntimeError("the receiver's subscription was not seen")

    def _matched(self) -> bool:
        listener = self._outgoing.declare_matching_listener(zenoh.handlers.FifoChannel(8))
        if self._outgoing.matching_status.matching:
            return True
        return bool(listener.recv().matching)

    def send(self, message: bytearray) -> None:
        """Publish; waits for room."""
        self._outgoing.put(bytes(message))

    def receive(self, timeout_s: float) -> Any:
        """Return the next payload."""
        try:
            return bytes(self._queue.get(timeout=timeout_s))
        except queue.Empty:
            return None

    def flush(self) -> None:
        """Nothing is held back."""


if __name__ == "__main__":
    run(Zenoh)
