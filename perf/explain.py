"""``python -m perf explain SCENARIO``: where a message's time goes, and where its cost.

Two tables for each path, and both add up. *Time*: one message of the scenario's size on its way at
a time, its stages told by what the kernel sees (marks of the applications, send and receive calls
of the workers, arrivals of packets). *Cost*: the scenario as it is, processor time a message by
part, the workers' by function as ``perf`` samples them, and the programs in the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from valkyrie.dataplane import lib
from valkyrie.dataplane.loader import Program

from . import kernel
from .arena import Arena, Pinning
from .contestant import Contestant
from .match import Run, play
from .passage import Event, Passage, Side, middle, round_trips
from .peers import CONTESTANTS
from .scenario import Profile, Scenario

CONTESTED = ("valkyrie-c-udp", "valkyrie-c-xdp")
EVENT = ("ns", ctypes.c_uint64), ("what", ctypes.c_uint32), ("who", ctypes.c_uint32)
TRACEPOINTS = {
    "vk_explain": "sys_enter",
    "vk_returns": "sys_exit",
    "vk_arrives": "netif_receive_skb",
    "vk_redirects": "xdp_redirect",
}
CALLS = {
    "x86_64": {110: 1, 44: 2, 46: 2, 307: 2, 45: 3, 47: 3, 299: 3},
    "aarch64": {173: 1, 206: 2, 211: 2, 269: 2, 207: 3, 212: 3, 243: 3},
}
"""Numbers of getppid; sendto, sendmsg, sendmmsg; recvfrom, recvmsg, recvmmsg -> what they are."""
SAMPLES_PER_S = 997
"""Of ``perf record``: no multiple of what a timer does."""
SHOWN_MIN = 0.01
"""Share of a worker's samples below which functions are shown together."""


class ExplainError(RuntimeError):
    """A scenario cannot be explained; the text says why."""


class Notes(ctypes.Structure):
    """``struct event``."""

    _fields_ = EVENT
    ns: int
    what: int
    who: int


class Recorder:
    """Has the kernel note what watched processes do and what arrives at places."""

    def __init__(self, closing: contextlib.ExitStack) -> None:
        self._program = closing.enter_context(Program("explain", image=kernel.compiled("explain")))
        self._maps = self._program.maps
        for number, what in CALLS[platform.machine()].items():
            self._maps["vk_interest"].update(number, what.to_bytes(4, "little"))
        for name, tracepoint in TRACEPOINTS.items():
            loaded = self._program._object  # noqa: SLF001  # the loader knows of one program
            fd = lib.vk_bpf_program(loaded, name.encode())
            closing.callback(os.close, kernel.attach_raw(tracepoint, fd))
        self._memory = closing.enter_context(self._maps["vk_events"].map_memory())

    def watch(self, process: int) -> None:
        """Note the calls of a process."""
        self._maps["vk_watched"].update(process, bytes(4))

    def look_at(self, place: int) -> None:
        """Note the packets that arrive in a network namespace."""
        self._maps["vk_places"].update(place, bytes(4))

    def events(self) -> list[Event]:
        """Return what was noted, in the order of time."""
        noted = int.from_bytes(self._maps["vk_noted"].lookup(0) or b"", "little")
        size = ctypes.sizeof(Notes)
        count = min(noted, len(self._memory) // size)
        rows = (Notes * count).from_buffer_copy(self._memory[: count * size])
        found = [Event(row.ns, row.what, row.who) for row in rows if row.what]
        return sorted(found, key=lambda event: event.ns)


@dataclass
class Explained:
    """What was found of one contestant."""

    contestant: str
    title: str
    passage: Passage | None = None
    plain_p50_ns: float = 0.0
    """Of the same round trips without anybody looking."""
    run: Run | None = None
    """The scenario as it is."""
    functions: list[tuple[str, float]] = field(default_factory=list)
    """Of the workers: name, share of their processor time; largest first."""
    programs: list[kernel.Statistics] = field(default_factory=list)
    """In the kernel, while the scenario ran."""
    notes: list[str] = field(default_factory=list)
    """What could not be measured, and why."""


def _workers(arena: Arena) -> list[int]:
    return [process for process, part in arena.helpers.items() if part == "worker"]


def _passage(arena: Arena, one: Contestant, scenario: Scenario, profile: Profile) -> Explained:
    """Send one message at a time, unseen and then seen."""
    found = Explained(one.name, one.title)
    alone = replace(scenario, shape="marked")
    plain = play(arena, one, replace(scenario, shape="request"), profile, 0)
    found.plain_p50_ns = plain.latency_ns.get("p50", 0)
    workers = _workers_by_role(arena)
    places = {role: arena.hosts[role].inode for role in workers}
    applications: dict[str, int] = {}
    with contextlib.ExitStack() as closing:
        recorder = Recorder(closing)

        def started(sender: int, receiver: int) -> None:
            applications.update(sender=sender, receiver=receiver)
            for process in (sender, receiver, *workers.values()):
                recorder.watch(process)
            for place in places.values():
                recorder.look_at(place)

        run = play(arena, one, alone, profile, 0, started=started)
        if run.error:
            raise ExplainError(f"{one.title}: {run.error}")
        here, there = (
            Side(applications[role], workers[role], places[role]) for role in ("sender", "receiver")
        )
        found.passage = middle(list(round_trips(recorder.events(), here, there)))
    if found.passage is None:
        found.notes.append("no round trip was seen whole")
    return found


def _workers_by_role(arena: Arena) -> dict[str, int]:
    by_place = {Path(f"/proc/{each}/ns/net").stat().st_ino: each for each in _workers(arena)}
    return {role: by_place[host.inode] for role, host in arena.hosts.items()}


@contextlib.contextmanager
def _sampled(arena: Arena, found: Explained) -> Iterator[None]:
    """Have ``perf`` sample the workers meanwhile, if there is one."""
    program = shutil.which("perf")
    if program is None:
        found.notes.append("functions: there is no perf (Debian: linux-perf)")
        yield
        return
    data = arena.folder / "perf.data"
    processes = ",".join(map(str, _workers(arena)))
    record = [program, "record", "-q", "-e", "cpu-clock", "-F", str(SAMPLES_PER_S)]
    record += ["-p", processes, "-o", str(data)]
    recording = subprocess.Popen(record, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        recording.send_signal(signal.SIGINT)
        _, words = recording.communicate(timeout=20)
    listing = subprocess.run(
        [program, "report", "-i", str(data), "--stdio", "-q", "--sort", "symbol", "-t", "\t"],
        capture_output=True,
        text=True,
        check=False,
    )
    found.functions = functions(listing.stdout)
    if not found.functions:
        last = (words or listing.stderr.encode()).decode(errors="replace").strip().splitlines()
        found.notes.append(f"functions: perf gave none: {last[-1] if last else 'no samples'}")


def functions(listing: str) -> list[tuple[str, float]]:
    """Return name and share of what ``perf report`` lists; small ones as one."""
    found = []
    for line in listing.splitlines():
        if match := re.match(r"\s*([\d.]+)%\s*\t\[(.)\] (\S+)", line):
            where = " (kernel)" if match[2] == "k" else ""
            found.append((match[3] + where, float(match[1]) / 100))
    shown = [each for each in found if each[1] >= SHOWN_MIN]
    rest = max(1 - sum(share for _, share in shown), 0.0)
    return [*shown, ("all others", rest)] if shown else []


def _cost(
    arena: Arena, scenario: Scenario, profile: Profile, found: Explained, before: set[int]
) -> None:
    """Run the scenario as it is, with the clocks of programs on; those of *before* are others'."""
    one = next(one for one in CONTESTANTS if one.name == found.contestant)
    measuring = kernel.enable_statistics()
    try:
        first = kernel.programs()
        with _sampled(arena, found):
            found.run = play(arena, one, scenario, profile, 0)
        for number, after in kernel.programs().items():
            past = first.get(number)
            count = after.count - (past.count if past else 0)
            time_ns = after.time_ns - (past.time_ns if past else 0)
            if number not in before and count:
                found.programs.append(kernel.Statistics(after.name, count, time_ns))
    finally:
        os.close(measuring)
    if found.run.error:
        raise ExplainError(f"{one.title}: {found.run.error}")


def explain(scenario: Scenario, profile: Profile) -> list[Explained]:
    """Return what is found of each path."""
    able = [one for one in CONTESTANTS if one.name in CONTESTED and one.fits(scenario)]
    if not able:
        raise ExplainError(f"{scenario.name}: only scenarios between two hosts can be explained")
    made = []
    for one in able:
        before = set(kernel.programs())
        arena = Arena(one.place, Pinning(profile.pin, profile.cores))
        try:
            one.side()
            one.prepare(arena)
            found = _passage(arena, one, scenario, profile)
            _cost(arena, scenario, profile, found, before)
            made.append(found)
        finally:
            arena.close()
    return made


def _line(name: str, value: float, total: float) -> str:
    return f"  {name:<78}{value:>10,.1f}{value / total:>8.1%}" if total else f"  {name}"


def lines(found: Explained) -> Iterator[str]:
    """Yield tables for people."""
    yield from ("", found.title)
    if found.passage:
        total = found.passage.total_ns
        yield f"  one round trip, one message at a time{'ns':>51}"
        for stage, time_ns in found.passage.stages.items():
            yield _line(stage, time_ns, total)
        yield _line(
            f"sum, mean of the middle half, {found.passage.count} round trips", total, total
        )
        yield _line("(p50 with nobody looking)", found.plain_p50_ns, total)
    if found.run:
        total = found.run.cpu_ns_per_message
        yield f"  processor time a message{'ns':>64}"
        for part, cpu_ns in found.run.cpu_ns_by_part.items():
            yield _line(part, cpu_ns, total)
            for name, share in found.functions if part == "worker" else ():
                yield _line(f"  {name}", share * cpu_ns, total)
        yield _line("sum", total, total)
        received = max(found.run.received, 1)
        for each in found.programs:
            mean_ns = each.time_ns / each.count
            name = f"(program {each.name}, {each.count:,} runs, {mean_ns:,.0f} ns each)"
            yield _line(name, each.time_ns / received, total)
    yield from (f"  {note}" for note in found.notes)


def document(scenario: Scenario, found: Sequence[Explained]) -> dict[str, Any]:
    """Return it as JSON's types."""
    made = [asdict(one) for one in found]
    for one in made:
        one["run"].pop("histogram", None)
    return {"format": 1, "scenario": asdict(scenario), "explained": made}
