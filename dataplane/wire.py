"""The wire format as Python values, derived from ``bpf/vk_wire.h`` through the cffi types.

Nothing here states a number of the format: enums, field widths and sizes come from the header that
the kernel's program and the worker are compiled with. No I/O, no time.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from enum import EnumMeta, IntEnum, IntFlag
from typing import TYPE_CHECKING, Any, ClassVar

from . import ffi, lib
from .errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class _Derived(EnumMeta):
    """Metaclass of enums whose members come from C, where a type checker cannot see them."""

    if TYPE_CHECKING:

        def __getattr__(cls, name: str) -> Any: ...


def members(enum: str, prefix: str, *, without: tuple[str, ...] = ()) -> dict[str, int]:
    """Return ``{name: value}`` of a C enum, names without their prefix; counts are left out."""
    values: Mapping[str, int] = ffi.typeof(f"enum {enum}").relements
    return {
        name.removeprefix(prefix): value
        for name, value in sorted(values.items(), key=lambda item: item[1])
        if not name.endswith("_COUNT") and name not in without
    }


class Class(IntEnum, metaclass=_Derived):
    """QoS class of a stream, and the control class of handshake frames."""

    vars().update(members("vk_class", "VK_CLASS_"))


class Type(IntEnum, metaclass=_Derived):
    """Message type."""

    vars().update(members("vk_type", "VK_", without=("VK_TYPE_CONTROL_END",)))


MESSAGE_TYPES = frozenset(
    kind
    for kind in Type
    if kind >= lib.VK_TYPE_CONTROL_END
    and kind not in {Type.STREAM_OPEN, Type.STREAM_CLOSE, Type.STREAM_ACK, Type.STREAM_RESET}
)
"""Types that applications give to messages; the others are the nodes' own."""


class Flag(IntFlag, metaclass=_Derived):
    """Frame flags."""

    vars().update(members("vk_flag", "VK_FLAG_"))


class Fragment(IntFlag, metaclass=_Derived):
    """What a message is of a larger one, in the arg of SEQ and SHARD; 0 = all of it."""

    vars().update(members("vk_fragment", "VK_FRAGMENT_"))


WHOLE = Fragment(0)
"""A message that is no fragment."""


class ExtKind(IntEnum, metaclass=_Derived):
    """Kind of an extension."""

    vars().update(members("vk_ext_kind", "VK_EXT_"))


class Space(IntEnum, metaclass=_Derived):
    """Packet-number space of a session."""

    vars().update(members("vk_space", "VK_SPACE_"))


class Verdict(IntEnum, metaclass=_Derived):
    """What the kernel's program did with a packet, and why."""

    vars().update(members("vk_verdict", "VK_"))

    @property
    def action(self) -> str:
        """``steer``, ``pass`` or ``drop``."""
        return self.name.partition("_")[0].lower()

    @property
    def reason(self) -> str:
        """The rest of the name, in lower case; empty for steer."""
        return self.name.partition("_")[2].lower()


class Counter(IntEnum, metaclass=_Derived):
    """The worker's counters of a class."""

    vars().update(members("vk_counter", "VK_"))


class Gauge(IntEnum, metaclass=_Derived):
    """The worker's values of a node."""

    vars().update(members("vk_gauge", "VK_"))


class Code(IntEnum, metaclass=_Derived):
    """Errors that cross the wire in STREAM_RESET and ERROR payloads."""

    vars().update(members("vk_code", "VK_CODE_"))


class FileCode(IntEnum, metaclass=_Derived):
    """How the transfer of a file ended."""

    vars().update(members("vk_file_code", "VK_FILE_"))


FIRST_STREAMS: dict[Class, int] = {
    Class[name]: first for name, first in members("vk_first_stream", "VK_FIRST_").items()
}
"""First stream id of each class, ascending."""

PRIORITIES: dict[Class, int] = {
    Class[name]: lowest for name, lowest in members("vk_priority", "VK_PRIORITY_").items()
}
"""Lowest priority of each class's band, ascending; a band ends where the next begins."""


def stream_class(stream: int) -> Class:
    """Return the class that a stream id selects."""
    found = Class.CRITICAL
    for candidate, first in FIRST_STREAMS.items():
        if stream >= first:
            found = candidate
    return Class(found)


def class_space(klass: Class) -> Space:
    """Return the packet-number space of a class."""
    if klass <= Class.SYSTEM:
        return Space(Space.E)
    return Space(Space.B if klass <= Class.DATA else Space.L)


class Layout:
    """A packed struct of unsigned fields in network byte order, as the C compiler laid it out."""

    _codes: ClassVar[dict[int, str]] = {1: "B", 2: "H", 4: "I"}

    def __init__(self, name: str) -> None:
        """Derive the layout of ``struct <name>``; a leading ``struct vk_ext`` is flattened."""
        self.name = name
        self.fields: list[tuple[str, int, str]] = []
        """Name, offset and struct code of every field."""
        self._derive(ffi.typeof(f"struct {name}"), 0)
        self._struct = struct.Struct(">" + "".join(code for _, _, code in self.fields))
        self.size: int = self._struct.size
        assert self.size == ffi.sizeof(f"struct {name}"), f"struct {name} has padding"

    def _derive(self, ctype: Any, base: int) -> None:
        for name, field in ctype.fields:
            offset = base + field.offset
            if field.type.kind == "struct":
                self._derive(field.type, offset)
            elif field.type.kind == "array":
                self.fields.append((name, offset, f"{field.type.length}s"))
            else:
                self.fields.append((name, offset, self._codes[ffi.sizeof(field.type)]))

    def pack(self, values: Mapping[str, Any]) -> bytes:
        """Return the bytes of a struct with these values, which must be all of its fields."""
        try:
            return self._struct.pack(*(values[name] for name, _, _ in self.fields))
        except struct.error as error:
            raise LocalProtocolError(f"{self.name} cannot hold {dict(values)}: {error}") from error

    def unpack(self, data: bytes | memoryview) -> dict[str, Any]:
        """Return the fields of a struct at the start of ``data``."""
        values = self._struct.unpack_from(data)
        return {name: value for (name, _, _), value in zip(self.fields, values, strict=True)}


_HEADER = Layout("vk_header")
_EXT = Layout("vk_ext")
_COMPACT = Layout("vk_compact")
_COMPACT_STREAM = Layout("vk_compact_stream")
_COMPACT_SHARD = Layout("vk_compact_shard")
HEADER_SIZE: int = _HEADER.size
PORT: int = lib.VK_PORT


@dataclass(frozen=True, slots=True)
class Header:
    """The fixed header of a frame."""

    type: int
    stream: int = 0
    flags: int = 0
    priority: int = 0
    trace: int = 0
    ext: int = 0
    """Length of the extensions, in words."""
    length: int = 0
    """Payload bytes, without the tag."""
    correlation: int = 0
    timestamp: int = 0
    """Unix seconds."""
    magic: int = lib.VK_MAGIC
    version: int = lib.VK_VERSION

    def pack(self) -> bytes:
        """Return the header's bytes."""
        return _HEADER.pack({name: getattr(self, name) for name, _, _ in _HEADER.fields})

    @staticmethod
    def fields() -> list[tuple[str, int, str]]:
        """Return name, offset and struct code of every field."""
        return _HEADER.fields

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Return the header at the start of ``data``, unchecked but for its size."""
        if len(data) < HEADER_SIZE:
            raise FrameError(Verdict.DROP_TRUNCATED)
        return cls(**_HEADER.unpack(data))


class FrameError(RemoteProtocolError):
    """A malformed frame; ``verdict`` is what the kernel's program says about it."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(f"not a valid frame: {verdict.reason}")
        self.verdict = verdict


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension of a kind without a view of its own."""

    kind: int
    arg: int = 0
    body: bytes = b""

    def pack(self) -> bytes:
        """Return the extension's bytes."""
        words, rest = divmod(_EXT.size + len(self.body), lib.VK_EXT_WORD)
        if rest:
            raise LocalProtocolError(f"an extension's body is a multiple of {lib.VK_EXT_WORD}")
        return _EXT.pack({"kind": self.kind, "words": words, "arg": self.arg}) + self.body


class _Known(ABC):
    """Base of the extensions whose body is a struct of vk_wire.h."""

    kind: ClassVar[int]
    layout: ClassVar[Layout]

    @abstractmethod
    def _values(self) -> dict[str, Any]: ...

    def pack(self) -> bytes:
        """Return the extension's bytes."""
        head = {"kind": self.kind, "words": self.layout.size // lib.VK_EXT_WORD, "arg": 0}
        return self.layout.pack(head | self._values())


def halves(name: str, value: int) -> dict[str, int]:
    """Return the two fields of a 64-bit value, whose place is only 4-byte aligned."""
    return {f"{name}_high": value >> 32, f"{name}_low": value & 0xFFFF_FFFF}


def whole(values: Mapping[str, int], name: str) -> int:
    """Return the 64-bit value of two fields."""
    return values[f"{name}_high"] << 32 | values[f"{name}_low"]


def _fragment(arg: int) -> Fragment:
    """Return what an arg says; its other bits are for versions to come."""
    return Fragment(arg & lib.VK_FRAGMENT_MASK)


@dataclass(frozen=True, slots=True)
class Session(_Known):
    """Session id and packet number."""

    kind: ClassVar[int] = ExtKind.SESSION
    layout: ClassVar[Layout] = Layout("vk_ext_session")
    session: int
    number: int
    epoch: int = 0
    space: int = 0
    path: int = 0

    def _values(self) -> dict[str, Any]:
        arg = (
            self.epoch << lib.VK_SESSION_EPOCH_SHIFT
            | self.space << lib.VK_SESSION_SPACE_SHIFT
            | self.path
        )
        return {"arg": arg, "session": self.session} | halves("number", self.number)

    @classmethod
    def _from(cls, values: dict[str, Any]) -> Session:
        low, high = lib.VK_SESSION_SPACE_SHIFT, lib.VK_SESSION_EPOCH_SHIFT
        arg = values["arg"]
        return cls(
            values["session"],
            whole(values, "number"),
            epoch=arg >> high,
            space=arg >> low & ((1 << (high - low)) - 1),
            path=arg & ((1 << low) - 1),
        )


@dataclass(frozen=True, slots=True)
class Token(_Known):
    """Keyed tag of a session, checked in the kernel."""

    kind: ClassVar[int] = ExtKind.TOKEN
    layout: ClassVar[Layout] = Layout("vk_ext_token")
    generation: int
    expiry: int
    tag: int

    def _values(self) -> dict[str, Any]:
        return {"arg": self.generation, "expiry": self.expiry} | halves("tag", self.tag)

    @classmethod
    def _from(cls, values: dict[str, Any]) -> Token:
        return cls(values["arg"], values["expiry"], whole(values, "tag"))


@dataclass(frozen=True, slots=True)
class Seq(_Known):
    """Sequence of a message on its stream."""

    kind: ClassVar[int] = ExtKind.SEQ
    layout: ClassVar[Layout] = Layout("vk_ext_seq")
    sequence: int
    fragment: Fragment = WHOLE

    def _values(self) -> dict[str, Any]:
        return {"arg": self.fragment, "sequence": self.sequence}

    @classmethod
    def _from(cls, values: dict[str, Any]) -> Seq:
        return cls(values["sequence"], _fragment(values["arg"]))


@dataclass(frozen=True, slots=True)
class Shard(_Known):
    """Part of a message: where it begins and how long the message is, in bytes."""

    kind: ClassVar[int] = ExtKind.SHARD
    layout: ClassVar[Layout] = Layout("vk_ext_shard")
    sequence: int
    offset: int
    total: int
    fragment: Fragment = WHOLE

    def _values(self) -> dict[str, Any]:
        return {
            "arg": self.fragment,
            "sequence": self.sequence,
            "offset": self.offset,
            "last": self.total - 1,
        }

    @classmethod
    def _from(cls, values: dict[str, Any]) -> Shard:
        fragment = _fragment(values["arg"])
        return cls(values["sequence"], values["offset"], values["last"] + 1, fragment)


@dataclass(frozen=True, slots=True)
class Time(_Known):
    """The sender's CLOCK_REALTIME, nanoseconds."""

    kind: ClassVar[int] = ExtKind.TIME
    layout: ClassVar[Layout] = Layout("vk_ext_time")
    ns: int

    def _values(self) -> dict[str, Any]:
        return halves("ns", self.ns)

    @classmethod
    def _from(cls, values: dict[str, Any]) -> Time:
        return cls(whole(values, "ns"))


@dataclass(frozen=True, slots=True)
class Trace(_Known):
    """Trace context."""

    kind: ClassVar[int] = ExtKind.TRACE
    layout: ClassVar[Layout] = Layout("vk_ext_trace")
    trace_id: bytes
    span_id: bytes

    def _values(self) -> dict[str, Any]:
        return {"trace_id": self.trace_id, "span_id": self.span_id}

    @classmethod
    def _from(cls, values: dict[str, Any]) -> Trace:
        return cls(values["trace_id"], values["span_id"])


KNOWN: dict[int, type[Session | Token | Seq | Shard | Time | Trace]] = {
    view.kind: view for view in (Session, Token, Seq, Shard, Time, Trace)
}
"""Views of the extension kinds that have a fixed size."""

AnyExtension = Extension | Session | Token | Seq | Shard | Time | Trace


def parse_extensions(data: bytes) -> Iterator[AnyExtension]:
    """Yield the extensions of a chain that must fill ``data``; raises FrameError."""
    at = count = 0
    while at < len(data):
        count += 1
        if count > lib.VK_EXT_KINDS_MAX or len(data) - at < _EXT.size:
            raise FrameError(Verdict.DROP_EXTENSION)
        head = _EXT.unpack(data[at : at + _EXT.size])
        size = head["words"] * lib.VK_EXT_WORD
        view = KNOWN.get(head["kind"])
        wrong_size = view is not None and size != view.layout.size
        if size == 0 or size > len(data) - at or wrong_size:
            raise FrameError(Verdict.DROP_EXTENSION)
        body = data[at : at + size]
        if view is None:
            yield Extension(head["kind"], head["arg"], body[_EXT.size :])
        else:
            yield view._from(view.layout.unpack(body))  # noqa: SLF001
        at += size


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame: header, extensions, payload, and the tag when encrypted."""

    header: Header
    extensions: tuple[AnyExtension, ...] = ()
    payload: bytes = b""
    tag: bytes = b""

    @property
    def klass(self) -> Class:
        """The class of the frame as an outer frame."""
        session = any(extension.kind == ExtKind.SESSION for extension in self.extensions)
        if self.header.type < lib.VK_TYPE_CONTROL_END and not session:
            return Class(Class.CONTROL)
        return stream_class(self.header.stream)

    def pack(self) -> bytes:
        """Return the frame's bytes as its header says."""
        chain = b"".join(extension.pack() for extension in self.extensions)
        return self.header.pack() + chain + self.payload + self.tag

    def inner(self) -> Iterator[Frame]:
        """Yield the inner frames of an aggregate; raises FrameError at a malformed one."""
        at, last = 0, None  # type: int, Frame | None
        while any(self.payload[at : at + 2]):
            rest = self.payload[at:]
            mark = int.from_bytes(rest[:2], "big")
            if mark in (lib.VK_COMPACT, lib.VK_COMPACT_STREAM):
                last, size = _parse_compact(rest, last)
            elif mark & ~lib.VK_COMPACT_BITS == lib.VK_COMPACT_SHARD:
                last, size = _parse_compact_shard(rest, self.header.stream)
            else:
                size = _frame_size(Header.parse(rest))
                last = parse_frame(rest[:size])
                if last.header.flags & (Flag.AGG | Flag.ENC):
                    raise FrameError(Verdict.DROP_TYPE)
                if any(extension.kind == ExtKind.SESSION for extension in last.extensions):
                    raise FrameError(Verdict.DROP_EXTENSION)
            yield last
            at += -(-size // lib.VK_AGG_ALIGN) * lib.VK_AGG_ALIGN


def make_compact(payload: bytes, stream: int | None = None, sequence: int = 0) -> bytes:
    """Return a compact frame, for a run: the next one of its stream, or one of a named stream."""
    if stream is None:
        return _COMPACT.pack({"mark": lib.VK_COMPACT, "length": len(payload)}) + payload
    names = {"stream": stream, "sequence": sequence}
    head = {"mark": lib.VK_COMPACT_STREAM, "length": len(payload), **names}
    return _COMPACT_STREAM.pack(head) + payload


def make_compact_shard(shard: Shard, payload: bytes, *, again: bool = False) -> bytes:
    """Return a compact frame, for a run, of a shard on the outer frame's stream."""
    mark = lib.VK_COMPACT_SHARD | shard.fragment | (lib.VK_COMPACT_AGAIN if again else 0)
    place = {"sequence": shard.sequence, "offset": shard.offset, "last": shard.total - 1}
    return _COMPACT_SHARD.pack({"mark": mark, "length": len(payload), **place}) + payload


def _parse_compact_shard(data: bytes, stream: int) -> tuple[Frame, int]:
    """Return what a shard's compact frame says, and its size; raises FrameError."""
    layout = _COMPACT_SHARD
    if len(data) < layout.size:
        raise FrameError(Verdict.DROP_TRUNCATED)
    head = layout.unpack(data)
    size = layout.size + head["length"]
    if size > len(data):
        raise FrameError(Verdict.DROP_LENGTH)
    flags = Flag.FRG | (Flag.RTX if head["mark"] & lib.VK_COMPACT_AGAIN else 0)
    priority = PRIORITIES[stream_class(stream)]
    fragment = _fragment(head["mark"])
    shard = Shard(head["sequence"], head["offset"], head["last"] + 1, fragment)
    payload = data[layout.size : size]
    kind = Type.STREAM_DATA
    return make_frame(kind, stream, payload, shard, flags=flags, priority=priority), size


def _parse_compact(data: bytes, last: Frame | None) -> tuple[Frame, int]:
    """Return what a compact frame behind ``last`` says, and its size; raises FrameError."""
    named = data.startswith(lib.VK_COMPACT_STREAM.to_bytes(2, "big"))
    layout = _COMPACT_STREAM if named else _COMPACT
    if len(data) < layout.size:
        raise FrameError(Verdict.DROP_TRUNCATED)
    head = layout.unpack(data)
    size = layout.size + head["length"]
    if last is None or last.header.type not in MESSAGE_TYPES:
        raise FrameError(Verdict.DROP_MAGIC)
    match last.extensions:
        case (Seq(sequence, fragment=Fragment(0)),) if size <= len(data):
            place = Seq(head["sequence"] if named else (sequence + 1) % 2**32)
            stream = head["stream"] if named else last.header.stream
            header = replace(last.header, length=head["length"], stream=stream)
            return Frame(header, (place,), data[layout.size : size]), size
    raise FrameError(Verdict.DROP_MAGIC)


def make_frame(
    type: int,  # noqa: A002
    stream: int = 0,
    payload: bytes = b"",
    *extensions: AnyExtension,
    tag: bytes = b"",
    **fields: int,
) -> Frame:
    """Return a frame whose header's lengths fit the rest."""
    ext = sum(len(extension.pack()) for extension in extensions) // lib.VK_EXT_WORD
    values: dict[str, int] = {"ext": ext, "length": len(payload), **fields}
    return Frame(Header(type, stream, **values), extensions, payload, tag)


def _frame_size(header: Header) -> int:
    tag: int = lib.VK_TAG_SIZE if header.flags & Flag.ENC else 0
    ext: int = header.ext * lib.VK_EXT_WORD
    return HEADER_SIZE + ext + header.length + tag


def parse_frame(data: bytes) -> Frame:
    """Return the frame that fills ``data``; raises FrameError with the verdict of the kernel."""
    header = Header.parse(data)
    if header.magic != lib.VK_MAGIC:
        raise FrameError(Verdict.DROP_MAGIC)
    if header.version != lib.VK_VERSION:
        raise FrameError(Verdict.DROP_VERSION)
    if header.type not in Type._value2member_map_:
        raise FrameError(Verdict.DROP_TYPE)
    start = HEADER_SIZE + header.ext * lib.VK_EXT_WORD
    if start > len(data):
        raise FrameError(Verdict.DROP_TRUNCATED)
    extensions = tuple(parse_extensions(data[HEADER_SIZE:start]))
    if _frame_size(header) != len(data):
        raise FrameError(Verdict.DROP_LENGTH)
    end = start + header.length
    return Frame(header, extensions, data[start:end], data[end:])
