"""The broker's children: how they are forked, how they end, and how often they may."""

from __future__ import annotations

import logging
import os
import resource
import select
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from typing import NoReturn

from valkyrie.dataplane.errors import ValkyrieError

log = logging.getLogger("valkyrie")

AGAIN_S = 1.0
"""How soon a child that could not be started is started again."""
HUNG_S = 5.0
"""A child whose heart has not beaten for this long is ended."""
DEATHS_MAX = 10
DEATHS_WINDOW_S = 10.0
"""More deaths of a child than this within the window, and the node gives up."""
EXIT_FAULT = 127
"""Exit status of a child that an exception ended."""
EXIT_LIBRARY = 126
"""Exit status of a worker that could not load its library."""
EXIT_FOREIGN = 125
"""Exit status of a worker whose library was built with other layouts (shm/vk_abi.h)."""
EXIT_FILES = 124
"""Exit status of a daemon that could not use one of the node's files."""


class StoppedError(ValkyrieError):
    """The node cannot go on; the message says why."""


class Budget:
    """Deaths of a child that the node puts up with."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._deaths: deque[float] = deque()
        self.total = 0

    def refused(self, error: OSError) -> None:
        """Count one that the kernel did not let begin as a death, too."""
        log.error("the %s could not be started: %s; trying again", self._what, error.strerror)
        self.spend(f"could not be started: {error.strerror}")

    def spend(self, how: str) -> None:
        """Count a death; StoppedError when there were too many."""
        now = time.monotonic()
        self.total += 1
        self._deaths.append(now)
        while self._deaths and now - self._deaths[0] > DEATHS_WINDOW_S:
            self._deaths.popleft()
        if len(self._deaths) > DEATHS_MAX:
            raise StoppedError(
                f"the {self._what} died {len(self._deaths)} times in {DEATHS_WINDOW_S:.0f} s,"
                f" at last it {how}: see its messages above"
            )


class Child:
    """A process that the broker forked, until it is reaped."""

    def __init__(self, pid: int, name: str) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self._name = name
        self.pardon()

    def pardon(self) -> None:
        """Have its heart watched from now on: it was not its fault that it stood still."""
        self._watched_ns = time.monotonic_ns()

    def hangs(self, beat_ns: int) -> bool:
        """Say whether its heart stands still; a new one has time for its first beat."""
        silent_s = (time.monotonic_ns() - max(beat_ns, self._watched_ns)) / 1e9
        if silent_s > HUNG_S:
            log.error("the %s hangs: it has not moved for %.1f s", self._name, silent_s)
        return silent_s > HUNG_S

    def ended(self, timeout_s: float = 0.0) -> bool:
        """Say whether the process has ended, after waiting for it that long."""
        return bool(select.select([self.pidfd], [], [], timeout_s)[0])

    def kill(self) -> None:
        """End it at once."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def reap(self) -> int:
        """Wait for its end; returns the exit status, or -signal."""
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.pidfd)
        return os.waitstatus_to_exitcode(status)


def close_others(kept: Iterable[int]) -> None:
    """Close every descriptor of this process but those kept."""
    low = 0
    for fd in sorted(set(kept)):
        if low < fd:  # an empty range at 0 closes everything
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def fork(child: Callable[[int], NoReturn], name: str) -> Child:
    """Fork; the child calls ``child(parent's pid)`` and never comes back; OSError: there is none.

    The broker answers the terminal and the service manager for all: children ignore SIGINT and
    SIGTERM.
    """
    assert threading.active_count() == 1, "a process with threads must not fork"
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        try:
            return Child(pid, name)
        except OSError:  # no descriptor is left to watch it by
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        child(parent)
    except BaseException as error:  # nothing may return into the broker's stack
        if isinstance(error, ValkyrieError):
            print(f"valkyrie: {error}", file=sys.stderr, flush=True)
        else:
            traceback.print_exception(error)
    finally:
        os._exit(EXIT_FAULT)


def describe(status: int) -> str:
    """Say how a child ended."""
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    if status == EXIT_FAULT:
        return "failed, as it said above"
    if status == EXIT_FILES:
        return "could not use a file, as it said above"
    if status == EXIT_LIBRARY:
        return "could not load its library"
    if status == EXIT_FOREIGN:
        return "has a library of other layouts"
    return f"ended: {os.strerror(status)}" if status else "ended"
