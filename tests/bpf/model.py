"""A second opinion on every packet, written from the format and not from the program.

It names things by their names in the documentation and states the numbers of the format itself:
it must not share a mistake with the headers.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from tests.bpf.siphash import siphash

DOCUMENTED_PORT = 0x5243
DOCUMENTED_MAGIC = b"RC"
EXTENSION_WORDS = {1: 4, 2: 4, 3: 2, 4: 3, 6: 3, 7: 7}
TYPES = {
    *range(0x08),
    *range(0x10, 0x16),
    *range(0x20, 0x2B),
    *range(0x30, 0x38),
    *range(0x40, 0x46),
}


@dataclass(frozen=True)
class Opinion:
    """What should happen to a packet when nobody polices and every class has a socket."""

    verdict: str
    klass: str = "control"
    messages: int = 0
    source: str = ""
    frame: bytes = b""
    layer3: int = 0
    payload: bytes = b""


@dataclass(frozen=True)
class Demands:
    """What is asked of frames beyond their form."""

    classes: frozenset[str] = frozenset()
    """Whose frames need a token; of control, what follows a HELLO needs a cookie."""
    masters: dict[int, bytes] = field(default_factory=dict)
    """Keys by generation."""
    denied: frozenset[int] = frozenset()
    blocked: frozenset[str] = frozenset()
    """Source addresses."""
    tick: int = 0
    """Now, in units of 2^30 ns."""


NOTHING = Demands()


class Ended(Exception):  # noqa: N818
    """The verdict is out."""


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _link(packet: bytes) -> tuple[int, bytes]:
    """Return (layer 3 offset, ethertype)."""
    if len(packet) < 14:
        raise Ended("pass_short")
    at, ethertype = 14, packet[12:14]
    for _ in range(2):
        if ethertype not in (b"\x81\x00", b"\x88\xa8"):
            break
        if len(packet) < at + 4:
            raise Ended("pass_short")
        ethertype = packet[at + 2 : at + 4]
        at += 4
    return at, ethertype


def _ip4(header: bytes) -> tuple[int, str, int]:
    """Return (size of the header, source, bytes that follow it as IP announces)."""
    if len(header) < 20:
        raise Ended("pass_short")
    version, words = header[0] >> 4, header[0] & 15
    if version != 4 or words < 5:
        raise Ended("pass_not_ip")
    if words > 5:
        raise Ended("pass_options")
    more_fragments, offset = header[6] >> 5 & 1, _number(header[6:8]) & 0x1FFF
    if more_fragments or offset:
        raise Ended("pass_fragment")
    if header[9] != 17:
        raise Ended("pass_not_udp")
    return 20, str(ipaddress.IPv4Address(header[12:16])), _number(header[2:4]) - 20


def _ip6(header: bytes) -> tuple[int, str, int]:
    """Return the same for IPv6."""
    if len(header) < 40:
        raise Ended("pass_short")
    if header[0] >> 4 != 6:
        raise Ended("pass_not_ip")
    if header[6] != 17:
        raise Ended("pass_not_udp")
    return 40, str(ipaddress.IPv6Address(header[8:24])), _number(header[4:6])


def _network(packet: bytes) -> tuple[int, int, str, int]:
    """Return (layer 3 offset, layer 4 offset, source, bytes of layer 4 that IP announces)."""
    at, ethertype = _link(packet)
    if ethertype == b"\x08\x00":
        header_size, source, size = _ip4(packet[at:])
    elif ethertype == b"\x86\xdd":
        header_size, source, size = _ip6(packet[at:])
    else:
        raise Ended("pass_not_ip")
    if size < 8:
        raise Ended("pass_short")
    return at, at + header_size, source, size


def _datagram(packet: bytes, at: int, announced: int, port: int) -> bytes:
    if len(packet) < at + 8:
        raise Ended("pass_short")
    if _number(packet[at + 2 : at + 4]) != port:
        raise Ended("pass_port")
    size = _number(packet[at + 4 : at + 6])
    if size < 8 or size > announced or at + announced > len(packet):
        raise Ended("drop_length")
    return packet[at + 8 : at + size]


def frame_start(data: bytes) -> tuple[bool, int]:
    """Check a frame up to its extensions; return (has a SESSION, bytes it says it has)."""
    if len(data) < 24:
        raise Ended("drop_truncated")
    if data[0:2] != DOCUMENTED_MAGIC:
        raise Ended("drop_magic")
    if data[2] != 2:
        raise Ended("drop_version")
    if data[3] not in TYPES:
        raise Ended("drop_type")
    chain_size = data[7] * 4
    if 24 + chain_size > len(data):
        raise Ended("drop_truncated")
    chain, kinds = data[24 : 24 + chain_size], []
    while chain:
        kind, words = chain[0], chain[1]
        if not words or words * 4 > len(chain) or EXTENSION_WORDS.get(kind, words) != words:
            raise Ended("drop_extension")
        kinds.append(kind)
        chain = chain[words * 4 :]
    if len(kinds) > 16:
        raise Ended("drop_extension")
    tag = 16 if data[4] & 0x08 else 0
    return 1 in kinds, 24 + chain_size + _number(data[12:16]) + tag


def frame_class(data: bytes, session: bool) -> str:
    """Return the class of a frame by its type and stream."""
    if data[3] < 0x20 and not session:
        return "control"
    stream = _number(data[8:12])
    for first, name in ((10000, "logs"), (1000, "data"), (100, "job"), (1, "system")):
        if stream >= first:
            return name
    return "critical"


def frame_messages(data: bytes) -> int:
    """Return the messages a frame says it carries, as far as they are believed."""
    return min(_number(data[16:20]), 256) if data[4] & 0x80 else 1


def extensions(data: bytes) -> list[bytes]:
    """Return the extensions of a frame whose chain is well-formed, in order."""
    chain, found = data[24 : 24 + data[7] * 4], []
    while chain:
        size = chain[1] * 4
        found.append(chain[:size])
        chain = chain[size:]
    return found


def mapped(source: str) -> bytes:
    """Return an address in 16 bytes."""
    address = ipaddress.ip_address(source)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def cookie(data: bytes, source: str, port: bytes, demands: Demands) -> None:
    """End the matter when a frame of a handshake lacks the cookie of its source."""
    if data[3] not in (0x07, 0x14):  # NEGOTIATE, KEY_EXCHANGE
        return
    if data[7] or _number(data[12:16]) < 28:
        raise Ended("drop_cookie_missing")
    attempt, half = data[24:32], data[32:48]
    expiry, tag, generation = half[:4], half[4:12], half[12:14]
    key = demands.masters.get(_number(generation))
    if key is None:
        raise Ended("drop_cookie_generation")
    if demands.tick >= _number(expiry):
        raise Ended("drop_cookie_expired")
    covered = mapped(source) + attempt + expiry + generation + port + b"\0\2\0\0"
    if siphash(key, covered) != _number(tag):
        raise Ended("drop_cookie_forged")


def guard(data: bytes, klass: str, source: str, port: bytes, demands: Demands) -> None:
    """End the matter when a well-formed frame lacks what is asked of it."""
    chain = extensions(data)
    if source in demands.blocked:
        raise Ended("drop_blocked")
    sessions = [_number(each[4:8]) for each in chain if each[0] == 1]
    if sessions and sessions[0] in demands.denied:
        raise Ended("drop_denied")
    if klass not in demands.classes:
        return
    if klass == "control":
        cookie(data, source, port, demands)
        return
    if [each[0] for each in chain[:2]] != [1, 2]:
        raise Ended("drop_token_missing")
    generation, expiry, tag = chain[1][2:4], chain[1][4:8], chain[1][8:16]
    key = demands.masters.get(_number(generation))
    if key is None:
        raise Ended("drop_token_generation")
    if demands.tick >= _number(expiry):
        raise Ended("drop_token_expired")
    covered = mapped(source) + chain[0][4:8] + expiry + generation + b"\0\1"
    if siphash(key, covered) != _number(tag):
        raise Ended("drop_token_forged")


def opinion(packet: bytes, port: int = DOCUMENTED_PORT, demands: Demands = NOTHING) -> Opinion:
    """Return what should happen to a packet, from its first Ethernet byte."""
    try:
        layer3, layer4, source, announced = _network(packet)
        data = _datagram(packet, layer4, announced, port)
        session, size = frame_start(data)
    except Ended as end:
        return Opinion(str(end))
    if size != len(data):
        return Opinion("drop_length")
    klass = frame_class(data, session)
    try:
        guard(data, klass, source, packet[layer4 : layer4 + 2], demands)
    except Ended as end:
        return Opinion(str(end), klass)
    return Opinion(
        "steer",
        klass,
        frame_messages(data),
        source,
        data,
        layer3,
        data[24 + data[7] * 4 :],
    )
