"""ZeroMQ through pyzmq: PUSH and PULL one way, DEALER to DEALER for round trips.

``curve`` is TCP with CURVE: its address ends in ``#`` and the path at which the receiver leaves its
public key.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from .main import Order, run

QUEUE_BYTES = 16 << 20
"""What may wait on either side; ZeroMQ counts messages, and 1000 is what it does by itself."""


class ZeroMQ:
    """One socket; ``send`` copies, so the caller's buffer is free again."""

    def __init__(self, order: Order) -> None:
        kind = (zmq.PULL if order.listens else zmq.PUSH) if not order.two_way else zmq.DEALER
        self._socket: Any = zmq.Context().socket(kind)
        self._socket.set_hwm(max(QUEUE_BYTES // order.size, 1000))
        address, _, key = order.address.partition("#")
        if key:
            self._secure(Path(key), listens=order.listens)
        (self._socket.bind if order.listens else self._socket.connect)(address)
        self.send = self._socket.send
        self._receive: Callable[..., bytes] = self._socket.recv

    def _secure(self, key: Path, *, listens: bool) -> None:
        public, secret = zmq.curve_keypair()
        self._socket.curve_publickey, self._socket.curve_secretkey = public, secret
        if listens:
            self._socket.curve_server = True
            key.write_bytes(public)
        else:
            self._socket.curve_serverkey = key.read_bytes()

    def receive(self, timeout_s: float) -> bytes | None:
        """Return the next message; asks first without waiting."""
        try:
            return self._receive(zmq.NOBLOCK)
        except zmq.Again:
            return self._receive() if self._socket.poll(timeout_s * 1e3) else None

    def flush(self) -> None:
        """Nothing is held back."""


if __name__ == "__main__":
    run(ZeroMQ)
