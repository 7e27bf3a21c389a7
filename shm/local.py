"""Two applications of one host meet on a Unix socket and then share a ring; no daemon anywhere.

The party that serves makes the memory, seals it and hands it over. The socket stays: it is the bell
of both, and its end tells that the other party is gone. Either party may be hostile: it can break
the channel it shares, and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Self

from ._shm import ffi, lib
from .errors import RingClosedError, RingError
from .ring import Channel

__all__ = ["RING_SIZE", "Channel", "RingClosedError", "RingError", "Server", "connect", "serve"]

_HELLO = b"valkyrie ring 2"
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid

_SO_PASSRIGHTS = 83  # Linux 6.16, asm-generic/socket.h

RING_SIZE = 1 << 20
"""Bytes of a ring and direction, unless said otherwise."""


def _address(path: str) -> str:
    return "\0" + path[1:] if path.startswith("@") else path


def _refuse_descriptors(bell: socket.socket) -> None:
    """Let nobody send descriptors to a bell: who empties it would have to close them.

    That can take as long as the sender likes, and kernels before 6.16 do not know better.
    """
    with contextlib.suppress(OSError):
        bell.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


def _make(ring_size: int, bell: int) -> tuple[Channel, tuple[int, int]]:
    """Return the maker's end of a new channel, and the other party's (own, other) regions."""
    capacity = ffi.new("uint32_t[]", lib.VK_RINGS_MAX)
    regions: list[int] = []
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, bell)
        if not 0 < ring_size <= lib.VK_RING_CAPACITY_MAX:
            raise RingError(errno.EINVAL, f"no ring of {ring_size} bytes")
        capacity[0] = ring_size
        for _ in range(2):
            fd = lib.vk_channel_create(capacity, 1, 0)
            if fd < 0:
                raise RingError(-fd, f"no ring of {ring_size} bytes: ask for a power of two")
            undo.callback(os.close, fd)
            regions.append(fd)
        own, other = regions
        theirs = (os.dup(other), os.dup(own))
        undo.pop_all()
    try:
        return Channel(own, other, bell, maker=True), theirs
    except BaseException:
        for fd in theirs:
            os.close(fd)
        raise


def pair(ring_size: int = RING_SIZE) -> tuple[Channel, Channel]:
    """Return both ends of a new channel, for two threads or a fork."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        _refuse_descriptors(here)
        _refuse_descriptors(there)
        end, theirs = _make(ring_size, here.detach())
        own, other = theirs
        return end, Channel(own, other, there.detach())


def _credentials(peer: socket.socket, allowed: frozenset[int]) -> tuple[int, int, int]:
    packed = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(packed)
    if uid not in allowed:
        raise RingError(errno.EACCES, f"uid {uid} is none of the users allowed here")
    return pid, uid, gid


def _named(error: OSError, what: str, path: str, hint: str) -> OSError:
    """Return an error of the same kind that says of what."""
    if error.errno is None:  # a timeout
        return type(error)(f"{what} {path!r}: {error}")
    text = f"{what} {path!r}: {error.strerror}"
    return OSError(error.errno, f"{text}: {hint}" if hint else text)


def _users(allowed_uids: Collection[int] | None) -> frozenset[int]:
    return frozenset({os.getuid()} if allowed_uids is None else allowed_uids)


class Server:
    """A place where other applications of this host can connect."""

    def __init__(
        self,
        path: str,
        *,
        ring_size: int = RING_SIZE,
        allowed_uids: Collection[int] | None = None,
    ) -> None:
        self._path, self._ring_size = path, ring_size
        self._allowed = _users(allowed_uids)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.bind(_address(path))
            _refuse_descriptors(self._socket)  # whoever is accepted inherits it
            self._socket.listen()
        except OSError as error:
            self._socket.close()
            hint = "somebody serves it, or died and left it behind: remove it then"
            taken = error.errno == errno.EADDRINUSE
            raise _named(error, "serve", path, hint if taken else "") from None

    def fileno(self) -> int:
        """Return the descriptor that is readable while somebody waits to be accepted."""
        return self._socket.fileno()

    def accept(self, timeout_s: float | None = None) -> Channel:
        """Return a channel to the next application; raises TimeoutError or RingError."""
        self._socket.settimeout(timeout_s)
        caller, _ = self._socket.accept()
        with caller:
            peer = _credentials(caller, self._allowed)
            channel, theirs = _make(self._ring_size, os.dup(caller.fileno()))
            try:
                caller.setblocking(False)  # whoever does not take it, loses it
                socket.send_fds(caller, [_HELLO], theirs)
            except OSError as error:
                channel.close()
                raise RingError(error.errno, "the caller went away") from error
            finally:
                for fd in theirs:
                    os.close(fd)
            channel.peer = peer
            return channel

    def close(self) -> None:
        """Stop listening; channels stay."""
        self._socket.close()
        if not self._path.startswith("@"):
            Path(self._path).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(
    path: str, *, ring_size: int = RING_SIZE, allowed_uids: Collection[int] | None = None
) -> Server:
    """Listen on *path*, or on an abstract name (``@name``); only *allowed_uids* may connect.

    The default is this process's own user. *ring_size* is a power of two, each direction.
    """
    return Server(path, ring_size=ring_size, allowed_uids=allowed_uids)


def connect(
    path: str, timeout_s: float = 5.0, *, allowed_uids: Collection[int] | None = None
) -> Channel:
    """Return a channel to the application that serves *path*; raises OSError or RingError.

    Only a server of *allowed_uids* is believed, by default of this process's own user.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
        caller.settimeout(timeout_s)
        try:
            caller.connect(_address(path))
        except OSError as error:
            nobody = error.errno in (errno.ECONNREFUSED, errno.ENOENT)
            hint = "nobody serves it: start who does first" if nobody else ""
            raise _named(error, "connect to", path, hint) from None
        peer = _credentials(caller, _users(allowed_uids))
        hello, fds, flags, _ = socket.recv_fds(caller, len(_HELLO) + 1, 2, socket.MSG_CMSG_CLOEXEC)
        if hello != _HELLO or len(fds) != 2 or flags & socket.MSG_CTRUNC:
            for fd in fds:
                os.close(fd)
            raise RingError(errno.EPROTO, f"{path} refused, or is no Valkyrie ring")
        own, other = fds
        _refuse_descriptors(caller)
        channel = Channel(own, other, caller.detach())
    channel.peer = peer
    return channel
