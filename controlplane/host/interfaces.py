"""The interfaces of a node: which path frames take, what hangs on them, what is put back."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from valkyrie.controlplane.config.reader import limits, ring_sizes, token_classes
from valkyrie.dataplane import ffi, lib, loader
from valkyrie.dataplane.errors import DataPlaneError
from valkyrie.dataplane.guard import Guard
from valkyrie.dataplane.ports import PathName, Port, open_port
from valkyrie.dataplane.wire import Class

from .queues import Queues, frames_in_driver
from .voice import Voice

if TYPE_CHECKING:
    import mmap

    from valkyrie.controlplane.broker.boot import Boot
    from valkyrie.controlplane.config.reader import Config
    from valkyrie.controlplane.config.settings import Interface as Wanted
    from valkyrie.dataplane.ports import Rings

    from .journal import Journal
    from .netlink import Interface as Facts
    from .netlink import Netlink

_SIOCGIFINDEX = 0x8933  # linux/sockios.h
_IFREQ = struct.Struct("16si20x")  # linux/if.h
_SO_ATTACH_REUSEPORT_EBPF = 52  # asm-generic/socket.h

_BULK = "the kernel's UDP path is several times faster in bulk on a virtual link"


_BY_KERNEL = "of every frame"
_BY_BOTH = "of every frame: in the worker behind the first of what the kernel has joined"
"""Which tokens are checked where."""
_SENDER = "all leave by the first queue's port"


@dataclass(frozen=True, slots=True)
class Choice:
    """A path to try, and why it is it."""

    rx: PathName
    tx: PathName
    rx_reason: str
    tx_reason: str


def choose(wanted: Wanted, *, virtual: bool, obstacle: str = "") -> Choice:
    """Return the paths to try first on an interface, which may have an obstacle to XDP."""
    configured = "the configuration says so"
    if wanted.path != "auto":
        rx, rx_reason = wanted.path, configured
    elif virtual:
        rx, rx_reason = "udp", _BULK
    else:
        rx, rx_reason = "xdp", "the interface is hardware"
    if rx == "xdp" and obstacle:
        rx, rx_reason = "udp", obstacle
    if wanted.tx != "auto":
        tx, tx_reason = wanted.tx, configured
    elif rx == "udp":
        tx, tx_reason = "udp", "frames are received by UDP"
    elif virtual:
        tx, tx_reason = "udp", "UDP_SEGMENT is the fastest sender on a virtual link"
    else:
        tx, tx_reason = "xdp", "the interface is hardware"
    return Choice(rx, tx, rx_reason, tx_reason)


@dataclass(slots=True)
class Opened:
    """An interface in use: one port a queue, one program for all of them."""

    name: str
    ifindex: int
    program: loader.Program
    link: loader.Link | None
    queues: list[Port]
    rx_reason: str
    tx_reason: str
    receiving: Queues
    qdisc: str = ""
    """The queueing discipline we gave it."""
    lanes: mmap.mmap | None = None
    udp_port: int = field(default=lib.VK_PORT)
    voice: Voice | None = None
    """What the daemon's control frames leave by."""
    guard: Guard = field(init=False)
    """What the program asks of frames."""

    def __post_init__(self) -> None:
        """Ask nothing yet."""
        self.guard = Guard(self.program)

    @property
    def rx(self) -> PathName:
        """The path frames are received by."""
        return self.queues[0].rx

    @property
    def warning(self) -> str:
        """What status warns of; empty when all is well."""
        return self.receiving.warning(self.name) if self.rx == "xdp" else ""

    def describe(self) -> list[dict[str, object]]:
        """Return what status says of each queue."""
        return [
            {
                "name": self.name,
                "queue": port.queue,
                "queues": self.receiving.present,
                "warning": self.warning,
                "port": int(port.struct.index),
                "rx": {"mode": port.rx_mode, "reason": self._reason(self.rx_reason, port)},
                "tx": {
                    "mode": port.tx_mode,
                    "reason": self.tx_reason if port.tx != "none" else _SENDER,
                },
                "mode": f"{port.rx_mode}/{port.tx_mode}",
                "qdisc": self.qdisc,
                "mtu": int(port.struct.mtu),
                "tokens": _BY_KERNEL if self.rx == "xdp" else _BY_BOTH,
            }
            for port in self.queues
        ]

    @staticmethod
    def _reason(reason: str, port: Port) -> str:
        return f"{reason}; {port.reason}" if port.reason else reason

    def descriptors(self) -> list[int]:
        """Return what a worker needs."""
        found = []
        for port in self.queues:
            found += [port.struct.umem.memfd, *port.xsks().values()]
            found += [fd for pair in port.sockets().values() for fd in pair]
        return [fd for fd in found if fd >= 0]

    def police(self, klass: Class, packets_per_second: int, burst: int) -> None:
        """Set a class's token bucket: its rate is shared between the queues XDP sees."""
        queues = len(self.queues) if self.rx == "xdp" else 1
        self.program.set_police(klass, packets_per_second / queues, max(burst // queues, 1))

    def present(self) -> bool:
        """Say whether the interface is still there, as far as is known: asking may fail, too."""
        request = _IFREQ.pack(self.name.encode(), 0)
        try:  # not if_nametoindex: it does not say why it failed
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
                answer = fcntl.ioctl(asking, _SIOCGIFINDEX, request)
        except OSError as error:
            return error.errno != errno.ENODEV
        return bool(_IFREQ.unpack(answer)[1] == self.ifindex)

    def next_program(self) -> loader.Program:
        """Load the program that is installed now, on the live maps."""
        if self.link is None:
            return loader.open_selector(reuse=self.program.maps)
        return loader.open_classifier(self.udp_port, reuse=self.program.maps)

    def replace(self, program: loader.Program) -> loader.Program:
        """Put a program in the old one's place, between two packets.

        Returns the old one, which the caller closes; after an error that one is in its place.
        """
        old = self.program
        try:
            self._put(program)
        except OSError:
            with contextlib.suppress(OSError):
                self._put(old)
            raise
        self.program = program
        self.guard.renew(program)
        return old

    def _put(self, program: loader.Program) -> None:
        if self.link is not None:
            self.link.replace(program)
        else:
            for fd in (fd for pair in self.queues[0].sockets().values() for fd in pair):
                if fd >= 0:
                    with socket.socket(fileno=os.dup(fd)) as member:
                        try:
                            member.setsockopt(
                                socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_EBPF, program.fd
                            )
                        except OSError as error:
                            what = f"replace the program of {self.name}'s sockets"
                            raise DataPlaneError.of(error.errno or 0, what) from error

    def detach(self) -> None:
        """Take the program off the interface."""
        if self.link is not None:
            self.link.close()

    def close(self, *, keep_voice: bool = False) -> None:
        """Detach and close everything; in a child, only what it inherited."""
        self.detach()
        if self.voice is not None and not keep_voice:
            self.voice.close()
        for port in self.queues:
            port.close()
        self.program.close()
        if self.lanes is not None:
            with contextlib.suppress(BufferError):  # a closed port may still look at it
                self.lanes.close()


class Opener:
    """Opens the interfaces of a configuration into a boot."""

    def __init__(self, config: Config, boot: Boot, netlink: Netlink, journal: Journal) -> None:
        self._config = config
        self._boot = boot
        self._netlink = netlink
        self._journal = journal
        self._index = 0

    def open(self, wanted: Wanted) -> Opened:
        """Open one interface by the best path that can be had; DataPlaneError says what to do."""
        facts = self._netlink.interface(wanted.name)
        if not facts.up:
            raise DataPlaneError.of(
                errno.ENETDOWN, f"use interface {wanted.name}", f"ip link set {wanted.name} up"
            )
        receiving = Queues.of(wanted, facts, self._room(wanted))
        choice = choose(wanted, virtual=facts.is_virtual, obstacle=receiving.obstacle)
        opened = self._open_path(wanted, facts, choice, receiving)
        self._index += len(opened.queues)
        try:
            for klass in Class:
                bucket = limits(self._config, klass)
                opened.police(klass, bucket.rate_packets, bucket.burst_packets)
            opened.guard.demand(token_classes(self._config))
            opened.voice = Voice.open(
                facts.name,
                facts.index,
                self._config.node.udp_port,
                limits(self._config, Class.CONTROL).dscp,
            )
            if opened.rx == "udp":
                opened.voice.silence(opened.program)
            source = self._config.source
            opened.program.set_source_police(source.rate_packets, source.burst_packets)
            if facts.is_virtual and wanted.qdisc == "auto":
                given = self._journal.give_queue(self._netlink, wanted.name)
                opened.qdisc = "pfifo" if given else ""
        except BaseException:
            opened.close()
            raise
        return opened

    def _room(self, wanted: Wanted) -> int:
        """Return how many ports an interface can have: those behind it need theirs."""
        interfaces = self._config.interfaces
        behind = interfaces[interfaces.index(wanted) + 1 :]
        return int(lib.VK_PORTS_MAX) - self._index - sum(each.queues or 1 for each in behind)

    def _open_path(self, wanted: Wanted, facts: Facts, choice: Choice, receiving: Queues) -> Opened:
        if "xdp" in (choice.rx, choice.tx):
            try:
                opened = self._try(wanted, facts, choice, receiving)
            except DataPlaneError as error:
                why = f"AF_XDP cannot be had: {error.args[-1]}"
                return self._try(wanted, facts, Choice("udp", "udp", why, why), receiving)
            if opened.queues[0].rx_mode != "xdp-generic":
                return opened
            opened.close()
            # It runs behind GRO, and would drop what that has joined, each time it comes again.
            why = "XDP would be generic here, where it sees packets that the kernel has joined"
            choice = Choice("udp", "udp", why, why)
        return self._try(wanted, facts, choice, receiving)

    def _try(self, wanted: Wanted, facts: Facts, choice: Choice, receiving: Queues) -> Opened:
        if choice.rx == "xdp":
            program = loader.open_classifier(self._config.node.udp_port)
        else:
            program = loader.open_selector()
        opened = Opened(
            facts.name,
            facts.index,
            program,
            None,
            [],
            choice.rx_reason,
            choice.tx_reason,
            receiving,
            udp_port=self._config.node.udp_port,
        )
        try:
            if choice.rx == "xdp":
                opened.link = program.attach(facts.index)  # before any bind
                opened.lanes = program.maps["vk_lanes"].map_memory()
                if opened.link.reason:
                    opened.rx_reason += f"; {opened.link.reason}"
            rings = ring_sizes(self._config, wanted)
            rings = replace(rings, reserve=rings.reserve + frames_in_driver(facts))
            for queue in range(receiving.served if choice.rx == "xdp" else 1):
                opened.queues.append(self._open_port(wanted, queue, choice, opened, rings))
        except BaseException:
            opened.close()
            raise
        return opened

    def _open_port(
        self, wanted: Wanted, queue: int, choice: Choice, opened: Opened, rings: Rings
    ) -> Port:
        index = self._index + len(opened.queues)
        by_xdp = choice.rx == "xdp"
        return open_port(
            wanted.name,
            queue,
            rx=choice.rx,
            tx="none" if queue else choice.tx,
            index=index,
            udp_port=self._config.node.udp_port,
            rings=rings,
            classifier=opened.program if by_xdp else None,
            lane_memory=opened.lanes,
            mode=opened.link.mode if opened.link else None,
            selector=None if by_xdp else opened.program,
            buffer_size=wanted.socket_buffer_bytes,
            dscp={klass: limits(self._config, klass).dscp for klass in Class},
            into=self._boot.struct.ports + index,
        )


def copy_counters(opened: list[Opened], page: Any) -> None:
    """Copy the kernel's counters of every port into the counters page.

    An interface's verdicts are in the row of its first port; AF_XDP's drops in each port's own.
    """
    for interface in opened:
        rows = interface.program.counts()
        target = page.verdicts[interface.queues[0].struct.index]
        for (klass, verdict), count in rows.items():
            target.packets[klass][verdict] = count.packets
            target.bytes[klass][verdict] = count.bytes
            target.messages[klass][verdict] = count.messages
        for port in interface.queues:
            row = page.verdicts[port.struct.index]
            with contextlib.suppress(DataPlaneError):  # the interface may just have vanished
                found = port.statistics()
                row.xsk_dropped = found.dropped
                row.xsk_ring_full = found.ring_full + port.socket_drops()
                row.xsk_fill_empty = found.fill_empty
                row.xsk_invalid = found.invalid


def name_rows(opened: list[Opened], page: Any) -> None:
    """Write the ports' names and modes into the counters page."""
    for port in (port for interface in opened for port in interface.queues):
        row = page.verdicts[port.struct.index]
        for target, text in (
            (row.interface, port.interface),
            (row.rx_mode, port.rx_mode),
            (row.tx_mode, port.tx_mode),
        ):
            data = text.encode()[: len(target) - 1]
            ffi.memmove(target, data + bytes(len(target) - len(data)), len(target))
    page.port_count = sum(len(interface.queues) for interface in opened)
