"""iceoryx2 through its Python package: slices of bytes in shared memory, publish and subscribe.

A receiver polls, as its examples do: waiting in its own listener costs a system call a message.
"""

from __future__ import annotations

import ctypes
import hashlib
import time
from pathlib import Path
from typing import Any

import iceoryx2

from .main import Order, ready, run
from .shapes import BEGIN_S

QUEUE = 1024
"""Samples that wait for a subscriber; with its overflow off the publisher blocks."""
YIELD_EVERY = 1000
"""Looks between two readings of the clock."""


class Iceoryx2:
    """A publisher and a subscriber, each of a service of its own."""

    def __init__(self, order: Order) -> None:
        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        folder = Path(order.address).parent
        config: Any = iceoryx2.config.default()
        config.global_cfg.root_path = iceoryx2.Path.new(str(folder))
        config.global_cfg.prefix = iceoryx2.FileName.new(f"{folder.name}-")  # the arena cleans up
        self._node = iceoryx2.NodeBuilder.new().config(config).create(iceoryx2.ServiceType.Ipc)
        names = ("back", "there") if order.listens else ("there", "back")
        run_name = hashlib.sha256(order.address.encode()).hexdigest()[:16]
        outgoing, incoming = (self._service(f"perf/{run_name}/{name}") for name in names)
        self._incoming: Any = incoming.subscriber_builder().buffer_size(QUEUE).create()
        self._outgoing: Any = (
            outgoing.publisher_builder().initial_max_slice_len(order.size).create()
        )
        if order.listens:
            ready()
        else:
            self._meet(outgoing)

    def _service(self, name: str) -> Any:
        return (
            self._node.service_builder(iceoryx2.ServiceName.new(name))
            .publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
            .enable_safe_overflow(False)
            .subscriber_max_buffer_size(QUEUE)
            .open_or_create()
        )

    @staticmethod
    def _meet(service: Any) -> None:
        deadline = time.monotonic() + BEGIN_S
        while not service.dynamic_config.number_of_subscribers:
            if time.monotonic() > deadline:
                raise RuntimeError("the receiver's subscription was not seen")
            time.sleep(0.001)

    def send(self, message: bytearray) -> None:
        """Write the message into a loaned slice and publish it."""
        sample = self._outgoing.loan_slice_uninit(len(message))
        ctypes.memmove(sample.payload_ptr, bytes(message), len(message))
        sample.assume_init().send()

    def receive(self, timeout_s: float) -> Any:
        """Return the next sample's bytes; polls."""
        for look in range(1 << 40):
            sample = self._incoming.receive()
            if sample is not None:
                slice_ = sample.payload()
                data = ctypes.string_at(slice_.as_ptr(), slice_.len())
                sample.delete()
                return data
            if look % YIELD_EVERY == 0:
                now = time.monotonic()
                if look == 0:
                    deadline = now + timeout_s
                elif now > deadline:
                    return None
        return None

    def flush(self) -> None:
        """Nothing is held back."""


if __name__ == "__main__":
    run(Iceoryx2)
