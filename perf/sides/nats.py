"""NATS publish and subscribe through nats-py, over a nats-server beside the receiver."""

from __future__ import annotations

import asyncio
from typing import Any

import nats

from . import shapes_async
from .main import Order, begin, order, ready
from .result import say, wait_for_the_end

PENDING = 1 << 30
"""Messages and bytes that a subscription may hold: nothing is dropped on the client's side."""


class Nats:
    """A subscription for what comes, publishing for what goes."""

    def __init__(self, client: Any, incoming: Any, subject: str) -> None:
        self._client = client
        self._incoming = incoming
        self._subject = subject

    @classmethod
    async def connect(cls, asked: Order) -> Nats:
        """Connect and subscribe; the sender subscribes to the echoes."""
        client = await nats.connect(f"nats://{asked.address}")
        names = ("there", "back") if asked.listens else ("back", "there")
        limits = {"pending_msgs_limit": PENDING, "pending_bytes_limit": PENDING}
        incoming = await client.subscribe(names[0], **limits)
        await client.flush()
        return cls(client, incoming, names[1])

    async def send(self, message: bytes) -> None:
        """Publish; nats-py writes when its buffer is full or the loop is free."""
        await self._client.publish(self._subject, message)

    async def receive(self, timeout_s: float) -> Any:
        """Return the next payload."""
        try:
            return self._incoming._pending_queue.get_nowait().data  # noqa: SLF001
        except asyncio.QueueEmpty:
            return (await self._incoming.next_msg(timeout_s)).data

    async def flush(self) -> None:
        """Let what is buffered go out."""
        await self._client._flush_pending()  # noqa: SLF001


async def main() -> None:
    """Run the side."""
    asked = order()
    end = await Nats.connect(asked)
    (ready if asked.listens else begin)()
    say((await shapes_async.carry_out(asked, end)).dumps())
    await end._client.flush(20)  # noqa: SLF001
    await asyncio.to_thread(wait_for_the_end)


if __name__ == "__main__":
    asyncio.run(main())
