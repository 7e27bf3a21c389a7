"""What a test may have left behind, and which features it may miss."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.lab import CLONE_NEWNET, KernelLog, Lab, wait_until

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

NODE_PREFIX = f"test{os.getpid()}-"
"""Start of every node name a test gives: what such a node leaves on the machine is found by it."""

SKIPS_ALLOWED_IN_CI = frozenset({"zero-copy NIC"})
"""Features no CI machine of ours has; missing any other one is a failure there."""

_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose parent died, so that the census sees them."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Census:
    """Descriptors, processes, namespaces, pins and shared objects of this test process."""

    def __init__(self) -> None:
        self.log = KernelLog()
        self._descriptors = self._open_descriptors()
        self._children = self._live_children()

    @staticmethod
    def _open_descriptors() -> dict[int, str]:
        found = {}
        for entry in os.listdir("/proc/self/fd"):
            try:
                found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
            except FileNotFoundError:
                continue  # the directory's own descriptor
        return found

    @staticmethod
    def _live_children() -> dict[int, str]:
        found = {}
        for child in psutil.Process().children(recursive=True):
            try:
                found[child.pid] = " ".join(child.cmdline()) or child.name()
            except psutil.NoSuchProcess:
                continue
        return found

    @staticmethod
    def _reap() -> None:
        """Wait for adopted orphans that have ended; nobody else does."""
        for child in psutil.Process().children():
            try:
                if child.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(child.pid, os.WNOHANG)
            except (psutil.NoSuchProcess, ChildProcessError):
                continue

    def leaks(self, labs: list[Lab]) -> list[str]:
        """Return what is there now and was not before, in words."""
        self._reap()
        now = self._open_descriptors()
        found = [
            f"descriptor {fd} -> {target}"
            for fd, target in now.items()
            if self._descriptors.get(fd) != target
        ]
        found += [
            f"process {pid}: {command}"
            for pid, command in self._live_children().items()
            if pid not in self._children
        ]
        inodes = {host.inode: host.name for lab in labs for host in lab.hosts.values()}
        found += [
            f"process {pid} in the namespace of {inodes[i]}" for pid, i in _inhabitants(inodes)
        ]
        for root in ("/sys/fs/bpf", "/sys/fs/bpf/valkyrie", "/dev/shm", "/run/netns"):
            if Path(root).is_dir():
                found += [f"{root}/{name}" for name in os.listdir(root) if NODE_PREFIX in name]
        return found

    def check(self, labs: list[Lab]) -> None:
        """Fail if anything is left after two seconds or the kernel complained."""
        try:
            wait_until(lambda: not self.leaks(labs), deadline_s=2.0)
        except AssertionError:
            pytest.fail("left behind:\n  " + "\n  ".join(self.leaks(labs)), pytrace=False)
        if trouble := self.log.trouble():
            pytest.fail("the kernel complained:\n  " + "\n  ".join(trouble), pytrace=False)

    def close(self) -> None:
        """Close the kernel log."""
        self.log.close()


def _inhabitants(inodes: dict[int, str]) -> list[tuple[int, int]]:
    found = []
    for pid in psutil.pids():
        try:
            inode = os.stat(f"/proc/{pid}/ns/net").st_ino
        except OSError:
            continue
        if inode in inodes:
            found.append((pid, inode))
    return found


def _probe_root() -> str:
    return "" if os.geteuid() == 0 else "not root"


def _probe_namespaces() -> str:
    """Try in a child: this process stays where it is."""
    if _probe_root():
        return _probe_root()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if _libc.unshare(CLONE_NEWNET) == 0 else 1)
    return "" if os.waitpid(pid, 0)[1] == 0 else "unshare(CLONE_NEWNET) is refused"


def _probe_af_xdp() -> str:
    try:
        socket.socket(44, socket.SOCK_RAW, 0).close()  # AF_XDP, linux/socket.h
    except OSError as error:
        return f"socket(AF_XDP): {error.strerror}"
    return ""


def _probe_bpffs() -> str:
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return "" if any(line.split()[2] == "bpf" for line in mounts) else "no bpf file system mounted"


def _probe_kernel_log() -> str:
    log = KernelLog()
    log.close()
    return log.missing


def _program(name: str) -> Callable[[], str]:
    return lambda: "" if shutil.which(name) else f"{name} is not installed (scripts/setup --test)"


FEATURES: dict[str, Callable[[], str]] = {
    "root": _probe_root,
    "network namespaces": _probe_namespaces,
    "AF_XDP": _probe_af_xdp,
    "bpffs": _probe_bpffs,
    "kernel log": _probe_kernel_log,
    "clang-19": _program("clang-19"),
    "qemu": _program("qemu-system-x86_64"),
    "x86-64": lambda: "" if platform.machine() == "x86_64" else f"this is {platform.machine()}",
    "zero-copy NIC": lambda: "no NIC with AF_XDP zero-copy belongs to the tests",
}
"""Feature -> probe; a probe returns why the feature is missing, or nothing."""

_answers: dict[str, str] = {}


def needs(*features: str) -> None:
    """Skip the running test, naming the first of *features* that this machine lacks."""
    for feature in features:
        if feature not in _answers:
            _answers[feature] = FEATURES[feature]()
        if _answers[feature]:
            skip_missing(feature, _answers[feature])


def skip_missing(feature: str, why: str) -> None:
    """Skip the running test because *feature* is missing; a failure where it should exist."""
    if os.environ.get("CI") == "true" and feature not in SKIPS_ALLOWED_IN_CI:
        pytest.fail(f"CI needs {feature}: {why}", pytrace=False)
    pytest.skip(f"needs {feature}: {why}")
