"""What a daemon begins with: what the broker hands it, and what it reads while it may."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from valkyrie.controlplane.config import reader as configuration
from valkyrie.controlplane.confinement import privileges

from . import auditor, credentials

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from pathlib import Path

    from valkyrie.controlplane.broker.boot import Boot
    from valkyrie.controlplane.config.reader import Config
    from valkyrie.controlplane.host.voice import Voice
    from valkyrie.controlplane.security.policy import Operator, Rule

    from .auditor import Auditor
    from .credentials import Credentials


@dataclass(frozen=True, slots=True)
class Inherited:
    """What the broker hands to a daemon by fork."""

    config: Config
    boot: Boot
    link: socket.socket
    listener: socket.socket
    frames: socket.socket
    """Control-class frames, from and to the worker."""
    interfaces: list[dict[str, object]]
    voices: list[Voice]
    """What control frames leave by."""
    connections: dict[int, tuple[int, socket.socket]]
    """Of attached applications, by slot, with its generation."""
    tuned: str
    restarts: int
    worker_pid: int
    worker_deaths: int

    def beat(self) -> None:
        """Show the broker that the daemon has not come to a halt; workers see it when it serves."""
        self.boot.counters.daemon_heartbeat_ns = time.monotonic_ns()

    def descriptors(self) -> list[int]:
        """Return the descriptors that a daemon keeps of the broker's."""
        ends = [self.link, self.listener, self.frames]
        ends += [connection for _, connection in self.connections.values()]
        spoken = [fd for voice in self.voices for fd in voice.descriptors()]
        return [end.fileno() for end in ends] + spoken


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a daemon opens, reads and looks up itself, while it has the right."""

    audit: Auditor
    credentials: Credentials
    rules: Sequence[Rule]
    operators: Sequence[Operator]
    """Users and groups are looked up before: that may take files, sockets, libraries."""
    reads: Sequence[Path]
    """Files and directories a daemon reads once it runs (``sandbox.enter_daemon``)."""


def prepare(inherited: Inherited, *, revokes: bool) -> Prepared:
    """In the daemon, before it gives up its rights; ConfigError says what is wrong with a file.

    ``revokes``: an earlier daemon has had a `revoked.toml`.
    """
    config = inherited.config
    privileges.hide()
    return Prepared(
        audit=auditor.open_log(config),
        credentials=credentials.load(config, revokes=revokes, beat=inherited.beat),
        rules=configuration.rules(config),
        operators=configuration.operators(config),
        reads=credentials.watched(config),
    )
