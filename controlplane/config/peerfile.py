"""The file of peers that ``valkyrie peer`` and people write together: TOML with [[peer]] tables.

The commands add at the end and cut tables out; every other byte stays as somebody wrote it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import tomllib
from typing import TYPE_CHECKING, Any

from valkyrie.controlplane import wholefile
from valkyrie.dataplane.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_HEAD = re.compile(r"[ \t]*\[\[[ \t]*peer[ \t]*\]\]")
_MODE = 0o644


def tables(text: str, file: str) -> list[dict[str, Any]]:
    """Return the tables of peers as they stand there; ConfigError when it is not TOML."""
    try:
        found = tomllib.loads(text).get("peer", [])
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ConfigError(f"{file}: write [[peer]], with two brackets")
    return found


def added(text: str, table: Mapping[str, str | int | bool | list[str]]) -> str:
    """Return the text with one more peer; ConfigError for a text that TOML would escape."""
    lines = ["[[peer]]", *(f"{key} = {_word(key, value)}" for key, value in table.items())]
    before = f"{text.rstrip()}\n\n" if text.strip() else ""
    return before + "\n".join(lines) + "\n"


def _word(key: str, value: str | int | bool | list[str]) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_word(key, each) for each in value)}]"
    if not isinstance(value, str):
        return str(value).lower()
    if not (value.isprintable() and {'"', "\\"}.isdisjoint(value)):
        raise ConfigError(f"{value!r} is no {key} of a peer")
    return f'"{value}"'


def removed(text: str, name: str, file: str) -> str:
    """Return the text without a peer, comments above the next one kept.

    KeyError when it is not there, ConfigError when it is written in a way that only people read.
    """
    before = tables(text, file)
    indices = [i for i, each in enumerate(before) if each.get("name") == name]
    if not indices:
        raise KeyError(name)
    (index,) = indices[:1]
    lines = text.splitlines(keepends=True)
    heads = [i for i, line in enumerate(lines) if _HEAD.match(line)]
    if len(heads) == len(before):
        first = heads[index]
        end = heads[index + 1] if index + 1 < len(heads) else len(lines)
        while end > first and lines[end - 1].lstrip()[:1] in ("", "#"):
            end -= 1
        rest = "".join(lines[:first] + lines[end:])
        rest = re.sub(r"\n{3,}", "\n\n", rest).lstrip("\n")
        with contextlib.suppress(ConfigError):
            if tables(rest, file) == before[:index] + before[index + 1 :]:
                return rest
    raise ConfigError(f"{file}: peer '{name}' is not written as `valkyrie peer add` does: edit it")


# ---- The file itself ----


def read(path: Path) -> str:
    """Return the file's text; nothing if there is none."""
    try:
        return read_text(path)
    except FileNotFoundError:
        return ""


def read_text(path: Path) -> str:
    """Return the text of a file that grants rights: one that anybody may write is refused.

    FileNotFoundError when there is none, ConfigError for all else.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        hint = "name another file"
        if isinstance(error, PermissionError):
            hint = "run it as root, or as a user who may read it"
        raise ConfigError(f"{path}: {error.strerror}: {hint}") from error
    if mode & stat.S_IWOTH and stat.S_ISREG(mode):
        raise ConfigError(f"{path}: anybody may write it, and it grants rights: chmod o-w {path}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8") from error


def edit(path: Path, change: Callable[[str], str]) -> None:
    """Change the file as a whole or not at all; of two who do so at once one waits."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else _MODE
        wholefile.write(path, change(read(path)).encode(), mode)
    finally:
        os.close(folder)
