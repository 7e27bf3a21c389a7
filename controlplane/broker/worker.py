"""A worker process: forked from the broker, without rights, in C from then on."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from valkyrie.controlplane.confinement import sandbox
from valkyrie.dataplane import lib
from valkyrie.dataplane.errors import DataPlaneError

from .children import EXIT_FOREIGN, EXIT_LIBRARY, Child, close_others, describe, fork

if TYPE_CHECKING:
    from valkyrie.controlplane.confinement.privileges import User

_ORDER = struct.Struct("<IIIi")  # struct vk_order
_PROBE_S = 5.0
"""How long loading a library may take."""
FOREIGN = "it has other layouts than the running node"


class OrderKind(IntEnum):
    """``enum vk_order_kind``."""

    ATTACH = lib.VK_ORDER_ATTACH
    DETACH = lib.VK_ORDER_DETACH
    STOP = lib.VK_ORDER_STOP
    VIOLATION = lib.VK_ORDER_VIOLATION


@dataclass(frozen=True, slots=True)
class Order:
    """``struct vk_order``."""

    kind: int
    slot: int = 0
    generation: int = 0
    result: int = 0

    def pack(self) -> bytes:
        """Return the bytes of the order."""
        return _ORDER.pack(self.kind, self.slot, self.generation, self.result)

    @classmethod
    def parse(cls, data: bytes) -> Order:
        """Return the order in bytes."""
        return cls(*_ORDER.unpack_from(data))


class Worker:
    """A running worker, seen from the broker."""

    def __init__(self, process: Child, control: socket.socket) -> None:
        self.process = process
        self.control = control
        control.setblocking(False)

    def send(self, order: Order, descriptors: Sequence[int] = ()) -> None:
        """Give an order whose answer is waited for elsewhere; OSError: it could not be given."""
        socket.send_fds(self.control, [order.pack()], descriptors)

    def receive(self) -> Order | None:
        """Return the next order of the worker; None when it has gone; BlockingIOError if none."""
        try:
            data = self.control.recv(_ORDER.size)
        except BlockingIOError:
            raise
        except OSError:
            return None
        return Order.parse(data) if len(data) == _ORDER.size else None

    def ask_to_stop(self) -> None:
        """Let the worker leave at a clean boundary."""
        try:
            self.send(Order(OrderKind.STOP))
        except OSError:
            return  # it has gone already

    def reap(self) -> int:
        """Wait for its end and close what belongs to it; returns the exit status, or -signal."""
        self.control.close()
        return self.process.reap()


def _leave(why: str) -> NoReturn:
    print(f"valkyrie: the worker's library: {why}", file=sys.stderr, flush=True)
    os._exit(EXIT_LIBRARY)


def _load(library: int) -> ctypes.CDLL:
    """In a child: load a worker's library, or leave if it is none, or has other layouts."""
    try:
        loaded = ctypes.CDLL(f"/proc/self/fd/{library}")
        abi = loaded.vk_worker_abi()
    except (OSError, AttributeError) as error:
        _leave(str(error))
    if abi != lib.VK_WORKER_ABI:
        print(f"valkyrie: the worker's library: {FOREIGN}", file=sys.stderr, flush=True)
        os._exit(EXIT_FOREIGN)
    return loaded


def open_library(path: Path) -> int:
    """Open a worker's library; the broker itself never loads it."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DataPlaneError.of(
            error.errno or 0, f"open the worker's library {path}", "Reinstall the package"
        ) from error


def refused(what: str, status: int) -> DataPlaneError:
    """Return the error of an upgrade whose worker left with a status."""
    hint = "reinstall the package and try again"
    if status == EXIT_FOREIGN:
        hint = "to change to what is installed, stop the node and start it again"
    return DataPlaneError(
        errno.ENOEXEC, f"{what}; the old worker and programs run on, nothing has changed: {hint}"
    )


def probe(library: int) -> None:
    """Let a child load a library and leave; DataPlaneError when a worker could not run it."""

    def child(_parent: int) -> NoReturn:
        _load(library)
        os._exit(0)

    loading = fork(child, "worker")
    if not loading.ended(_PROBE_S):
        loading.kill()
    status = loading.reap()
    if status:
        raise refused(f"the installed worker {describe(status)}", status)


def pin(cpu: int) -> None:
    """Keep this process to a CPU; -1 is all of them."""
    if cpu < 0:
        return
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError as error:
        raise DataPlaneError.of(
            error.errno or 0, f"pin the worker to CPU {cpu}", "See worker.cpu"
        ) from error


def run(boot: int, library: int, user: User, parent: int, kept: Iterable[int]) -> NoReturn:
    """In the child: load the library, give up all rights, move frames."""
    loaded = _load(library)
    if lacking := loaded.vk_worker_load():
        _leave(f"libcrypto does not offer what it needs: {os.strerror(-lacking)}")
    close_others({0, 1, 2, *kept})
    sandbox.enter_worker(user, parent)
    result = loaded.vk_worker_run(ctypes.c_void_p(boot))
    os._exit(min(abs(result), EXIT_FOREIGN - 1))
