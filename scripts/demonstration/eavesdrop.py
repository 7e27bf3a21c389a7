"""Somebody on the way between two hosts: reads samples of what passes, and looks for payloads."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from valkyrie.dataplane import lib, wire

if TYPE_CHECKING:
    import socket

MARKER = b"nobody on the way may read this line"
"""In every message that small applications send."""
UDP = 17
HEADERS = 14 + 20 + 8
"""Ethernet, IPv4 without options, UDP."""
SAMPLE_S, PAUSE_S = 0.05, 0.25
"""Reading everything would take the time of a core from who sends it."""
SAMPLE_MAX = 500
PACKET_MAX = 1 << 17
ENOUGH = 100
"""Sealed datagrams: with fewer nobody could say that he has listened."""


@dataclass
class Heard:
    """What was read."""

    sealed: int = 0
    control: int = 0
    """Handshakes are no secret, and control frames of a session are proven instead."""
    plain: int = 0
    """Other frames that are not sealed."""
    marked: int = 0
    """Datagrams with a payload that can be read."""
    bytes: int = 0

    def take(self, packet: bytes) -> None:
        """Look at a whole Ethernet frame, or at a super-packet that the link will cut."""
        datagram = packet[HEADERS:]
        if packet[12:14] != b"\x08\x00" or packet[23] != UDP or len(datagram) < wire.HEADER_SIZE:
            return
        self.bytes += len(datagram)
        self.marked += MARKER in datagram
        header = wire.Header.parse(datagram)
        if header.flags & wire.Flag.ENC:
            self.sealed += 1
        elif header.type < lib.VK_TYPE_CONTROL_END:
            self.control += 1
        else:
            self.plain += 1


class Eavesdropper:
    """Listens on an interface, now and then, until it is left."""

    def __init__(self, raw: socket.socket) -> None:
        """Take the socket over."""
        self.heard = Heard()
        self._raw = raw
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Self:
        self._raw.settimeout(SAMPLE_S)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._raw.close()

    def _listen(self) -> None:
        while not self._over.wait(PAUSE_S):
            end = time.monotonic() + SAMPLE_S
            for _ in range(SAMPLE_MAX):
                with contextlib.suppress(TimeoutError):
                    self.heard.take(self._raw.recv(PACKET_MAX))
                if time.monotonic() > end:
                    break

    def document(self) -> dict[str, Any]:
        """Return what was read."""
        return dict(vars(self.heard))


def verdict(document: dict[str, Any]) -> list[str]:
    """Return what is wrong, one sentence each."""
    wrong = []
    if document["plain"]:
        wrong.append(f"{document['plain']} datagrams were not sealed")
    if document["marked"]:
        wrong.append(f"payloads could be read on the way, in {document['marked']} datagrams")
    if document["sealed"] < ENOUGH:
        wrong.append(f"the listener on the way heard too little to say anything: {document}")
    return wrong


def lines(document: dict[str, Any]) -> list[str]:
    """Return its lines of the page."""
    said = f"{document['sealed']} sealed datagrams, {document['plain']} others"
    clear = f"{document['marked']} payloads that could be read"
    return [f"listener  on the wire, a sample of {document['bytes'] >> 10} KiB: {said}, {clear}"]
