"""Where a contestant runs: hosts in namespaces, a folder, and what runs beside its two sides."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import Host, Lab, Link, wait_until

HELPER = "receiver"
"""Brokers run on the receiver's host."""
START_S = 10.0
STOP_S = 5.0


PINS = {
    "hosts": "each of two hosts has a core for all that runs on it; on one host nothing is pinned",
    "sides": "on one host, too, each side has a core; what helps the receiver runs on its core",
    "none": "nothing is pinned",
}


@dataclass(frozen=True)
class Pinning:
    """Who runs on which core."""

    how: str = "hosts"
    """One of ``PINS``."""
    cores: tuple[int, ...] = ()
    """Of sender and receiver, as the kernel counts; empty: the first two that we may use."""

    def core(self, role: str, place: str) -> int | None:
        """Return the core of a side and its helpers, None where it is left to the scheduler."""
        if self.how == "none" or (self.how == "hosts" and place != "network"):
            return None
        cores = self.cores or sorted(os.sched_getaffinity(0))
        return cores[("sender", "receiver").index(role) % len(cores)]


@dataclass(frozen=True)
class Usage:
    """What processes have used up to now."""

    cpu_ns: int = 0
    switches: int = 0

    def __sub__(self, before: Usage) -> Usage:
        return Usage(self.cpu_ns - before.cpu_ns, self.switches - before.switches)


def usage(pids: Sequence[int]) -> Usage:
    """Return what all threads of *pids* have used; a thread that ended takes its share away."""
    cpu_ns = switches = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                cpu_ns += int((task / "schedstat").read_text().split()[0])
                lines = (task / "status").read_text().splitlines()
                switches += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return Usage(cpu_ns, switches)


def resident_kib(pid: int) -> int:
    """Return a process's share of what is resident: a page that n have counts a n-th.

    The most that was ever resident is no use: a process inherits that from who started it.
    """
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def descendants(pid: int) -> list[int]:
    """Return *pid* and the processes under it."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, task.read_text().split())
    return found


class Arena:
    """The hosts of one contestant; two joined by a wire, or one."""

    def __init__(self, place: str, pinning: Pinning | None = None, *, mtu: int = 1500) -> None:
        self.place = place
        self.mtu = mtu
        """Of the wire between two hosts."""
        self.pinning = pinning or Pinning()
        self.lab = Lab()
        self._files = tempfile.TemporaryDirectory(prefix="valkyrie-perf-")
        self.folder = Path(self._files.name)
        self.folder.chmod(0o755)
        self.wire: tuple[Link, Link] | None = None
        self.hosts = {"sender": self.lab.host("a"), "receiver": self.lab.host("a")}
        self.closing = contextlib.ExitStack()
        self._helpers: list[subprocess.Popen[bytes]] = []
        self.helpers: dict[int, str] = {}
        """Process -> what it is, as reports name it."""
        self.facts: dict[str, str] = {}
        """What ``prepare`` leaves for ``address``."""

    def join(self) -> tuple[Link, Link]:
        """Make the second host and the wire, once; returns the sender's end and the receiver's."""
        if self.wire is None:
            self.hosts["receiver"] = self.lab.host("b")
            self.wire = self.lab.wire(self.lab.host("a"), self.lab.host("b"), mtu=self.mtu)
        return self.wire

    def adopt(self, wire: tuple[Link, Link]) -> None:
        """Take a wire between two hosts of this lab that somebody else made."""
        self.wire = wire
        self.hosts = {"sender": wire[0].host, "receiver": wire[1].host}

    def receiver_ip(self) -> str:
        """Return the receiver's address as the sender sees it."""
        return str(self.join()[1].v4.ip) if self.place == "network" else "127.0.0.1"

    def help(
        self, argv: Sequence[str], *, ready: Any, name: str, role: str = HELPER
    ) -> subprocess.Popen[bytes]:
        """Start a helper on the host of a role and wait until ``ready()`` is true."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            process = self.start(role, argv, stdout=out, stderr=out)
        self._helpers.append(process)
        wait_until(lambda: ready() or process.poll() is not None, START_S, f"{name} starts")
        if process.poll() is not None:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"{name} ended: {' '.join(last)}")
        self.helpers.update(dict.fromkeys(descendants(process.pid), name))
        return process

    def start(self, role: str, argv: Sequence[str], **streams: Any) -> subprocess.Popen[bytes]:
        """Start a process on the host and the core of a role."""
        core = self.pinning.core(role, self.place)
        head = [] if core is None else ["taskset", "-c", str(core)]
        host: Host = self.hosts[role]
        return host.popen([*head, *argv], **streams)

    def close(self) -> None:
        """End helpers and hosts."""
        self.closing.close()
        for process in self._helpers:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.lab.close()
        for left in Path("/dev/shm").glob(f"{self.folder.name}*"):  # by peers told to use our name
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        self._files.cleanup()
