"""Messages on their way into the ring that take more than one step to get there."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from valkyrie.dataplane._core import ffi
from valkyrie.dataplane.errors import LocalProtocolError
from valkyrie.dataplane.wire import Flag

from .flow import Flow, LargeError, type_number
from .refusal import WouldBlockError
from .rings import Payload, buffer_of


class Large:
    """A message that goes in fragments, as room comes: its payload is not copied before."""

    def __init__(self, payload: Payload, descriptor: dict[str, Any]) -> None:
        """Take a payload, and the keyword arguments of ``Flow.describe``."""
        self._data = buffer_of(payload)  # keeps the payload alive
        self._descriptor = descriptor
        self.size = len(self._data)
        self.sent = 0

    @property
    def last(self) -> bool:
        """Whether no other message follows on the stream."""
        return bool(self._descriptor.get("flags", 0) & Flag.EOS)

    def push(self, flow: Flow) -> bool:
        """Send what fits; True = all gone. Raises what ``Flow.send`` raises but WouldBlockError."""
        flow.describe(**self._descriptor)
        try:
            went = flow.rings.send_part(flow.outlet, self._data, self.size, self.sent)
        finally:
            flow.undescribe()
        if went < 0:
            error = flow.failure(went, self.size)
            if isinstance(error, WouldBlockError):
                return False
            raise error
        self.sent += went
        return self.sent == self.size


class Outgoing:
    """Messages of a ``send_many`` that are on their way into the ring."""

    def __init__(
        self, payloads: Sequence[Payload] | Payload, size: int, kind: int | str = 0
    ) -> None:
        """Take a sequence of messages, or one buffer of messages of ``size`` bytes each."""
        self._type = type_number(kind)
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
            if size:
                raise LocalProtocolError(
                    "size cuts one buffer into messages: leave it out where each is given apart"
                )
            try:
                self.count = len(payloads)
                buffer = b"".join(payloads)
            except TypeError as error:
                raise TypeError(
                    "send_many takes one buffer and a size, or a sequence as a list of payloads, "
                    f"each bytes, bytearray or memoryview: {error}"
                ) from None
            self._sizes = array("I", map(len, payloads))
        self._size = size
        self._data = ffi.from_buffer("uint8_t[]", buffer)  # keeps the buffer alive
        self._size_data = ffi.from_buffer("uint32_t[]", self._sizes) if self._sizes else ffi.NULL
        self.sent = 0
        self._offset = 0

    @property
    def next_size(self) -> int:
        """Bytes of the next message to go."""
        return self._sizes[self.sent] if self._sizes else self._size

    def next_large(self) -> Large:
        """Return the next message to go, which is too large to go with others."""
        payload = memoryview(ffi.buffer(self._data + self._offset, self.next_size))
        return Large(payload, {"kind": self._type})

    def skip(self) -> None:
        """Note that the next message went by another way."""
        self._offset += self.next_size
        self.sent += 1

    def push(self, flow: Flow) -> bool:
        """Send what fits; True = all gone. False may also be said before a large message.

        Raises what ``Flow.send`` raises but WouldBlockError and LargeError.
        """
        left = self.count - self.sent
        if not left:
            return True
        sizes = self._size_data + self.sent if self._sizes else ffi.NULL
        flow.head.type = self._type
        went = flow.rings.send_many(flow.outlet, self._data + self._offset, sizes, self._size, left)
        flow.head.type = 0
        if went < 0:
            error = flow.failure(went, self.next_size)
            if isinstance(error, (WouldBlockError, LargeError)):
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
