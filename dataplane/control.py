"""Messages of the control class as Python values: handshake, errors, signs of life.

What is in a handshake message is for controlplane/security/messages.py; here is how it is carried,
and the terms that both sides seal in it. Derived from the structs of ``bpf/vk_wire.h`` as
``wire.py`` is. Parsing trusts nothing: what comes from anybody on the network ends in a message or
in ControlError, which says what to answer.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

from . import lib
from .errors import LocalProtocolError, RemoteProtocolError
from .wire import Code, FrameError, Layout, Type, make_frame, members, parse_frame

if TYPE_CHECKING:
    from collections.abc import Mapping

TERMS_VERSION: int = lib.VK_TERMS_VERSION
_OPTION = struct.Struct(">HH")
_HIGH = "_high"
OPTION_UNIT = 4
"""Bytes; options begin on multiples of it."""
_KNOWN_OPTIONS = frozenset(
    members("vk_option_kind", "VK_OPTION_", without=("VK_OPTION_REQUIRED",)).values()
)


class ControlError(RemoteProtocolError):
    """A control message that cannot be taken; ``code`` is of enum vk_code."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(f"{what} (code {code})")
        self.code = code


@dataclass(frozen=True, slots=True)
class Option:
    """An option behind a message's fixed part."""

    kind: int
    body: bytes = b""

    def pack(self) -> bytes:
        """Return the option's bytes."""
        if len(self.body) > lib.VK_OPTION_SIZE_MAX:
            raise LocalProtocolError(f"an option has at most {lib.VK_OPTION_SIZE_MAX} bytes")
        padding = bytes(-len(self.body) % OPTION_UNIT)
        return _OPTION.pack(self.kind, len(self.body)) + self.body + padding


def parse_options(data: bytes) -> tuple[Option, ...]:
    """Return the options that fill ``data``."""
    found = []
    at = 0
    while at < len(data):
        if len(data) - at < _OPTION.size:
            raise ControlError(Code.MALFORMED, "an option is cut off")
        kind, size = _OPTION.unpack_from(data, at)
        at += _OPTION.size
        if size > lib.VK_OPTION_SIZE_MAX or size > len(data) - at:
            raise ControlError(Code.MALFORMED, "an option is longer than its message")
        if kind & lib.VK_OPTION_REQUIRED and kind not in _KNOWN_OPTIONS:
            raise ControlError(Code.VERSION, f"option 0x{kind:04x} is required, and not known here")
        if kind != lib.VK_OPTION_PADDING:
            found.append(Option(kind, data[at : at + size]))
        at += size + -size % OPTION_UNIT
    if at != len(data):
        raise ControlError(Code.MALFORMED, "an option's padding is cut off")
    return tuple(found)


class _Fixed:
    """Base of the messages whose fixed part is a struct; names follow the C fields."""

    __slots__ = ()
    type: ClassVar[int]
    layout: ClassVar[Layout]

    def pack(self) -> bytes:
        """Return the whole frame's bytes."""
        return make_frame(self.type, 0, self.payload()).pack()

    def payload(self) -> bytes:
        """Return the payload's bytes."""
        values: dict[str, Any] = {}
        for name, _, _ in self.layout.fields:
            if name.endswith(_HIGH):
                values[name] = getattr(self, name.removesuffix(_HIGH)) >> 32
            elif name.endswith("_low") and name.removesuffix("_low") + _HIGH in values:
                values[name] = getattr(self, name.removesuffix("_low")) & 0xFFFF_FFFF
            else:
                values[name] = getattr(self, name, 0)  # only padding has no attribute
        payload = self.layout.pack(values)
        return payload + b"".join(option.pack() for option in getattr(self, "options", ()))

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Return the message in a payload."""
        if len(payload) < cls.layout.size:
            raise ControlError(Code.MALFORMED, f"{cls.__name__} is cut off")
        values: Mapping[str, int] = cls.layout.unpack(payload)
        found: dict[str, Any] = {}
        for each in fields(cls):  # type: ignore[arg-type]  # every message is a dataclass
            if each.name == "options":
                found["options"] = parse_options(payload[cls.layout.size :])
            elif each.name in values:
                found[each.name] = values[each.name]
            else:
                high, low = values[each.name + _HIGH], values[f"{each.name}_low"]
                found[each.name] = high << 32 | low
        return cls(**found)

    def option(self, kind: int) -> bytes | None:
        """Return the body of the first option of a kind."""
        options: tuple[Option, ...] = getattr(self, "options", ())
        return next((option.body for option in options if option.kind == kind), None)


HANDSHAKE_TYPES = frozenset(
    {
        Type.HELLO,
        Type.HELLO_ACK,
        Type.NEGOTIATE,
        Type.KEY_EXCHANGE,
        Type.AUTH_CHALLENGE,
        Type.AUTH_RESPONSE,
        Type.AUTH_SUCCESS,
        Type.AUTH_FAILURE,
    }
)


@dataclass(frozen=True, slots=True)
class Message:
    """What one datagram of a handshake carries."""

    type: int
    payload: bytes

    def pack(self) -> bytes:
        """Return the whole frame's bytes."""
        return make_frame(self.type, 0, self.payload).pack()


@dataclass(frozen=True, slots=True)
class Limits:
    """What one side of a session sets for the other."""

    payload_max: int = 0
    """UDP payload bytes that it takes; 0 = not said."""
    window_start: int = lib.VK_WINDOW_START
    session_window: int = 0
    """Bytes that may be sent on all streams that were never told a limit; 0 = no limit."""
    streams_max: int = lib.VK_FLOWS_MAX
    """Streams open at a time; 0 = any."""
    ack_delay_e_us: int = 1000
    ack_delay_b_us: int = 1000
    ack_delay_l_us: int = 1000
    keepalive_ms: int = 0
    """Silence after which questions are asked; 0 = not said."""
    capabilities: int = lib.VK_CAPABILITY_RELIABLE
    required: int = lib.VK_CAPABILITY_RELIABLE

    @property
    def ack_delay_us(self) -> int:
        """The longest time that an acknowledgement may wait."""
        return max(self.ack_delay_e_us, self.ack_delay_b_us, self.ack_delay_l_us)


@dataclass(frozen=True, slots=True)
class SessionTerms(_Fixed):
    """What one side of a session says about it, sealed in the handshake."""

    layout: ClassVar[Layout] = Layout("vk_terms")
    incarnation: int
    attempt: int
    session: int
    continues: int = 0
    payload_max: int = 0
    capabilities: int = 0
    required: int = 0
    window_start: int = 0
    session_window: int = 0
    streams_max: int = 0
    ack_delay_e_us: int = 0
    ack_delay_b_us: int = 0
    ack_delay_l_us: int = 0
    keepalive_ms: int = 0
    version: int = TERMS_VERSION
    options: tuple[Option, ...] = ()

    @property
    def limits(self) -> Limits:
        """What the sender sets."""
        return Limits(**{each.name: getattr(self, each.name) for each in fields(Limits)})


@dataclass(frozen=True, slots=True)
class Error(_Fixed):
    """Something that the receiver did cannot be taken."""

    type: ClassVar[int] = Type.ERROR
    layout: ClassVar[Layout] = Layout("vk_error")
    code: int
    subject: int
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class Close(_Fixed):
    """The sender has left the session."""

    type: ClassVar[int] = Type.CLOSE
    layout: ClassVar[Layout] = Layout("vk_close")
    code: int
    session: int
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class Ping(_Fixed):
    """Asks whether the other lives, or whether it is at an address."""

    type: ClassVar[int] = Type.PING
    layout: ClassVar[Layout] = Layout("vk_ping")
    token: int
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class Pong(_Fixed):
    """The answer to PING."""

    type: ClassVar[int] = Type.PONG
    layout: ClassVar[Layout] = Layout("vk_ping")
    token: int
    options: tuple[Option, ...] = ()


Control = Message | Error | Close | Ping | Pong
_VIEWS: dict[int, type[Error | Close | Ping | Pong]] = {
    view.type: view for view in (Error, Close, Ping, Pong)
}


def parse_control(data: bytes) -> Control:
    """Return the message in a frame of the control class; raises ControlError."""
    try:
        frame = parse_frame(data)
    except FrameError as error:
        raise ControlError(Code.MALFORMED, str(error)) from error
    if frame.extensions or frame.header.flags:
        raise ControlError(Code.MALFORMED, "a control message has no extensions and no flags")
    if frame.header.type in HANDSHAKE_TYPES:
        return Message(frame.header.type, frame.payload)
    view = _VIEWS.get(frame.header.type)
    if view is None:
        name = Type(frame.header.type).name
        raise ControlError(Code.VERSION, f"{name} is no message of this version")
    return view.parse(frame.payload)
