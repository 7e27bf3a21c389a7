"""A channel between two applications of one host: records in shared memory, no daemon.

Each end sends and receives; one thread an end. Waiting polls for a moment while that pays, then
sleeps on a socket, which also tells when the other party dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, Self, overload

from ._end import End
from ._shm import ffi, lib
from .errors import RingClosedError, RingError

BATCH_MAX = 4096
"""Messages in one zero-copy batch."""
TURN_EVERY = 16
"""Waits in an event loop that polling may answer before the loop has a turn."""

FOREIGN = "the other party's valkyrie has other layouts: use one version on both sides"

Buffer = bytes | bytearray | memoryview


class Batch(Sequence[memoryview]):
    """Messages that still lie in the ring, without a copy.

    ``release`` (or leaving ``with``) gives the bytes back to the sender; the batch's views raise
    ValueError afterwards. While somebody holds a buffer of one of them (an array made from it),
    release raises BufferError and the messages stay. Memoryviews made of a view are not watched:
    they show what is sent next.
    """

    def __init__(
        self,
        view: memoryview,
        begins: Sequence[int],
        ends: Sequence[int],
        done: Callable[[], None] | None = None,
    ) -> None:
        self._view, self._begins, self._ends = view, begins, ends
        self._done = done
        self._lent: list[memoryview] = []
        self._released = False

    def __len__(self) -> int:
        return len(self._begins)

    @overload
    def __getitem__(self, index: int) -> memoryview: ...
    @overload
    def __getitem__(self, index: slice) -> list[memoryview]: ...
    def __getitem__(self, index: int | slice) -> memoryview | list[memoryview]:
        self._check()
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        view = self._view[self._begins[index] : self._ends[index]]
        self._lent.append(view)
        return view

    def __iter__(self) -> Iterator[memoryview]:
        self._check()
        view = self._view
        views = [view[a:b] for a, b in zip(self._begins, self._ends, strict=True)]
        self._lent += views
        return iter(views)

    def _check(self) -> None:
        if self._released:
            raise ValueError("this batch was released")

    def copy(self) -> list[bytes]:
        """Return the messages as bytes of their own: one copy, then cut."""
        self._check()
        if not self._begins:
            return []
        first = self._begins[0]
        data = bytes(self._view[first : self._ends[-1]])
        return [data[a - first : b - first] for a, b in zip(self._begins, self._ends, strict=True)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the bytes back to the sender; does nothing the second time."""
        if self._released:
            return
        for view in self._lent:
            view.release()
        self._lent.clear()
        self._released = True
        if self._done is not None:
            self._done()
            self._done = None


def _unmap(region: Any, capacity: Any) -> None:
    lib.vk_channel_unmap(region, capacity, 0)


class _End(End):
    """What both directions share: the two regions, the bell, and waiting."""

    def __init__(
        self,
        own: int,
        other: int,
        bell: int,
        *,
        maker: bool = False,
        spin_ns_max: int | None = None,
    ) -> None:
        """Map *own*, the region this end writes, and *other*. Takes all descriptors.

        Regions that come from another party must be sealed: a truncation would kill this process.
        The *maker* of a channel seals them here instead, before they go to the other party.
        """
        if spin_ns_max is None:
            spin_ns_max = lib.vk_wake_bound() if len(os.sched_getaffinity(0)) > 1 else 0
        self._bell = bell
        self._pipe: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._spun = 0
        self._waiters: list[asyncio.Future[None]] = []
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, bell)
            try:
                self._capacity = self._check((own, other), sealed=not maker)
                self._own = self._map(own, writable=True)
                undo.callback(_unmap, self._own, self._capacity)
                if maker:  # nobody but this process can write to its own region any more
                    self._seal(own, future_write=1)
                    self._seal(other, future_write=0)
                region = self._map(other, writable=False)
            finally:
                os.close(own)
                os.close(other)
            size = 2 * self._capacity[0]
            window = ffi.buffer(lib.vk_channel_data(region, self._capacity, 0), size)
            # The mapping lives as long as any view of the ring does, whatever is closed before.
            weakref.finalize(window, _unmap, region, self._capacity).atexit = False
            self._window: memoryview | None = memoryview(window).toreadonly()
            pipe = ffi.new("struct vk_pipe *")
            result = lib.vk_pipe_open(pipe, self._own, region, self._capacity, bell, spin_ns_max)
            if result:
                raise RingError(-result, "the other end's ring indices are impossible")
            self._other = region
            self._pipe = pipe
            self._begin(int(ffi.cast("uintptr_t", pipe)))
            undo.pop_all()
        self._begins = array("I", bytes(4 * BATCH_MAX))
        self._ends = array("I", bytes(4 * BATCH_MAX))
        self._found = tuple(ffi.from_buffer("uint32_t[]", a) for a in (self._begins, self._ends))

    @staticmethod
    def _check(fds: tuple[int, int], *, sealed: bool) -> Any:
        found = []
        for fd in fds:
            capacity = ffi.new("uint32_t[]", lib.VK_RINGS_MAX)
            error = lib.vk_channel_check(fd, sealed, capacity, ffi.NULL)
            if error == -errno.EPROTONOSUPPORT:
                raise RingError(-error, FOREIGN)
            if error:
                raise RingError(-error, "not a region, or one that could still be truncated")
            found.append(capacity)
        if list(found[0]) != list(found[1]) or not found[0][0]:
            raise RingError(errno.EPROTO, "the two regions do not belong to one channel")
        return found[0]

    @staticmethod
    def _seal(fd: int, *, future_write: int) -> None:
        error = lib.vk_channel_seal(fd, future_write)
        if error:
            raise RingError(-error, "could not seal a region")

    def _map(self, fd: int, *, writable: bool) -> Any:
        region = lib.vk_channel_map(fd, self._capacity, writable, ffi.NULL)
        if region == ffi.NULL:
            raise RingError(ffi.errno, "could not map a region")
        return region

    @property
    def capacity(self) -> int:
        """Bytes of the ring, each direction; a message takes 8 more than its size, rounded up."""
        return int(self._capacity[0])

    @property
    def message_size_max(self) -> int:
        """Bytes of the largest message that can ever be sent."""
        return self.capacity - int(ffi.sizeof("struct vk_record"))

    @property
    def closed_by_peer(self) -> bool:
        """Whether the other end is gone; what it sent before can still be received."""
        if self._pipe is None:
            return True
        lib.vk_pipe_look(self._pipe)
        return bool(self._pipe.gone or self._other.closed)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when this end is woken."""
        return self._bell

    def close(self) -> None:
        """Say good-bye and give everything back; the other end sees the channel end."""
        if self._pipe is None:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._bell)
        self._settle()
        lib.vk_pipe_close(self._pipe)
        self._pipe = None
        self._begin(0)
        _unmap(self._own, self._capacity)
        self._own = self._other = None
        self._window = None
        os.close(self._bell)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _use(self) -> Any:
        if self._pipe is None:
            self._fail(-errno.EBADF)
        return self._pipe

    def _fail(self, error: int) -> NoReturn:
        if error == -errno.EPIPE:
            raise RingClosedError(errno.EPIPE, "the other end of the channel is gone")
        raise RingError(-error, self._meaning(error))

    def _meaning(self, error: int) -> str:
        if error == -errno.EBADF:
            return "this end of the channel is closed"
        if error == -errno.EMSGSIZE:
            return f"at most {self.message_size_max} bytes fit this ring"
        if error == -errno.EBUSY:
            return "release the last batch first"
        return "the other end broke the ring's rules: close the channel"

    def _count(self, count: int) -> int:
        if count < 0:
            self._fail(count)
        return count

    async def wait_async(self, *, room: int = 0) -> None:
        """Wait in the event loop until a message is there, or until *room* bytes can be sent."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            loop.add_reader(self._bell, self._rung)
        if lib.vk_pipe_spin(self._use(), room):
            self._spun += 1  # cheaper than a turn of the loop; tried only while it pays
            if self._spun % TURN_EVERY == 0:
                await asyncio.sleep(0)  # the loop's other tasks have their turn all the same
            return
        begin = time.monotonic_ns()
        while not lib.vk_pipe_arm(self._use(), room):
            rung = loop.create_future()
            self._waiters.append(rung)
            self._pipe.watched = 1
            try:
                await rung
            finally:
                if rung in self._waiters:
                    self._waiters.remove(rung)
        if not self._waiters:
            lib.vk_pipe_wake(self._use(), 0)
        # Both ends' event loops add about as much as the wakes themselves.
        lib.vk_pipe_slept(self._use(), (time.monotonic_ns() - begin) // 2)

    def _rung(self) -> None:
        if lib.vk_pipe_wake(self._pipe, 1) and self._loop is not None:
            self._loop.remove_reader(self._bell)  # it would stay readable for ever
        self._settle()

    def _settle(self) -> None:
        waiters, self._waiters = self._waiters, []
        self._pipe.watched = 0
        for rung in waiters:
            if not rung.done():
                rung.set_result(None)


class Producer(_End):
    """The sending direction of a channel's end."""

    def send_buffer(self, buffer: Buffer, size_each: int) -> int:
        """Send a buffer as messages of *size_each* bytes; returns how many went."""
        data = ffi.from_buffer("uint8_t[]", buffer)
        if size_each < 1 or len(data) % size_each:
            raise ValueError(f"{len(data)} bytes are no messages of {size_each} bytes")
        count = len(data) // size_each
        return self._count(lib.vk_pipe_send_fixed(self._use(), data, size_each, count))

    async def send_async(self, message: bytes) -> None:
        """Send one message, waiting for room as long as there is none."""
        while not self.send(message):
            await self.wait_async(room=len(message) or 1)


class Consumer(_End):
    """The receiving direction of a channel's end."""

    async def recv_async(self) -> bytes:
        """Return the next message, waiting for it in the event loop."""
        while (message := self.recv()) is None:
            await self.wait_async()
        return message

    def recv_many(self, most: int = BATCH_MAX) -> Batch:
        """Return what is there, at most *most* messages, without copying; may be empty.

        A batch must be released before anything else is received. Where messages are small,
        ``recv_list`` takes less time: a view costs more than a copy of a few hundred bytes.
        """
        pipe, most = self._use(), min(most, BATCH_MAX)
        count = self._count(lib.vk_pipe_recv_many(pipe, most, *self._found))
        assert self._window is not None
        done = self._return if count else None
        return Batch(self._window, self._begins[:count], self._ends[:count], done)

    def _return(self) -> None:
        if self._pipe is not None:
            lib.vk_pipe_release(self._pipe)


class Channel(Producer, Consumer):
    """One end of a channel: sends and receives. Made by ``serve``, ``connect`` or ``pair``."""

    peer: tuple[int, int, int] | None = None
    """Process, user and group id of the other party, as the kernel knows them."""
