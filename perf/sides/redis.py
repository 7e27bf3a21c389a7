"""Redis publish and subscribe through redis-py, over a redis-server beside the receiver."""

from __future__ import annotations

from typing import Any

import redis

from .main import Order, run

WINDOW = 64
"""Publishes that go in one pipeline: one at a time, each waits for the server's answer."""


class Redis:
    """A subscription for what comes, pipelines of PUBLISH for what goes."""

    def __init__(self, order: Order) -> None:
        host, port = order.address.rsplit(":", 1)
        self._client: Any = redis.Redis(host=host, port=int(port))
        self._channel = "back" if order.listens else "there"
        self._incoming = self._client.pubsub(ignore_subscribe_messages=True)
        self._incoming.subscribe("there" if order.listens else "back")
        while self._incoming.get_message(timeout=1.0) is None and not self._incoming.subscribed:
            continue
        self._pipeline = self._client.pipeline(transaction=False)
        self._held = 0

    def send(self, message: bytearray) -> None:
        """Put the message into the pipeline."""
        self._pipeline.publish(self._channel, bytes(message))
        self._held += 1
        if self._held == WINDOW:
            self.flush()

    def flush(self) -> None:
        """Send the pipeline."""
        if self._held:
            self._pipeline.execute()
            self._held = 0

    def receive(self, timeout_s: float) -> Any:
        """Return the next payload."""
        message = self._incoming.get_message(timeout=timeout_s)
        return None if message is None else message["data"]


if __name__ == "__main__":
    run(Redis)
