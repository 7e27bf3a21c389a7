"""Two applications of one host meet on a Unix socket and then share a ring; no daemon anywhere.

The party that serves makes the memory and hands it over; both memfds are sealed before they leave.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection
from pathlib import Path

from ._shm import ffi, lib
from .errors import RingError
from .ring import RINGS_MAX, Channel

_HELLO = b"valkyrie ring 1"
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid

RING_SIZE = 1 << 20
"""Bytes of a ring and direction, unless said otherwise."""


def _address(path: str) -> str:
    return "\0" + path[1:] if path.startswith("@") else path


def pair(ring_size: int = RING_SIZE) -> tuple[list[int], list[int]]:
    """Return the descriptors of both ends of a new channel, each ``Channel(*descriptors)``."""
    capacity = ffi.new("uint32_t[]", RINGS_MAX)
    capacity[0] = ring_size
    regions: list[int] = []
    for _ in range(2):
        fd = lib.vk_channel_create(capacity, 1, 0)
        if fd < 0:
            raise RingError(-fd, f"no ring of {ring_size} bytes: ask for a power of two")
        lib.vk_channel_seal(fd, 0)
        regions.append(fd)
    bells = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2)]
    here = [regions[0], regions[1], bells[0], bells[1]]
    there = [os.dup(fd) for fd in (regions[1], regions[0], bells[1], bells[0])]
    return here, there


class Listener:
    """A place where other applications of this host can connect."""

    def __init__(
        self,
        path: str,
        *,
        ring_size: int = RING_SIZE,
        uids: Collection[int] | None = None,
    ) -> None:
        """Listen on *path* (``@name`` is an abstract name). Only *uids* (default: ours) may."""
        self._path, self._ring_size = path, ring_size
        self._uids = frozenset({os.getuid()} if uids is None else uids)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(_address(path))
        self._socket.listen()

    def accept(self, timeout_s: float | None = None) -> Channel:
        """Return a channel to the next application; raises TimeoutError or RingError."""
        self._socket.settimeout(timeout_s)
        caller, _ = self._socket.accept()
        with caller:
            caller.settimeout(1.0)
            packed = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            _, uid, _ = _CREDENTIALS.unpack(packed)
            if uid not in self._uids:
                raise RingError(1, f"uid {uid} may not connect here")
            here, there = pair(self._ring_size)
            try:
                socket.send_fds(caller, [_HELLO], there)
            except OSError:
                for fd in here:
                    os.close(fd)
                raise
            finally:
                for fd in there:
                    os.close(fd)
            return Channel(*here)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        if not self._path.startswith("@"):
            Path(self._path).unlink(missing_ok=True)


def connect(path: str, timeout_s: float = 5.0) -> Channel:
    """Return a channel to the application that listens on *path*; raises OSError or RingError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
        caller.settimeout(timeout_s)
        caller.connect(_address(path))
        hello, fds, _, _ = socket.recv_fds(caller, len(_HELLO) + 1, 4)
    if hello != _HELLO or len(fds) != 4:
        for fd in fds:
            os.close(fd)
        raise RingError(71, f"{path} refused, or is no Valkyrie ring")
    return Channel(*fds)
