"""The audit log's file. What is not on the disk has not been logged, and is not done.

When a record cannot be written (full disk), ``record`` raises and administration is refused; what
only concerns data, like a peer that was let in, is kept in memory by ``note`` and written by
``flush`` when there is room again. Data flows on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from typing import TYPE_CHECKING

from valkyrie.dataplane.errors import ConfigError, DataPlaneError

from . import audit_files
from .audit import LINE_MAX, AuditError, AuditLog, Head, Redacted, Value, resume, verify
from .audit_files import FLAGS, MODE, read_lines

if TYPE_CHECKING:
    from pathlib import Path

    from .identity import Identity

PENDING_MAX = 1024
"""Notes kept while the disk is full; past that the oldest are counted and dropped."""


TAIL_SIZE = 2 << 20
"""Of a longer log only so much is read when it is opened: CHECKPOINT_EVERY records and more."""


def prepare(path: Path) -> None:
    """Make a log's directory, for its owner only, and find out whether it can be written."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, FLAGS, MODE))
    except OSError as error:
        raise ConfigError(
            f"{path}: the audit log cannot be made: {error.strerror}: name another file with "
            "security.audit_file"
        ) from error


class AuditFile:
    """One node's log. Opening verifies its end: a log that is broken there is never written to."""

    def __init__(self, path: Path, identity: Identity) -> None:
        self._path, self._torn = path, False
        self._descriptor = -1
        try:
            before = audit_files.recover(path, identity.card)
            self._descriptor = os.open(path, FLAGS, MODE)
            head = self._open(path, identity)
            self._size = os.fstat(self._descriptor).st_size
            self._log = AuditLog(identity, head if self._size else before)
            self._first = audit_files.first_of(path)
            last = max(audit_files.archived(path), default=0)
            self._before = audit_files.archive(path, last).name
            self._began_ns = audit_files.time_of(next(read_lines(path), b""))
        except BaseException as error:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            if isinstance(error, OSError):  # the disk fails
                raise ConfigError(
                    f"{path}: the audit log cannot be opened: {error.strerror}: see to the disk, or"
                    " name another file with security.audit_file"
                ) from error
            raise
        self._pending: deque[tuple[str, int, dict[str, Value | Redacted]]] = deque()
        self.dropped = 0
        """Notes that were lost while the disk was full, since the last that was written."""

    def _open(self, path: Path, identity: Identity) -> Head:
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path}: the audit log is not a plain file")
        if stat.S_IMODE(found.st_mode) & 0o022:
            raise ConfigError(f"{path}: others may write to the audit log: `chmod 600 {path}`")
        self._drop_torn_end(found.st_size)
        size = os.fstat(self._descriptor).st_size
        if size <= TAIL_SIZE:
            return verify(read_lines(path), identity.card)
        tail = os.pread(self._descriptor, TAIL_SIZE, size - TAIL_SIZE)
        return resume(tail.splitlines(keepends=True)[1:], identity.card)

    def _drop_torn_end(self, size: int) -> None:
        """Remove a last line that a crash has left half written: it was never acknowledged."""
        start = max(0, size - LINE_MAX)
        tail = os.pread(self._descriptor, LINE_MAX, start)
        if not tail or tail.endswith(b"\n"):
            return
        end = tail.rfind(b"\n")
        if end < 0 and start:
            raise AuditError(-1, "the last line is too long to be ours")
        os.ftruncate(self._descriptor, start + end + 1)
        os.fsync(self._descriptor)

    @property
    def descriptor(self) -> int:
        """Of the open file."""
        return self._descriptor

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    @property
    def head(self) -> Head:
        """Where the log ends."""
        return self._log.head

    @property
    def first(self) -> int:
        """The number of the record that the file begins with."""
        return self._first

    def is_due(self, now_ns: int, size_max: int, age_max_ns: int) -> bool:
        """Say whether the file has become too large or too old; 0 = none is. Empty ones go on."""
        if not self._size or self.pending:
            return False
        age_ns = now_ns - self._began_ns
        return 0 < size_max <= self._size or 0 < age_max_ns <= age_ns

    def go_on(self, descriptor: int, before: int, now_ns: int) -> None:
        """Go on in the next file, which is this object's from now on if nothing is raised.

        Records before number ``before`` will be removed with their files; 0 = none.
        """
        self.seal(now_ns)
        name = audit_files.archive(self._path, self._first).name
        old, size, first = self._descriptor, self._size, self.head.count
        head = self.head
        self._descriptor, self._size = descriptor, 0
        try:
            self._write(self._log.go_on(name, before, now_ns))
            self._sync()
        except BaseException:
            # The log goes on in the old file. What stays in this one takes nobody's place: it
            # continues a log that ended here, and is emptied before it is tried again.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
            self._descriptor, self._size, self._log.head = old, size, head
            self._torn = False
            raise
        os.close(old)
        self._first = first

    @property
    def pending(self) -> int:
        """Notes that wait for room on the disk."""
        return len(self._pending)

    def record(self, event: str, now_ns: int, **fields: Value | Redacted) -> None:
        """Write a record, and what waits before it; raises when it cannot be on the disk.

        Administration calls this before it does what it logs.
        """
        self.flush(now_ns)
        self._begin(now_ns)
        self._write(self._log.append(event, now_ns, **fields))
        if self._log.wants_checkpoint:
            self._write(self._log.checkpoint(now_ns))
        self._sync()

    def note(self, event: str, now_ns: int, **fields: Value | Redacted) -> None:
        """Remember a record for the next ``flush`` or ``record``; never fails."""
        if len(self._pending) == PENDING_MAX:
            self._pending.popleft()
            self.dropped += 1
        self._pending.append((event, now_ns, fields))

    def flush(self, now_ns: int) -> None:
        """Write what waits, to the disk at once; raises DataPlaneError when there is no room."""
        written = False
        while self._pending:
            self._begin(now_ns)
            event, time_ns, fields = self._pending[0]
            if self.dropped:
                self._write(self._log.append("audit.dropped", now_ns, count=self.dropped))
                self.dropped = 0
            self._write(self._log.append(event, time_ns, **fields))
            self._pending.popleft()
            written = True
            if self._log.wants_checkpoint:
                self._write(self._log.checkpoint(now_ns))
        if written:
            self._sync()

    def seal(self, now_ns: int) -> None:
        """Write a signed checkpoint, after what waits; raises DataPlaneError like ``record``."""
        self.flush(now_ns)
        self._begin(now_ns)
        self._write(self._log.checkpoint(now_ns))
        self._sync()

    def _begin(self, now_ns: int) -> None:
        """In a file that somebody has put in the place of one that is kept: go on behind that."""
        if self._size or not self.head.count:
            return
        self._first = self.head.count
        self._write(self._log.go_on(self._before, 0, now_ns))

    def _write(self, lines: list[bytes]) -> None:
        data = b"".join(lines)
        try:
            if self._torn:
                self._shorten()
            self._torn = True
            written = os.write(self._descriptor, data)
        except OSError as error:
            self._undo()
            raise self._refusal(error.errno or 0) from error
        if written != len(data):
            self._undo()
            raise self._refusal(errno.ENOSPC)
        self._torn = False
        if not self._size:
            self._began_ns = audit_files.time_of(lines[0])
        self._size += len(data)
        self._log.commit(lines)

    def _undo(self) -> None:
        """Leave no half a line; where that fails, too, it is tried before the next one."""
        with contextlib.suppress(OSError):
            self._shorten()

    def _shorten(self) -> None:
        os.ftruncate(self._descriptor, self._size)  # needs no room
        self._torn = False

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._refusal(error.errno or 0) from error

    def _refusal(self, number: int) -> DataPlaneError:
        return DataPlaneError.of(
            number,
            f"{self._path}: the audit log cannot be written",
            "Administration is refused until it can: make room. Data flows on",
        )
