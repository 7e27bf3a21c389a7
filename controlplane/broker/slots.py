"""Application slots, the broker's side: rings in two memfds, mapped at reserved addresses.

Broker and workers map a slot at the same place, so that a worker forked after another one died has
the rings already: an application does not notice.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from valkyrie import shm
from valkyrie.controlplane.confinement import rights
from valkyrie.controlplane.security import policy
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.errors import DataPlaneError
from valkyrie.dataplane.wire import Class

from . import boot as memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def span(class_count: int, ring_bytes: int) -> int:
    """Return the address space that a region with such rings takes."""
    capacity = [lib.VK_CONTROL_RING] + [ring_bytes] * class_count
    capacity += [0] * (lib.VK_RINGS_MAX - len(capacity))
    return int(shm.lib.vk_channel_span(capacity))


def largest_span(rules: Iterable[policy.Rule]) -> int:
    """Return the address space of the largest region that any rule allows."""
    largest = span(1, lib.VK_RING_CAPACITY_MIN)
    for rule in rules:
        count = len(rule.grant.classes)
        size = lib.VK_RING_CAPACITY_MIN
        while (
            size * 2 <= lib.VK_RING_CAPACITY_MAX
            and policy.memory_bytes(count, size * 2) <= rule.grant.memory_bytes_max
        ):
            size *= 2
        largest = max(largest, span(count, size))
    return largest


@dataclass(slots=True)
class Slot:
    """An attached application: its rings' capacities and the connection that is its lease."""

    generation: int
    capacity: tuple[int, ...]
    connection: socket.socket
    cut_off: bool = False
    """It broke the rules of its rings."""


@dataclass(frozen=True, slots=True)
class Regions:
    """The descriptors of a slot, in the order in which they travel."""

    region_d: int
    region_a: int
    bell_app: int
    """The worker's end of the socket that wakes the application (see vk_bell.h)."""
    bell_worker: int
    bell_end: int
    """The application's end of it; nobody else keeps that."""

    def for_worker(self) -> list[int]:
        """Return what a worker gets."""
        return [self.region_d, self.region_a, self.bell_app, self.bell_worker]

    def for_application(self) -> list[int]:
        """Return what the application gets; the caller closes it."""
        return [self.region_d, self.region_a, self.bell_end, os.dup(self.bell_worker)]

    def seal(self) -> None:
        """Forbid the application to resize the regions, or to write to region D."""
        for fd, future_write in ((self.region_d, 1), (self.region_a, 0)):
            result = shm.lib.vk_channel_seal(fd, future_write)
            if result < 0:
                raise DataPlaneError.of(result, "seal an application's rings")

    def close(self) -> None:
        """Close what nobody on this side keeps; the mappings and our bells stay."""
        for fd in (self.region_d, self.region_a, self.bell_end):
            os.close(fd)


def _make_region(capacity: Sequence[int], generation: int) -> int:
    fd = int(shm.lib.vk_channel_create(list(capacity), len(Class), generation))
    if fd < 0:
        raise DataPlaneError.of(fd, "make an application's rings")
    return fd


def _make_bell() -> tuple[int, int]:
    """Return our end of a socket and the application's, which can only be received from.

    Nothing can be sent to our end, so nobody has to receive, or to close, what is sent.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.shutdown(socket.SHUT_RD)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)  # the least there is: a few rings
    return ours.detach(), theirs.detach()


class Slots:
    """All slots of a node."""

    def __init__(self, boot: memory.Boot, span_bytes: int) -> None:
        """Reserve ``span_bytes`` of addresses for each region of each slot."""
        self._boot = boot
        self._span = -(-span_bytes // lib.VK_SHM_PAGE) * lib.VK_SHM_PAGE
        self._size = 2 * lib.VK_APPS_MAX * self._span
        self.attached: dict[int, Slot] = {}
        base = shm.lib.vk_channel_reserve(self._size)
        if base == shm.ffi.NULL:
            raise DataPlaneError.of(
                shm.ffi.errno,
                f"reserve {self._size >> 20} MiB of addresses for applications",
                "Raise the limit of address space (ulimit -v), or lower memory_bytes_max",
            )
        self._base = int(shm.ffi.cast("uintptr_t", base))
        for i in range(lib.VK_APPS_MAX):
            slot = boot.struct.slots[i]
            slot.map_size = self._span
            slot.region_d = pointer_to(self._base + 2 * i * self._span)
            slot.region_a = pointer_to(self._base + (2 * i + 1) * self._span)
            slot.bell_app = slot.bell_worker = -1

    def create(
        self, index: int, generation: int, capacity: Sequence[int], connection: socket.socket
    ) -> Regions:
        """Make and map the rings of a free slot; the caller closes the returned regions."""
        if index >= lib.VK_APPS_MAX or index in self.attached:
            raise DataPlaneError.of(errno.EBUSY, f"attach an application to slot {index}")
        if int(shm.lib.vk_channel_span(list(capacity))) > self._span:
            raise DataPlaneError.of(errno.E2BIG, f"make rings of {max(capacity)} bytes")
        made: list[int] = []
        try:
            for _ in range(2):  # one by one, so that a failure closes what is there
                made.append(_make_region(capacity, generation))  # noqa: PERF401
            made.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            made += _make_bell()
            regions = Regions(made[0], made[1], made[3], made[2], made[4])
            self._map(index, regions, capacity)
        except BaseException:
            for fd in made:
                os.close(fd)
            raise
        self._forget(index)
        slot = self._boot.struct.slots[index]
        slot.generation = generation
        slot.bell_app, slot.bell_worker = regions.bell_app, regions.bell_worker
        slot.attached = 1
        self.attached[index] = Slot(generation, tuple(capacity), connection)
        return regions

    def _forget(self, index: int) -> None:
        """Forget how far rings were that the slot had before: a worker may find the new ones here
        without ever having been told to attach them."""
        work = self._boot.work
        for counts in (work.committed[index], work.looked[index]):
            ffi.buffer(counts)[:] = bytes(ffi.sizeof(counts))

    def _map(self, index: int, regions: Regions, capacity: Sequence[int]) -> None:
        slot = self._boot.struct.slots[index]
        for fd, place, writable in (
            (regions.region_d, slot.region_d, 1),
            (regions.region_a, slot.region_a, 0),
        ):
            at = shm.ffi.cast("void *", address_of(place))
            if shm.lib.vk_channel_map(fd, list(capacity), writable, at) == shm.ffi.NULL:
                error = DataPlaneError.of(shm.ffi.errno, "map an application's rings")
                if writable == 0:
                    self._unmap(slot.region_d, capacity)
                raise error

    @staticmethod
    def _unmap(place: object, capacity: Sequence[int]) -> None:
        region = shm.ffi.cast("struct vk_region *", address_of(place))
        shm.lib.vk_channel_unmap(region, list(capacity), 1)

    def remove(self, index: int) -> None:
        """Unmap a slot and close its bells and its connection."""
        self._remove(index).close()

    def _remove(self, index: int) -> socket.socket:
        held = self.attached.pop(index)
        slot = self._boot.struct.slots[index]
        slot.attached = 0
        for place in (slot.region_d, slot.region_a):
            self._unmap(place, held.capacity)
        os.close(slot.bell_app)
        os.close(slot.bell_worker)
        slot.bell_app = slot.bell_worker = -1
        return held.connection

    def fill(self) -> dict[int, dict[str, dict[str, float]]]:
        """Return how full the rings are, 0 to 1, by slot and class: rx is towards applications.

        For people to look at: an application may have scribbled over its half of the numbers.
        """
        found = {}
        for index, held in self.attached.items():
            slot = self._boot.struct.slots[index]
            d, a = (
                shm.ffi.cast("struct vk_region *", address_of(place))
                for place in (slot.region_d, slot.region_a)
            )
            found[index] = {
                klass.name.lower(): {
                    "rx": _share(d.tail[klass] - a.head[klass], held.capacity[klass]),
                    "tx": _share(a.tail[klass] - d.head[klass], held.capacity[klass]),
                }
                for klass in Class
                if klass != Class.CONTROL and held.capacity[klass]
            }
        return found

    def bells(self) -> list[int]:
        """Return our descriptors of the attached slots' bells."""
        slots = self._boot.struct.slots
        return [fd for i in self.attached for fd in (slots[i].bell_app, slots[i].bell_worker)]

    def leave(self) -> None:
        """In a process that has no business with the rings: take them out of it."""
        memory.unmap(self._base, self._size)

    def close(self) -> None:
        """Remove all slots and the reservation; the process is about to end."""
        for index in list(self.attached):
            rights.leave(self._remove(index))
        memory.unmap(self._base, self._size)


def _share(used: int, capacity: int) -> float:
    return round(min(max(used, 0) / capacity, 1.0), 3)


def pointer_to(address: int) -> object:
    """Return an address as ``vk_boot`` holds it."""
    return ffi.cast("uint8_t *", address)


def address_of(pointer: object) -> int:
    """Return the address of a pointer."""
    return int(ffi.cast("uintptr_t", pointer))
