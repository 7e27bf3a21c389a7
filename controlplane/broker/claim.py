"""The claim to a node's name: one broker a name on a host."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING

from valkyrie.dataplane.errors import DataPlaneError

if TYPE_CHECKING:
    from pathlib import Path


class Claim:
    """A locked file; the lock goes with the process, whatever ends it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        while True:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.read(self._fd, 32).decode().strip()
                os.close(self._fd)
                holder = f"as process {pid}: " if pid else ": "
                what = f"node '{path.stem}' runs already {holder}stop it first, or change node.name"
                raise DataPlaneError(errno.EADDRINUSE, what) from None
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == os.fstat(self._fd).st_ino:
                    break
            os.close(self._fd)  # the last holder removed the file after we had opened it
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Remove the file and give the name up."""
        self.path.unlink(missing_ok=True)
        os.close(self._fd)
