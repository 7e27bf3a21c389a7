"""The files of one audit log: the one that is written, and those it was before.

    audit-000000000000.jsonl       named by the number of their first record
    audit-000000004711.jsonl.gz    who wants to may compress them
    audit.jsonl                    is written
    audit.jsonl.next               goes on; there only while one file takes the other's place

In that order. A file that is full gives way in steps of which each leaves a chain that is whole,
whatever dies behind it:

1. ``audit.jsonl.next`` is made, empty, by the broker, which has the right.
2. The end of ``audit.jsonl`` is signed by the daemon, which has the key.
3. The first records of the next file say where it goes on, and are signed. From here on all records
   go into it.
4. The broker renames ``audit.jsonl`` by its number, then ``audit.jsonl.next`` to ``audit.jsonl``.
5. It removes files that the signed records have given up, oldest first.

Who opens the log finishes step 4, or undoes step 1.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import json
import os
import re
import zlib
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from valkyrie.dataplane.errors import ConfigError

from .audit import CHECKPOINT_EVERY, LINE_MAX, AuditError, Head, Reader, continued, resume

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .identity import Card

MODE = 0o600
FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_DIGITS = 12
_TAIL = 2 * CHECKPOINT_EVERY


def archive(path: Path, first: int) -> Path:
    """Return what a log is renamed to that begins with this record."""
    return path.with_name(f"{path.stem}-{first:0{_DIGITS}}{path.suffix}")


def following(path: Path) -> Path:
    """Return the file that is to take a log's place."""
    return path.with_name(f"{path.name}.next")


def archived(path: Path) -> dict[int, Path]:
    """Return the files that a log was before, oldest first, by the number they begin with."""
    name = rf"{re.escape(path.stem)}-(\d{{{_DIGITS},18}}){re.escape(path.suffix)}(\.gz)?"
    found: dict[int, Path] = {}
    for each in sorted(path.parent.iterdir()):  # a name comes before the same with .gz
        if match := re.fullmatch(name, each.name):
            found.setdefault(int(match[1]), each)
    return dict(sorted(found.items()))


def log_of(file: Path) -> Path:
    """Return the log that a file belongs to: itself, or what it was before it was renamed."""
    match = re.fullmatch(rf"(.+)-\d{{{_DIGITS},18}}(\.[^.]*)?(\.gz)?", file.name)
    return file.with_name(match[1] + (match[2] or "")) if match else file


def log_in(folder: Path) -> Path:
    """Return the log that lies in a directory; ConfigError when it is not clear which."""
    found = {log_of(file) for file in folder.iterdir() if log_of(file) != file}
    found |= {file.with_suffix(".jsonl") for file in folder.glob("*.key")}
    found = {file for file in found if parts(file)}
    if len(found) != 1:
        what = "no audit log" if not found else "more than one audit log"
        raise ConfigError(f"{folder}: has {what}: name the file")
    return found.pop()


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file; one that is too long comes cut, and is refused for it."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
        try:
            while line := file.readline(LINE_MAX + 1):
                yield line
        except (EOFError, gzip.BadGzipFile, zlib.error):
            yield b"what was compressed is damaged"  # no record


def parts(path: Path) -> list[Path]:
    """Return the files of a log that are there, in the order of their records."""
    found = list(archived(path).values())
    found += [path] if path.exists() and path.stat().st_size else []
    new = following(path)
    return found + ([new] if _has_line(new) and continued(next(read_lines(new))) else [])


def _has_line(path: Path) -> bool:
    return path.is_file() and next(read_lines(path), b"").endswith(b"\n")


def verify_all(path: Path, card: Card, *, kept: Head | None = None) -> Reader:
    """Read all files of a log; AuditError names the first bad record, or the file that is missing.

    Returns the reader at the end.
    """
    reader = Reader(card, kept=kept)
    files = parts(path)
    for file in files:
        if file == following(path) and not goes_on(file, reader.head, card):
            break  # the log never went on in it
        try:
            _take(reader, file, path, begins=file == files[0])
        except AuditError as error:
            raise AuditError(error.record, error.what, file.name) from None
    reader.end()
    if reader.first > reader.removed:
        raise AuditError(
            0,
            f"is missing, and all up to {reader.first}: the node did not remove the files before"
            f" {files[0].name}",
        )
    if files and not path.exists() and following(path) not in files:
        raise AuditError(reader.head.count, f"is missing: there is no file {path.name}")
    return reader


def verify_one(path: Path, card: Card, *, kept: Head | None = None) -> Reader:
    """Read one of the files alone; AuditError names the first bad record in it."""
    reader = Reader(card, kept=kept)
    _take(reader, path, path, begins=True)
    reader.end()
    return reader


def _take(reader: Reader, file: Path, path: Path, *, begins: bool) -> None:
    for at, line in enumerate(read_lines(file)):
        if at == 0 and begins:
            reader.begin(line)
        elif at == 0 and (there := continued(line)) and there.count > reader.head.count:
            missing = archive(path, reader.head.count).name
            raise AuditError(reader.head.count, f"is missing: there is no file {missing}")
        reader.take(line)


def goes_on(file: Path, head: Head, card: Card) -> bool:
    """Say whether a file, of which the beginning is signed, goes on where another one ends."""
    lines = [
        each for each in islice(read_lines(file), 3) if each.endswith(b"\n")
    ]  # what ``AuditLog.go_on`` makes, at most
    found = continued(lines[0]) if lines else None
    if found is None or (found.count, found.hash) != (head.count, head.hash):
        return False
    with contextlib.suppress(AuditError):
        reader = Reader(card)
        reader.begin(lines[0])
        for line in lines:
            reader.take(line)
        return reader.head.checkpoint is not None
    return False


def end_of(path: Path, card: Card) -> Head:
    """Return where a file ends, by its last signed checkpoint and what follows."""
    lines = deque(read_lines(path), maxlen=_TAIL)
    return resume(list(lines), card)


# ---- Steps of the broker ----


def make_next(path: Path) -> int:
    """Make the empty file that is to take a log's place; returns its descriptor."""
    descriptor = os.open(following(path), FLAGS | os.O_TRUNC, MODE)
    sync_directory(path)
    return descriptor


def first_kept(path: Path, first: int, keep: int) -> int:
    """Return which record the log will begin with, 0 = all files stay.

    ``first`` is what the file that gives way begins with, ``keep`` how many of its kind stay; 0 =
    all of them.
    """
    numbers = sorted({*archived(path), first})
    return numbers[-keep] if 0 < keep < len(numbers) else 0


def give_way(path: Path, first: int, keep: int) -> None:
    """Put the next file in a log's place, and remove what is too old."""
    move(path, first)
    begin = first_kept(path, first, keep)
    for number, file in archived(path).items():
        if number < begin:
            file.unlink()
            file.with_name(f"{file.name}.gz").unlink(missing_ok=True)
    sync_directory(path)


def move(path: Path, first: int) -> None:
    """Rename the log by its number, and the next file to the log; half of it may be done."""
    if not following(path).exists():
        if archive(path, first).exists() and path.exists():
            return  # asked again, since the answer was lost
        raise FileNotFoundError(errno.ENOENT, "there is no next file", str(following(path)))
    if path.exists():
        old = archive(path, first)
        if old.exists():
            raise FileExistsError(errno.EEXIST, "is there already", str(old))
        path.rename(old)
        sync_directory(path)
    following(path).rename(path)
    sync_directory(path)


def sync_directory(path: Path) -> None:
    """Have renamings of a log on the disk."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# ---- Opening ----


def recover(path: Path, card: Card) -> Head:
    """Finish or undo what a death has left half done; returns where the last whole file ends.

    That is nothing, when there is none but the log itself.
    """
    older, new = archived(path), following(path)
    if new.exists():
        _finish(path, older, card)
        older = archived(path)
    return Head() if _has_line(path) else _end_of_last(older, card)


def _finish(path: Path, older: dict[int, Path], card: Card) -> None:
    new, whole = following(path), _has_line(path)
    if not _has_line(new):
        new.unlink()
        return
    if not whole and path.exists():
        if path.stat().st_size > LINE_MAX:
            return  # no torn line of ours: whoever opens it refuses it
        path.unlink()
    head = end_of(path, card) if whole else _end_of_last(older, card)
    if goes_on(new, head, card):
        move(path, first_of(path) if whole else 0)
    else:
        new.unlink()


def first_of(path: Path) -> int:
    """Return the number of the first record that a file has, if that is whole."""
    found = continued(next(read_lines(path), b""))
    return found.count if found else 0


def time_of(line: bytes) -> int:
    """Return when a record was made; 0 for a line that is none."""
    try:
        found = json.loads(line)["time_ns"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return 0
    return found if type(found) is int else 0


def _end_of_last(older: dict[int, Path], card: Card) -> Head:
    return end_of(list(older.values())[-1], card) if older else Head()
