"""How many system calls processes make, counted by a program at ``sys_enter``.

Every call costs a little more while it is counted, so what counts is a run of its own, of which no
other figure is used.
"""

from __future__ import annotations

import os
import platform
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from valkyrie.dataplane.errors import DataPlaneError
from valkyrie.dataplane.loader import Program

from . import kernel

CALLS = struct.Struct("QQQ")
"""``struct calls``."""
BPF_NOEXIST = 1  # linux/bpf.h


class UncountableError(RuntimeError):
    """System calls cannot be counted here; the text says why."""


@dataclass(frozen=True)
class Calls:
    """Of one process: since it is watched, and between its last two calls of getrusage."""

    total: int
    measured: int


class Counter:
    """Counts the system calls of watched processes, all their threads together."""

    def __init__(self) -> None:
        try:
            self._program = Program(
                "syscalls",
                image=kernel.compiled("syscalls"),
                variables={"vk_getrusage": kernel.SYS_GETRUSAGE[platform.machine()]},
            )
        except (KeyError, OSError, DataPlaneError, subprocess.SubprocessError) as error:
            raise UncountableError(f"system calls are not counted: {error}") from error
        try:
            self._link = kernel.attach_raw("sys_enter", self._program.fd)
        except OSError as error:
            self._program.close()
            raise UncountableError(f"system calls are not counted: {error}") from error
        self.watch([os.getpid()])
        os.getppid()
        if not self.calls(os.getpid()).total:
            self.close()
            raise UncountableError("system calls are not counted: not in the first PID namespace")
        self.forget(os.getpid())

    def watch(self, processes: Iterable[int]) -> None:
        """Count from now on, or go on counting."""
        for process in processes:
            if self._program.maps["vk_calls"].lookup(process) is None:
                self._program.maps["vk_calls"].update(process, bytes(CALLS.size), BPF_NOEXIST)

    def calls(self, process: int) -> Calls:
        """Return what was counted of a watched process."""
        found = self._program.maps["vk_calls"].lookup(process)
        count, begin, end = CALLS.unpack(found or bytes(CALLS.size))
        return Calls(count, max(end - begin - 1, 0))

    def forget(self, process: int) -> None:
        """Count no longer."""
        self._program.maps["vk_calls"].delete(process)

    def close(self) -> None:
        """Leave the kernel."""
        os.close(self._link)
        self._program.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
