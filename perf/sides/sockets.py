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
TIMEVAL = struct.Struct("@ll")
READ_BYTES = 262_144
LARGE = 16_384
"""To copy a message of so many bytes costs more than a system call."""
CIPHER = "TLS_AES_256_GCM_SHA384"
RECORD_LEFT = 16_384 - LENGTH.size
"""Of a record of TLS, behind a length."""


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
        self._secured = order.transport == "tls"
        self._buffer = bytearray(READ_BYTES if order.size < LARGE else LENGTH.size)
        self._view = memoryview(self._buffer)
        self._whole = bytearray()
        self._at = self._until = 0
        self._waits_s = 0.0

    def _secure(self, certificate: str, *, listens: bool) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listens else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if listens:
            context.load_cert_chain(certificate)
        else:
            context.load_verify_locations(certificate)
        made = context.wrap_socket(
            self._socket, server_side=listens, server_hostname=None if listens else "localhost"
        )
        if (made.cipher() or ("none",))[0] != CIPHER:
            raise RuntimeError(f"TLS agreed on {made.cipher()} instead of {CIPHER}")
        return made

    def send(self, message: bytearray) -> None:
        """Write length and message at once; a large one from where it lies."""
        if len(message) < LARGE:
            self._socket.sendall(self._head + message)
        elif self._secured:  # takes one buffer a call: one record for the length and what fits
            with memoryview(message) as view:
                self._socket.sendall(self._head + view[:RECORD_LEFT])
                self._socket.sendall(view[RECORD_LEFT:])
        else:
            sent = self._socket.sendmsg([self._head, message])
            if sent < LENGTH.size + len(message):  # a signal came
                self._socket.sendall((self._head + message)[sent:])

    def receive(self, timeout_s: float) -> bytearray | None:
        """Return the next message, which large reads bring; the memory of a large one is reused."""
        buffer = self._buffer
        while True:
            at = self._at + LENGTH.size
            if at <= self._until:
                size = LENGTH.unpack_from(buffer, self._at)[0]
                if size >= LARGE:
                    return self._large(size, timeout_s)
                if at + size <= self._until:
                    self._at = at + size
                    return buffer[at : at + size]
            left = self._until - self._at
            buffer[:left] = buffer[self._at : self._until]
            came = self._read(self._view[left:], timeout_s)
            self._at, self._until = 0, left + came
            if not came:
                return None

    def _large(self, size: int, timeout_s: float) -> bytearray | None:
        """Return a message whose length lies in the buffer; the rest is read to where it stays."""
        if len(self._whole) != size:
            self._whole = bytearray(size)
        at = self._at + LENGTH.size
        have = min(self._until - at, size)
        with memoryview(self._whole) as view:
            view[:have] = self._view[at : at + have]
            self._at = at + have
            while have < size:
                came = self._read(view[have:], timeout_s)
                if not came:
                    return None
                have += came
        return self._whole

    def _read(self, room: memoryview, timeout_s: float) -> int:
        """Wait for bytes in one system call; return how many came, 0 if none did."""
        if timeout_s != self._waits_s:
            seconds, part_s = divmod(timeout_s, 1)
            bound = TIMEVAL.pack(int(seconds), int(part_s * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bound)
            self._waits_s = timeout_s
        try:
            return int(self._socket.recv_into(room))
        except BlockingIOError:
            return 0

    def flush(self) -> None:
        """Nothing is held back."""


if __name__ == "__main__":
    run(Sockets)
