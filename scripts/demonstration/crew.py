"""The applications as processes: forked before anything else, unprivileged before they attach."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import valkyrie
from valkyrie.dataplane.application.node import SyncNode

from . import applications
from .tally import Tally

NOBODY = 65534
NICE = 5
"""Applications other than critical ones give way to it: on two cores everybody shares."""
Part = Callable[[Tally, SyncNode], None]


def parts(path: Path) -> dict[str, tuple[str, Part]]:
    """Return the applications by name: the host each runs on and what it does."""
    size = path.stat().st_size
    return {
        "critical receiver": ("b", lambda t, n: applications.receive_stamped(t, n, "critical")),
        "system receiver": ("b", lambda t, n: applications.receive_stamped(t, n, "system")),
        "job server": ("b", applications.answer_jobs),
        "file receiver": ("b", lambda t, n: applications.receive_file(t, n, size)),
        "log receiver": ("b", applications.receive_logs),
        "critical sender": ("a", lambda t, n: applications.send_paced(t, n, "critical", 1000)),
        "system sender": ("a", lambda t, n: applications.send_paced(t, n, "system", 200)),
        "job client": ("a", lambda t, n: applications.request_jobs(t, n, 200)),
        "file sender": ("a", lambda t, n: applications.send_file(t, n, path)),
        "log sender": ("a", lambda t, n: applications.send_logs(t, n, 2000)),
    }


class Crew:
    """All applications of a run."""

    def __init__(self, tally: Tally, path: Path) -> None:
        """Fork every application; it waits until its host's gate opens."""
        self._tally = tally
        self._gates = {host: os.pipe() for host in ("a", "b")}
        self.pids: dict[int, str] = {}
        parent = os.getpid()
        for name, (host, part) in parts(path).items():
            pid = os.fork()
            if pid == 0:
                self._perform(tally, name, host, part, parent)
            self.pids[pid] = name

    def _perform(self, tally: Tally, name: str, host: str, part: Part, parent: int) -> None:
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for _, writer in self._gates.values():
                os.close(writer)
            os.read(self._gates[host][0], 1)  # returns when the parent closes its end
            if os.getppid() == parent and tally.receiving:
                if not name.startswith("critical"):
                    os.nice(NICE)
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
                with valkyrie.attach_sync(f"demo-{host}", name=name) as node:
                    part(tally, node)
                    while host == "a" and tally.receiving:  # receivers leave first
                        time.sleep(applications.IDLE_S)
                    time.sleep(6 * applications.IDLE_S if host == "a" else 0)
            status = 0
        except BaseException:
            print(f"{name}:", file=sys.stderr)
            traceback.print_exc()
        os._exit(status)

    def start(self, host: str) -> None:
        """Let the applications of a host attach."""
        reader, writer = self._gates[host]
        os.close(writer)
        os.close(reader)
        del self._gates[host]

    def ended(self) -> list[str]:
        """Reap and return the applications that ended with an error."""
        wrong = []
        for pid, name in list(self.pids.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del self.pids[pid]
                if status:
                    wrong.append(name)
        return wrong

    def kill(self) -> None:
        """End whoever is left."""
        self._tally.stop_sending()
        self._tally.stop_receiving()
        for host in list(self._gates):
            self.start(host)
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.pids.clear()
