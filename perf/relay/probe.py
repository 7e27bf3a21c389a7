"""Numbered frames through a relay, each with the moment it left and the moments it came."""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.lab import wait_until

if TYPE_CHECKING:
    from tests.lab import Link

    from .path import Relay

SO_RCVBUFFORCE = 33  # asm-generic/socket.h
SO_TIMESTAMPNS = 35
BUFFER_BYTES = 256 << 20
ETHERTYPE = b"\x88\xb5"  # IEEE 802: local experiments
NUMBER = struct.Struct("!I")
HEAD_SIZE = 14
WIRE_EXTRA = 24  # bytes of a frame's time on Ethernet besides itself: FCS, preamble, gap


@dataclass(frozen=True)
class Arrival:
    """A frame that came, and when it left and came in nanoseconds of CLOCK_REALTIME."""

    number: int
    sent_ns: int
    came_ns: int
    frame: bytes


class Probe:
    """Sends from a to b and says what came."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        a, b = relay.wires[0]
        self._head = _mac(b) + _mac(a) + ETHERTYPE
        self._out = a.host.packet_socket(a.name)
        self._into = b.host.packet_socket(b.name)
        self._into.setblocking(False)
        self._into.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self._into.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._sent: list[int] = []
        wait_until(self._stamped, what="the kernel stamps what comes")

    def _stamped(self) -> bool:
        """Say whether the kernel stamps frames when they come: it begins to some time after it was
        asked, and till then gives the time of the call that reads them.
        """
        with self._relay.wires[0][1].host.socket() as own:
            own.bind(("127.0.0.1", 0))
            own.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            own.sendto(b"stamp", own.getsockname())
            before_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
            return _stamp_ns(own.recvmsg(16, 64)[1]) < before_ns

    def frame(self, number: int, size: int) -> bytes:
        """Return the frame of that number; *size* of it on the link without FCS."""
        return (self._head + NUMBER.pack(number)).ljust(size, b"p")

    def send(self, count: int, size: int, *, gap_s: float = 0) -> list[Arrival]:
        """Send frames, at once or with a gap, and return what came of them."""
        begin = self._relay.counts()[0].packets
        self._sent = []
        for number in range(count):
            frame = self.frame(number, size)
            self._sent.append(time.clock_gettime_ns(time.CLOCK_REALTIME))
            self._out.send(frame)
            if gap_s:
                time.sleep(gap_s)  # what is measured is a pause
        return self._collect(begin + count)

    def throw(self, frame: bytes) -> None:
        """Send one frame and wait for nothing."""
        self._out.send(frame)

    def send_frame(self, frame: bytes) -> list[bytes]:
        """Send one frame of any kind and return what came with its Ethernet header."""
        begin = self._relay.counts()[0].packets
        self.throw(frame)
        self._settle(begin + 1)
        return [came for came, _ in self._drain() if came[:HEAD_SIZE] == frame[:HEAD_SIZE]]

    def _settle(self, packets: int) -> None:
        """Wait until the relay has seen so many frames and nothing is under way."""
        wait_until(lambda: self._relay.counts()[0].packets >= packets, 30.0, "frames in the relay")
        turn = self._relay.turns()
        wait_until(
            lambda: self._relay.turns() > turn + 1 and not self._relay.counts()[0].under_way,
            60.0,
            "frames out of the relay",
        )

    def _drain(self) -> list[tuple[bytes, int]]:
        """Return the frames in the socket, each with when it came in nanoseconds."""
        found: list[tuple[bytes, int]] = []
        while True:
            try:
                frame, extra, _, _ = self._into.recvmsg(20_000, 64)
            except BlockingIOError:
                return found
            found.append((frame, _stamp_ns(extra)))

    def _collect(self, packets: int) -> list[Arrival]:
        self._settle(packets)
        found = []
        for frame, came_ns in self._drain():
            if frame[:HEAD_SIZE] == self._head:
                number = NUMBER.unpack_from(frame, HEAD_SIZE)[0]
                sent_ns = self._sent[number] if number < len(self._sent) else 0
                found.append(Arrival(number, sent_ns, came_ns, frame))
        return found

    def close(self) -> None:
        """Close the sockets."""
        self._out.close()
        self._into.close()


def _stamp_ns(extra: list[tuple[int, int, bytes]]) -> int:
    ((_, _, stamp),) = extra
    second, nanosecond = struct.unpack("qq", stamp)
    return int(second * 1_000_000_000 + nanosecond)


def _mac(link: Link) -> bytes:
    return bytes.fromhex(link.mac.replace(":", ""))


def rate_bps(arrivals: list[Arrival], size: int) -> float:
    """Return the rate at which frames of one size came, Ethernet's gaps counted."""
    span_ns = arrivals[-1].came_ns - arrivals[0].came_ns
    return (len(arrivals) - 1) * (size + WIRE_EXTRA) * 8 * 1e9 / span_ns
