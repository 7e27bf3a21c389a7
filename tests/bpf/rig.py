"""The classifier on a bench: real program, real sockets in its map, packets by test run."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any, Self

from tests.bpf.model import Opinion
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.loader import Program, Run, open_classifier
from valkyrie.dataplane.wire import Class, Verdict

AF_XDP = 44  # linux/socket.h
RESULTS = {"drop": 1, "pass": 2, "steer": 4}  # linux/bpf.h, enum xdp_action

MAC = bytes.fromhex("020900000002 020900000001")


def ip4(
    payload: bytes, *, port: int = lib.VK_PORT, source: str = "10.9.0.1", **fields: Any
) -> bytes:
    """Return an IPv4 datagram; ``fields`` overwrite: first, total, fragment, protocol, udp_size."""
    udp_size = fields.get("udp_size", 8 + len(payload))
    return (
        struct.pack(
            "!BBHHHBBH4s4s",
            fields.get("first", 0x45),
            0,
            fields.get("total", 28 + len(payload)),
            0,
            fields.get("fragment", 0),
            64,
            fields.get("protocol", 17),
            0,
            socket.inet_aton(source),
            socket.inet_aton("10.9.0.2"),
        )
        + struct.pack("!HHHH", 40000, port, udp_size, 0)
        + payload
    )


def ip6(
    payload: bytes, *, port: int = lib.VK_PORT, source: str = "fd09::1", **fields: Any
) -> bytes:
    """Return an IPv6 datagram; ``fields`` overwrite: first, size, protocol, udp_size."""
    return (
        struct.pack(
            "!B3xHBB16s16s",
            fields.get("first", 0x60),
            fields.get("size", 8 + len(payload)),
            fields.get("protocol", 17),
            64,
            socket.inet_pton(socket.AF_INET6, source),
            socket.inet_pton(socket.AF_INET6, "fd09::2"),
        )
        + struct.pack("!HHHH", 40000, port, fields.get("udp_size", 8 + len(payload)), 0)
        + payload
    )


def ethernet(datagram: bytes, *tags: int, ethertype: int | None = None) -> bytes:
    """Return a packet; ``tags`` are the TPIDs of VLAN tags."""
    if ethertype is None:
        ethertype = 0x86DD if datagram[0] >> 4 == 6 else 0x0800
    return (
        MAC
        + b"".join(struct.pack("!HH", t, 7) for t in tags)
        + struct.pack("!H", ethertype)
        + (datagram)
    )


def frame(
    type: int = 0x31,  # noqa: A002
    stream: int = 2000,
    payload: bytes = b"",
    chain: bytes = b"",
    **fields: int,
) -> bytes:
    """Return a frame, written from the format; ``fields`` overwrite what would be right."""
    return (
        struct.pack(
            "!HBBBBBBIIII",
            fields.get("magic", lib.VK_MAGIC),
            fields.get("version", 2),
            type,
            fields.get("flags", 0),
            fields.get("priority", 0),
            0,
            fields.get("ext", len(chain) // 4),
            stream,
            fields.get("length", len(payload)),
            fields.get("correlation", 0),
            0,
        )
        + chain
        + payload
        + bytes(16 if fields.get("flags", 0) & 8 else 0)
    )


def extension(kind: int, words: int, arg: int = 0) -> bytes:
    """Return an extension with a body of zeros."""
    return struct.pack("!BBH", kind, words, arg) + bytes(4 * max(words - 1, 0))


AMPLE = 1 << 62
"""Credit that no test uses up."""


@contextlib.contextmanager
def one_cpu() -> Iterator[None]:
    """Stay on one CPU: a source has a bucket on each."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Rig:
    """A loaded classifier whose classes all have a socket and ample credit, on queue 0."""

    def __init__(self, program: Program | None = None) -> None:
        self.program = open_classifier() if program is None else program
        self.socket = socket.socket(AF_XDP, socket.SOCK_RAW, 0)
        self._memory = self.program.maps["vk_lanes"].map_memory()
        self.lanes = ffi.from_buffer("struct vk_lane[]", self._memory)
        for klass in Class:
            self.program.maps["vk_xsks"].update(klass, self.socket.fileno())
            self.lanes[klass].granted = AMPLE
        self._before = self.totals()
        self._expected = self._before

    def forget(self) -> None:
        """Police nobody, and let all buckets and credit be as if nothing had come yet."""
        for klass in Class:
            lane = ffi.addressof(self.lanes, klass)
            ffi.memmove(lane, bytes(ffi.sizeof("struct vk_lane")), ffi.sizeof("struct vk_lane"))
            self.lanes[klass].granted = AMPLE
        self.program.set_source_police(0, 0)
        sources = self.program.maps["vk_sources"]
        for key in list(sources):
            sources.delete(key)

    def totals(self) -> dict[tuple[str, str], tuple[int, int, int]]:
        """Return the counters by lower-case names."""
        return {
            (klass.name.lower(), verdict.name.lower()): (row.packets, row.bytes, row.messages)
            for (klass, verdict), row in self.program.counts().items()
        }

    def delta(self) -> dict[tuple[str, str], tuple[int, int, int]]:
        """Return what was counted since the last call."""
        now = self.totals()
        zero = (0, 0, 0)
        changed = {
            key: tuple(a - b for a, b in zip(row, self._before.get(key, zero), strict=True))
            for key, row in now.items()
            if row != self._before.get(key)
        }
        self._before = now
        return changed  # type: ignore[return-value]

    def judge(self, packet: bytes, *, queue: int = 0) -> tuple[Run, str, str]:
        """Run one packet; return the run, the class and the verdict that was counted, once."""
        self.delta()
        run = self.program.test_run(packet, queue=queue)
        ((key, (packets, size, _)),) = self.delta().items()
        assert packets == 1
        assert size == len(packet)
        assert run.result == RESULTS[key[1].partition("_")[0]]
        assert run.packet == packet, "the packet itself was changed"
        return run, *key

    def check(self, packet: bytes, expected: Opinion) -> str:
        """Run one packet, compare with an opinion, return the difference or ''.

        Only the expected counter is read: ``settle`` compares the others, after many packets.
        """
        run = self.program.test_run(packet)
        key = (expected.klass, expected.verdict)
        before = self._expected.get(key, (0, 0, 0))
        steps = (1, len(packet), expected.messages)
        wanted = tuple(a + b for a, b in zip(before, steps, strict=True))
        found = self._row(*key)
        result = RESULTS[expected.verdict.partition("_")[0]]
        if found != wanted or run.result != result or run.packet != packet:
            self._expected = self.totals()
            return f"{packet.hex()}: {key} {found} {run.result}, expected {wanted} {result}"
        self._expected[key] = found
        return meta_difference(run, expected)

    def settle(self) -> bool:
        """Say whether nothing was counted but what ``check`` expected."""
        before, self._expected = self._expected, self.totals()
        return before == self._expected

    def _row(self, klass: str, verdict: str) -> tuple[int, int, int]:
        index = Class[klass.upper()] * lib.VK_VERDICT_COUNT + Verdict[verdict.upper()]
        row = self.program.maps["vk_counts"].lookup(index)
        assert row is not None
        numbers = memoryview(row).cast("Q")
        packets, size, more = (sum(numbers[i::3]) for i in range(3))
        return packets, size, (packets + more) % (1 << 64) if verdict == "steer" else 0

    def close(self) -> None:
        """Close the program and the socket."""
        self.lanes = None
        self._memory.close()
        self.socket.close()
        self.program.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def meta_difference(run: Run, expected: Opinion) -> str:
    """Compare the metadata block with an opinion."""
    if expected.verdict != "steer":
        return "" if not run.meta else "metadata in front of a packet that is not steered"
    meta = ffi.cast("struct vk_meta *", ffi.from_buffer(run.meta))
    found = (
        len(run.meta),
        meta.magic,
        Class(getattr(meta, "class")).name.lower(),
        meta.family,
        meta.l3_offset,
        run.packet[meta.frame_offset :][: meta.frame_size],
        run.packet[meta.payload_offset : meta.frame_offset + meta.frame_size],
    )
    wanted = (
        16,
        lib.VK_META_MAGIC,
        expected.klass,
        6 if ":" in expected.source else 4,
        expected.layer3,
        expected.frame,
        expected.payload,
    )
    return "" if found == wanted else f"metadata {found}, expected {wanted}"


VERDICTS = {verdict.name.lower() for verdict in Verdict}
