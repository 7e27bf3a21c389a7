"""What a node changed on the host's interfaces, on disk before it is done: a crash is undoable.

The file lives beside the node's lock. Each line is one change as JSON; it goes when all of them
have been undone. A change is undone only in the network namespace and on the very interface that
it was made on, and only while it still stands.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from valkyrie.dataplane.errors import DataPlaneError

if TYPE_CHECKING:
    from .netlink import Netlink

QDISC = "pfifo"
QDISC_LIMIT_PACKETS = 1000
"""A veth's txqueuelen, and what the kernel's own pfifo_fast would hold."""


def namespace() -> int:
    """Return the number of this thread's network namespace."""
    return os.stat("/proc/thread-self/ns/net").st_ino


class Journal:
    """The changes of one node."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def changes(self) -> list[dict[str, object]]:
        """Return the changes in order; a line that was cut by a crash was not done yet."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                change = json.loads(line)
            except ValueError:
                continue
            if isinstance(change, dict):
                found.append(change)
        return found

    def give_queue(self, netlink: Netlink, interface: str) -> bool:
        """Give an interface that has no queueing discipline a pfifo; False if it has one."""
        ifindex = netlink.interface(interface).index
        if netlink.qdisc(ifindex) not in ("", "noqueue"):
            return False
        change = {"interface": interface, "ifindex": ifindex, "namespace": namespace()}
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, (json.dumps(change) + "\n").encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        return netlink.replace_qdisc(ifindex, QDISC, limit=QDISC_LIMIT_PACKETS)

    def undo(self, netlink: Netlink) -> list[str]:
        """Undo every change, the last one first; returns the interfaces that were put back."""
        undone = []
        for change in reversed(self.changes()):
            interface = str(change.get("interface", ""))
            if change.get("namespace") != namespace():
                continue
            try:
                facts = netlink.interface(interface)
                if facts.index == change.get("ifindex") and netlink.qdisc(facts.index) == QDISC:
                    netlink.reset_qdisc(facts.index)
                    undone.append(interface)
            except DataPlaneError:
                continue  # the interface is gone, and its queue with it
        self.path.unlink(missing_ok=True)
        return undone
