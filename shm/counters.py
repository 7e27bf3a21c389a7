"""The counters page of a node: one named POSIX shared-memory object, readable by anybody allowed.

It is read as it stands, while everything runs or after everybody died; values are 64 bits and
never reset. Layout and names: ``vk_counters`` and its enums in ``vk_counters.h``.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import time
from collections.abc import Mapping
from typing import Any, Self

import posix_ipc

from ._shm import ffi, lib
from .errors import CountersError

_STRANGE = (
    "is none of a node's counters, which root or you would have made: see what it is, and remove it"
)
_FOREIGN = "the counters are another version's: read them with that version's valkyrie"

HEARTBEAT_MAX_NS = 2_000_000_000
"""A daemon silent for longer is not running."""


def object_name(node: str) -> str:
    """Return the name of a node's shared-memory object."""
    return f"/valkyrie.{node}"


def unlink(node: str) -> None:
    """Remove the counters object of a node, if there is one; who has it open keeps it."""
    try:
        posix_ipc.unlink_shared_memory(object_name(node))
    except posix_ipc.ExistentialError:
        return


def create(node: str, gid: int = -1) -> int:
    """Make the counters object of a node and return its descriptor; an older one is replaced.

    Its group (*gid*; -1: the process's own) may read it, whatever the umask says.
    """
    unlink(node)
    size = ffi.sizeof("struct vk_counters")
    memory = posix_ipc.SharedMemory(object_name(node), posix_ipc.O_CREX, mode=0o640, size=size)
    fd = int(memory.fd)
    try:
        os.fchmod(fd, 0o640)
        os.fchown(fd, -1, gid)
        with mmap.mmap(fd, size) as mapped, ffi.from_buffer(mapped) as data:
            page = ffi.cast("struct vk_counters *", data)
            name = node.encode()[: lib.VK_NAME_MAX - 1]
            page.node = name + bytes(lib.VK_NAME_MAX - len(name))
            page.started_ns = time.time_ns()
            page.abi = lib.VK_COUNTERS_ABI
            page.magic = lib.VK_SHM_MAGIC  # last: readers look at it first
    except BaseException:
        os.close(fd)
        unlink(node)
        raise
    return fd


def enum_names(enum: str, prefix: str, *, without: str) -> dict[int, str]:
    """Return the values of a C enum by user-facing name: lower case, no prefix, no count."""
    elements: Mapping[int, str] = ffi.typeof(f"enum {enum}").elements
    return {
        value: name.removeprefix(prefix).lower()
        for value, name in elements.items()
        if name != without
    }


COUNTERS = enum_names("vk_counter", "VK_", without="VK_COUNTER_COUNT")
"""Per class, by index."""
GAUGES = enum_names("vk_gauge", "VK_", without="VK_GAUGE_COUNT")
"""Per node, by index."""
APP_COUNTS = tuple(name for name, _ in ffi.typeof("struct vk_app_count").fields)
XSK_COUNTS = tuple(
    name for name, _ in ffi.typeof("struct vk_verdicts").fields if name.startswith("xsk_")
)


def text_of(field: Any) -> str:
    """Return what a field of text says, whatever was written there."""
    return bytes(field).split(b"\0")[0].decode(errors="replace")


def _open(node: str) -> int:
    """Return a descriptor of a node's counters, of a size and from somebody to be trusted."""
    name = object_name(node)
    try:
        # Without waiting for who writes into a pipe.
        fd = int(posix_ipc.SharedMemory(name, flags=os.O_NONBLOCK, read_only=True).fd)
    except posix_ipc.ExistentialError:
        raise CountersError(
            errno.ENOENT,
            f"node {node!r} has no counters: it was never started here, or was stopped",
        ) from None
    except posix_ipc.PermissionsError:
        raise CountersError(
            errno.EACCES,
            f"no permission to read the counters of node {node!r}: join the group that "
            "owns them, or ask as root",
        ) from None
    except (OSError, posix_ipc.Error):  # such as a symbolic link
        raise CountersError(errno.EPROTO, f"shared memory {name} {_STRANGE}") from None
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()):
        os.close(fd)
        raise CountersError(errno.EPROTO, f"shared memory {name} {_STRANGE}")
    if found.st_size < ffi.sizeof("struct vk_counters"):
        os.close(fd)
        raise CountersError(errno.EPROTO, f"{_FOREIGN}: node {node!r}")
    return fd


class CountersPage:
    """A read-only view of a node's counters."""

    def __init__(self, node: str) -> None:
        """Open the page; raises CountersError when there is none, or it is something else."""
        fd = _open(node)
        try:
            size = ffi.sizeof("struct vk_counters")
            self._map = mmap.mmap(fd, size, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        self.node = node
        self.struct: Any = ffi.cast("struct vk_counters *", ffi.from_buffer(self._map))
        if self.struct.magic != lib.VK_SHM_MAGIC or self.struct.abi != lib.VK_COUNTERS_ABI:
            self.close()
            raise CountersError(errno.EPROTO, f"{_FOREIGN}: node {node!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the mapping back."""
        self.struct = None
        try:
            self._map.close()
        except BufferError:  # somebody still holds a view: it goes with him
            return

    @property
    def running(self) -> bool:
        """Whether the node's daemon is alive: its process exists and beats."""
        age_ns = time.monotonic_ns() - self.struct.daemon_heartbeat_ns
        try:
            os.kill(self.struct.daemon_pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return bool(age_ns < HEARTBEAT_MAX_NS)
        return bool(self.struct.daemon_pid) and bool(age_ns < HEARTBEAT_MAX_NS)

    def class_row(self, index: int) -> dict[str, int]:
        """Return the worker's counters of a class, by name."""
        row = self.struct.classes[index]
        return {name: int(row[at]) for at, name in COUNTERS.items()}

    def gauges(self) -> dict[str, int]:
        """Return the worker's gauges, by name."""
        return {name: int(self.struct.gauges[at]) for at, name in GAUGES.items()}

    def app_row(self, slot: int, index: int) -> dict[str, int]:
        """Return an application's counters of a class, by name, since it has the slot."""
        row, before = self.struct.apps[slot][index], self.struct.app_before[slot][index]
        return {name: int(getattr(row, name) - getattr(before, name)) for name in APP_COUNTS}

    def ports(self) -> list[tuple[str, Any]]:
        """Return ``(interface, struct vk_verdicts)`` of every port."""
        return [
            (text_of(self.struct.verdicts[port].interface), self.struct.verdicts[port])
            for port in range(min(self.struct.port_count, len(self.struct.verdicts)))
        ]
