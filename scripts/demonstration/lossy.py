"""A bad interval: a file and critical messages cross a link that loses and is far away for a while.

The hosts are joined by a relay of our own, because not every kernel has netem.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import valkyrie
from perf.network import CONFIGURATION, INTERFACE, VALKYRIE, Node, StartError
from perf.relay import Conditions, Relay
from tests.lab import laboratory
from valkyrie.controlplane.counters.readout import Page
from valkyrie.controlplane.security.identity_file import load_or_make

from . import protection

FILE_SIZE = 64 << 20
GOOD = Conditions(rate_bps=200e6, delay_s=0.0002, buffer_bytes=500_000)
LOSS, DELAY_S, BAD_S = 0.02, 0.010, 2.0
"""2 % each way, 20 ms there and back."""
BEGIN_SHARE = 0.1
"""Of the file, when the interval begins."""
GAP_S = 0.005
PATIENCE_S = 60.0


@dataclass
class Signals:
    """What the sender's session said, sampled."""

    windows: list[int] = field(default_factory=list)
    rtts_ns: list[int] = field(default_factory=list)
    lost: int = 0

    def look(self, page: Page) -> None:
        """Take a sample."""
        for session in page.read().sessions:
            self.windows.append(session.values["window"])
            self.rtts_ns.append(session.values["rtt_ns"])
            self.lost = session.values["lost"]


class Critical:
    """Numbered critical messages, all the while."""

    def __init__(self) -> None:
        self.sent = 0
        self.came: Counter[int] = Counter()
        self._over = threading.Event()
        self._ready = threading.Event()
        self._threads = [threading.Thread(target=run) for run in (self._receive, self._send)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _receive(self) -> None:
        with (
            valkyrie.attach_sync("demo-b", name="alarms") as node,
            node.listen("alarms") as service,
        ):
            self._ready.set()
            for message in service.accept(timeout=PATIENCE_S):
                self.came[struct.unpack("<I", message.payload)[0]] += 1

    def _send(self) -> None:
        self._ready.wait(PATIENCE_S)
        with valkyrie.attach_sync("demo-a", name="operator") as node:
            stream = node.connect("b").open("alarms", stream=0)
            while not self._over.wait(GAP_S):
                stream.send(struct.pack("<I", self.sent))
                self.sent += 1
            stream.flush(PATIENCE_S)
            stream.close()

    def document(self) -> dict[str, int]:
        """Return what was sent, what came, and what came twice."""
        return {
            "sent": self.sent,
            "delivered": len(self.came),
            "repeated": sum(self.came.values()) - len(self.came),
        }


def _nodes(relay: Relay, directory: Path) -> list[Node]:
    a, b = relay.wires[0]
    directory.chmod(0o755)  # daemons look there for revocations
    keys = [directory / f"{side}.key" for side in "ab"]
    prints = [str(load_or_make(key)[0].card.fingerprint) for key in keys]
    return [
        Node(
            link.host,
            f"demo-{side}",
            directory,
            CONFIGURATION.format(
                node="demo",
                cpu=f"cpu = {cpu}",
                host=side,
                interfaces=INTERFACE.format(name=link.name, path="auto"),
                other="ba"[cpu],
                address=other.v4.ip,
                modes=", ".join(f'"{mode}"' for mode in protection.MODES),
                audit_file=directory / f"audit-{side}.jsonl",
                identity_file=keys[cpu],
                fingerprint=f'fingerprint = "{prints[1 - cpu]}"\n',
            ),
        )
        for cpu, (side, link, other) in enumerate((("a", a, b), ("b", b, a)))
    ]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(relay: Relay, file: Path, inbox: Path, signals: Signals) -> dict[str, Any]:
    """Copy the file while the link becomes bad and good again."""
    part = inbox / f"{file.name}.part"
    begin = time.monotonic()
    command = [VALKYRIE, "cp", str(file), "b:files", "--json", "--node", "demo-a"]
    with (
        Page("demo-a") as page,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as copying,
    ):
        bad_s: float | None = None
        while copying.poll() is None and time.monotonic() - begin < PATIENCE_S:
            signals.look(page)
            time.sleep(0.02)
            now = time.monotonic()
            if bad_s is None:
                if part.exists() and part.stat().st_size >= BEGIN_SHARE * FILE_SIZE:
                    bad_s = now
                    relay.change(
                        Conditions(
                            rate_bps=GOOD.rate_bps,
                            buffer_bytes=GOOD.buffer_bytes,
                            loss=LOSS,
                            delay_s=DELAY_S,
                        )
                    )
            elif now - bad_s > BAD_S:
                relay.change(GOOD)
        copying.kill()
        said, complaint = copying.communicate()
    return {
        "seconds": round(time.monotonic() - begin, 2),
        "interval_s": BAD_S if bad_s else 0,
        "complaint": (complaint or said).decode(errors="replace").strip()
        if copying.returncode
        else "",
    }


def _received(node: Node) -> None:
    """Wait until files are received."""
    end = time.monotonic() + PATIENCE_S
    while not any("files" in each["services"] for each in node.status()["applications"]):
        if time.monotonic() > end:
            raise StartError("nobody receives files on host b")


def _cross(relay: Relay, nodes: list[Node], directory: Path) -> dict[str, Any]:
    inbox = directory / "inbox"
    inbox.mkdir()
    file = directory / "64 MiB"
    file.write_bytes(os.urandom(FILE_SIZE))
    signals = Signals()
    receive = [VALKYRIE, "receive-files", str(inbox), "--json", "--no-sync", "--node", "demo-b"]
    with subprocess.Popen(receive, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as receiving:
        try:
            _received(nodes[1])
            with Critical() as critical:
                found = _copy(relay, file, inbox, signals)
        finally:
            receiving.terminate()
    arrived = inbox / file.name
    there, back = relay.counts()
    return {
        **found,
        "mode": protection.session(nodes[0], "b")["mode"],
        "bytes": FILE_SIZE,
        "sha256_match": arrived.exists() and _digest(arrived) == _digest(file),
        "critical": critical.document(),
        "lost_on_the_link": there.lost + back.lost,
        "overflowed": there.overflowed + back.overflowed,
        "lost_packets": signals.lost,
        "window_bytes": [min(signals.windows, default=0), max(signals.windows, default=0)],
        "rtt_ms": [round(each(signals.rtts_ns, default=0) / 1e6, 2) for each in (min, max)],
    }


def measure() -> dict[str, Any]:
    """Run it; returns what crossed, and at what cost."""
    directory = Path(tempfile.mkdtemp(prefix="valkyrie-demo-"))
    try:
        with laboratory() as lab:
            relay = Relay(lab, [(lab.host("a"), lab.host("b"))], GOOD)
            nodes = _nodes(relay, directory)
            try:
                for node in nodes:
                    node.start()
                return _cross(relay, nodes, directory)
            finally:
                for node in nodes:
                    node.stop()
                relay.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def verdict(document: dict[str, Any]) -> list[str]:
    """Return what is wrong, one sentence each."""
    critical = document["critical"]
    wrong = []
    if document["mode"] not in protection.MODES:
        wrong.append(f"the lossy interval was crossed in the mode {document['mode']}")
    if not document["sha256_match"]:
        wrong.append(f"the file did not cross the lossy interval: {document['complaint']}")
    none = not critical["sent"]
    if none or critical["delivered"] != critical["sent"] or critical["repeated"]:
        wrong.append(f"critical messages of the lossy interval: {json.dumps(critical)}")
    if not document["lost_on_the_link"]:
        wrong.append(f"the relay lost nothing: there was no lossy interval ({document})")
    return wrong


def lines(document: dict[str, Any]) -> list[str]:
    """Return its lines of the page."""
    critical, window, rtt = document["critical"], document["window_bytes"], document["rtt_ms"]
    digest = "equal" if document["sha256_match"] else "WRONG"
    crossed = (
        f"lossy     {document['bytes'] >> 20} MiB ({document['mode']}) in "
        f"{document['seconds']} s, digest {digest}; for {document['interval_s']:g} s of that "
        "2 % loss and 20 ms"
    )
    cost = (
        f"          {document['lost_on_the_link']} packets lost by chance and "
        f"{document['overflowed']} to full queues, {document['lost_packets']} taken for lost and "
        "sent again"
    )
    kept = (
        f"          window {window[0] >> 10} to {window[1] >> 10} KiB, smoothed RTT {rtt[0]} to "
        f"{rtt[1]} ms; critical {critical['delivered']} of {critical['sent']}, "
        f"{critical['repeated']} twice"
    )
    return [crossed, cost, kept]
