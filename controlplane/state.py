"""Writes the rows of ``vk_state``: the daemon's side of the memory that workers read.

A row is seqlocked: its sequence is odd while it is being written, and readers try again.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, get_args

from valkyrie import shm
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.wire import Class

from .settings import Controller

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .policy import Grant
    from .settings import Classes, Transport
    from .settings import Worker as WorkerSettings

NS_PER_MS = 1_000_000


@contextlib.contextmanager
def writing(row: Any) -> Iterator[Any]:
    """Write a row; what a dead daemon left half written is taken over."""
    sequence = _counter(row, "sequence")
    shm.lib.vk_row_begin(sequence)
    try:
        yield row
    finally:
        shm.lib.vk_row_end(sequence)


def _counter(struct: Any, name: str) -> Any:
    """Return a counter's address, for shm's functions."""
    return shm.ffi.cast("uint32_t *", int(ffi.cast("uintptr_t", ffi.addressof(struct, name))))


def _put(target: Any, data: bytes) -> None:
    size = ffi.sizeof(target)
    ffi.memmove(target, data[:size].ljust(size, b"\0"), size)


def get(source: Any) -> str:
    """Return the text in a byte array."""
    return bytes(source).split(b"\0")[0].decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Way:
    """How frames reach a peer; without MAC addresses only the kernel path can send."""

    port_index: int
    source: IPv4Address | IPv6Address
    payload_max: int
    mac: bytes = b""
    source_mac: bytes = b""

    @property
    def resolved(self) -> bool:
        """Say whether the MAC addresses are known."""
        return len(self.mac) == 6 and len(self.source_mac) == 6


class State:
    """All rows of a node."""

    def __init__(self, pointer: Any) -> None:
        self.rows = pointer

    def beat(self, now_ns: int) -> None:
        """Show workers that the daemon lives."""
        self.rows.daemon_heartbeat_ns = now_ns

    def set_parameters(
        self, settings: WorkerSettings, transport: Transport, classes: Classes
    ) -> None:
        """Tell workers how to work."""
        with writing(self.rows.params) as row:
            row.spin_ns = settings.spin_us * 1000
            row.budget_frames = settings.budget_frames
            row.aggregate = settings.aggregate
            row.reassembly_bytes = settings.reassembly_bytes
            patience_ns = settings.reassembly_ms * NS_PER_MS
            row.reassembly_ns_high = patience_ns >> 32
            row.reassembly_ns_low = patience_ns & 0xFFFFFFFF
            row.stamp = settings.stamp
            row.controller = get_args(Controller).index(transport.controller)
            row.ack_delay_us = transport.ack_delay_us
            row.window_bytes = transport.window_bytes
            for klass in Class:
                quantum = getattr(classes, klass.name.lower()).quantum_bytes
                row.quantum_bytes[klass] = quantum

    # ---- Peers ----

    def set_peer(self, index: int, address: str, udp_port: int) -> None:
        """Enter a configured peer; one that is there already, from an earlier daemon, stays."""
        parsed = ip_address(address)
        row = self.rows.peers[index]
        same = (
            row.state == lib.VK_ROW_LIVE
            and row.family == parsed.version
            and bytes(row.address)[: len(parsed.packed)] == parsed.packed
            and row.udp_port == udp_port
        )
        if same and not row.sequence & 1:
            return
        with writing(row):
            row.family = parsed.version
            _put(row.address, parsed.packed)
            row.udp_port = udp_port
            row.resolved = 0
            row.session = row.session_local = 0
            row.joined = 1
            row.generation += 1
            row.state = lib.VK_ROW_LIVE
        self._changed_peers()

    def set_way(self, index: int, way: Way | None) -> bool:
        """Enter how a peer is reached, None = not now; says whether that changed."""
        row = self.rows.peers[index]
        if way is None:
            if not row.resolved:
                return False
            with writing(row):
                row.resolved = 0
            self._changed_peers()
            return True
        if self._way(row) == way:
            return False
        with writing(row):
            row.port_index = way.port_index
            _put(row.source, way.source.packed)
            row.payload_max = way.payload_max
            _put(row.mac, way.mac)
            _put(row.source_mac, way.source_mac)
            row.resolved = way.resolved
        self._changed_peers()
        return True

    @staticmethod
    def _way(row: Any) -> Way | None:
        if not row.payload_max:
            return None
        known = bool(row.resolved)
        return Way(
            port_index=row.port_index,
            source=ip_address(bytes(row.source)[: 4 if row.family == 4 else 16]),
            payload_max=row.payload_max,
            mac=bytes(row.mac) if known else b"",
            source_mac=bytes(row.source_mac) if known else b"",
        )

    def _changed_peers(self) -> None:
        shm.lib.vk_epoch_bump(_counter(self.rows, "peer_epoch"))

    # ---- Applications ----

    def free_slot(self, taken: set[int]) -> int | None:
        """Return a slot that nobody has, None when all are taken."""
        for index in range(lib.VK_APPS_MAX):
            if index not in taken and self.rows.apps[index].state == lib.VK_ROW_FREE:
                return index
        return None

    def set_application(self, slot: int, grant: Grant, uid: int, pid: int) -> int:
        """Enter an application and return its slot's new generation."""
        row = self.rows.apps[slot]
        with writing(row):
            row.class_mask = grant.class_mask
            row.weight = grant.weight
            row.generation = row.generation % 0xFFFFFFFF + 1
            row.uid, row.pid = uid, pid
            row.range_count = len(grant.streams)
            for i, streams in enumerate(grant.streams):
                row.range_first[i], row.range_last[i] = streams.first, streams.last
            row.rate_messages, row.rate_bytes = grant.rate_messages, grant.rate_bytes
            row.state = lib.VK_ROW_LIVE
        return int(row.generation)

    def set_application_state(self, slot: int, state: int) -> None:
        """Mark an application as closing, or its slot as free."""
        with writing(self.rows.apps[slot]) as row:
            row.state = state

    # ---- Services ----

    def services(self) -> dict[str, tuple[int, int]]:
        """Return slot and generation of the application behind every service."""
        return {
            bytes(row.name)[: row.name_size].decode(): (row.app, row.app_generation)
            for row in self.rows.services
            if row.state == lib.VK_ROW_LIVE
        }

    def add_service(self, name: str, slot: int, generation: int) -> bool:
        """Bind a service; False when there are too many."""
        for row in self.rows.services:
            if row.state != lib.VK_ROW_FREE:
                continue
            data = name.encode()
            with writing(row):
                _put(row.name, data)
                row.name_size = len(data)
                row.app, row.app_generation = slot, generation
                row.state = lib.VK_ROW_LIVE
            self._changed_services()
            return True
        return False

    def remove_service(self, name: str) -> None:
        """Unbind a service."""
        data = name.encode()
        for row in self.rows.services:
            if row.state == lib.VK_ROW_LIVE and bytes(row.name)[: row.name_size] == data:
                with writing(row):
                    row.state = lib.VK_ROW_FREE
        self._changed_services()

    def _changed_services(self) -> None:
        shm.lib.vk_epoch_bump(_counter(self.rows, "service_epoch"))


def set_application_name(counters: Any, slot: int, name: str, uid: int, pid: int) -> None:
    """Say in the counters page whose a slot's counters are."""
    _put(counters.app_name[slot], name.encode()[:31])
    counters.app_uid[slot], counters.app_pid[slot] = uid, pid
