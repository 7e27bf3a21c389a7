"""A channel between two applications of one host: records in shared memory, no daemon.

Each end sends and receives. One thread a direction and end; waiting happens on an eventfd.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from types import TracebackType
from typing import Any, Self

from ._shm import ffi, lib
from .errors import RingError

Done = Callable[[], None]

RINGS_MAX = len(ffi.new("struct vk_region *").tail)
BATCH_MAX = 4096
"""Messages in one zero-copy batch."""
READ_AHEAD = 64
"""Messages that ``recv`` copies out of the ring at once."""


class Batch(Sequence[memoryview]):
    """Messages that still lie in the ring, without a copy.

    Its views are valid until ``release``; after it they show what the sender writes next. Take
    ``bytes`` of what is to stay, or ``copy`` all of them, which is faster one by one.
    """

    def __init__(self, view: memoryview, begins: list[int], ends: list[int], done: Done) -> None:
        self._view, self._begins, self._ends = view, begins, ends
        self._done: Done | None = done

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        return self._view[self._begins[index] : self._ends[index]]

    def __iter__(self) -> Iterator[memoryview]:
        view = self._view
        return iter([view[a:b] for a, b in zip(self._begins, self._ends, strict=True)])

    def copy(self) -> list[bytes]:
        """Return the messages as bytes of their own."""
        data = bytes(self._view)
        return [data[a:b] for a, b in zip(self._begins, self._ends, strict=True)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the bytes back to the sender."""
        if self._done is not None:
            self._done()
            self._done = None


class Channel:
    """One end of a channel. Raises RingError when the other end broke the ring's rules."""

    def __init__(self, own: int, other: int, bell_self: int, bell_peer: int) -> None:
        """Map two regions: *own*, which this end writes, and *other*. Takes all descriptors.

        Both memfds must be sealed against resizing: a truncation would kill this process.
        """
        self._fds = (own, other, bell_self, bell_peer)
        self._capacity = ffi.new("uint32_t[]", RINGS_MAX)
        self._own = self._map(own, writable=True)
        self._other = self._map(other, writable=False)
        self._pipe: Any = ffi.new("struct vk_pipe *")
        error = lib.vk_pipe_open(
            self._pipe, self._own, self._other, self._capacity, bell_self, bell_peer
        )
        if error:
            raise RingError(-error, "the other end's ring indices are impossible")
        self._begins, self._ends = (
            array("I", bytes(4 * BATCH_MAX)),
            array("I", bytes(4 * BATCH_MAX)),
        )
        self._found = tuple(ffi.from_buffer("uint32_t[]", a) for a in (self._begins, self._ends))
        self._ready: list[bytes] = []
        self._base = ffi.new("uint8_t **")
        self._poll = select.poll()
        self._poll.register(bell_self, select.POLLIN)
        self._lent = False

    def _map(self, fd: int, *, writable: bool) -> Any:
        error = lib.vk_channel_check(fd, 1, self._capacity, ffi.NULL)
        if error:
            raise RingError(-error, "not a region, or one that could still be truncated")
        region = lib.vk_channel_map(fd, self._capacity, writable, ffi.NULL)
        if region == ffi.NULL:
            raise RingError(ffi.errno, "could not map a region")
        return region

    @property
    def capacity(self) -> int:
        """Bytes of the ring, each direction."""
        return int(self._capacity[0])

    def fileno(self) -> int:
        """Return the eventfd that wakes this end."""
        return self._fds[2]

    def close(self) -> None:
        """Say good-bye and give everything back; the other end sees the ring end."""
        if self._pipe is None:
            return
        self._own.closed = 1
        os.eventfd_write(self._fds[3], 1)
        for region in (self._own, self._other):
            lib.vk_channel_unmap(region, self._capacity, 0)
        for fd in self._fds:
            os.close(fd)
        self._pipe = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def closed_by_peer(self) -> bool:
        """Whether the other end said good-bye; what it sent before can still be received."""
        return bool(self._other.closed)

    def send(self, message: bytes) -> bool:
        """Send one message; False when the ring has no room."""
        return self._sent(lib.vk_pipe_send_fixed(self._pipe, message, len(message), 1)) == 1

    def send_many(self, messages: Sequence[bytes]) -> int:
        """Send messages in order; returns how many went before the ring was full."""
        sizes = array("I", map(len, messages))
        return self._sent(
            lib.vk_pipe_send_many(
                self._pipe, b"".join(messages), ffi.from_buffer("uint32_t[]", sizes), len(sizes)
            )
        )

    def send_fixed(self, buffer: bytes | bytearray | memoryview, size: int) -> int:
        """Send a buffer as messages of *size* bytes; returns how many went."""
        data = ffi.from_buffer("uint8_t[]", buffer)
        return self._sent(lib.vk_pipe_send_fixed(self._pipe, data, size, len(data) // size))

    @staticmethod
    def _sent(count: int) -> int:
        if count < 0:
            raise RingError(-count, "the other end broke the ring's rules")
        return count

    def _take(self, most: int) -> tuple[memoryview, list[int], list[int]]:
        count = self._sent(
            lib.vk_pipe_recv_many(self._pipe, min(most, BATCH_MAX), *self._found, self._base)
        )
        begins, ends = self._begins[:count].tolist(), self._ends[:count].tolist()
        size = ends[-1] if count else 0
        return memoryview(ffi.buffer(self._base[0], size)).toreadonly(), begins, ends

    def recv(self) -> bytes | None:
        """Return the next message, or None."""
        if not self._ready:
            if self._lent:
                raise RingError(0, "release the last batch first")
            view, begins, ends = self._take(READ_AHEAD)
            if not begins:
                return None
            data = bytes(view)
            self._ready = [data[a:b] for a, b in zip(begins, ends, strict=True)]
            self._ready.reverse()
            lib.vk_pipe_release(self._pipe)
        return self._ready.pop()

    def recv_many(self, most: int = BATCH_MAX) -> Batch:
        """Return what is there, at most *most* messages, without copying; may be empty.

        The batch must be released before the next one is asked for.
        """
        if self._lent:
            raise RingError(0, "release the last batch first")
        if self._ready:  # read ahead by recv: they come first
            ready, self._ready = self._ready[::-1], []
            ends = list(accumulate(map(len, ready)))
            begins = [end - len(message) for end, message in zip(ends, ready, strict=True)]
            return Batch(memoryview(b"".join(ready)), begins, ends, lambda: None)
        view, begins, ends = self._take(most)
        self._lent = True
        return Batch(view, begins, ends, self._return)

    def _return(self) -> None:
        self._lent = False
        if self._pipe is not None:
            lib.vk_pipe_release(self._pipe)

    def wait(self, timeout_s: float | None = None, *, room: int = 0) -> bool:
        """Sleep until a message is there, or room for *room* bytes; False on time-out."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            sleep = not (self._ready and not room) and lib.vk_pipe_sleep(self._pipe, room)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            rung = sleep and self._poll.poll(None if left is None else left * 1000)
            if rung or not sleep:
                lib.vk_pipe_wake(self._pipe)
            if not sleep:
                return True
            if not rung and left is not None:
                lib.vk_pipe_wake(self._pipe)
                return False

    async def wait_async(self, *, room: int = 0) -> None:
        """Sleep in the event loop until a message is there, or room for *room* bytes."""
        loop = asyncio.get_running_loop()
        while not (self._ready and not room) and lib.vk_pipe_sleep(self._pipe, room):
            rung: asyncio.Future[None] = loop.create_future()
            loop.add_reader(self._fds[2], _settle, rung)
            try:
                await rung
            finally:
                loop.remove_reader(self._fds[2])
                lib.vk_pipe_wake(self._pipe)
        lib.vk_pipe_wake(self._pipe)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
