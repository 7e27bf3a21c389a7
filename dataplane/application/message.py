"""Messages as applications see them: one with its payload copied, or a batch left in the ring."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self, cast

import msgspec

from valkyrie.dataplane._core import ffi, lib
from valkyrie.dataplane.wire import Flag, Type
from valkyrie.shm._end import cut

_TYPE_NAMES = {kind.value: kind.name.lower() for kind in Type}
_FORMATS = {"uint8_t": "B", "uint16_t": "H", "uint32_t": "I", "uint64_t": "Q"}


class _Field(NamedTuple):
    offset: int
    format: str


def _fields(name: str, base: int = 0) -> dict[str, _Field]:
    """Return the scalar fields of a struct of naturally aligned fields, nested ones flattened."""
    found: dict[str, _Field] = {}
    for field, place in ffi.typeof(name).fields:
        if place.type.kind == "struct":
            found |= _fields(place.type.cname, base + place.offset)
        else:
            found[field] = _Field(base + place.offset, _FORMATS[place.type.cname])
    return found


ENTRY_FIELDS = _fields("struct vk_entry")
ENTRY_SIZE = ffi.sizeof("struct vk_entry")
ENTRY = struct.Struct("=" + "".join(field.format for field in ENTRY_FIELDS.values()))
"""Unpacks a ``struct vk_entry``; its values come in the order of ENTRY_FIELDS."""
assert ENTRY.size == ENTRY_SIZE, "struct vk_entry has padding"
assert not ENTRY_FIELDS["offset"].offset, "Batch.payloads takes the offset for the first field"


class Message(msgspec.Struct, frozen=True, gc=False):
    """A received message; its payload is the application's own copy."""

    payload: bytes
    stream: int
    sequence: int
    """Of the message on its stream, counted by the sender: a gap is a lost message."""
    correlation: int
    type: int
    flags: int
    priority: int
    time_ns: int
    """The sender's CLOCK_REALTIME; 0 = it did not say."""

    @property
    def type_name(self) -> str:
        """The type as ``enum vk_type`` names it, in lower case."""
        return _TYPE_NAMES.get(self.type, f"type_{self.type:#04x}")

    @property
    def eos(self) -> bool:
        """Whether the sender said that this is its last message on the stream."""
        return bool(self.flags & Flag.EOS)

    @property
    def is_reply(self) -> bool:
        """Whether this answers the request of the same correlation."""
        return bool(self.flags & Flag.ACK)

    def latency_ns(self, now_ns: int | None = None) -> int | None:
        """Return the time from the sender's stamp till now (CLOCK_REALTIME); None without one."""
        if not self.time_ns:
            return None
        return (time.time_ns() if now_ns is None else now_ns) - self.time_ns


class Placed(Message, frozen=True, gc=False):
    """A message that was received into the reader's own buffer; its payload is a view of that."""

    payload: memoryview  # type: ignore[assignment]


class Batch:
    """Messages of one stream as they lie in the ring: nothing is copied until you do.

    Iterating or indexing gives read-only memoryviews of the payloads. ``release()``, or leaving
    the ``with`` block, gives the ring's space back; afterwards the views show whatever comes next,
    so copy what you keep. The ring is as full as the batches you hold.
    """

    __slots__ = ("_data", "_entries", "_release", "_then", "sizes")

    def __init__(
        self, data: memoryview, entries: bytes, release: Callable[[], None] | None
    ) -> None:
        self._data = data
        self._entries = memoryview(entries)
        self._release = release
        self._then: Callable[[], None] | None = None
        self.sizes: list[int] = self._column("size").tolist()
        """Bytes of each payload."""

    def _column(self, name: str) -> memoryview[int]:
        field = ENTRY_FIELDS[name]
        width = struct.calcsize(field.format)
        items = cast("memoryview[int]", self._entries.cast(cast("Any", field.format)))
        return items[field.offset // width :: ENTRY_SIZE // width]

    @property
    def data(self) -> memoryview:
        """The memory that the payloads lie in; message i begins at ``offsets[i]``."""
        return self._data

    @property
    def offsets(self) -> list[int]:
        """Where each payload begins in ``data``, bytes."""
        return self._column("offset").tolist()

    @property
    def sequences(self) -> memoryview[int]:
        """Sequence numbers, one a message."""
        return self._column("sequence")

    @property
    def correlations(self) -> memoryview[int]:
        """Correlations, one a message."""
        return self._column("correlation")

    @property
    def types(self) -> memoryview[int]:
        """Types, one a message."""
        return self._column("type")

    @property
    def flags(self) -> memoryview[int]:
        """Flags (``enum vk_flag``), one a message."""
        return self._column("flags")

    @property
    def times_ns(self) -> memoryview[int]:
        """The senders' CLOCK_REALTIME, one a message; 0 = none."""
        return self._column("time_ns")

    def payloads(self) -> list[bytes]:
        """Return copies of the payloads; for small ones that takes less time than views do."""
        return cut(self._data, self._entries, ENTRY_SIZE, ENTRY_FIELDS["size"].offset)

    def messages(self) -> list[Message]:
        """Return copies that outlive the batch."""
        return [
            message_of(self._data[entry[0] : entry[0] + entry[2]].tobytes(), entry)
            for entry in ENTRY.iter_unpack(self._entries)
        ]

    def on_release(self, call: Callable[[], None]) -> None:
        """Have something called, once, when the space was given back."""
        self._then = call

    def release(self) -> None:
        """Give the space back to the ring; more than once does no harm."""
        release, self._release = self._release, None
        if release is not None:
            release()
        then, self._then = self._then, None
        if then is not None:
            then()

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> memoryview:
        offset = self._column("offset")[index]
        return self._data[offset : offset + self.sizes[index]]

    def __iter__(self) -> Iterator[memoryview]:
        data = self._data
        for offset, size in zip(self.offsets, self.sizes, strict=True):
            yield data[offset : offset + size]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


_ORDER = list(ENTRY_FIELDS)
_STREAM = _ORDER.index("stream")
_SEQUENCE = _ORDER.index("sequence")
_CORRELATION = _ORDER.index("correlation")
_TYPE = _ORDER.index("type")
_FLAGS = _ORDER.index("flags")
_PRIORITY = _ORDER.index("priority")
_TIME_NS = _ORDER.index("time_ns")
CODE = _ORDER.index("code")
SEQUENCE = _SEQUENCE
"""Where an unpacked ``struct vk_entry`` has its code: of DATA, ``enum vk_fragment``."""


def message_of(payload: bytes, entry: tuple[int, ...]) -> Message:
    """Return the message of an unpacked ``struct vk_entry``."""
    return Message(
        payload,
        entry[_STREAM],
        entry[_SEQUENCE],
        entry[_CORRELATION],
        entry[_TYPE],
        entry[_FLAGS],
        entry[_PRIORITY],
        entry[_TIME_NS],
    )


def batch_of(messages: list[Message]) -> Batch:
    """Return a batch of messages that were copied out of the ring already."""
    entries = bytearray()
    offset = 0
    for message in messages:
        values = dict.fromkeys(ENTRY_FIELDS, 0) | {
            "offset": offset,
            "size": len(message.payload),
            "kind": lib.VK_RECORD_DATA,
            "stream": message.stream,
            "sequence": message.sequence,
            "correlation": message.correlation,
            "type": message.type,
            "flags": message.flags,
            "priority": message.priority,
            "time_ns": message.time_ns,
        }
        entries += ENTRY.pack(*values.values())
        offset += len(message.payload)
    data = memoryview(b"".join(message.payload for message in messages))
    return Batch(data, bytes(entries), None)
