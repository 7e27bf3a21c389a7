"""Runs the demonstration; ``scripts/demo`` has set everything up."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from perf.network import Network, Node, StartError
from tests.lab import Lab, laboratory

from . import beside, eavesdrop, forged, garbage, ledger, lossy, protection, stranger, summary
from .crew import Crew
from .stranger import Stranger
from .tally import CLASSES, PHASES, Column, Tally

ROOT = Path(__file__).resolve().parents[2]
GARBAGE_RATE = 20_000
SETTLE_S = 1.0
"""What is on its way may arrive, and kernel counters reach the page."""
KEPT_S = 5.0
"""Streams that lose nothing may take so long for the rest."""
FILE_S = 30.0


class StoppedError(Exception):
    """Ctrl-C or SIGTERM."""


def _interrupt(*_: object) -> None:
    raise StoppedError


def archive(directory: Path) -> Path:
    """Write the project's own source as an archive, and return its path."""
    buffer = io.BytesIO()
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=False
    ).stdout.split(b"\0")
    names = [name.decode() for name in listed if name] or ["README.md"]
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in names:
            if (ROOT / name).is_file():
                tar.add(ROOT / name, arcname=f"valkyrie/{name}")
    path = directory / "valkyrie.tar.gz"
    path.write_bytes(gzip.compress(buffer.getvalue(), 1))
    path.chmod(0o644)
    return path


def table(tally: Tally, phase: str, now_s: float) -> Table:
    """Return the live table."""
    shown = Table(title=f"two hosts, {phase}, {now_s:.0f} s")
    for title in ("class", "sent", "delivered", "p50 µs", "p99 µs"):
        shown.add_column(title, justify="left" if title == "class" else "right")
    for name in CLASSES:
        row = tally.row(PHASES.index(phase), name)
        shown.add_row(
            name,
            f"{row.get(Column.SENT):,}",
            f"{row.get(Column.DELIVERED):,}",
            f"{row.percentile_us(0.5)}",
            f"{row.percentile_us(0.99)}",
        )
    shown.caption = f"file {tally.file_bytes:,} bytes · garbage {tally.garbage:,} packets"
    return shown


def watch(tally: Tally, phase: str, until: Callable[[float], bool]) -> float:
    """Show the table until *until* says so; returns how long the phase took."""
    tally.phase = PHASES.index(phase)
    begin = time.monotonic()
    with Live(refresh_per_second=4, transient=True) as live:
        while not until(time.monotonic() - begin):
            time.sleep(0.25)
            live.update(table(tally, phase, time.monotonic() - begin))
    return time.monotonic() - begin


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Return whether the condition came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@dataclass(frozen=True)
class Stage:
    """Hosts a and b, which know each other, and c, which would like to be known."""

    network: Network
    stranger: Stranger

    @property
    def nodes(self) -> dict[str, Node]:
        """The nodes of all hosts."""
        return {**self.network.nodes, stranger.NAME: self.stranger.node}


@contextmanager
def staged(lab: Lab, directory: Path) -> Iterator[Stage]:
    """Yield running nodes: a and b have joined, and b has refused c."""
    expected = stranger.fingerprint(directory / "expected.key")
    policy = {"b": forged.POLICY + stranger.peer(expected)}
    network = Network(lab, "xdp", name="demo", modes=protection.MODES, extra=policy)
    stage = Stage(network, Stranger(network, "demo", expected))
    try:
        network.start()
        stage.stranger.node.start()
        if not wait_until(lambda: ledger.joined(network), 10.0):
            raise StartError("the nodes did not join: see their sessions")
        if not wait_until(stage.stranger.refused, 10.0):
            raise StartError("host b has not refused host c: see its audit log")
        protection.hasten(network)
        yield stage
    finally:
        stage.stranger.node.stop()
        network.stop()


@dataclass
class Course:
    """What a run has led to."""

    took: dict[str, float]
    rotation: dict[str, Any]
    heard: dict[str, Any]
    thrown: Counter[str]


def calm(tally: Tally, seconds: float) -> float:
    """Let everything flow while workers change keys; returns how long it took."""
    return watch(
        tally, "calm", lambda now: now >= seconds and (tally.file_state != 0 or now > FILE_S)
    )


def flood(
    tally: Tally, network: Network, seconds: float, thrown: Counter[str]
) -> tuple[float, dict[str, Any]]:
    """Flood, and have host c throw garbage and forgeries; in the middle a and b shake hands anew.

    Returns how long it took, and what became of the session.
    """
    source, target = network.stranger
    raw = source.host.packet_socket(source.name)
    packets = garbage.frames(source.mac, target.mac, str(source.v4.ip), str(target.v4.ip))
    made = forged.frames(network)
    throwers = [
        threading.Thread(target=garbage.throw, args=(raw, packets, tally, GARBAGE_RATE)),
        threading.Thread(target=forged.throw, args=(raw, made, tally, thrown)),
    ]
    for thrower in throwers:
        thrower.start()
    begin = time.monotonic()
    try:
        watch(tally, "flood", lambda now: now >= seconds / 2)
        rotation = protection.rotate(network)
        watch(tally, "flood", lambda _: time.monotonic() - begin >= seconds)
        return time.monotonic() - begin, rotation
    finally:
        tally.stop_sending()
        for thrower in throwers:
            thrower.join()
        raw.close()


def course(tally: Tally, network: Network, crew: Crew, seconds: float) -> Course:
    """Run calm and flood, with somebody who listens on the way."""
    crew.start("b")
    if not wait_until(lambda: len(network.nodes["b"].status()["applications"]) >= 5, 10.0):
        raise StartError("the applications of host b did not attach")
    link, thrown = network.wire[0], Counter[str]()
    with eavesdrop.Eavesdropper(link.host.packet_socket(link.name)) as listener:
        crew.start("a")
        calm_s = calm(tally, seconds / 2)
        epoch = protection.session(network.nodes["a"], "b")["epoch"]
        flood_s, rotation = flood(tally, network, seconds / 2, thrown)
    wait_until(lambda: not any(summary.missing(tally, name) for name in summary.KEPT), KEPT_S)
    time.sleep(SETTLE_S)
    tally.stop_receiving()
    took = {"calm": calm_s, "flood": flood_s}
    return Course(took, {"calm": epoch, **rotation}, listener.document(), thrown)


def document_of(tally: Tally, stage: Stage, run: Course, early: dict[str, int]) -> dict[str, Any]:
    """Return everything that the summary says."""
    network = stage.network
    document: dict[str, Any] = {
        "phases": summary.phases(tally, run.took),
        "interfaces": ledger.interfaces(network),
        "sessions": protection.sessions(network),
        "rotation": run.rotation,
        "listener": run.heard,
        "stranger": stage.stranger.document(),
        "forged": forged.document(network, run.thrown),
        "drops": ledger.drops(network),
        "ledger": ledger.balance(stage.nodes, early),
        "file": {"bytes": tally.file_bytes, "sha256_match": tally.file_state == 1},
        "garbage": {"sent": tally.garbage},
    }
    document["wrong"] = summary.verdict(document)
    return document


def run(seconds: float) -> dict[str, Any]:
    """Run everything; returns the document. Leaves nothing behind."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="valkyrie-demo-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        crew = Crew(tally, archive(directory))
        try:
            with laboratory() as lab, staged(lab, directory) as stage:
                early = ledger.wires(stage.nodes)
                went = course(tally, stage.network, crew, seconds)
                document = document_of(tally, stage, went, early)
            wait_until(lambda: bool(crew.ended()) or not crew.pids, 3.0)
            document["wrong"] += [f"the {name} ended with an error" for name in crew.ended()]
        finally:
            crew.kill()
    document["lossy"] = lossy.measure()
    document["wrong"] += lossy.verdict(document["lossy"])
    document["kernel_path"] = beside.measure()
    document["ok"] = not document["wrong"]
    return document


def main() -> int:
    """Parse arguments, run, print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--seconds", type=float, default=16.0, help="calm and flood together")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args()
    if options.seconds < 4:
        parser.error("--seconds: at least 4")
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        document = run(options.seconds)
    except StoppedError:
        print("demo: interrupted; everything was taken down")
        return 130
    except StartError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(summary.page(document))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if document["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
