"""Hosts in namespaces with running nodes, for benchmarks and the demonstration."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab import Host, Lab, Link
from valkyrie.controlplane.security.identity_file import load_or_make

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HOSTS = ("a", "b")
PLAINTEXT = ("plaintext",)
VALKYRIE = Path(sys.executable).with_name("valkyrie")
READY_S = 20.0
STOP_S = 10.0

CONFIGURATION = """\
[node]
name = "{node}-{host}"

[security]
audit_file = "{audit_file}"
modes = [{modes}]
identity_file = "{identity_file}"

# All hosts share the cores of one: one that stands still for a moment is not dead.
[session]
keepalive_tries = 10

{interfaces}
[worker]
{cpu}

[[peer]]
name = "{other}"
address = "{address}"
{fingerprint}
[[application]]
name = "everybody"
anybody = true
classes = ["critical", "system", "job", "data", "logs"]
listen = ["*"]
peers = ["*"]
attachments_max = 64
"""

INTERFACE = """\
[[interface]]
name = "{name}"
path = "{path}"
"""


class StartError(RuntimeError):
    """A daemon did not come up."""


class Node:
    """A host with a running ``valkyrie up``."""

    def __init__(self, host: Host, name: str, directory: Path, text: str) -> None:
        self.host = host
        self.name = name
        self._file = directory / f"{self.name}.toml"
        self._file.write_text(text)
        self._notify = directory / f"{self.name}.notify"
        self._log = directory / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon and wait until it says that it is ready."""
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
            self._log.open("wb") as log,
        ):
            notify.bind(str(self._notify))
            notify.settimeout(0.2)
            self._process = self.host.popen(
                [VALKYRIE, "up", "--config", self._file],
                env={**os.environ, "NOTIFY_SOCKET": str(self._notify)},
                stdout=log,
                stderr=log,
            )
            deadline = time.monotonic() + READY_S
            while time.monotonic() < deadline and self._process.poll() is None:
                try:
                    if b"READY=1" in notify.recv(4096):
                        return
                except TimeoutError:
                    continue
        raise StartError(f"valkyrie up did not start on host {self.host.name}:\n{self.log()}")

    @property
    def pid(self) -> int:
        """Return the process id of the broker; the others are its descendants."""
        assert self._process is not None, "start it first"
        return self._process.pid

    def log(self) -> str:
        """Return what the daemon printed."""
        return self._log.read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        done = subprocess.run(
            [VALKYRIE, "status", "--node", self.name, "--json"],
            capture_output=True,
            check=True,
            timeout=10,
        )
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def stop(self) -> None:
        """Stop the daemon as a user would: SIGTERM."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


class Network:
    """Hosts a and b joined by a wire, and a third host joined to b."""

    def __init__(
        self,
        lab: Lab,
        path: str,
        *,
        name: str,
        cpus: tuple[int | None, int | None] = (0, 1),
        modes: Sequence[str] = PLAINTEXT,
        extra: Mapping[str, str] | None = None,
        mtu: int = 1500,
        queues: int = 1,
        tx: str = "auto",
    ) -> None:
        """Make hosts and configurations; nodes are called ``<name>-a`` and ``<name>-b``.

        *cpus* are the cores of the workers of a and b; None leaves one to the scheduler. In other
        *modes* than plaintext the nodes have identities and know each other's fingerprints, and
        keep audit logs (``audit``). *extra* is what a host's configuration has besides. Interfaces
        have as many *queues*, and nodes serve them. They send by *tx*, which on a veth is kernel
        UDP with either path.
        """
        self.lab = lab
        self._directory = tempfile.TemporaryDirectory(prefix="valkyrie-")
        self.directory = directory = Path(self._directory.name)
        directory.chmod(0o755)  # daemons look there for revocations
        a, b = (lab.host(name) for name in HOSTS)
        self.wire: tuple[Link, Link] = lab.wire(a, b, mtu=mtu, queues=queues)
        self.stranger: tuple[Link, Link] = lab.wire(
            lab.host("c"), b, names=("vk0", "vk1"), queues=queues
        )
        interfaces = {
            host: "\n".join(
                f'{INTERFACE.format(name=name, path=path)}tx = "{tx}"\nqueues = {queues}\n'
                for name in names
            )
            for host, names in (("a", ("vk0",)), ("b", ("vk0", "vk1")))
        }
        safe = tuple(modes) != PLAINTEXT
        self.audit = {host: directory / f"audit-{host}.jsonl" for host in HOSTS}
        files = {host: directory / f"{host}.key" for host in HOSTS}
        self.fingerprints = prints = {
            host: str(load_or_make(file)[0].card.fingerprint)
            for host, file in files.items()
            if safe
        }
        self.nodes = {
            host.name: Node(
                host,
                f"{name}-{host.name}",
                directory,
                CONFIGURATION.format(
                    node=name,
                    cpu="" if cpu is None else f"cpu = {cpu}",
                    host=host.name,
                    interfaces=interfaces[host.name],
                    other=other.host.name,
                    address=other.v4.ip,
                    modes=", ".join(f'"{mode}"' for mode in modes),
                    audit_file=self.audit[host.name] if safe else "off",
                    identity_file=files[host.name],
                    fingerprint=f'fingerprint = "{prints[other.host.name]}"\n' if safe else "",
                )
                + (extra or {}).get(host.name, ""),
            )
            for cpu, host, other in zip(cpus, (a, b), reversed(self.wire), strict=True)
        }

    def start(self) -> None:
        """Start both daemons."""
        for node in self.nodes.values():
            node.start()

    def stop(self) -> None:
        """Stop both daemons and remove the configuration files."""
        for node in self.nodes.values():
            node.stop()
        self._directory.cleanup()
