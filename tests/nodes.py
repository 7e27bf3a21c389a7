"""Nodes of a test: ``valkyrie up`` in a lab's hosts, and what it takes to talk to them."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from socket import AF_UNIX, SOCK_SEQPACKET
from socket import socket as Socket  # noqa: N812  # NodeUnderTest.socket has the name
from typing import Any

import psutil

import valkyrie
from tests import nursery
from tests.census import NODE_PREFIX
from tests.lab import PATIENCE, SOON_S, Host, Lab, Link, wait_until
from valkyrie.controlplane.security.identity_file import load_or_make
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.application.driver import exchange
from valkyrie.dataplane.loader import attached_to

EVERYTHING = """
[[application]]
name = "all"
anybody = true
classes = ["critical", "system", "job", "data", "logs"]
listen = ["*"]
peers = ["*"]
attachments_max = 64
"""
"""A policy that allows everything."""

PLAIN = 'modes = ["plaintext"]'
"""Sessions in the clear: for tests of something else."""

PATIENT = "[session]\nkeepalive_ms = 60000\n"
"""A peer that stands still for seconds is not dead: for tests that have a worker hang."""

Streams = tuple[valkyrie.SyncStream, valkyrie.SyncStream]
"""Both ends of a stream: of who opened it, of who accepted it."""


@dataclass
class NodeUnderTest:
    """One node: its configuration, its process, its socket."""

    host: Host
    link: Link
    name: str
    config: Path
    directory: Path
    log: Path
    library: Path | None = None
    programs: Path | None = None
    """Where its eBPF programs are, instead of in the package."""
    prelude: str = ""
    """Python that its process runs before anything else."""
    process: subprocess.Popen[bytes] | nursery.Adopted | None = None

    @property
    def socket(self) -> str:
        """Path of the application socket."""
        return str(self.directory / f"{self.name}.sock")

    def up(self, **options: Any) -> None:
        """Start the node; it may not serve yet. With ``options`` of ``Host.popen`` by exec."""
        arguments = [str(self.config), str(self.library or ""), str(self.programs or "")]
        with self.log.open("ab") as log:
            if not options and not self.prelude:
                self.process = nursery.nursery().start(arguments, self.host.fd, log.fileno())
                self.host.processes.append(self.process)
                return
            run = f"import runpy; runpy.run_path({nursery.__file__!r}, None, '__main__')"
            command = [sys.executable, "-P", "-c", f"{self.prelude}\n{run}", *arguments]
            self.process = self.host.popen(command, stdout=log, stderr=log, **options)

    def start(self) -> NodeUnderTest:
        """Start the node and wait until it serves."""
        self.up()
        wait_until(self._serves, 10.0, f"node {self.name} serves: {self.said()}")
        return self

    def _serves(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"node {self.name} ended: {self.said()}")
        try:
            self.status()
        except OSError:
            return False
        return True

    def said(self) -> str:
        """Return what the node has written."""
        return self.log.read_text() if self.log.exists() else ""

    def ask(self, request: appsocket.Request, timeout_s: float = 10.0) -> appsocket.Reply:
        """Ask the node on a connection of its own."""
        with self.connect(timeout_s) as connection:
            reply, descriptors = exchange(connection, request)
        assert not descriptors
        return reply

    def connect(self, timeout_s: float = 10.0) -> Socket:
        """Return a new connection to the node."""
        connection = Socket(AF_UNIX, SOCK_SEQPACKET)
        connection.settimeout(timeout_s * PATIENCE)
        try:
            connection.connect(self.socket)
        except BaseException:
            connection.close()
            raise
        return connection

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        reply = self.ask(appsocket.Status())
        if reply.code:  # it may have too many requests at once
            raise ConnectionRefusedError(reply.message)
        return reply.document

    def pid(self, child: str) -> int:
        """Return the process of the "worker" or the "daemon"."""
        return int(self.status()[child]["pid"])

    def applications(self) -> int:
        """Return how many applications are attached; -1 while the node does not say."""
        try:
            return len(self.status()["applications"])
        except OSError:
            return -1

    def children(self) -> list[psutil.Process]:
        """Return the node's processes but the broker."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def program(self) -> int:
        """Return the id of the XDP program on the node's interface; 0 = none."""
        return self.host.run(attached_to, self.link.index).program_id

    def stop(self) -> int:
        """Stop the node if it runs; returns its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=10 * PATIENCE)

    def records(self, event: str) -> list[dict[str, Any]]:
        """Return the records of an event in its audit log."""
        log = self.config.with_name(f"audit-{self.host.name}.jsonl")
        records = map(json.loads, log.read_bytes().splitlines())
        return [record for record in records if record["event"] == event]

    def on_record(self, event: str) -> list[dict[str, Any]]:
        """Return what its audit log says of every such event."""
        return [record["fields"] for record in self.records(event)]

    def left(self) -> list[str]:
        """Return what the node has left behind."""
        found = [path.name for path in self.directory.iterdir()]
        shared = Path("/dev/shm") / f"valkyrie.{self.name}"
        if shared.exists():
            found.append(str(shared))
        if self.program():
            found.append(f"XDP program {self.program()}")
        return found


def make_node(
    link: Link,
    directory: Path,
    peers: dict[str, str],
    *,
    path: str = "udp",
    policy: str = EVERYTHING,
    extra: str = "",
    interface: str = "",
    library: Path | None = None,
    user: str = "nobody",
    security: str = PLAIN,
    known: str | None = None,
) -> NodeUnderTest:
    """Return a node of a host, not started; ``peers`` are addresses by name.

    ``path`` is how it receives, and after a slash how it sends. ``known``: what else the
    configuration says of its peers.
    """
    rx, _, tx = path.partition("/")
    name = f"{NODE_PREFIX}{link.host.name}"
    run = directory / f"run-{link.host.name}"
    run.mkdir(exist_ok=True)
    directory.chmod(0o755)
    text = f"""
[node]
name = "{name}"
run_directory = "{run}"
user = "{user}"

[security]
audit_file = "{directory}/audit-{link.host.name}.jsonl"
{security}

[[interface]]
name = "{interface or link.name}"
path = "{rx}"
tx = "{tx or "auto"}"
{extra}
{policy}
"""
    for peer, address in peers.items():
        text += f'[[peer]]\nname = "{peer}"\naddress = "{address}"\n{known or ""}\n'
    config = directory / f"{link.host.name}.toml"
    config.write_text(text)
    config.chmod(0o644)
    log = directory / f"{link.host.name}.log"
    return NodeUnderTest(link.host, link, name, config, run, log, library)


def make_pair(
    lab: Lab, directory: Path, *, path: str = "udp", **options: Any
) -> tuple[NodeUnderTest, NodeUnderTest]:
    """Return two nodes, "a" and "b", that know each other, not started."""
    a, b = lab.wire(lab.host("a"), lab.host("b"))
    first = make_node(a, directory, {"b": str(b.v4.ip)}, path=path, **options)
    second = make_node(b, directory, {"a": str(a.v4.ip)}, path=path, **options)
    return first, second


def make_secure_pair(
    lab: Lab,
    directory: Path,
    *,
    path: str = "udp",
    modes: str = '["noise", "post_quantum"]',
    demands: tuple[str, str] = ("", ""),
    **options: Any,
) -> tuple[NodeUnderTest, NodeUnderTest]:
    """Return two nodes that have each other's fingerprint; ``demands`` are of their peers."""
    links = lab.wire(lab.host("a"), lab.host("b"))
    files = [directory / f"{name}.key" for name in "ab"]
    prints = [load_or_make(file)[0].card.fingerprint for file in files]
    nodes = [
        make_node(
            links[i],
            directory,
            {"ba"[i]: str(links[1 - i].v4.ip)},
            path=path,
            security=f'modes = {modes}\nidentity_file = "{files[i]}"',
            known=f'fingerprint = "{prints[1 - i]}"\n{demands[i]}',
            **options,
        )
        for i in range(2)
    ]
    return nodes[0], nodes[1]


@contextlib.contextmanager
def running(*nodes: NodeUnderTest) -> Iterator[None]:
    """Run nodes; in the end they stop cleanly and leave nothing."""
    try:
        for node in nodes:
            node.up()
        for node in nodes:
            wait_until(node._serves, 10.0, f"node {node.name} serves")
        yield
    finally:
        statuses = [node.stop() for node in nodes if node.process is not None]
        for node in nodes:  # pytest shows it when the test failed
            print(f"---- {node.name} said:\n{node.said()}")
    assert statuses == [0] * len(nodes)
    for node in nodes:
        assert node.left() == []


def session(node: NodeUnderTest) -> dict[str, Any]:
    """Return what a node says of its only session."""
    rows: list[dict[str, Any]] = node.status()["sessions"]
    assert len(rows) == 1
    return rows[0]


def joined(*nodes: NodeUnderTest) -> bool:
    """Say whether both have the same session."""
    rows = [session(node) for node in nodes]
    return all(row["state"] == "up" for row in rows) and (rows[0]["local"], rows[0]["remote"]) == (
        rows[1]["remote"],
        rows[1]["local"],
    )


@contextlib.contextmanager
def streams(a: NodeUnderTest, b: NodeUnderTest) -> Iterator[Streams]:
    """Open a stream between applications of two nodes, a's to b's; a message has gone over it."""
    with (
        valkyrie.attach_sync(a.socket) as one,
        valkyrie.attach_sync(b.socket) as other,
        other.listen("echo") as service,
    ):
        out = one.connect(b.name.removeprefix(NODE_PREFIX)).open("echo", stream=1000)
        out.send(b"first")
        into = service.accept(timeout=SOON_S)
        expect(into, b"first")
        yield out, into


def expect(stream: valkyrie.SyncStream, payload: bytes) -> None:
    """Receive a message, which must be this one."""
    message = stream.recv(timeout=SOON_S)
    assert message is not None
    assert message.payload == payload
