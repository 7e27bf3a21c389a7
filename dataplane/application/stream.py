"""Streams as applications use them: asyncio and synchronous faces of the same ``Flow``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Self, TypeVar

from valkyrie.dataplane._stream import Face
from valkyrie.dataplane.wire import Class, Code, Flag

from .attachment import Attachment
from .driver import AsyncDriver, Driver, SyncDriver
from .flow import Counts, Flow, LargeError
from .loan import Buffer
from .message import Batch, Message, Placed
from .outgoing import Outgoing
from .refusal import WouldBlockError
from .rings import Payload

D = TypeVar("D", bound=Driver)

BATCH_MAX = 256
"""Messages of a ``recv_many`` unless told otherwise."""
_EOS = Flag.EOS.value
_ACK = Flag.ACK.value
_URG = Flag.URG.value


def _options(
    kind: int | str,
    correlation: int = 0,
    flags: int = 0,
    priority: int = 0,
    *,
    stamp: bool,
    lifetime: float | None = None,
) -> dict[str, Any]:
    return {
        "kind": kind,
        "correlation": correlation,
        "flags": flags,
        "priority": priority,
        "stamp": stamp,
        "lifetime": lifetime,
    }


class StreamFace(Generic[D]):
    """What both faces of a stream can say without waiting."""

    def __init__(self, driver: D, flow: Flow) -> None:
        self._driver = driver
        self._flow = flow
        self._attachment: Attachment = driver.attachment

    @property
    def id(self) -> int:
        """Stream id; it selects the class."""
        return self._flow.stream

    @property
    def class_name(self) -> str:
        """``critical``, ``system``, ``job``, ``data`` or ``logs``."""
        return Class(self._flow.ring).name.lower()

    @property
    def peer(self) -> int:
        """Index of the peer at the node."""
        return self._flow.peer

    @property
    def ordered(self) -> bool:
        """Whether messages are read in the order of sending."""
        return self._flow.ordered

    @property
    def service(self) -> str:
        """Name of the service that the stream was opened on."""
        return self._flow.service

    @property
    def counts(self) -> Counts:
        """What this end has sent and received."""
        return self._flow.counts

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent and nothing more will be received."""
        return self._flow.closed or self._flow.error is not None

    def reset(self, code: int = Code.CANCELLED) -> None:
        """End both directions at once: what is on its way may be lost, and the peer is told why.

        ``code`` is one of ``enum vk_code`` or the application's own.
        """
        self._attachment.reset(self._flow, code)
        self._driver.turn_soon()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<{type(self).__name__} {self.id} ({self.class_name}) peer {self.peer} {state}>"


class Stream(StreamFace[AsyncDriver]):
    """A stream of messages to and from an application at a peer (asyncio)."""

    async def send(
        self,
        payload: Payload,
        *,
        type: int | str = 0,  # noqa: A002
        correlation: int = 0,
        eos: bool = False,
        urgent: bool = False,
        priority: int = 0,
        stamp: bool = False,
        lifetime: float | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> None:
        """Send one message, at most 64 MiB (logs: 64 KiB); returns once it is in the ring.

        Over 64 KiB it goes in fragments, and other messages of the stream wait for it. Do not
        change the payload before. Cancelled when it has begun, the stream is reset.

        Waits for room, for ever or ``timeout`` seconds (0: not at all), then raises
        WouldBlockError, which says why there is none. ``eos``: the last message from this side.
        ``stamp``: put the time on it, so that the receiver sees the latency. ``lifetime``, on logs:
        seconds after which it is not worth sending any more.
        """
        options = None
        if type or correlation or eos or urgent or priority or stamp or lifetime is not None:
            flags = (_EOS if eos else 0) | (_URG if urgent else 0)
            options = _options(type, correlation, flags, priority, stamp=stamp, lifetime=lifetime)
        else:
            try:
                self._flow.send(payload)
            except WouldBlockError:
                if timeout == 0:
                    raise
            except LargeError:
                pass
            else:
                return
        await self._driver.run(
            self._attachment.send(self._flow, payload, timeout, time.monotonic_ns(), options)
        )

    async def send_many(
        self,
        payloads: Sequence[Payload] | Payload,
        size: int = 0,
        *,
        type: int | str = 0,  # noqa: A002
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> None:
        """Send a sequence of messages, or one buffer cut into messages of ``size`` bytes."""
        outgoing = Outgoing(payloads, size, type)
        if outgoing.push(self._flow):
            return
        await self._driver.run(
            self._attachment.send_many(self._flow, outgoing, timeout, time.monotonic_ns())
        )

    async def request(
        self,
        payload: Payload,
        *,
        type: int | str = 0,  # noqa: A002
        timeout: float | None = None,  # noqa: ASYNC109
        stamp: bool = False,
    ) -> Message:
        """Send a message and return the reply that carries its correlation."""
        options = _options(type, stamp=stamp)
        return await self._driver.run(
            self._attachment.request(self._flow, payload, timeout, time.monotonic_ns(), options)
        )

    async def reply(
        self,
        request: Message,
        payload: Payload,
        *,
        type: int | str = 0,  # noqa: A002
        timeout: float | None = None,  # noqa: ASYNC109
        stamp: bool = False,
    ) -> None:
        """Answer a request that came in on this stream."""
        options = _options(type, request.correlation, _ACK, stamp=stamp)
        await self._driver.run(
            self._attachment.send(self._flow, payload, timeout, time.monotonic_ns(), options)
        )

    async def recv(self, timeout: float | None = None) -> Message | None:  # noqa: ASYNC109
        """Return the next message; None after the last one; TimeoutError after ``timeout`` s."""
        attachment = self._attachment
        message = attachment.take(self._flow)
        if message is not None:
            if attachment.woken:
                self._driver.turn_soon()
            return message
        return await self._driver.run(attachment.receive(self._flow, timeout, time.monotonic_ns()))

    async def recv_into(
        self,
        buffer: Buffer,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Placed | None:
        """Return the next message, put into a buffer of yours; its payload is a view of that.

        Above 4 MiB this costs less time than ``recv`` if the buffer is used again and again. A
        message that does not fit raises SmallBufferError, which has its ``size``, and still waits.
        Until this returns the buffer is the stream's; one such call at a time.
        """
        return await self._driver.run(
            self._attachment.receive_into(self._flow, buffer, timeout, time.monotonic_ns())
        )

    async def recv_many(
        self,
        max: int = BATCH_MAX,  # noqa: A002
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> list[Message]:
        """Return the messages that are there, waiting for the first; [] after the last one."""
        return await self._driver.run(
            self._attachment.receive_many(self._flow, max, timeout, time.monotonic_ns())
        )

    async def flush(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Wait until all that was sent is acknowledged; TimeoutError after ``timeout`` seconds.

        Then it lies in the memory of the application at the peer. On logs: it left this node.
        """
        await self._driver.run(self._attachment.flush(self._flow, timeout, time.monotonic_ns()))

    async def close_sending(self) -> None:
        """Send no more: the peer reads to the end. What it sends still comes."""
        await self._driver.run(self._attachment.close_sending(self._flow, time.monotonic_ns()))

    async def close(self) -> None:
        """Send no more and take nothing more in; what was sent still goes out."""
        await self._driver.run(self._attachment.close(self._flow, time.monotonic_ns()))

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Message:
        message = await self.recv()
        if message is None:
            raise StopAsyncIteration
        return message

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class SyncStream(StreamFace[SyncDriver], Face):
    """A stream of messages to and from an application at a peer (synchronous)."""

    def _send(
        self,
        payload: Payload,
        *,
        type: int | str = 0,  # noqa: A002
        correlation: int = 0,
        eos: bool = False,
        urgent: bool = False,
        priority: int = 0,
        stamp: bool = False,
        lifetime: float | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send what ``send`` leaves alone: with a descriptor, large, without room, an error."""
        self._driver.alone()
        options = None
        if type or correlation or eos or urgent or priority or stamp or lifetime is not None:
            flags = (_EOS if eos else 0) | (_URG if urgent else 0)
            options = _options(type, correlation, flags, priority, stamp=stamp, lifetime=lifetime)
        else:
            try:
                self._flow.send(payload)
            except (WouldBlockError, LargeError):
                pass
            else:
                return
        self._driver.run(
            self._attachment.send(self._flow, payload, timeout, time.monotonic_ns(), options)
        )

    def send_many(
        self,
        payloads: Sequence[Payload] | Payload,
        size: int = 0,
        *,
        type: int | str = 0,  # noqa: A002
        timeout: float | None = None,
    ) -> None:
        """Send a sequence of messages, or one buffer cut into messages of ``size`` bytes."""
        self._driver.alone()
        outgoing = Outgoing(payloads, size, type)
        if outgoing.push(self._flow):
            return
        self._driver.run(
            self._attachment.send_many(self._flow, outgoing, timeout, time.monotonic_ns())
        )

    def request(
        self,
        payload: Payload,
        *,
        type: int | str = 0,  # noqa: A002
        timeout: float | None = None,
        stamp: bool = False,
    ) -> Message:
        """Send a message and return the reply that carries its correlation."""
        options = _options(type, stamp=stamp)
        return self._driver.run(
            self._attachment.request(self._flow, payload, timeout, time.monotonic_ns(), options)
        )

    def reply(
        self,
        request: Message,
        payload: Payload,
        *,
        type: int | str = 0,  # noqa: A002
        timeout: float | None = None,
        stamp: bool = False,
    ) -> None:
        """Answer a request that came in on this stream."""
        options = _options(type, request.correlation, _ACK, stamp=stamp)
        self._driver.run(
            self._attachment.send(self._flow, payload, timeout, time.monotonic_ns(), options)
        )

    def _recv(self, timeout: float | None, began_ns: int) -> Message | None:
        """Receive when ``recv`` leaves it alone, after it has waited since a time that is not 0."""
        self._driver.alone()
        message = self._attachment.take(self._flow)
        if message is not None:
            return message
        self._attachment.pump()
        now_ns = began_ns or time.monotonic_ns()
        return self._driver.run(self._attachment.receive(self._flow, timeout, now_ns))

    def _look_around(self) -> None:
        """Take in what lies in other rings: ``recv`` does this now and then."""
        self._attachment.pump(but=self._flow.ring)

    def recv_into(self, buffer: Buffer, timeout: float | None = None) -> Placed | None:
        """Return the next message, put into a buffer of yours, as ``Stream.recv_into`` does."""
        return self._driver.run(
            self._attachment.receive_into(self._flow, buffer, timeout, time.monotonic_ns())
        )

    def recv_many(
        self,
        max: int = BATCH_MAX,  # noqa: A002
        timeout: float | None = None,
    ) -> Batch:
        """Return the messages that are there as they lie in the ring, waiting for the first.

        Up to 256 at a time; an empty batch after the last one. Release it soon.
        """
        return self._driver.run(
            self._attachment.receive_batch(self._flow, max, timeout, time.monotonic_ns()),
            pump=False,
        )

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was sent is acknowledged, as ``Stream.flush`` does."""
        self._driver.run(self._attachment.flush(self._flow, timeout, time.monotonic_ns()))

    def close_sending(self) -> None:
        """Send no more: the peer reads to the end. What it sends still comes."""
        self._driver.run(self._attachment.close_sending(self._flow, time.monotonic_ns()))

    def close(self) -> None:
        """Send no more and take nothing more in; what was sent still goes out."""
        self._driver.run(self._attachment.close(self._flow, time.monotonic_ns()))

    def __iter__(self) -> Iterator[Message]:
        while (message := self.recv()) is not None:
            yield message

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
