"""What a process of the node may do: capabilities, users, and what happens when its parent dies."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from valkyrie.dataplane.errors import DataPlaneError

if TYPE_CHECKING:
    from collections.abc import Iterable

_libc = ctypes.CDLL(None, use_errno=True)

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h


class Capability(IntEnum):
    """Capabilities the broker asks for, by their number in linux/capability.h."""

    CHOWN = 0
    KILL = 5
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    NET_ADMIN = 12
    NET_RAW = 13
    IPC_LOCK = 14
    PERFMON = 38
    BPF = 39


KEPT = frozenset(Capability)
"""What the broker keeps. KILL: its children run as another user. SETPCAP: they drop their bounding
set. CHOWN: the counters belong to their group."""


@dataclass(frozen=True, slots=True)
class User:
    """Who a child becomes."""

    uid: int
    gid: int


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _check(result: int, what: str) -> int:
    if result < 0:
        raise DataPlaneError.of(ctypes.get_errno(), what)
    return result


def _prctl(option: int, *arguments: int) -> int:
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    return int(_libc.prctl(option, *padded))


def effective() -> frozenset[int]:
    """Return the numbers of this process's effective capabilities."""
    header, sets = _Header(_CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    _check(_libc.capget(ctypes.byref(header), sets), "read the capabilities")
    bits = sets[0].effective | sets[1].effective << 32
    return frozenset(i for i in range(64) if bits >> i & 1)


def missing() -> list[str]:
    """Return the names of the capabilities that the broker needs and this process lacks."""
    here = effective()
    return [f"CAP_{each.name}" for each in Capability if each not in here]


def keep(capabilities: Iterable[int]) -> None:
    """Give up every capability but these, for this process and all it will ever execute."""
    kept = frozenset(capabilities)
    _bound(kept)
    _set(kept)


def _bound(kept: frozenset[int]) -> None:
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    number = 0
    while (held := _prctl(_PR_CAPBSET_READ, number)) >= 0:
        if held and number not in kept:
            _check(_prctl(_PR_CAPBSET_DROP, number), "drop a capability from the bounding set")
        number += 1


def _set(capabilities: Iterable[int]) -> None:
    sets = (_Sets * 2)()
    for number in capabilities:
        word, bit = divmod(number, 32)
        sets[word].effective |= 1 << bit
        sets[word].permitted |= 1 << bit
    header = _Header(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(ctypes.byref(header), sets), "set the capabilities")


def hide() -> None:
    """Forbid tracing and core dumps of this process, which is about to have secrets."""
    # A core pattern that is a pipe asks for no limit, only for dumpable.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _check(_prctl(_PR_SET_DUMPABLE, 0), "forbid tracing and core dumps")


def drop(user: User, parent: int) -> None:
    """Become another user without any capability, for ever, that dies with ``parent``."""
    _bound(frozenset())
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    _set([])
    _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1), "set no_new_privs")
    hide()
    # A change of credentials clears the signal, so it comes last.
    _check(_prctl(_PR_SET_PDEATHSIG, signal.SIGKILL), "ask to die with the parent")
    if os.getppid() != parent:
        os._exit(0)  # it died before it was asked for
