"""multiprocessing.connection over a Unix socket: what Pipe, Queue and Manager are made of."""

from __future__ import annotations

from multiprocessing.connection import Client, Listener
from typing import Any

from .main import Order, ready, run


class Connection:
    """A connected pipe of bytes."""

    def __init__(self, order: Order) -> None:
        if order.listens:
            listener = Listener(order.address, "AF_UNIX")
            ready()
            self._pipe: Any = listener.accept()
        else:
            self._pipe = Client(order.address, "AF_UNIX")
        self.send = self._pipe.send_bytes

    def receive(self, timeout_s: float) -> Any:
        """Return the next message."""
        try:
            return self._pipe.recv_bytes() if self._pipe.poll(timeout_s) else None
        except EOFError:
            return None

    def flush(self) -> None:
        """Nothing is held back."""


if __name__ == "__main__":
    run(Connection)
