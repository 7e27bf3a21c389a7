"""What arrives in an application's ring, against a receiver that drops every packet unseen.

Both sit on the same veth and meet the same sender: a program run over live frames, which leaves the
receiving side as the limit. The baseline is the smallest XDP program, one socket, one ring; ours is
the classifier with its policing and credit, six sockets, frame location, crash intents and a copy
of the payload. They take turns; the figures are medians. Large rings survive long stalls of the
worker, small ones stay in the processor's cache: both are measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import socket
import struct
import subprocess
import tempfile
import warnings
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from tests.lab import Link, laboratory, wait_until
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.loader import Program, XdpMode, open_classifier
from valkyrie.dataplane.ports import Port, Rings, open_port
from valkyrie.dataplane.wire import Class, Type, make_frame

from .contestant import ROOT
from .kernel import compiled
from .rows import Row, make_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

SIZES = {"66 B": 0, "1400 B": 1334}
"""Packet on the link -> payload behind Ethernet, IPv4, UDP and frame header."""
STREAM = 2000
TRIPS_MAX = 1 << 20
UDP_SEGMENT = 103  # linux/udp.h
TRAIN_BYTES_MAX = 65_000
MOST_NS = 30_000_000_000
"""A sender that is killed before."""
BASELINE_RINGS = Rings(rx={Class.CONTROL: 2048}, reserve=2048)
RINGS = {
    "default rings": Rings(),
    "small rings": Rings(
        rx={each: 1024 if each == Class.DATA else 64 for each in Class}, reserve=256
    ),
}

_row = partial(make_row, "receive", digits=None)


class Result(ctypes.Structure):
    """``struct receive_result``."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("packets", "bytes", "elapsed_ns", "ready")]
    packets: int
    bytes: int
    elapsed_ns: int
    ready: int


def _compile(directory: Path) -> ctypes.CDLL:
    library = directory / "receive.so"
    sources = [ROOT / "perf" / "receive.c", *(ROOT / "dataplane" / "path").glob("*.c")]
    folders = [ROOT / "bpf", ROOT / "shm", *(ROOT / "dataplane").glob("*/")]
    includes = [f"-I{folder}" for folder in folders]
    flags = ["-std=gnu11", "-O2", "-g", "-fPIC", "-shared", "-Wl,-Bsymbolic", *includes]
    subprocess.run(["cc", *flags, "-o", library, *sources], check=True)
    return ctypes.CDLL(str(library))


def _packet(source: Link, target: Link, payload_size: int) -> bytes:
    frame = make_frame(Type.STREAM_DATA, STREAM, bytes(payload_size)).pack()
    return headed(source, target, frame)


def headed(source: Link, target: Link, frame: bytes) -> bytes:
    """Return a frame as it is on the wire from one host to the other: Ethernet, IPv4, UDP."""
    udp = struct.pack("!HHHH", lib.VK_PORT, lib.VK_PORT, 8 + len(frame), 0)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(frame), 0, 0, 64, 17, 0)
    ip += source.v4.ip.packed + target.v4.ip.packed
    macs = bytes.fromhex(target.mac.replace(":", "") + source.mac.replace(":", ""))
    return macs + b"\x08\0" + ip + udp + frame


@contextlib.contextmanager
def _child(loop: Callable[[], object]) -> Iterator[int]:
    """Run *loop* in a forked process and kill it afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the other threads only wait
        pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            loop()
        os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


class Bench:
    """Two hosts, the sender's program, and the loops."""

    def __init__(self, directory: Path, source: Link, target: Link) -> None:
        self.source, self.target = source, target
        self.library = _compile(directory)
        self.live = Program("live", image=compiled("live"))
        self.redirect = Program("redirect", image=compiled("redirect"))
        source.host.run(self.live.maps["vk_target"].update, 0, source.index)
        self.cpus = sorted(os.sched_getaffinity(0))

    def _measure(
        self, sending: AbstractContextManager[None], receiver: Callable[[int, Any], object]
    ) -> float:
        """Return the packets per second that *receiver* reports."""
        memory = mmap.mmap(-1, mmap.PAGESIZE)
        result = Result.from_buffer(memory)
        with _child(lambda: receiver(self.cpus[-1], ctypes.byref(result))):
            wait_until(lambda: result.ready, what="the receiver")
            with sending:
                wait_until(lambda: result.elapsed_ns, 30.0, "the measurement")
        return result.packets * 1e9 / result.elapsed_ns

    @contextlib.contextmanager
    def sending(self, packet: bytes) -> Iterator[None]:
        """Send *packet* as fast as it goes, from the first core."""
        data = ctypes.create_string_buffer(packet, len(packet))
        live, cpu, send = self.live.fd, self.cpus[0], self.library.receive_send
        with _child(lambda: send(live, data, len(packet), cpu)):
            yield

    def _port(
        self,
        program: Program,
        rings: Rings,
        link: Link | None = None,
        *,
        tx: Literal["none", "xdp"] = "none",
        **more: Any,
    ) -> Port:
        """Open a port at *link*, where none is given at the target."""
        at = link or self.target
        return at.host.run(
            open_port,
            at.name,
            rx="xdp",
            tx=tx,
            rings=rings,
            mode=XdpMode.NATIVE,
            classifier=program,
            **more,
        )

    def baseline(self, packet: bytes, duration_ns: int) -> float:
        """Measure the smallest receiver."""
        return self._dropped(self.sending(packet), duration_ns)

    def caught(self, payload: bytes, duration_ns: int) -> float:
        """Measure the smallest receiver with datagrams that the kernel sends in trains."""
        return self._dropped(self._trains(payload), duration_ns)

    @contextlib.contextmanager
    def _trains(self, payload: bytes) -> Iterator[None]:
        """Send datagrams by UDP_SEGMENT as fast as it goes, from the first core."""
        train = payload * (TRAIN_BYTES_MAX // len(payload))
        with self.source.host.socket() as out:
            out.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, len(payload))
            out.connect((str(self.target.v4.ip), lib.VK_PORT))

            def send() -> None:
                os.sched_setaffinity(0, {self.cpus[0]})
                while True:
                    out.send(train)

            with _child(send):
                yield

    def _dropped(self, sending: AbstractContextManager[None], duration_ns: int) -> float:
        hook = self.target.host.run(self.redirect.attach, self.target.index, (XdpMode.NATIVE,))
        with contextlib.closing(hook), self._port(self.redirect, BASELINE_RINGS) as port:
            where = ctypes.c_void_p(int(ffi.cast("uintptr_t", port.struct)))
            duration = ctypes.c_uint64(duration_ns)
            return self._measure(
                sending,
                lambda cpu, result: self.library.receive_drop(where, duration, cpu, result),
            )

    def transmit(self, packet: bytes, duration_ns: int) -> float:
        """Measure the smallest sender, onto a wire whose other end drops in XDP."""
        with (
            Program("parse_drop", image=compiled("parse_drop")) as drop,
            contextlib.ExitStack() as hooks,
        ):
            for link, program in ((self.target, drop), (self.source, self.redirect)):
                hook = link.host.run(program.attach, link.index, (XdpMode.NATIVE,))
                hooks.callback(link.host.run, hook.close)
            port = hooks.enter_context(
                self._port(self.redirect, BASELINE_RINGS, self.source, tx="xdp")
            )
            where = ctypes.c_void_p(int(ffi.cast("uintptr_t", port.struct)))
            memory = mmap.mmap(-1, mmap.PAGESIZE)
            result = Result.from_buffer(memory)
            data = ctypes.create_string_buffer(packet, len(packet))
            more = ctypes.c_uint32(len(packet)), ctypes.c_uint64(duration_ns), self.cpus[0]
            send = self.library.receive_transmit
            with _child(lambda: send(where, data, *more, ctypes.byref(result))):
                wait_until(lambda: result.elapsed_ns, 30.0, "the measurement")
        return result.packets * 1e9 / result.elapsed_ns

    @contextlib.contextmanager
    def _sockets(self) -> Iterator[tuple[ctypes.c_void_p, ctypes.c_void_p]]:
        """Give a socket on each host: where its port is, the source's and the target's."""
        with contextlib.ExitStack() as stack:
            sends = stack.enter_context(Program("redirect", image=compiled("redirect")))
            ends = (self.source, sends), (self.target, self.redirect)
            for link, program in ends:
                hook = link.host.run(program.attach, link.index, (XdpMode.NATIVE,))
                stack.callback(link.host.run, hook.close)
            ports = [
                stack.enter_context(self._port(program, BASELINE_RINGS, link, tx="xdp"))
                for link, program in ends
            ]
            source, target = (
                ctypes.c_void_p(int(ffi.cast("uintptr_t", port.struct))) for port in ports
            )
            yield source, target

    def carried(self, packet: bytes, duration_ns: int) -> float:
        """Measure the smallest receiver with the smallest sender that a socket allows."""
        with self._sockets() as (here, there):
            data = ctypes.create_string_buffer(packet, len(packet))
            memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
            sent, came = (Result.from_buffer(memory, at) for at in (0, mmap.PAGESIZE))
            duration = ctypes.c_uint64(duration_ns)
            more = ctypes.c_uint32(len(packet)), ctypes.c_uint64(MOST_NS), self.cpus[0]
            drop, send = self.library.receive_drop, self.library.receive_transmit
            with _child(lambda: drop(there, duration, self.cpus[-1], ctypes.byref(came))):
                wait_until(lambda: came.ready, what="the receiver")
                with _child(lambda: send(here, data, *more, ctypes.byref(sent))):
                    wait_until(lambda: came.elapsed_ns, 30.0, "the measurement")
        return came.packets * 1e9 / came.elapsed_ns

    def answered_ns(self, packet: bytes, duration_ns: int) -> float:
        """Measure round trips to the smallest echo; returns the median."""
        with self._sockets() as (here, there):
            data = ctypes.create_string_buffer(packet, len(packet))
            memory = mmap.mmap(-1, 2 * mmap.PAGESIZE + 8 * TRIPS_MAX)
            asks, answers = (Result.from_buffer(memory, at) for at in (0, mmap.PAGESIZE))
            times = (ctypes.c_uint64 * TRIPS_MAX).from_buffer(memory, 2 * mmap.PAGESIZE)
            more = ctypes.c_uint32(len(packet)), ctypes.c_uint64(duration_ns), self.cpus[0]
            room = ctypes.byref(times), ctypes.c_uint64(TRIPS_MAX)
            echo, ping = self.library.receive_echo, self.library.receive_ping
            with _child(lambda: echo(there, self.cpus[-1], ctypes.byref(answers))):
                wait_until(lambda: answers.ready, what="the echo")
                with _child(lambda: ping(here, data, *more, ctypes.byref(asks), *room)):
                    wait_until(lambda: asks.elapsed_ns, 30.0, "the measurement")
        if not asks.packets:
            raise RuntimeError("no packet came back from the echo")
        return float(median(times[: asks.packets]))

    def ours(self, packet: bytes, duration_ns: int, rings: Rings) -> float:
        """Measure the classifier and the path."""
        with open_classifier() as program:
            credit = program.maps["vk_lanes"].map_memory()
            hook = self.target.host.run(program.attach, self.target.index, (XdpMode.NATIVE,))
            with (
                contextlib.closing(hook),
                self._port(program, rings, lane_memory=credit) as port,
            ):
                state = ffi.new("struct vk_port_state *")
                where, kept = (
                    ctypes.c_void_p(int(ffi.cast("uintptr_t", each)))
                    for each in (port.struct, state)
                )
                duration = ctypes.c_uint64(duration_ns)
                return self._measure(
                    self.sending(packet),
                    lambda cpu, result: self.library.receive_path(
                        where, kept, duration, cpu, result
                    ),
                )

    def close(self) -> None:
        """Close the programs."""
        self.live.close()
        self.redirect.close()


@contextlib.contextmanager
def ready() -> Iterator[Bench]:
    """Make a bench, with hosts and a folder that are gone behind it."""
    with tempfile.TemporaryDirectory() as directory, laboratory() as lab:
        bench = Bench(Path(directory), *lab.wire(lab.host("a"), lab.host("b")))
        with contextlib.closing(bench):
            yield bench


def run(quick: bool) -> list[Row]:
    """Return the rows of the receive benchmark; ``quick`` takes about fifteen seconds."""
    rounds, duration_ns = (5, 200_000_000) if quick else (9, 500_000_000)
    rows: list[Row] = []
    with ready() as bench:
        for name, payload_size in SIZES.items():
            packet = _packet(bench.source, bench.target, payload_size)
            bare: list[float] = []
            ours: dict[str, list[float]] = {label: [] for label in RINGS}
            for _ in range(rounds):
                bare.append(bench.baseline(packet, duration_ns))
                for label, rings in RINGS.items():
                    ours[label].append(bench.ours(packet, duration_ns, rings))
            rows += [
                _row(
                    f"{name} packets into a ring, {label}",
                    median(values),
                    "packets/s",
                    median(bare),
                )
                for label, values in ours.items()
            ]
    return rows
