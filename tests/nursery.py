"""Nodes that begin at once: forked from a process that has imported all that a node imports.

A node is told nothing else than ``valkyrie up`` would be. Who wants one that begins with exec, for
its environment or what runs before it, starts this file: ``nursery.py CONFIG LIBRARY PROGRAMS``,
both of which may be empty.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_REQUEST_SIZE = 65536
_libc = ctypes.CDLL(None, use_errno=True)


class Adopted:
    """A child that somebody else forked: what tests use of ``subprocess.Popen``."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return how it ended, as Popen does; None: it runs."""
        return self._reap(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        """Return how it ended, as soon as it has; subprocess.TimeoutExpired."""
        if self.returncode is None:
            pidfd = os.pidfd_open(self.pid)
            try:
                if not select.select([pidfd], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            finally:
                os.close(pidfd)
        code = self._reap(0)
        assert code is not None
        return code

    def _reap(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that nodes are forked from; it ends with its socket."""

    def __init__(self) -> None:
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # Not in the folder of the tests, whose modules could hide others.
            command = [sys.executable, "-P", __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )

    def start(self, arguments: list[str], namespace: int, log: int) -> Adopted:
        """Start a node in a network namespace, that writes to a file; it is this process's child.

        That takes a subreaper: the fork between them ends at once.
        """
        request = json.dumps([os.getpid(), arguments]).encode()
        socket.send_fds(self._end, [request], [namespace, log])
        return Adopted(int(self._end.recv(_REQUEST_SIZE)))

    def close(self) -> None:
        """End it; nodes that run go on."""
        self._end.close()
        self._process.wait()


_nurseries: list[Nursery] = []


def nursery() -> Nursery:
    """Return the nursery of this process, made when it is asked for first."""
    if not _nurseries:
        _nurseries.append(Nursery())
    return _nurseries[0]


def close() -> None:
    """Close the nursery, if there is one."""
    while _nurseries:
        _nurseries.pop().close()


# ---- In that process ----


def run_node(config: str, library: str, programs: str) -> NoReturn:
    """Be a node, with a choice of the worker's library and of the programs."""
    from valkyrie import bpf
    from valkyrie.controlplane.broker import broker
    from valkyrie.controlplane.config import reader
    from valkyrie.dataplane.errors import ValkyrieError

    try:
        if programs:
            bpf.load = lambda name: Path(programs, f"{name}.bpf.o").read_bytes()
        sys.exit(broker.run(reader.load(config), Path(library or broker.LIBRARY)))
    except ValkyrieError as error:
        sys.exit(f"error: {error}")


def _serve(end: socket.socket) -> None:
    importlib.import_module("valkyrie.controlplane.broker.broker")  # and all that a node imports
    while True:
        request, descriptors, _, _ = socket.recv_fds(end, _REQUEST_SIZE, 2)
        if not request:
            return
        parent, arguments = json.loads(request)
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid:
                os.write(writer, str(pid).encode())
                os._exit(0)
            for each in (reader, writer, end.detach()):
                os.close(each)
            _become(parent, *descriptors)
            run_node(*arguments)
        os.waitpid(between, 0)
        os.close(writer)
        for each in descriptors:
            os.close(each)
        end.send(os.read(reader, 32))
        os.close(reader)


def _become(parent: int, namespace: int, log: int) -> None:
    """Leave nothing of the nursery's to a node."""
    while os.getppid() != parent:  # who is between them has ended, or is about to
        os.sched_yield()
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    for each in (1, 2):
        os.dup2(log, each)
    os.close(log)
    os.close(namespace)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        _serve(socket.socket(fileno=int(sys.argv[1])))
    else:
        run_node(*sys.argv[1:])
