"""TCP, TLS over TCP, and Unix sockets in Python: a length of 4 bytes before each message.

Each message is written by itself, as by an application that wants it sent now.
"""

from __future__ import annotations

import socket
import ssl
import struct
from pathlib import Path
from typing import Any

from .main import Order, ready, run

LENGTH = struct.Struct("<I")
READ_BYTES = 262_144


def _listen(order: Order) -> socket.socket:
    if order.transport == "unix":
        listener = socket.socket(socket.AF_UNIX)
        Path(order.address).unlink(missing_ok=True)
        listener.bind(order.address)
        listener.listen(1)
    else:
        host, port = order.address.rsplit(":", 1)
        listener = socket.create_server((host, int(port)))
    ready()
    return listener.accept()[0]


def _connect(order: Order) -> socket.socket:
    if order.transport == "unix":
        plain = socket.socket(socket.AF_UNIX)
        plain.connect(order.address)
        return plain
    host, port = order.address.split("#")[0].rsplit(":", 1)
    return socket.create_connection((host, int(port)))


class Sockets:
    """A connected stream socket; ADDRESS of ``tls`` ends in ``#`` and the certificate's path."""

    def __init__(self, order: Order) -> None:
        address, _, certificate = order.address.partition("#")
        plain = Order(**{**order.__dict__, "address": address})
        self._socket: Any = _listen(plain) if order.listens else _connect(plain)
        if order.transport != "unix":
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if order.transport == "tls":
            self._socket = self._secure(certificate, listens=order.listens)
        self._head = LENGTH.pack(order.size)
        self._buffer = bytearray()
        self._at = 0

    def _secure(self, certificate: str, *, listens: bool) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listens else ssl.PROTOCOL_TLS_CLIENT)
        if listens:
            context.load_cert_chain(certificate)
        else:
            context.load_verify_locations(certificate)
        return context.wrap_socket(
            self._socket, server_side=listens, server_hostname=None if listens else "localhost"
        )

    def send(self, message: bytearray) -> None:
        """Write length and message at once."""
        self._socket.sendall(self._head + message)

    def receive(self, timeout_s: float) -> bytes | None:
        """Return the next message out of the buffer, which is filled by large reads."""
        while (message := self._next()) is None:
            self._socket.settimeout(timeout_s)
            try:
                came = self._socket.recv(READ_BYTES)
            except TimeoutError:
                return None
            self._socket.settimeout(None)
            if not came:
                return None
            del self._buffer[: self._at]
            self._at = 0
            self._buffer += came
        return message

    def _next(self) -> bytes | None:
        at, buffer = self._at + LENGTH.size, self._buffer
        if len(buffer) < at:
            return None
        end = at + LENGTH.unpack_from(buffer, self._at)[0]
        if len(buffer) < end:
            return None
        self._at = end
        return bytes(memoryview(buffer)[at:end])

    def flush(self) -> None:
        """Nothing is held back."""


if __name__ == "__main__":
    run(Sockets)
