"""A host's port with a path on it, driven from Python: what the worker does, in slow motion."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Self

from tests.lab import wait_until
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.loader import XdpMode, open_classifier, open_selector
from valkyrie.dataplane.ports import FrameCensus, PathName, Port, Rings, open_port
from valkyrie.dataplane.wire import Class, Flag, Type

if TYPE_CHECKING:
    from tests.lab import Lab, Link

STREAMS = {
    Class.CRITICAL: lib.VK_FIRST_CRITICAL,
    Class.SYSTEM: lib.VK_FIRST_SYSTEM,
    Class.JOB: lib.VK_FIRST_JOB,
    Class.DATA: lib.VK_FIRST_DATA,
    Class.LOGS: lib.VK_FIRST_LOGS,
}
SMALL = Rings(rx=dict.fromkeys(Class, 64), reserve=64, tx=64)


def queued_wire(lab: Lab) -> tuple[Link, Link]:
    """Join two hosts; a real qdisc turns a veth's silent drops into back pressure."""
    ends = lab.wire(lab.host("a"), lab.host("b"))
    for end in ends:
        end.host.set_qdisc(end.index, "pfifo", limit=1000)  # without one the limit is 0 here
    return ends


def payload(number: int, size: int) -> bytes:
    """Return bytes that tell which frame they belong to."""
    block = struct.pack("!I", number & 0xFFFFFFFF) + bytes(range(60))
    return (block * (size // len(block) + 1))[:size]


def frame(klass: Class, number: int, size: int = 40, flags: int = 0) -> bytes:
    """Return a frame of a class with ``size`` bytes of payload, and its number in correlation."""
    control = klass == Class.CONTROL
    head = struct.pack(
        "!HBBBBBBIIII",
        lib.VK_MAGIC,
        lib.VK_VERSION,
        Type.PING if control else Type.STREAM_DATA,
        flags,
        0,
        0,
        0,
        STREAMS.get(klass, 0),
        size,
        number,
        0,
    )
    return head + payload(number, size)


def aggregate(klass: Class, number: int, inner: int, size: int = 40) -> bytes:
    """Return an AGG frame with ``inner`` inner frames."""
    run = b""
    for i in range(inner):
        run += b"\0" * (-len(run) % lib.VK_AGG_ALIGN) + frame(klass, number * 1000 + i, size)
    head = struct.pack(
        "!HBBBBBBIIII",
        lib.VK_MAGIC,
        lib.VK_VERSION,
        Type.STREAM_DATA,
        Flag.AGG,
        0,
        0,
        0,
        STREAMS[klass],
        len(run),
        inner,
        0,
    )
    return head + run


@dataclass(frozen=True)
class Received:
    """A frame out of rx."""

    data: bytes
    source: str
    port: int
    klass: Class
    marked: bool = False
    came_ns: int = 0

    @property
    def number(self) -> int:
        """Its number."""
        return int(struct.unpack_from("!I", self.data, 16)[0])


class Endpoint:
    """One end of a wire: eBPF programs, port, path."""

    def __init__(
        self,
        link: Link,
        rx: PathName,
        tx: PathName,
        *,
        rings: Rings | None = None,
        modes: tuple[XdpMode, ...] = (XdpMode.NATIVE,),
        buffer_size: int = 8 << 20,
    ) -> None:
        self.link = link
        self.rx, self.tx = rx, tx
        self.rings = rings
        self.buffer_size = buffer_size
        self.classifier = open_classifier() if rx == "xdp" else None
        self.selector = open_selector() if rx == "udp" else None
        self.hook: Any = None
        self.lanes: Any = None
        if self.classifier is not None:
            self.lanes = self.classifier.maps["vk_lanes"].map_memory()
            self.hook = link.host.run(self.classifier.attach, link.index, modes)
        self.state = ffi.new("struct vk_port_state *")
        self.frames = ffi.new("struct vk_rx_frame[]", lib.VK_RX_BATCH)
        self._lent: list[Any] = []
        self.recovered = 0
        self.port: Port = self._open_port()
        self.path: Any = ffi.NULL
        self.opposite: Any = ffi.NULL
        self.open_path()

    def _open_port(self) -> Port:
        return self.link.host.run(
            open_port,
            self.link.name,
            rx=self.rx,
            tx=self.tx,
            rings=self.rings,
            classifier=self.classifier,
            lane_memory=self.lanes,
            mode=None if self.hook is None else self.hook.mode,
            selector=self.selector,
            buffer_size=self.buffer_size,
        )

    def _new_path(self, kind: PathName) -> Any:
        if kind == "xdp":
            recovered = ffi.new("uint32_t *")
            path = lib.vk_path_xdp_open(self.port.struct, self.state, recovered)
            self.recovered = recovered[0]
        else:
            path = lib.vk_path_udp_open(self.port.struct, self.state)
        assert path != ffi.NULL, os.strerror(ffi.errno)
        return path

    def open_path(self) -> None:
        """Begin to work on the port, as a new worker does."""
        self.path = self._new_path(self.rx if self.rx != "none" else self.tx)
        same = self.tx in (self.rx, "none") or self.rx == "none"
        self.opposite = self.path if same else self._new_path(self.tx)

    def close_path(self) -> None:
        """Leave the port in order."""
        if self.opposite != self.path:
            self.opposite.ops.close(self.opposite)
        if self.path != ffi.NULL:
            self.path.ops.close(self.path)
        self.path = self.opposite = ffi.NULL

    def reopen_port(self) -> None:
        """Close and open the port again."""
        self.close_path()
        self.port.close()
        self.port = self._open_port()
        ffi.memmove(self.state, bytes(ffi.sizeof(self.state[0])), ffi.sizeof(self.state[0]))
        self.open_path()

    def peer(self, other: Endpoint, family: int = 4, payload_max: int | None = None) -> Any:
        """Return the vk_peer of the other end."""
        here, there = self.link, other.link
        peer = ffi.new("struct vk_peer *")
        source, target = (here.v4.ip, there.v4.ip) if family == 4 else (here.v6.ip, there.v6.ip)
        peer.family = family
        peer.resolved = 1
        peer.address[0 : len(target.packed)] = list(target.packed)
        peer.source[0 : len(source.packed)] = list(source.packed)
        peer.udp_port = lib.VK_PORT
        overhead = 28 if family == 4 else 48
        peer.payload_max = payload_max or self.port.struct.mtu - overhead
        peer.mac[0:6] = list(bytes.fromhex(there.mac.replace(":", "")))
        peer.source_mac[0:6] = list(bytes.fromhex(here.mac.replace(":", "")))
        return peer

    def commit(
        self, peer: Any, klass: Class, data: bytes, *, paddable: bool = False, lent: int = 0
    ) -> bool:
        """Queue a datagram; False when the path is full. Its last *lent* bytes are lent."""
        path = self.opposite
        at = path.ops.tx_reserve(path, peer, klass)
        if at == ffi.NULL:
            return False
        ffi.memmove(at, data, len(data) - lent)
        if lent:
            self._lent.append(ffi.new("uint8_t[]", data[len(data) - lent :]))
            path.ops.tx_lend(path, self._lent[-1], lent)
        path.ops.tx_commit(path, len(data), paddable)
        return True

    def commit_row(self, peer: Any, klass: Class, row: list[bytes], *, lent: int) -> int:
        """Queue datagrams of one size in one go; how many it took. Their last bytes are lent."""
        path, head = self.opposite, len(row[0]) - lent
        heads = ffi.new("uint8_t *[]", lib.VK_TX_ROW)
        body = ffi.new("uint8_t[]", b"".join(data[head:] for data in row))
        taken = int(path.ops.tx_row(path, peer, klass, head, body, lent, len(row), heads))
        for at, data in zip(heads, row[:taken], strict=False):
            ffi.memmove(at, data, head)
        self._lent.append(body)
        return taken

    def flush(self) -> int:
        """Hand everything to the kernel; how many it did not take. What was lent is spoilt."""
        kept = int(self.opposite.ops.tx_flush(self.opposite))
        for body in self._lent:
            ffi.buffer(body)[:] = b"\xff" * len(body)
        return kept

    def flush_all(self) -> None:
        """Flush until the kernel has taken all."""
        wait_until(lambda: self.flush() == 0, what="the kernel takes everything")

    def receive(self, klass: Class, count: int = lib.VK_RX_BATCH) -> list[Received]:
        """One turn of rx and rx_done."""
        path = self.path
        n = path.ops.rx(path, klass, self.frames, count)
        assert n >= 0, os.strerror(-n)
        found = [self._received(self.frames[i]) for i in range(n)]
        if n:
            path.ops.rx_done(path, klass)
        return found

    @staticmethod
    def _received(one: Any) -> Received:
        size = 4 if one.family == 4 else 16
        return Received(
            data=bytes(ffi.buffer(one.data, one.size)),
            source=str(ip_address(bytes(one.source)[:size])),
            port=one.source_port,
            klass=Class(getattr(one, "class")),
            marked=bool(one.ce),
            came_ns=one.came_ns,
        )

    def receive_all(self, klass: Class, count: int, deadline_s: float = 5.0) -> list[Received]:
        """Receive until ``count`` frames have come."""
        found: list[Received] = []

        def enough() -> bool:
            while more := self.receive(klass):
                found.extend(more)
            return len(found) >= count

        wait_until(enough, deadline_s, f"{count} frames of {klass.name}")
        return found

    def census(self, *, with_path: bool = True) -> FrameCensus:
        """Return the port's census."""
        paths = {self.rx: self.path, self.tx: self.opposite} if with_path else {}
        return self.port.census(paths.get("xdp", ffi.NULL))

    def close(self) -> None:
        """Close everything."""
        self.close_path()
        self.port.close()
        if self.lanes is not None:
            self.lanes.close()
        if self.hook is not None:
            self.hook.close()
        for program in (self.classifier, self.selector):
            if program is not None:
                program.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
