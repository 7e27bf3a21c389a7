"""Says what the classifier makes of every packet of a capture, by running the real program.

The program is a private instance, run by BPF_PROG_TEST_RUN: nothing is sent and no counter of a
running node moves. Alone, every class has a socket and no limits. Given a node's maps, it looks up
the node's own sockets and works on copies of its rates, buckets and credits as they are at the
start. Buckets fill by the clock on the wall, not by the stamps of the capture: a capture that is
replayed in an instant meets a node's limits as a burst would.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from valkyrie.dataplane.units import NS_PER_S

from . import ffi, lib
from .errors import ValkyrieError
from .loader import Program, Run, open_classifier, open_pinned_map
from .wire import PORT, Class, Header, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

    from .loader import Map

ETHERNET_SIZE = 14
"""Bytes below which the kernel runs no program."""

PACKET_SIZE_MAX = 3500
"""Bytes above which a packet is no packet of a link that XDP works on, but a super-packet."""

LINKTYPE_ETHERNET = 1  # tcpdump.org/linktypes.html
_RECORD_SIZE_MAX = 1 << 18  # libpcap's MAXIMUM_SNAPLEN
_PCAPNG = b"\x0a\x0d\x0d\x0a"
_MAGICS = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}
"""File magic -> nanoseconds in a unit of the sub-second stamp (pcap-savefile(5))."""

_AF_XDP = 44  # linux/socket.h
_NO_LIMIT = 1 << 62


class CaptureError(ValkyrieError):
    """A capture file that cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet of a capture."""

    time_ns: int
    data: bytes
    size: int
    """Bytes on the wire; more than ``data`` has when the capture cut it."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the program did with a packet."""

    index: int
    """From 0, in the order of the file."""
    verdict: str
    """``steer``, ``pass`` or ``drop``."""
    klass: str | None
    """The frame's class; None when it was refused before it had one."""
    reason: str
    """Why it was passed or dropped: the rest of the verdict's name; empty when steered."""
    stream: int | None
    """None when it is no valid frame."""

    def document(self) -> dict[str, object]:
        """Return the explanation as the JSON object that users see."""
        return {
            "index": self.index,
            "verdict": self.verdict,
            "class": self.klass,
            "reason": self.reason,
            "stream": self.stream,
        }


def read_pcap(file: BinaryIO, name: str) -> Iterator[Packet]:
    """Yield the packets of a pcap file, either byte order, micro- or nanoseconds."""
    head = file.read(24)
    if head[:4] == _PCAPNG:
        raise CaptureError(f"{name} is pcapng: convert it with `tcpdump -r {name} -w OUT.pcap`")
    if len(head) < 24:
        raise CaptureError(f"{name} is no pcap file: it ends inside the file header")
    for order in "<>":
        unit_ns = _MAGICS.get(struct.unpack(f"{order}I", head[:4])[0])
        if unit_ns is not None:
            break
    else:
        raise CaptureError(f"{name} is no pcap file: it begins with {head[:4].hex()}")
    assert unit_ns is not None
    link = struct.unpack(f"{order}I", head[20:])[0] & 0x0FFF_FFFF
    if link != LINKTYPE_ETHERNET:
        raise CaptureError(f"{name} has link type {link}; only Ethernet (1) reaches the program")
    record = struct.Struct(f"{order}IIII")
    index = 0
    while row := file.read(record.size):
        if len(row) < record.size:
            raise CaptureError(f"{name} ends inside the header of packet {index}")
        seconds, fraction, caught, size = record.unpack(row)
        if caught > _RECORD_SIZE_MAX or caught > size:
            raise CaptureError(f"{name} is damaged: packet {index} has {caught} of {size} bytes")
        data = file.read(caught)
        if len(data) < caught:
            raise CaptureError(f"{name} ends inside packet {index}")
        yield Packet(seconds * NS_PER_S + fraction * unit_ns, data, size)
        index += 1


class Explainer:
    """A private classifier, and one without limits that tells where the frame of a packet is."""

    def __init__(self, udp_port: int = PORT, live: Mapping[str, Map] | None = None) -> None:
        """Load the programs; ``live`` are a running node's maps, which are not changed."""
        with contextlib.ExitStack() as stack:
            sockets = {"vk_xsks": live["vk_xsks"]} if live and "vk_xsks" in live else None
            self._program = stack.enter_context(open_classifier(udp_port, reuse=sockets))
            self._parser = stack.enter_context(open_classifier(udp_port))
            steering = stack.enter_context(socket.socket(_AF_XDP, socket.SOCK_RAW, 0))
            self._open(self._parser, steering)
            if live is None:
                self._open(self._program, steering)
            else:
                self._copy(live)
            self._before = self._program.counts()
            self._stack = stack.pop_all()

    @staticmethod
    def _open(program: Program, steering: socket.socket) -> None:
        """Give every class a socket and credit without end."""
        with program.maps["vk_lanes"].map_memory() as memory:
            rows = ffi.from_buffer("struct vk_lane[]", memory)
            for klass in Class:
                program.maps["vk_xsks"].update(klass, steering.fileno())
                rows[klass].granted = _NO_LIMIT
            ffi.release(rows)

    def _copy(self, live: Mapping[str, Map]) -> None:
        """Copy a node's rates, buckets and credits, and what it asks of frames."""
        for name in ("vk_lanes", "vk_source", "vk_guard", "vk_denied", "vk_blocked"):
            if name not in live:
                raise CaptureError(f"the running node has no map {name}: is it another version?")
            target = self._program.maps[name]
            for key in live[name]:
                value = live[name].lookup(key)
                if value is not None:
                    target.update(key, value)

    def explain(self, index: int, packet: Packet) -> Explanation:
        """Run the program over a packet."""
        if len(packet.data) < ETHERNET_SIZE:
            return Explanation(index, "pass", None, Verdict.PASS_SHORT.reason, None)
        if packet.size > PACKET_SIZE_MAX:
            return Explanation(index, "pass", None, "too_large", None)
        # The program reads headers only: zeros stand for what the capture cut off.
        data = packet.data + bytes(packet.size - len(packet.data))
        self._program.test_run(data)
        now = self._program.counts()
        ((klass, verdict),) = (key for key, row in now.items() if row != self._before.get(key))
        self._before = now
        classified = verdict.action == "steer" or verdict in _CLASSIFIED
        name = klass.name.lower() if classified else None
        return Explanation(index, verdict.action, name, verdict.reason, self._stream(data))

    def _stream(self, data: bytes) -> int | None:
        run: Run = self._parser.test_run(data)
        if len(run.meta) < ffi.sizeof("struct vk_meta"):
            return None
        meta = ffi.cast("struct vk_meta *", ffi.from_buffer(run.meta))
        return Header.parse(data[meta.frame_offset :]).stream

    def close(self) -> None:
        """Close the programs."""
        self._stack.close()


_CLASSIFIED = frozenset(
    {
        Verdict.DROP_CLASS_RATE,
        Verdict.DROP_SOURCE_RATE,
        Verdict.DROP_CREDIT,
        Verdict.DROP_NO_SOCKET,
        Verdict.DROP_DENIED,
        Verdict.DROP_TOKEN_MISSING,
        Verdict.DROP_TOKEN_GENERATION,
        Verdict.DROP_TOKEN_EXPIRED,
        Verdict.DROP_TOKEN_FORGED,
        Verdict.DROP_BLOCKED,
        Verdict.DROP_COOKIE_MISSING,
        Verdict.DROP_COOKIE_GENERATION,
        Verdict.DROP_COOKIE_EXPIRED,
        Verdict.DROP_COOKIE_FORGED,
    }
)
"""Verdicts on valid frames; the others are counted in the control class for want of one."""


def run(
    path: str | Path, *, udp_port: int = lib.VK_PORT, pins: str | Path | None = None
) -> Iterator[Explanation]:
    """Yield an explanation for every packet of a pcap file.

    ``pins`` is the directory where a running node pinned its maps. Raises CaptureError for a file
    that is no capture, DataPlaneError where programs cannot be loaded, OSError for no file.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(Path(path).open("rb"))
        live: dict[str, Map] | None = None
        if pins is not None:
            live = {}
            for pin in sorted(Path(pins).iterdir()):
                if pin.name in _LIVE:
                    live[pin.name] = open_pinned_map(pin)
                    stack.callback(live[pin.name].close)
        explainer = Explainer(udp_port, live)
        stack.callback(explainer.close)
        for index, packet in enumerate(read_pcap(file, str(path))):
            yield explainer.explain(index, packet)


_LIVE = ("vk_xsks", "vk_lanes", "vk_source", "vk_guard", "vk_denied", "vk_blocked")
