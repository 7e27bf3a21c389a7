"""The memory that broker, daemon and workers share, made once by the broker.

``vk_boot`` is C memory of the broker: a worker gets it by fork. State, work and counters are
shared mappings; each process keeps only the view it may use (``enter_worker``, ``enter_daemon``).
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

from valkyrie.controlplane.host.facts import MEMFD_SECRET
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.errors import DataPlaneError
from valkyrie.shm import counters

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FAILED = ctypes.c_void_p(-1).value
_MADV_DONTDUMP = 16  # linux/mman.h


class Mapping:
    """Shared memory at an address, without an owner in Python: it goes with the process."""

    def __init__(self, fd: int, size: int, *, writable: bool) -> None:
        rights = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        address = _libc.mmap(None, size, rights, mmap.MAP_SHARED, fd, 0)
        if address == _FAILED:
            raise DataPlaneError.of(ctypes.get_errno(), f"map {size} bytes of shared memory")
        self.address = int(address)
        self.size = size

    def cast(self, struct: str) -> Any:
        """Return the memory as a pointer to a C struct."""
        assert ffi.sizeof(f"struct {struct}") <= self.size
        return ffi.cast(f"struct {struct} *", self.address)

    def unmap(self) -> None:
        """Take the memory out of this process; every pointer into it is dead."""
        unmap(self.address, self.size)
        self.address = 0


def unmap(address: int, size: int) -> None:
    """Take memory out of this process."""
    if address:
        _libc.munmap(address, size)


class _Shared:
    """One struct with a writable and a read-only view."""

    def __init__(self, struct: str) -> None:
        size = ffi.sizeof(f"struct {struct}")
        fd = os.memfd_create(struct, os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            self.writable = Mapping(fd, size, writable=True)
            self.readable = Mapping(fd, size, writable=False)
        finally:
            os.close(fd)  # the mappings keep the memory
        self.struct = struct

    def write(self) -> Any:
        return self.writable.cast(self.struct)

    def read(self) -> Any:
        return self.readable.cast(self.struct)


def _secret_memory(size: int) -> int:
    """Return a descriptor of memory that not even the kernel maps, where there is such.

    memfd_secret(2), Linux 5.14, and enabled by default since 6.5; elsewhere common shared memory.
    """
    fd = _libc.syscall(MEMFD_SECRET, os.O_CLOEXEC)
    if fd >= 0:
        try:
            os.ftruncate(fd, size)
            probe = Mapping(fd, size, writable=True)
        except (OSError, DataPlaneError):  # over the limit of locked memory
            os.close(fd)
        else:
            probe.unmap()
            return int(fd)
    fd = os.memfd_create("vk_secrets", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


def _make_secrets() -> Mapping:
    size = ffi.sizeof("struct vk_secrets")
    fd = _secret_memory(size)
    try:
        mapping = Mapping(fd, size, writable=True)
    finally:
        os.close(fd)
    _libc.madvise(mapping.address, _whole_pages(size), _MADV_DONTDUMP)
    return mapping


def _whole_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


class Boot:
    """Everything that outlives the broker's children."""

    def __init__(self, node: str, gid: int) -> None:
        """Make the memory; a counters object that a crashed node left is replaced."""
        self.node = node
        self.struct = ffi.new("struct vk_boot *")
        self._state = _Shared("vk_state")
        self._work = _Shared("vk_work")
        self._counters = self._make_counters(gid)
        self.state = self._state.write()
        self.work = self._work.write()
        self.counters = self._counters.cast("vk_counters")
        self._secrets = _make_secrets()
        self.secrets = self._secrets.cast("vk_secrets")
        for shared in (self.state, self.work, self.secrets):
            shared.magic, shared.abi = lib.VK_SHM_MAGIC, lib.VK_WORKER_ABI
        boot = self.struct
        boot.state, boot.work, boot.counters = self._state.read(), self.work, self.counters
        boot.secrets = self.secrets
        boot.control_fd = boot.python_fd = boot.cpu = -1

    def _make_counters(self, gid: int) -> Mapping:
        fd = counters.create(self.node, gid)
        try:
            return Mapping(fd, ffi.sizeof("struct vk_counters"), writable=True)
        finally:
            os.close(fd)

    @property
    def address(self) -> int:
        """Where ``vk_boot`` is."""
        return int(ffi.cast("uintptr_t", self.struct))

    def enter_worker(self) -> None:
        """In a worker: it only reads the state."""
        self._state.writable.unmap()
        self._work.readable.unmap()

    def enter_daemon(self) -> None:
        """In the daemon: it only reads the work, and has no business with the boot."""
        self._state.readable.unmap()
        self._work.writable.unmap()
        self.work = self._work.read()
        self.struct = ffi.NULL

    def close(self) -> None:
        """Remove the counters object and give the memory back."""
        counters.unlink(self.node)
        for shared in (self._state, self._work):
            shared.writable.unmap()
            shared.readable.unmap()
        self._counters.unmap()
        self._secrets.unmap()
