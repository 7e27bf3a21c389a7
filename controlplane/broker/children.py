"""The broker's children: how they are forked, how they end, and how often they may."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from typing import NoReturn

from valkyrie.dataplane.errors import ValkyrieError

DEATHS_MAX = 10
DEATHS_WINDOW_S = 10.0
"""More deaths of a child than this within the window, and the node gives up."""
EXIT_FAULT = 127
"""Exit status of a child that an exception ended."""
EXIT_LIBRARY = 126
"""Exit status of a worker that could not load its library."""
EXIT_FOREIGN = 125
"""Exit status of a worker whose library was built with other layouts (shm/vk_abi.h)."""


class StoppedError(ValkyrieError):
    """The node cannot go on; the message says why."""


class Budget:
    """Deaths of a child that the node puts up with."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._deaths: deque[float] = deque()
        self.total = 0

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


def close_others(kept: Iterable[int]) -> None:
    """Close every descriptor of this process but those kept."""
    low = 0
    for fd in sorted(set(kept)):
        if low < fd:  # an empty range at 0 closes everything
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def fork(child: Callable[[int], NoReturn]) -> int:
    """Fork; the child calls ``child(parent's pid)`` and never comes back. Returns its pid.

    The broker answers the terminal and the service manager for all: children ignore SIGINT and
    SIGTERM.
    """
    assert threading.active_count() == 1, "a process with threads must not fork"
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
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
    if status == EXIT_LIBRARY:
        return "could not load its library"
    if status == EXIT_FOREIGN:
        return "has a library of other layouts"
    return f"ended: {os.strerror(status)}" if status else "ended"
