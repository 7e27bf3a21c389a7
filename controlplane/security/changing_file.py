"""A file that others replace while the node runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from valkyrie.dataplane.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

Stamp = tuple[int, int, int]
"""What tells a file from another one, or the same one changed, in its place."""


def stamp(path: Path) -> Stamp:
    """Return the stamp of a file; OSError."""
    found = path.stat()
    return found.st_ctime_ns, found.st_size, found.st_ino  # changed by `chown`, too


class ChangingFile:
    """One such file; looking at it is cheap enough to be done all the time."""

    def __init__(self, path: Path, size_max: int) -> None:
        """``size_max`` in bytes."""
        self._path = path
        self._size_max = size_max
        self._seen: Stamp | None = None

    @property
    def known(self) -> bool:
        """Say whether it has been read, and not been forgotten."""
        return self._seen is not None

    def forget(self) -> None:
        """Take what is there next for new."""
        self._seen = None

    def read(self) -> bytes | None:
        """Return what is in it; None: what was there before.

        OSError as long as it cannot be read; ConfigError, once for each change, when it is too
        large.
        """
        found = stamp(self._path)
        if found == self._seen:
            return None
        with open(self._path, "rb") as file:
            data = file.read(self._size_max + 1)
        self._seen = found
        if len(data) > self._size_max:
            raise ConfigError(f"{self._path}: has more than {self._size_max} bytes")
        return data
