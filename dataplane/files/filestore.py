"""The directory that a receiver of files stores them in: parts, digests, and their last step.

A file that is not complete lies beside its place, as ``NAME.part``; it gets its name in one step,
once its digest is right and it is on the disk. Everything here may block: run it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from valkyrie.dataplane.wire import FileCode

from .transfer import PART, Chunk, Have, Offer, TransferError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

READ_SIZE = 1 << 20
"""Bytes that are read and hashed at a time."""
WRITES_MAX = 512
"""Chunks of one system call; the kernel takes 1024."""
SIZE_MAX = 1 << 40
"""Bytes of the largest file that is taken unless told otherwise."""
_UMASK = 0o077


@contextlib.contextmanager
def storing(what: str) -> Iterator[None]:
    """Turn what the kernel says of files into TransferError."""
    try:
        yield
    except OSError as error:
        room = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise TransferError(
            FileCode.SIZE if room else FileCode.STORAGE,
            f"the receiver cannot {what}: {os.strerror(error.errno or errno.EIO)}",
        ) from error


@dataclass(frozen=True)
class Rules:
    """What a directory takes."""

    size_max: int = SIZE_MAX
    """Bytes of the largest file."""
    replace: bool = True
    """Whether a file takes the place of one with the same name."""
    sync: bool = True
    """Whether a file is on the disk before its sender hears that it is stored."""


class Directory:
    """An open directory for incoming files; nothing is ever stored anywhere else."""

    def __init__(self, path: Path | str, rules: Rules | None = None) -> None:
        self.path = Path(path)
        self.rules = rules or Rules()
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._fd = os.open(self.path, flags)
        mask = os.umask(_UMASK)
        os.umask(mask)
        self._mode = 0o666 & ~mask

    def close(self) -> None:
        """Let go of the directory; parts that are open stay usable."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, offer: Offer) -> Part:
        """Open the part of an offered file, whose name is checked; TransferError if refused."""
        if offer.size > self.rules.size_max:
            raise TransferError(
                FileCode.SIZE,
                f"{offer.name!r} has {offer.size} bytes; the receiver takes {self.rules.size_max}",
            )
        self._check_place(offer.name)
        with storing(f"open {offer.name + PART!r}"):
            fd = self._open_part(offer.name + PART)
        try:
            return Part(fd, self._fd, self._mode, offer, self.rules)
        except BaseException:
            os.close(fd)
            raise

    def _check_place(self, name: str) -> None:
        """Raise TransferError where no file of that name can get its name."""
        try:
            found = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError as error:
            raise TransferError(
                FileCode.STORAGE, f"the receiver cannot store {name!r}: {error.strerror}"
            ) from error
        if not self.rules.replace or not stat.S_ISREG(found.st_mode):
            raise _exists(name)

    def _open_part(self, name: str) -> int:
        """Open a regular file without following links or waiting for pipes, and lock it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._fd)
        try:
            self._claim(fd, name)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _claim(self, fd: int, name: str) -> None:
        """Lock a part that is a plain file, and still has its name; TransferError if not."""
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise TransferError(
                FileCode.STORAGE, f"{name!r} at the receiver is no plain file: remove it there"
            )
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except (BlockingIOError, FileNotFoundError):
            there = None
        if there is None or not os.path.samestat(there, found):
            raise TransferError(
                FileCode.BUSY,
                f"{name.removesuffix(PART)!r} is being received already: wait, or give yours "
                "another name",
            )


def _exists(name: str) -> TransferError:
    return TransferError(
        FileCode.EXISTS,
        f"{name!r} is there at the receiver, and stays: give yours another name, or remove it",
    )


class Part:
    """A file on its way: what came of it, and the digest of that."""

    def __init__(self, fd: int, directory: int, mode: int, offer: Offer, rules: Rules) -> None:
        self._fd = fd
        with storing(f"open {offer.name + PART!r}"):
            self._directory = os.dup(directory)
        self._mode = mode
        self._offer = offer
        self._rules = rules
        self._name = offer.name + PART
        self._hash = hashlib.sha256()
        self.size = 0
        """Bytes that are written, or looked at while it is being resumed."""
        self._gone = False
        """It has its name, or was deleted."""

    def close(self) -> None:
        """Let go of it; what was written stays for the next time, unless it is nothing."""
        if self._fd < 0:
            return
        if not self.size and not self._gone:
            with contextlib.suppress(OSError):
                if not os.fstat(self._fd).st_size:
                    os.unlink(self._name, dir_fd=self._directory)
        os.close(self._fd)
        os.close(self._directory)
        self._fd = -1

    def resume(self, stop: Callable[[], bool] = lambda: False) -> Have:
        """Read what is there from the last time; ``stop`` is asked now and then."""
        with storing(f"read {self._name!r}"):
            there = os.fstat(self._fd).st_size
            if there > self._offer.size:
                os.ftruncate(self._fd, 0)
                there = 0
            self._check_room(self._offer.size - there)
            buffer = memoryview(bytearray(min(READ_SIZE, there)))
            while self.size < there and not stop():
                got = os.preadv(self._fd, [buffer[: there - self.size]], self.size)
                if not got:
                    break
                self._hash.update(buffer[:got])
                self.size += got
        return Have(self.size, self._hash.digest())

    def _check_room(self, needed: int) -> None:
        room = os.fstatvfs(self._fd)
        if needed > room.f_bavail * room.f_frsize:
            raise TransferError(
                FileCode.SIZE,
                f"{self._offer.name!r} needs {needed} more bytes, and the receiver has room for "
                f"{room.f_bavail * room.f_frsize}",
            )

    def write(self, chunks: Sequence[Chunk]) -> None:
        """Write chunks that follow each other; one at offset 0 makes what was there void."""
        for first in range(0, len(chunks), WRITES_MAX):
            some = chunks[first : first + WRITES_MAX]
            offset = some[0].offset
            with storing(f"write {self._name!r}"):
                if offset == 0 and first == 0:
                    os.ftruncate(self._fd, 0)
                    self._hash = hashlib.sha256()
                    self.size = 0
                assert offset == self.size
                self._write([chunk.data for chunk in some], offset)
            for chunk in some:
                self._hash.update(chunk.data)
                self.size += len(chunk.data)

    def _write(self, parts: list[bytes | memoryview], offset: int) -> None:
        left = sum(map(len, parts))
        wrote = os.pwritev(self._fd, parts, offset)
        while wrote < left:  # a disk that is nearly full, or a signal
            rest = memoryview(b"".join(parts))[wrote:]
            got = os.pwrite(self._fd, rest, offset + wrote)
            if not got:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            wrote += got

    def finish(self, digest: bytes) -> None:
        """Give the file its name if its digest is right, and else delete it."""
        if self._hash.digest() != digest:
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._directory)
            self._gone = True
            raise TransferError(
                FileCode.DIGEST,
                f"{self._offer.name!r} came with another digest than it was sent with and was "
                "deleted: send it again",
            )
        with storing(f"store {self._offer.name!r}"):
            os.ftruncate(self._fd, self.size)
            os.fchmod(self._fd, self._mode)
            os.utime(self._fd, ns=(self._offer.mtime_ns, self._offer.mtime_ns))
            if self._rules.sync:
                os.fsync(self._fd)
            self._name_it()
            self._gone = True
            if self._rules.sync:
                os.fsync(self._directory)

    def _name_it(self) -> None:
        here = self._directory
        name = self._offer.name
        try:
            if self._rules.replace:
                os.rename(self._name, name, src_dir_fd=here, dst_dir_fd=here)
            else:
                os.link(self._name, name, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=False)
                os.unlink(self._name, dir_fd=here)
        except (FileExistsError, IsADirectoryError):
            raise _exists(name) from None
