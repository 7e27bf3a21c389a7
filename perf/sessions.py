"""Very many sessions in a node: what finding one costs, installing one, and the memory of one.

``sessions.c`` has the worker's engine with a path that hands out sealed control frames (PONG): no
stream, ring or acknowledgement is in what they cost. Baselines are the
same figures with 1 000 sessions. The daemon's part is Python, and measured by its own code.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from statistics import median

from tests.dataplane.native import INCLUDES, PARTS, find
from valkyrie.controlplane.daemon.state import State, Way
from valkyrie.controlplane.security.modes import Cipher
from valkyrie.controlplane.sessions.keyring import Keyring
from valkyrie.controlplane.sessions.link import Joined, Link
from valkyrie.controlplane.sessions.protection import Protection
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.control import Limits

from .arena import resident_kib
from .program import compiled
from .rows import Row, make_row

_row = partial(make_row, "sessions", digits=1)
COUNTS = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
BASE = 1_000
FEW = 16
"""Sessions in use: a batch of a worker."""
IDLE = (10_000, 100_000)
"""Sessions beside them."""
USED_MAX = 250_000
"""Sessions that are in use at a time: of 11 KiB each, and memory is bounded."""
TIMEOUT_S = 600


def program() -> Path:
    """Build and return the worker's half."""
    return compiled("sessions", *INCLUDES, *map(find, PARTS), "-lcrypto")


def ask(binary: Path, count: int, used: int, rounds: int) -> dict[str, float]:
    """Return what a worker with *count* sessions says, of which *used* are."""
    words = [str(binary), str(count), str(used), str(rounds)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    pairs = (line.split() for line in done.stdout.splitlines())
    return {name: float(value) for name, value in pairs}


def _worker(rounds: int, repetitions: int) -> Iterator[Row]:
    binary = program()
    runs: dict[int, list[dict[str, float]]] = {count: [] for count in COUNTS}
    for _ in range(repetitions):  # in turns: whoever else uses the machine is in all of them
        for count, so_far in runs.items():
            so_far.append(ask(binary, count, min(count, USED_MAX), rounds))
    found = {
        count: {name: median(run[name] for run in each) for name in each[0]}
        for count, each in runs.items()
    }
    for count, figures in found.items():
        base, used = found[BASE], min(count, USED_MAX)
        for metric, name in (("find", "find_ns"), ("find while caches are in use", "find_busy_ns")):
            yield _row(f"{metric}, of {count:,}", figures[name], "ns", base[name])
        name = f"receive sealed, of {count:,} ({used:,} in use)"
        yield _row(name, figures["receive_ns"], "ns", base["receive_ns"])
    most = found[COUNTS[-1]]
    yield _row("sessions installed and found at random", COUNTS[-1], "sess.")
    yield _row("memory of one that is installed", most["installed_bytes"], "bytes")
    yield _row("memory of one in use, besides", most["used_bytes"], "bytes")
    yield _row("kept in use when all are idle", most["kept"], "")
    yield _row("first frame of one, which makes it", most["first_ns"], "ns")
    yield _row("worker takes an installed one in", most["taken_ns"], "ns")


def _beside(binary: Path, rounds: int, repetitions: int) -> Iterator[Row]:
    """Yield what a worker receives of a few sessions beside so many that say nothing."""
    rates = {}
    for count in (FEW, *IDLE):
        runs = [ask(binary, count, FEW, rounds)["receive_ns"] for _ in range(repetitions)]
        rates[count] = 1e9 / median(runs)
    for count in IDLE:
        row = _row(f"received a second beside {count:,} idle", rates[count], "frames/s", rates[FEW])
        yield {**row, "ratio": round(rates[count] / rates[FEW], 3)}


def install(count: int) -> dict[str, float]:
    """Let a daemon's own code enter sessions with so many peers; ns of CPU each, by step.

    ``memory`` is what is resident of each when all are there: objects, rows and keys, in bytes.
    """
    rows, secrets = ffi.new("struct vk_state *"), ffi.new("struct vk_secrets *")
    state, keyring = State(rows), Keyring(secrets)
    secret, limits = os.urandom(lib.VK_SECRET_SIZE), Limits()
    addresses = [str(ip_address(0x0A000000 + index)) for index in range(count)]
    way = Way(0, ip_address("10.255.0.1"), 1472, bytes(range(6)), bytes(range(6)))
    sealed = Protection(cipher=Cipher.AES_256_GCM)

    def peer(index: int) -> None:
        state.set_peer(index, addresses[index], lib.VK_PORT)
        state.set_way(index, way)

    def session(index: int) -> None:
        proofs = secret, secret
        which = keyring.enter(index, index + 1, 0, seals=secret, opens=secret, proofs=proofs)
        link = Link(index + 1, index + 1, 1, limits, since_ns=1, protection=sealed)
        state.join(index, Joined(link, lost=False), keys=which)

    def each(step: Callable[[int], None]) -> float:
        begun = time.process_time_ns()
        for index in range(count):
            step(index)
        return (time.process_time_ns() - begun) / count

    before_kib = resident_kib(os.getpid())
    spent = {"peer": each(peer), "session": each(session)}
    return {**spent, "memory": (resident_kib(os.getpid()) - before_kib) * 1024 / count}


def run(quick: bool) -> list[Row]:  # every scenario is called run(quick)
    """Return the rows."""
    rounds, repetitions = (100_000, 1) if quick else (400_000, 3)
    rows = list(_worker(rounds, repetitions))
    rows += _beside(program(), rounds, repetitions)
    count = 100_000 if quick else COUNTS[-1]
    spent = install(count)
    rows.append(_row(f"daemon enters {count:,} peers", 1e9 / spent["peer"], "peers/s"))
    rows.append(_row(f"daemon enters {count:,} sessions", 1e9 / spent["session"], "sess./s"))
    rows.append(_row("daemon's memory of a peer with a session", spent["memory"], "bytes"))
    return rows
