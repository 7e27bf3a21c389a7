"""Scapy layers of the wire format, for tests and tools; fields come from the ffi structs.

Importing this module loads scapy (about two seconds) and binds the layers to the UDP port.
"""

from __future__ import annotations

from typing import Any

from scapy.fields import (
    ByteEnumField,
    ByteField,
    FlagsField,
    IntField,
    PacketListField,
    ShortField,
    StrFixedLenField,
    StrLenField,
    XShortField,
)
from scapy.layers.inet import UDP
from scapy.packet import Packet, bind_layers

from . import lib, wire

_NUMBERS = {"B": ByteField, "H": ShortField, "I": IntField}
_FLAG_NAMES = [str(flag.name) for flag in sorted(wire.Flag)]
_DEFAULTS: dict[str, int | None] = {
    "magic": lib.VK_MAGIC,
    "version": lib.VK_VERSION,
    "type": wire.Type.STREAM_DATA,
    "ext": None,  # None: what fits
    "length": None,
}


def _field(name: str, code: str, default: int | None) -> Any:
    if name == "type":
        return ByteEnumField(name, default, {kind.value: kind.name for kind in wire.Type})
    if name == "flags":
        return FlagsField(name, 0, 8, _FLAG_NAMES)
    if name == "magic":
        return XShortField(name, default)
    if code.endswith("s"):
        size = int(code[:-1])
        return StrFixedLenField(name, bytes(size), size)
    return _NUMBERS[code](name, default)


class ValkyrieExtension(Packet):  # type: ignore[misc,unused-ignore]
    """An extension of a kind without a layer of its own."""

    name = "Valkyrie extension"
    fields_desc = [  # noqa: RUF012  # scapy's way
        ByteField("kind", 0),
        ByteField("words", None),
        ShortField("arg", 0),
        StrLenField(
            "body", b"", length_from=lambda p: max((p.words or 1) - 1, 0) * lib.VK_EXT_WORD
        ),
    ]

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in the words when they are not given."""
        if self.words is None:
            pkt = pkt[:1] + bytes((len(pkt) // lib.VK_EXT_WORD,)) + pkt[2:]
        return pkt + pay

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        """What follows belongs to the next extension."""
        return b"", s


def _make_extension(kind: int, layout: wire.Layout) -> type[Packet]:
    name = wire.ExtKind(kind).name.title()
    defaults = {"kind": kind, "words": layout.size // lib.VK_EXT_WORD}
    fields = [_field(field, code, defaults.get(field, 0)) for field, _, code in layout.fields]
    names = {"name": f"Valkyrie {name}", "fields_desc": fields, "__module__": __name__}
    return type(f"Valkyrie{name}", (ValkyrieExtension,), names)


EXTENSIONS: dict[int, type[Packet]] = {
    kind: _make_extension(kind, view.layout) for kind, view in wire.KNOWN.items()
}
"""Layers by extension kind: ``EXTENSIONS[wire.ExtKind.SEQ](sequence=7)``."""


def _extension_class(_packet: Packet, _list: Any, _last: Any, rest: bytes) -> Any:
    return EXTENSIONS.get(rest[0], ValkyrieExtension) if rest else None


class Valkyrie(Packet):  # type: ignore[misc,unused-ignore]
    """A frame; ``ext`` and ``length`` are filled in unless given."""

    name = "Valkyrie"
    fields_desc = [  # noqa: RUF012  # scapy's way
        *(_field(name, code, _DEFAULTS.get(name, 0)) for name, _, code in wire.Header.fields()),
        PacketListField(
            "extensions",
            [],
            next_cls_cb=_extension_class,
            length_from=lambda p: p.ext * lib.VK_EXT_WORD,
        ),
    ]

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in the lengths when they are not given."""
        header = wire.Header.parse(pkt)
        values = {name: getattr(header, name) for name, _, _ in wire.Header.fields()}
        if self.ext is None:
            values["ext"] = (len(pkt) - wire.HEADER_SIZE) // lib.VK_EXT_WORD
        if self.length is None:
            tag = lib.VK_TAG_SIZE if header.flags & wire.Flag.ENC else 0
            values["length"] = max(len(pay) - tag, 0)
        return wire.Header(**values).pack() + pkt[wire.HEADER_SIZE :] + pay


bind_layers(UDP, Valkyrie, dport=wire.PORT)
bind_layers(UDP, Valkyrie, sport=wire.PORT)
