"""Packets into an application's ring, against DPDK's testpmd that receives and drops on AF_XDP.

Both sit on the same veth and meet the same sender. testpmd looks at no packet and copies none; it
is what DPDK makes of the sockets that Valkyrie uses. It runs with the same scheduling, without huge
pages, which nobody has to set aside for a benchmark, and without busy polling of the queue, which
on a veth costs it more than half of its rate.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

from tests.lab import wait_until
from valkyrie.dataplane.loader import attached_to
from valkyrie.dataplane.ports import Rings

from .contestant import BUILD, MissingError
from .receive import SIZES, Bench, _packet, ready
from .rows import Row, make_row
from .unpacked import unpacked

PROGRAM = "dpdk-testpmd"
PACKAGES = ("dpdk-dev", "librte-net-af-xdp23")
DRIVERS = ("net_af_xdp", "mempool_ring")
START_S = 20.0
RECEIVED = re.compile(r"RX-packets:\s+(\d+)")
MEMORY_MIB = 256

_row = partial(make_row, "dpdk", digits=None)


def received(listing: str) -> int:
    """Return the packets of all ports, which testpmd tells last."""
    counts = RECEIVED.findall(listing)
    if not counts:
        last = listing.strip().splitlines()[-1:] or ["nothing said"]
        raise MissingError(f"DPDK testpmd does not run here: {last[0]}")
    return int(counts[-1])


def _program() -> tuple[str, ...]:
    """Return the words that begin testpmd: the host's, or an unpacked one with its libraries."""
    if program := shutil.which(PROGRAM):
        return (program,)
    root = unpacked(PACKAGES, BUILD / "dpdk")
    libraries = next(root.glob("usr/lib/*-linux-gnu"))
    drivers = [next(libraries.glob(f"dpdk/pmds-*/librte_{name}.so.*")) for name in DRIVERS]
    return (
        *("env", f"LD_LIBRARY_PATH={libraries}", f"LIBXDP_OBJECT_PATH={libraries / 'bpf'}"),
        str(root / "usr" / "bin" / PROGRAM),
        *(word for driver in drivers for word in ("-d", str(driver))),
    )


def _command(program: tuple[str, ...], interface: str, cpus: list[int]) -> list[str]:
    return [
        *(
            "chrt",
            "-f",
            "1",
            *program,
            "--no-huge",
            "-m",
            str(MEMORY_MIB),
            "--no-pci",
            "--no-telemetry",
        ),
        *("--file-prefix", f"valkyrie-perf-{os.getpid()}", "-l", f"{cpus[0]},{cpus[-1]}"),
        *("--vdev", f"net_af_xdp,iface={interface},busy_budget=0", "--", "--forward-mode=rxonly"),
        *("--auto-start", "--stats-period=1", "--total-num-mbufs=8192"),
    ]


def _testpmd(
    bench: Bench, program: tuple[str, ...], packet: bytes, duration_ns: int, log: Path
) -> float:
    """Return packets a second that testpmd receives."""
    target = bench.target
    with log.open("wb") as out:
        process = target.host.popen(
            _command(program, target.name, bench.cpus),
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "RUNTIME_DIRECTORY": str(log.parent)},
        )
    try:
        wait_until(
            lambda: (
                process.poll() is not None
                or target.host.run(attached_to, target.index).program_id != 0
            ),
            START_S,
            "testpmd",
        )
        begin_ns = time.monotonic_ns()
        with bench.sending(packet):
            wait_until(lambda: time.monotonic_ns() - begin_ns > duration_ns, START_S, "the time")
        spent_ns = time.monotonic_ns() - begin_ns
        process.send_signal(signal.SIGINT)
        process.wait(START_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdin is not None
        process.stdin.close()
    return received(log.read_text(errors="replace")) * 1e9 / spent_ns


def run(quick: bool) -> list[Row]:  # every scenario is called run(quick)
    """Return the rows; MissingError where testpmd cannot be had, or does not run."""
    program = _program()
    if len(os.sched_getaffinity(0)) < 2:
        raise MissingError("DPDK testpmd wants two cores")
    rounds, duration_ns = (3, 300_000_000) if quick else (7, 1_000_000_000)
    rows: list[Row] = []
    with ready() as bench, tempfile.TemporaryDirectory() as directory:
        for name, payload_size in SIZES.items():
            packet = _packet(bench.source, bench.target, payload_size)
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(bench.ours(packet, duration_ns, Rings()))
                log = Path(directory, "testpmd.log")
                theirs.append(_testpmd(bench, program, packet, duration_ns, log))
            rows.append(
                _row(
                    f"{name} packets into a ring, against testpmd rxonly",
                    median(ours),
                    "packets/s",
                    median(theirs),
                )
            )
    return rows
