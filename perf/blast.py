"""Applications in C for benchmarks: an open stream's rings, driven by ``vk_blast``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.application.node import SyncService
from valkyrie.dataplane.application.stream import SyncStream

DEADLINE_NS = 20_000_000_000
OPEN_S = 10.0


@dataclass(frozen=True)
class Result:
    """What one end saw; ``corrupt`` messages had other contents than their number says."""

    messages: int
    bytes: int
    lost: int
    corrupt: int
    elapsed_ns: int

    @property
    def per_second(self) -> float:
        """Messages a second from the first to the last."""
        return self.messages * 1e9 / max(self.elapsed_ns, 1)


def accept(service: SyncService) -> Blast:
    """Return the end of the next stream and tell the other end that it may begin.

    What came before would have been taken out of the ring by Python, unseen by the loops in C.
    """
    stream = service.accept(timeout=OPEN_S)
    stream.send(b"ready")
    return Blast(stream)


def begin(stream: SyncStream) -> Blast:
    """Return this end of a stream once the other end is ready."""
    stream.recv(timeout=OPEN_S)
    return Blast(stream)


class Blast:
    """One end of a stream, at full speed."""

    def __init__(self, stream: SyncStream, *, spin_ns: int = 0) -> None:
        """Take over an open stream; ``spin_ns``: how long it polls before it sleeps."""
        self.stream = stream
        self._client = stream._driver.rings.client  # noqa: SLF001
        self._flow = stream._flow  # noqa: SLF001
        self._outlet, self._inlet = self._flow.outlet, self._flow.inlet
        if spin_ns:
            self._client.spin.max_ns = spin_ns

    @staticmethod
    def _result(raw: Any) -> Result:
        return Result(raw.messages, raw.bytes, raw.lost, raw.corrupt, raw.elapsed_ns)

    def send(self, size: int, count: int, *, batch: int, deadline_ns: int = DEADLINE_NS) -> Result:
        """Send numbered messages, *batch* at a time, waiting for room."""
        raw = ffi.new("struct vk_blast_result *")
        lib.vk_blast_send(self._client, self._outlet, size, count, batch, deadline_ns, raw)
        return self._result(raw)

    def receive(self, count: int, *, deadline_ns: int = DEADLINE_NS) -> Result:
        """Take *count* messages, or what comes before the deadline."""
        raw = ffi.new("struct vk_blast_result *")
        lib.vk_blast_receive(self._client, self._outlet, self._inlet, count, deadline_ns, raw)
        self._flow.expected += raw.records
        return self._result(raw)

    def ping(self, size: int, count: int, *, deadline_ns: int = DEADLINE_NS) -> list[int]:
        """Return sorted round-trip times in nanoseconds, one message at a time."""
        raw, times = ffi.new("struct vk_blast_result *"), ffi.new("uint64_t[]", count)
        ends = self._client, self._outlet, self._inlet
        lib.vk_blast_ping(*ends, size, count, deadline_ns, times, raw)
        self._flow.expected += raw.messages
        return sorted(times[0 : raw.messages])

    def echo(self, count: int, *, deadline_ns: int = DEADLINE_NS) -> Result:
        """Send back *count* messages as they come."""
        raw = ffi.new("struct vk_blast_result *")
        lib.vk_blast_echo(self._client, self._outlet, self._inlet, count, deadline_ns, raw)
        self._flow.expected += raw.messages
        return self._result(raw)
