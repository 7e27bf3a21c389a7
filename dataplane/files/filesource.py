"""A file that is sent: read ahead in blocks of chunks, and hashed once on the way.

Everything here may block: run it in a thread, one call at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from valkyrie.dataplane.errors import ValkyrieError
from valkyrie.dataplane.wire import FileCode

from .transfer import CHUNK_SIZE, Have, Offer, TransferError, chunk_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEAD_SIZE = len(chunk_head(0))
CHUNKS = 16
"""Of a block: about 1 MiB."""
STRIDE = HEAD_SIZE + CHUNK_SIZE


class Block(NamedTuple):
    """Chunks, each with its head, as they are sent: messages of STRIDE bytes, and one shorter."""

    full: memoryview
    rest: memoryview
    size: int
    """Bytes of the file in it."""


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the kernel says of a file that was opened already into TransferError."""
    try:
        yield
    except OSError as error:
        raise TransferError(
            FileCode.CANCELLED, f"{path}: cannot read on: {os.strerror(error.errno or 0)}"
        ) from error


class Source:
    """An open file, as it was when it was opened."""

    def __init__(self, path: Path | str, name: str = "") -> None:
        self.path = Path(path)
        self._fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            self.close()
            raise ValkyrieError(f"{path} is no plain file: only these can be sent")
        self._stamp = (found.st_size, found.st_mtime_ns)
        self.offer = Offer(name or self.path.name, *self._stamp)
        self._hash = hashlib.sha256()
        self.position = 0
        """Bytes that are hashed."""
        self._buffers = [memoryview(bytearray(CHUNKS * STRIDE)) for _ in range(2)]

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def proves(self, have: Have, stop: Callable[[], bool] = lambda: False) -> bool:
        """Say whether the beginning of the file has that digest; reading goes on behind it if so.

        ``stop`` is asked now and then.
        """
        buffer = self._buffers[0]
        with reading(self.path):
            while self.position < have.size and not stop():
                got = os.preadv(self._fd, [buffer[: have.size - self.position]], self.position)
                self._check_got(got)
                self._hash.update(buffer[:got])
                self.position += got
        if self._hash.digest() == have.digest:
            return True
        self._hash = hashlib.sha256()
        self.position = 0
        return False

    def read(self) -> Block | None:
        """Return the next chunks; None at the end. A block is void after the one after the next."""
        left = self.offer.size - self.position
        if not left:
            return None
        self._buffers.reverse()
        buffer = self._buffers[0]
        size = min(left, CHUNKS * CHUNK_SIZE)
        views: list[memoryview] = []
        for index, at in enumerate(range(0, size, CHUNK_SIZE)):
            start = index * STRIDE
            buffer[start : start + HEAD_SIZE] = chunk_head(self.position + at)
            start += HEAD_SIZE
            views.append(buffer[start : start + min(CHUNK_SIZE, size - at)])
        self._fill(views, size)
        for view in views:
            self._hash.update(view)
        self.position += size
        full = size // CHUNK_SIZE * STRIDE
        rest = size % CHUNK_SIZE
        return Block(buffer[:full], buffer[full : full + rest + HEAD_SIZE if rest else full], size)

    def _fill(self, views: list[memoryview], size: int) -> None:
        with reading(self.path):
            got = os.preadv(self._fd, views, self.position)
            while got < size:  # a signal, or a file that became shorter
                self._check_got(got)
                index, at = divmod(got, CHUNK_SIZE)
                more = os.preadv(self._fd, [views[index][at:]], self.position + got)
                self._check_got(more)
                got += more

    def digest(self) -> bytes:
        """Return the digest of the file, which was read to its end; TransferError: it changed.

        Or it never had the size that the kernel told, as files of /proc, which have 0.
        """
        with reading(self.path):
            found = os.fstat(self._fd)
            more = os.pread(self._fd, 1, self.offer.size)
        if (found.st_size, found.st_mtime_ns) != self._stamp:
            raise self._changed()
        if more:
            raise TransferError(
                FileCode.CHANGED,
                f"{self.path} has more than the {self.offer.size} bytes that the kernel says it "
                "has: copy it to a plain file and send that",
            )
        return self._hash.digest()

    def _check_got(self, got: int) -> None:
        if not got:
            raise self._changed()

    def _changed(self) -> TransferError:
        return TransferError(
            FileCode.CHANGED, f"{self.path} changed while it was sent: send it again when it rests"
        )
