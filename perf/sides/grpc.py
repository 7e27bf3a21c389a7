"""gRPC for Python with messages of plain bytes: one stream of calls each way, no protobuf.

``plain``, ``tls`` (ADDRESS ends in ``#`` and the certificate's path) and ``uds``.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from .main import Order, run

METHOD = "/perf.Bench/Exchange"
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
AHEAD = 256
"""Messages that wait to be sent: gRPC itself gives no sign when it has had enough."""


class Grpc:
    """One bidirectional call; both directions are queues, as gRPC's iterators want it."""

    def __init__(self, order: Order) -> None:
        self._incoming: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outgoing: queue.Queue[bytes] = queue.Queue(AHEAD)
        address, _, certificate = order.address.partition("#")
        pem = Path(certificate).read_bytes() if certificate else b""
        (self._serve if order.listens else self._call)(address, pem)
        self.send = self._send

    def _requests(self) -> Iterator[bytes]:
        while True:
            yield self._outgoing.get()

    def _serve(self, address: str, pem: bytes) -> None:
        def exchange(requests: Iterator[bytes], _: Any) -> Iterator[bytes]:
            threads.submit(self._drain, requests)
            return self._requests()

        threads = ThreadPoolExecutor(4)
        self._server = grpc.server(ThreadPoolExecutor(2), options=OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(exchange)
        _, service, method = METHOD.split("/")
        handlers = grpc.method_handlers_generic_handler(service, {method: handler})
        self._server.add_generic_rpc_handlers((handlers,))
        if pem:
            credentials = grpc.ssl_server_credentials([(pem, pem)])
            self._server.add_secure_port(address, credentials)
        else:
            self._server.add_insecure_port(address)
        self._server.start()

    def _drain(self, messages: Iterator[bytes]) -> None:
        try:
            for message in messages:
                self._incoming.put(message)
        except grpc.RpcError:
            return

    def _call(self, address: str, pem: bytes) -> None:
        if pem:
            credentials = grpc.ssl_channel_credentials(pem)
            self._channel = grpc.secure_channel(address, credentials, options=OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address, options=OPTIONS)
        self._answers = self._channel.stream_stream(METHOD)(self._requests())
        ThreadPoolExecutor(1).submit(self._drain, self._answers)

    def _send(self, message: bytearray) -> None:
        self._outgoing.put(bytes(message))

    def receive(self, timeout_s: float) -> Any:
        """Return the next message."""
        try:
            return self._incoming.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def flush(self) -> None:
        """Nothing is held back."""


if __name__ == "__main__":
    run(Grpc)
