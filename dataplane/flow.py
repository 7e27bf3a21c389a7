"""One end of a stream as the attachment knows it: how to send on it, and what came in."""

from __future__ import annotations

import errno
import time
from array import array
from collections import deque
from collections.abc import Sequence

import msgspec

from ._core import ffi, lib
from .errors import LocalProtocolError
from .message import Message
from .refusal import CODE_NAMES, RefusedError, StreamResetError, WouldBlockError
from .rings import Payload, Rings
from .wire import Flag, Type

QUEUE_MESSAGES_MAX = 8192
"""Messages that wait for a stream's reader before its class's ring is left alone."""
QUEUE_SIZE_MAX = 16 * 1024 * 1024
"""Bytes of payload that wait likewise."""
CORRELATION_MAX = 0xFFFF_FFFF
_send = lib.vk_client_send
_EOS = Flag.EOS.value
_ACK = Flag.ACK.value


class Counts(msgspec.Struct):
    """What one end of a stream has seen; nothing is dropped without a count."""

    sent: int
    sent_bytes: int
    received: int = 0
    received_bytes: int = 0
    held_up: int = 0
    """How often its class's ring was left alone because nobody read this stream."""
    after_close: int = 0
    """Messages that came after this side had closed or reset the stream."""


def type_number(kind: int | str) -> int:
    """Return the number of a message type given by number or name."""
    if isinstance(kind, int):
        return kind
    try:
        return Type[kind.upper()].value
    except KeyError:
        raise LocalProtocolError(f"no message type {kind!r}: see docs/FORMATS.md") from None


class Flow:
    """The core of both kinds of Stream: no waiting happens here."""

    def __init__(self, rings: Rings, peer: int, stream: int, ring: int) -> None:
        self.rings = rings
        self._client = rings.client
        self.peer = peer
        self.stream = stream
        self.ring = ring
        self.number = -1
        """Index of the worker's vk_flow; -1 before the stream is open."""
        self.generation = 0
        self.service = ""
        self.token = 0
        self.code: int | None = None
        """The answer to an OPEN, once it is there."""
        self.outlet = ffi.new("struct vk_outlet *")
        self.head = ffi.addressof(self.outlet, "head")
        self.head.peer = peer
        self.head.stream = stream
        self.queue: deque[Message] = deque()
        self.queue_size = 0
        self.replies: dict[int, Message | None] = {}
        self.correlation = 0
        self.received = 0
        self.received_bytes = 0
        self.held_up = 0
        self.after_close = 0
        self.ended = False
        """The peer sends no more."""
        self.ended_well = False
        """The peer had said so before the stream was reset."""
        self.closed = False
        self.error: RefusedError | None = None

    @property
    def counts(self) -> Counts:
        """What was sent and received so far."""
        return Counts(
            sent=self.outlet.sent,
            sent_bytes=self.outlet.sent_bytes,
            received=self.received,
            received_bytes=self.received_bytes,
            held_up=self.held_up,
            after_close=self.after_close,
        )

    def bind(self, number: int, generation: int) -> None:
        """Take the worker's flow for this stream."""
        self.number = self.head.flow = number
        self.generation = self.head.flow_generation = generation

    def answered(self) -> bool:
        """Say whether the answer to an OPEN is there."""
        return self.code is not None

    # Sending

    def check_open(self) -> None:
        """Raise what keeps this end from sending."""
        if self.error is not None:
            raise self.error
        if self.outlet.closed:
            raise LocalProtocolError(f"stream {self.stream} is closed for sending: open another")

    def send(self, payload: Payload) -> None:
        """Send a plain message, or raise WouldBlockError."""
        data = payload if type(payload) is bytes else ffi.from_buffer("uint8_t[]", payload)
        size = len(data)
        error = _send(self._client, self.outlet, data, size)
        if error:
            raise self.failure(error, size)

    def failure(self, error: int, size: int) -> Exception:
        """Return the exception for a negative result of sending size bytes."""
        if error == -errno.EPIPE:
            self.check_open()
        return self.rings.failure(error, self.ring, size)

    def send_as(
        self,
        payload: Payload,
        *,
        kind: int | str = 0,
        correlation: int = 0,
        flags: int = 0,
        priority: int = 0,
        stamp: bool = False,
    ) -> None:
        """Send a message with a descriptor of its own, or raise WouldBlockError."""
        head = self.head
        head.type = type_number(kind)
        head.correlation = correlation
        head.flags = flags
        head.priority = priority
        head.time_ns = time.time_ns() if stamp else 0
        try:
            self.send(payload)
        finally:
            head.type = head.correlation = head.flags = head.priority = head.time_ns = 0
        if flags & _EOS:
            self.outlet.closed = 1

    def send_control(self, record: int, code: int = 0) -> bool:
        """Put a CLOSE or RESET record; False = no room now. A channel that is gone needs none."""
        self.head.code = code
        error = self.rings.put(record, self.head)
        self.head.code = 0
        return error != -errno.EAGAIN

    # Receiving, called by the attachment

    @property
    def full(self) -> bool:
        """Whether the reader has to take something before more is put in."""
        return len(self.queue) >= QUEUE_MESSAGES_MAX or self.queue_size >= QUEUE_SIZE_MAX

    @property
    def drained(self) -> bool:
        """Whether the reader has made room enough to go on."""
        return len(self.queue) <= QUEUE_MESSAGES_MAX // 2 and self.queue_size <= QUEUE_SIZE_MAX // 2

    def receive(self, message: Message) -> None:
        """Take a message in."""
        if self.closed:
            self.after_close += 1
            return
        self.received += 1
        self.received_bytes += len(message.payload)
        flags = message.flags
        if flags:
            if flags & _EOS:
                self.ended = True
            if flags & _ACK and message.correlation in self.replies:
                self.replies[message.correlation] = message
                return
        self.queue.append(message)
        self.queue_size += len(message.payload)

    def reset(self, code: int) -> None:
        """Note that the stream is gone; a reader that has seen its end is not told."""
        self.ended_well = self.ended
        self.ended = True
        self.outlet.closed = 1
        if not self.closed:
            name = CODE_NAMES.get(code, "")
            self.error = StreamResetError(
                code, f"stream {self.stream} was reset ({name}): open it again"
            )

    # Receiving, called by the reader

    def take(self) -> Message | None:
        """Return the next message if there is one."""
        if not self.queue:
            return None
        message = self.queue.popleft()
        self.queue_size -= len(message.payload)
        return message

    def take_many(self, count_max: int) -> list[Message]:
        """Return up to count_max messages."""
        queue = self.queue
        taken = [queue.popleft() for _ in range(min(count_max, len(queue)))]
        self.queue_size -= sum(len(message.payload) for message in taken)
        return taken

    def next_correlation(self) -> int:
        """Return a correlation that no request of this end is waiting for."""
        while True:
            self.correlation = self.correlation % CORRELATION_MAX + 1
            if self.correlation not in self.replies:
                return self.correlation


class Outgoing:
    """Messages of a ``send_many`` that are on their way into the ring."""

    def __init__(self, payloads: Sequence[Payload] | Payload, size: int) -> None:
        """Take a sequence of messages, or one buffer of messages of ``size`` bytes each."""
        if isinstance(payloads, (bytes, bytearray, memoryview)):
            buffer: Payload = payloads
            length = memoryview(payloads).nbytes
            if size <= 0 or length % size:
                raise LocalProtocolError(
                    f"a buffer of {length} bytes is no multiple of size={size}: "
                    "pass the size of each message"
                )
            self.count = length // size
            self._sizes: array[int] | None = None
        else:
            buffer = b"".join(payloads)
            self._sizes = array("I", map(len, payloads))
            self.count = len(payloads)
        self._size = size
        self._data = ffi.from_buffer("uint8_t[]", buffer)  # keeps the buffer alive
        self._size_data = ffi.from_buffer("uint32_t[]", self._sizes) if self._sizes else ffi.NULL
        self.sent = 0
        self._offset = 0

    @property
    def next_size(self) -> int:
        """Bytes of the next message to go."""
        return self._sizes[self.sent] if self._sizes else self._size

    def push(self, flow: Flow) -> bool:
        """Send what fits; True = all gone. Raises what ``Flow.send`` raises but WouldBlockError."""
        left = self.count - self.sent
        if not left:
            return True
        sizes = self._size_data + self.sent if self._sizes else ffi.NULL
        went = flow.rings.send_many(flow.outlet, self._data + self._offset, sizes, self._size, left)
        if went < 0:
            error = flow.failure(went, self.next_size)
            if isinstance(error, WouldBlockError):
                return False
            raise error
        if went == left:
            size = len(self._data) - self._offset
        elif self._sizes:
            size = sum(self._sizes[self.sent : self.sent + went])
        else:
            size = self._size * went
        self._offset += size
        self.sent += went
        return went == left
