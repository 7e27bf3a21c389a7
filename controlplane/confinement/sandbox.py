"""What the worker and the daemon give up once they run, and what the kernel says that they have.

A child drops its rights (``privileges``), then leaves the file system (``landlock``), then the
system calls it does not need (``vk_confine.h``). What a kernel lacks is left open and said:
``describe`` tells it to `valkyrie status`, `valkyrie doctor` what it costs.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import valkyrie
from valkyrie.dataplane import lib
from valkyrie.dataplane.errors import DataPlaneError

from . import landlock, privileges

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .privileges import User

Mode = Literal["strict", "lenient"]
CONFINE = {"strict": lib.VK_CONFINE_STRICT, "lenient": lib.VK_CONFINE_LENIENT}
"""``enum vk_confine`` by ``node.sandbox``."""

NICE = 10
"""Of a daemon: what it does can wait for as long as data wants the core, but not for ever."""

LATE = (
    "_strptime",
    "concurrent.futures.thread",
    "cryptography.hazmat.backends.openssl.backend",
    "encodings.idna",
    "linecache",
    "tokenize",
    "traceback",
    "unicodedata",
)
"""What others import only when it is used: times, threads, keys, names of hosts, errors."""

_SECCOMP = {"0": "none", "1": "strict mode", "2": "filter"}  # linux/seccomp.h, by /proc/PID/status


def enter_worker(user: User, parent: int) -> None:
    """In a worker, all of whose code is loaded: keep descriptors and memory, and nothing else.

    ``vk_worker_run`` closes the filter, by the list of its own library.
    """
    privileges.drop(user, parent)
    landlock.restrict()


def enter_daemon(user: User, parent: int, mode: Mode, reads: Iterable[Path] = ()) -> None:
    """In a daemon: keep sockets, Python's own files, and these; see ``landlock.restrict``.

    It goes behind who handles data (``NICE``). It imports nothing late: the user it is may not be
    able to reach Python, in a home for example.
    """
    os.nice(NICE)
    for module in LATE:
        importlib.import_module(module)
    privileges.drop(user, parent)
    landlock.restrict([*python_paths(), *reads])
    result = lib.vk_confine_daemon(CONFINE[mode])
    if result not in (0, -errno.ENOSYS):
        raise DataPlaneError.of(result, "limit the daemon's system calls")


def python_paths() -> list[Path]:
    """Return where Python finds its modules: errors show lines of them."""
    found = {Path(each) for each in sys.path if each.startswith("/")}
    return sorted(found | {Path(valkyrie.__file__).parent})


def describe(pid: int) -> dict[str, object]:
    """Return what keeps a process in, as the kernel tells of it; empty when it has gone.

    Landlock does not show from outside: a child that could not enter has ended.
    """
    try:
        rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = dict(row.split(":\t", 1) for row in rows if ":\t" in row)
    ours = pid == os.getpid()
    held = int(fields.get("CapEff", "0"), 16)
    version = 0 if ours else landlock.abi()
    return {
        "user": int(fields["Uid"].split()[1]),
        "capabilities": held.bit_count(),
        "no_new_privileges": fields.get("NoNewPrivs") == "1",
        "seccomp": _SECCOMP.get(fields.get("Seccomp", "0"), "unknown"),
        "landlock": version,
        "refused": landlock.refused(version),
    }


def report(daemon: int, worker: int) -> str:
    """Return as JSON what keeps this process, the broker, and its children in."""
    pids = {"broker": os.getpid(), "daemon": daemon, "worker": worker}
    return json.dumps({name: describe(pid) for name, pid in pids.items()})
