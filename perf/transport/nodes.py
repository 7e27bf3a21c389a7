"""Valkyrie's side of the comparisons: a node on each host, a flow and a ping between them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from perf.contestant import ROOT
from perf.network import CONFIGURATION, INTERFACE, PLAINTEXT, Node
from valkyrie.controlplane.config.settings import Controller

from .flows import NS, PATIENCE_S, Contestant, Record

if TYPE_CHECKING:
    from tests.lab import Link

BULK_STREAM = 100  # job: reliable and in order, as TCP is
PING_STREAM = 1  # system
SIZE = 16_384
CONTROLLERS: tuple[str, ...] = get_args(Controller)
TRANSPORT = """\
memory_bytes_max = 1073741824

[transport]
controller = "{controller}"
window_bytes = {window_bytes}
"""
WINDOW_BYTES = 64 << 20
"""Never the limit, as the kernel's receive buffer in tcp.c."""


class Valkyrie:
    """A stream of messages of one size from the first end of a wire, and a ping beside it."""

    def __init__(
        self, wire: tuple[Link, Link], number: int, controller: str, duration_s: float
    ) -> None:
        """Write the configurations of both nodes; *number* tells the flows of a run apart."""
        self._name = f"relay{number}"
        self._wire = wire
        self._duration_s = duration_s
        self._programs: list[subprocess.Popen[bytes]] = []
        self._directory = tempfile.TemporaryDirectory(prefix="valkyrie-")
        a, b = wire
        self._nodes = [
            Node(
                link.host,
                f"{self._name}-{side}",
                Path(self._directory.name),
                CONFIGURATION.format(
                    node=self._name,
                    cpu=f"cpu = {cpu}",
                    host=side,
                    interfaces=INTERFACE.format(name=link.name, path="auto"),
                    other="ba"[cpu],
                    address=other.v4.ip,
                    modes=f'"{PLAINTEXT[0]}"',
                    audit_file="off",
                    identity_file=Path(self._directory.name) / f"{side}.key",
                    fingerprint="",
                )
                + TRANSPORT.format(controller=controller, window_bytes=WINDOW_BYTES),
            )
            for cpu, (side, link, other) in enumerate((("a", a, b), ("b", b, a)))
        ]

    def prepare(self) -> None:
        """Start both nodes, and the applications up to their first message."""
        for node in self._nodes:
            node.start()
        self._programs = [
            self._ready(1, "sink", self._duration_s + 1),
            self._ready(1, "echo", self._duration_s + 1),
            self._ready(0, "pour", self._duration_s, "b", str(BULK_STREAM), str(SIZE)),
            self._ready(0, "ping", self._duration_s, "b", str(PING_STREAM)),
        ]

    def _ready(self, side: int, mode: str, seconds: float, *rest: str) -> subprocess.Popen[bytes]:
        head = ["taskset", "-c", str(side), sys.executable, "-m", "perf.transport.application"]
        name = f"{self._name}-{'ab'[side]}"
        program = self._wire[side].host.popen(
            [*head, mode, name, str(seconds), *rest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert program.stdout is not None
        program.stdout.readline()
        return program

    def start(self) -> None:
        """Begin both."""
        for program in self._programs[2:]:
            assert program.stdin is not None
            program.stdin.write(b"go\n")
            program.stdin.flush()

    def finish(self) -> Record:
        """Wait for the end and say what was."""
        outputs = [program.communicate(timeout=PATIENCE_S)[0] for program in self._programs]
        for program in self._programs:
            if program.returncode:
                raise RuntimeError(f"{program.args!r} ended with {program.returncode}")
        sink, _, _, ping = (
            [[int(word) for word in line.split()] for line in out.splitlines()] for out in outputs
        )
        return Record(
            arrived=[(at / NS, float(count)) for at, count in sink],
            pings=[(row[0] / NS, row[1] / NS) for row in ping],
            smoothed=[(row[0] / NS, row[2] / NS) for row in ping if row[2]],
            retransmitted=ping[-1][3] - ping[0][3] if ping else None,
        )

    def close(self) -> None:
        """Stop both nodes."""
        for node in self._nodes:
            node.stop()
        self._directory.cleanup()


def valkyrie(controller: str) -> Contestant:
    """Return a controller of Valkyrie as a contestant."""
    return Contestant(
        f"Valkyrie, {controller}",
        lambda wire, number, duration_s: Valkyrie(wire, number, controller, duration_s),
    )
