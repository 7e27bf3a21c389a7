"""Landlock: a process gives up the file system, TCP and the processes around it, for ever.

What is not named is refused, as far as the running kernel can: ``LEVELS`` says since which version
of its interface it refuses what. Rules need no privilege, only no_new_privs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from valkyrie.dataplane.errors import DataPlaneError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

# On every architecture (asm-generic/unistd.h)
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
# linux/landlock.h
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_RULESET = struct.Struct("=QQQ")  # handled_access_fs, handled_access_net, scoped
_PATH_BENEATH = struct.Struct("=Qi")  # allowed_access, parent_fd
_READ_FILE, _READ_DIRECTORY = 1 << 2, 1 << 3


@dataclass(frozen=True, slots=True)
class Level:
    """What a version of the interface refuses that those before it do not."""

    abi: int
    since: str
    """The kernel's version."""
    refuses: str
    costs: str
    """What its absence leaves to a daemon that was taken over, which seccomp does not refuse."""
    files: int = 0
    tcp: int = 0
    scopes: int = 0


LEVELS = (
    Level(1, "5.13", "files", "whatever files its user may use", files=(1 << 13) - 1),
    Level(
        2,
        "5.19",
        "moves between directories",
        "nothing more: without this they are always refused",
        files=1 << 13,
    ),
    Level(
        3,
        "6.2",
        "truncation",
        "emptying files that its user may write and that it may not open for that",
        files=1 << 14,
    ),
    Level(4, "6.7", "TCP", "TCP connections to wherever the host may", tcp=0b11),
    Level(
        5,
        "6.10",
        "device ioctls",
        "nothing: it can open no device, and seccomp allows few ioctls",
        files=1 << 15,
    ),
    Level(
        6,
        "6.12",
        "signals and abstract sockets of others",
        "connections to abstract sockets of the host; seccomp refuses signals",
        scopes=0b11,
    ),
)


def abi() -> int:
    """Return the version of the kernel's interface; 0 = it has none."""
    found = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)
    return max(0, int(found))


def refused(version: int) -> list[str]:
    """Return what a kernel of that version refuses."""
    return [level.refuses for level in LEVELS if level.abi <= version]


def restrict(reads: Iterable[Path] = ()) -> int:
    """Leave the process these paths and what is beneath them, to read.

    Returns the version of the interface that is in force; 0: the kernel has no Landlock, and
    nothing is restricted. Paths that are not there, or that the process cannot reach, are left out:
    it could not have used them.
    """
    version = abi()
    levels = [level for level in LEVELS if level.abi <= version]
    if not levels:
        return 0
    files = sum(level.files for level in levels)
    rules = _RULESET.pack(
        files, sum(level.tcp for level in levels), sum(level.scopes for level in levels)
    )
    ruleset = _call("make a Landlock ruleset", _CREATE_RULESET, rules, len(rules), 0)
    try:
        for path in reads:
            _allow(ruleset, path)
        _call("enter a Landlock domain", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _allow(ruleset: int, path: Path) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        # A rule about a file may not name rights of directories.
        of_directory = _READ_DIRECTORY if stat.S_ISDIR(os.fstat(fd).st_mode) else 0
        rule = _PATH_BENEATH.pack(_READ_FILE | of_directory, fd)
        _call(f"allow {path} by Landlock", _ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(fd)


def _call(what: str, number: int, *arguments: int | bytes) -> int:
    passed = [each if isinstance(each, bytes) else ctypes.c_ulong(each) for each in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *passed))
    if result < 0:
        raise DataPlaneError.of(ctypes.get_errno() or errno.EIO, what)
    return result
