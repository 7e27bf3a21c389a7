"""Ports: the kernel objects of one (interface, queue), opened and kept by the broker.

A port's memory and descriptors are inherited by the workers it forks; nothing here touches a
packet. Call ``open_port`` in the interface's network namespace, after the XDP program has been
attached and before anything is forked.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Self

from . import ffi, lib
from .errors import DataPlaneError
from .wire import Class

if TYPE_CHECKING:
    import mmap
    from collections.abc import Mapping

    from .loader import Map, Program, XdpMode

PathName = Literal["none", "xdp", "udp"]

_KINDS: dict[PathName, int] = {
    "none": lib.VK_PATH_NONE,
    "xdp": lib.VK_PATH_XDP,
    "udp": lib.VK_PATH_UDP,
}
_MODES = {
    lib.VK_XDP_ZERO_COPY: "xdp-zero-copy",
    lib.VK_XDP_NATIVE: "xdp-native",
    lib.VK_XDP_GENERIC: "xdp-generic",
}
_SIOCGIFMTU = 0x8921  # linux/sockios.h
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 0x3  # linux/ethtool.h

DSCP: Mapping[Class, int] = MappingProxyType(
    {
        Class.CONTROL: 40,  # CS5, signalling (RFC 4594)
        Class.CRITICAL: 46,  # EF, expedited forwarding (RFC 3246)
        Class.SYSTEM: 32,  # CS4, real-time interactive
        Class.JOB: 18,  # AF21, low-latency data
        Class.DATA: 0,  # default forwarding
        Class.LOGS: 1,  # LE, lower effort (RFC 8622)
    }
)
"""How packets are marked for the network (RFC 2474), where nobody says otherwise. All differ: a
receiver's kernel may join packets that come one behind the other, but none that are marked
differently, and looks at the first one alone to find their class."""

_VIRTUAL_DRIVERS = frozenset(
    {"veth", "tun", "bridge", "vxlan", "geneve", "ipvlan", "macvlan", "dummy", "bonding", ""}
)


@dataclass(frozen=True, slots=True)
class Rings:
    """Sizes of a port's AF_XDP rings in entries, powers of two; frames have 2 KiB.

    A class that nobody empties keeps its RX ring's frames and no more. Larger rings bridge longer
    stalls of the worker (ring / packet rate), smaller ones stay in the processor's caches: all
    frames take turns, and from about 3500 on each packet costs more (docs/PERFORMANCE.md).
    """

    rx: Mapping[Class, int] = field(
        default_factory=lambda: {
            Class.CONTROL: 64,
            Class.CRITICAL: 512,
            Class.SYSTEM: 128,
            Class.JOB: 256,
            Class.DATA: 2048,
            Class.LOGS: 256,
        }
    )
    reserve: int = 64
    """RX frames beyond the RX rings: what the kernel can have in hand while all classes stall. A
    zero-copy driver takes as many as its own RX ring has entries: give it those on top."""
    tx: int = 2048
    """Entries of the TX ring, and as many frames."""


@dataclass(frozen=True, slots=True)
class XskStatistics:
    """What AF_XDP dropped on a port since it was opened, in packets."""

    dropped: int
    ring_full: int
    fill_empty: int
    invalid: int


@dataclass(frozen=True, slots=True)
class FrameCensus:
    """Frames of a port by owner; ``total`` counts each of them once when ``twice`` is 0."""

    fill: int
    rx: tuple[int, ...]
    tx: int
    completion: int
    free: int
    held: int
    kernel: int
    twice: int

    @property
    def total(self) -> int:
        """All frames that have an owner."""
        owned = self.fill + sum(self.rx) + self.tx + self.completion
        return owned + self.free + self.held + self.kernel


class Port:
    """An open port. ``struct`` is its ``vk_port``, for ``vk_boot`` and workers."""

    def __init__(self, pointer: Any, rx: PathName, tx: PathName) -> None:
        self.struct = pointer
        self.rx = rx
        self.tx = tx
        self.rx_mode = "none"
        """xdp-zero-copy, xdp-native, xdp-generic, udp or none."""
        self.tx_mode = "none"
        self.reason = ""
        """Why AF_XDP did not get a better mode; empty when it got the best."""
        self._memory: Any = None  # keeps the mapped lanes alive
        self._guard: Any = None  # and this the mapped guard

    @property
    def interface(self) -> str:
        """Name of the interface."""
        return bytes(self.struct.interface).split(b"\0")[0].decode()

    @property
    def queue(self) -> int:
        """Number of the queue."""
        return int(self.struct.queue)

    @property
    def frames(self) -> int:
        """Frames of the UMEM; 0 without AF_XDP."""
        return int(self.struct.umem.rx_frames + self.struct.umem.tx_frames)

    def sockets(self) -> dict[Class, tuple[int, int]]:
        """Return the UDP sockets by class, IPv4 and IPv6; -1 = none."""
        four, six = self.struct.sockets4, self.struct.sockets6
        return {each: (four[each], six[each]) for each in Class}

    def xsks(self) -> dict[Class, int]:
        """Return the AF_XDP sockets by class; -1 = none."""
        return {each: self.struct.xsks[each].fd for each in Class}

    def watch(self, selector: Program) -> None:
        """Let workers see what a program on UDP sockets asks of frames, and not change it."""
        self._guard = ffi.from_buffer(selector.maps["vk_guard"].map_memory(writable=False))
        self.struct.guard = ffi.cast("struct vk_guard *", self._guard)

    def statistics(self) -> XskStatistics:
        """Return AF_XDP's own counters, summed over the classes; all 0 without AF_XDP."""
        found = ffi.new("struct vk_xsk_statistics *")
        result = lib.vk_xsk_statistics(self.struct, found)
        if result < 0:
            raise DataPlaneError.of(result, f"read XDP_STATISTICS of {self.interface}")
        return XskStatistics(
            dropped=sum(found.rx_dropped),
            ring_full=sum(found.rx_ring_full),
            fill_empty=int(found.fill_empty),
            invalid=int(found.rx_invalid + found.tx_invalid),
        )

    def socket_drops(self) -> int:
        """Return what the kernel dropped because UDP sockets that receive were full."""
        return int(lib.vk_udp_dropped(self.struct)) if self.rx == "udp" else 0

    def census(self, path: Any = ffi.NULL) -> FrameCensus:
        """Count the frames by owner; exact while nothing moves and no worker holds frames.

        ``path`` is the ``vk_path`` of this process that works on the port, if there is one.
        """
        found = ffi.new("struct vk_census *")
        lib.vk_path_xdp_census(self.struct, path, found)
        return FrameCensus(
            fill=found.fill,
            rx=tuple(found.rx),
            tx=found.tx,
            completion=found.completion,
            free=found.free,
            held=found.held,
            kernel=found.kernel,
            twice=found.twice,
        )

    def close(self) -> None:
        """Close sockets and memory; the queue is free when every heir has gone too."""
        lib.vk_xsk_close_port(self.struct)
        lib.vk_udp_close_port(self.struct)
        self.struct.lanes = self.struct.guard = ffi.NULL
        self._memory = self._guard = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def interface_mtu(interface: str) -> int:
    """Return an interface's MTU in bytes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16si20x", interface.encode(), 0)
        answer: bytes = fcntl.ioctl(control, _SIOCGIFMTU, request)
    return int(struct.unpack_from("16si", answer)[1])


def interface_driver(interface: str) -> str:
    """Return the name of an interface's driver; empty when it has none."""
    info = array.array("B", struct.pack("I", _ETHTOOL_GDRVINFO) + bytes(192))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sP16x", interface.encode(), info.buffer_info()[0])
        try:
            fcntl.ioctl(control, _SIOCETHTOOL, request)
        except OSError:
            return ""
    return bytes(info[4:36]).split(b"\0")[0].decode(errors="replace")


def is_virtual(interface: str) -> bool:
    """Say whether an interface is software only: segmentation there beats AF_XDP in bulk."""
    return interface_driver(interface) in _VIRTUAL_DRIVERS


_PRIVILEGES = "Run it as root, or with CAP_NET_RAW, CAP_NET_ADMIN and CAP_IPC_LOCK"
_NO_MEMORY = "The frame memory may exceed RLIMIT_MEMLOCK: give CAP_IPC_LOCK or smaller rings"
_NO_AF_XDP = 'This interface or kernel has no AF_XDP here: set path = "udp" for it'
_HINTS = {
    errno.EBUSY: "Another process has the queue: stop it (`bpftool net` and `ss --xdp` name it), or"
    " wait until the workers of the last node have gone",
    errno.EPERM: _PRIVILEGES,
    errno.EACCES: _PRIVILEGES,
    errno.ENOBUFS: _NO_MEMORY,
    errno.ENOMEM: _NO_MEMORY,
    errno.EOPNOTSUPP: _NO_AF_XDP,
    errno.ENXIO: _NO_AF_XDP,
    errno.EAFNOSUPPORT: _NO_AF_XDP,
    errno.EADDRINUSE: "Another program has the UDP port: stop it or choose another port",
    errno.ENODEV: "The interface is gone",
}


def _hint(number: int) -> str:
    return _HINTS.get(abs(number), "`valkyrie doctor` says what this host can do")


def _open_xdp(
    port: Port, rings: Rings, mode: XdpMode | None, best: int, lane_memory: mmap.mmap | None
) -> None:
    pointer = port.struct
    config = ffi.new("struct vk_xsk_config *")
    if port.rx == "xdp":
        for each, size in rings.rx.items():
            config.rx_ring[each] = size
    config.tx_ring = rings.tx if port.tx == "xdp" else 0
    config.reserve = rings.reserve if port.rx == "xdp" else 64
    config.program_mode = 0 if mode is None else int(mode)
    config.best_mode = best
    if lane_memory is not None and port.rx == "xdp":
        start = port.queue * lib.VK_CLASS_COUNT * ffi.sizeof("struct vk_lane")
        port._memory = ffi.from_buffer(lane_memory)  # noqa: SLF001  # its own module
        pointer.lanes = ffi.cast("struct vk_lane *", port._memory + start)  # noqa: SLF001
    report = ffi.new("struct vk_xsk_report *")
    result = lib.vk_xsk_open_port(pointer, config, report)
    step = ffi.string(report.step).decode() if report.step != ffi.NULL else ""
    if result < 0:
        what = f"open AF_XDP on {port.interface} queue {port.queue} ({step})"
        raise DataPlaneError.of(result, what, _hint(result))
    port.reason = "; ".join(
        f"{_MODES[i]}: {os.strerror(number)}" for i, number in enumerate(report.refused) if number
    )
    if port.rx == "xdp":
        port.rx_mode = _MODES[report.mode]
    if port.tx == "xdp":
        port.tx_mode = _MODES[report.mode]


def _open_udp(port: Port, program: int, buffer_size: int) -> None:
    config = ffi.new("struct vk_udp_config *")
    config.program = program
    config.buffer_size = buffer_size
    config.receive = port.rx == "udp"
    step = ffi.new("const char **")
    result = lib.vk_udp_open_port(port.struct, config, step)
    if result < 0:
        where = ffi.string(step[0]).decode()
        what = f"open UDP port {port.struct.udp_port} on {port.interface} ({where})"
        raise DataPlaneError.of(result, what, _hint(result))
    if port.rx == "udp":
        port.rx_mode = "udp"
    if port.tx == "udp":
        port.tx_mode = "udp"


def _enter_maps(port: Port, xsks: Map | None, selector: Program | None) -> None:
    count: int = lib.VK_CLASS_COUNT
    if xsks is not None and port.rx == "xdp":
        for each, fd in port.xsks().items():
            if fd >= 0 and port.struct.xsks[each].rx.size:
                xsks.update(port.queue * count + each, fd)
    if selector is not None and port.rx == "udp":
        for each, (four, six) in port.sockets().items():
            selector.maps["vk_socks"].update(each, four)
            if six >= 0:
                selector.maps["vk_socks"].update(count + each, six)


def open_port(
    interface: str,
    queue: int = 0,
    *,
    rx: PathName,
    tx: PathName,
    index: int = 0,
    udp_port: int = lib.VK_PORT,
    rings: Rings | None = None,
    classifier: Program | None = None,
    lane_memory: mmap.mmap | None = None,
    mode: XdpMode | None = None,
    zero_copy: bool = True,
    selector: Program | None = None,
    buffer_size: int = 8 << 20,
    dscp: Mapping[Class, int] = DSCP,
    into: Any = None,
) -> Port:
    """Open what frames come and go through on one queue of an interface.

    ``rx = "xdp"`` wants the ``classifier`` that is attached in ``mode`` and its mapped lanes;
    ``rx = "udp"`` wants a ``selector`` of the port's own. ``into`` is the ``vk_port`` to fill in, a
    new one without it. ``buffer_size`` is of each UDP socket's buffers, in bytes, ``dscp`` what
    packets that leave are marked with. Raises DataPlaneError and leaves nothing open.
    """
    pointer = ffi.new("struct vk_port *") if into is None else into
    ffi.memmove(pointer, bytes(ffi.sizeof("struct vk_port")), ffi.sizeof("struct vk_port"))
    lib.vk_xsk_clear(pointer)
    lib.vk_udp_clear(pointer)
    try:
        pointer.ifindex = socket.if_nametoindex(interface)
        pointer.mtu = min(interface_mtu(interface), 0xFFFF)
    except OSError as error:
        hint = "Check the name in the configuration (`valkyrie doctor` lists the interfaces)"
        raise DataPlaneError.of(error.errno or errno.ENODEV, f"find {interface}", hint) from error
    name = interface.encode()
    pointer.interface = name + bytes(16 - len(name))
    pointer.index, pointer.queue, pointer.udp_port = index, queue, udp_port
    pointer.rx_path, pointer.tx_path = _KINDS[rx], _KINDS[tx]
    for klass, code in dscp.items():
        pointer.ds_field[klass] = code << 2 | lib.VK_ECT0
    port = Port(pointer, rx, tx)
    best = lib.VK_XDP_ZERO_COPY if zero_copy else lib.VK_XDP_NATIVE
    try:
        if "xdp" in (rx, tx):
            _open_xdp(port, rings or Rings(), mode, best, lane_memory)
        if "udp" in (rx, tx):
            _open_udp(port, -1 if selector is None else selector.fd, buffer_size)
        if selector is not None:
            port.watch(selector)
        _enter_maps(port, None if classifier is None else classifier.maps["vk_xsks"], selector)
    except BaseException:
        port.close()
        raise
    return port
