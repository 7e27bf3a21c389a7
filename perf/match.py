"""One run: a receiver, a sender, and what they and their helpers report."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .arena import Arena, descendants, resident_kib
from .contestant import ROOT, Contestant
from .histogram import PERCENTILES, Histogram
from .noise import Noise
from .scenario import Profile, Scenario
from .sides.result import Result
from .syscalls import Counter
from .watch import Watch

READY_S = 15.0
MARGIN_S = 20.0
OPEN_S, ATTACH_S = 0.002, 0.5
"""To open and accept a stream, to start an application, of many, where others are busy too."""
TOGETHER_S = 1.0
"""When a sender fails because its receiver has, that one has ended so much later at the latest."""
OTHERS_SHARE_MAX = 0.1
"""More of all cores' time than this used by others makes a run noisy."""


class RunError(RuntimeError):
    """A run gave no figures."""


@dataclass
class Run:
    """What one run found; the sides' own figures stand beside what is derived from them."""

    contestant: str
    scenario: str
    repetition: int
    rate: float = 0.0
    """Messages a second at the receiver; of ``request``, answers a second."""
    offered: float = 0.0
    """Messages a second that were due; of ``open``, else 0."""
    lost: int = 0
    sent: int = 0
    received: int = 0
    corrupt: int = 0
    disordered: int = 0
    latency_ns: dict[str, int] = field(default_factory=dict)
    histogram: list[list[int]] = field(default_factory=list)
    cpu_ns_per_message: float = 0.0
    """Of both sides and their helpers."""
    cpu_ns_by_part: dict[str, float] = field(default_factory=dict)
    """Of that: ``sender``, ``receiver``, and each kind of helper."""
    syscalls_by_part: dict[str, float] = field(default_factory=dict)
    """System calls a message; only of runs that count them, of which nothing else is used."""
    switches_per_message: float = 0.0
    memory_kib: int = 0
    """Resident of both sides and their helpers behind the last message; shared pages once."""
    memory_kib_by_part: dict[str, int] = field(default_factory=dict)
    """Of that: ``sender``, ``receiver``, and each kind of helper."""
    foreign_share: float = 0.0
    """Share of the cores' time that went to processes that are not part of the run."""
    stolen_share: float = 0.0
    """Share of it that the host of this machine gave to others."""
    error: str = ""

    @property
    def noisy(self) -> bool:
        """Whether others used so much of the machine that the figures are in doubt."""
        return self.foreign_share + self.stolen_share > OTHERS_SHARE_MAX

    def dumps(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return asdict(self)


class _Side:
    """A running side."""

    def __init__(self, arena: Arena, contestant: Contestant, role: str, *order: str) -> None:
        self._log = arena.folder / f"{role}.log"
        with self._log.open("wb") as log:
            self.process = arena.start(
                role,
                [*contestant.side(), role, *order],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                cwd=ROOT,
            )
        self.role = role
        self._rest = b""

    def line(self, timeout_s: float) -> str:
        """Return the next line that the side writes."""
        assert self.process.stdout is not None
        fd, deadline = self.process.stdout.fileno(), time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([fd], [], [], left_s)[0]:
                raise RunError(f"the {self.role} said nothing within {timeout_s:g} s")
            came = os.read(fd, 1 << 16)
            if not came:
                raise RunError(self.last_word())
            self._rest += came
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def ended(self, timeout_s: float) -> bool:
        """Return whether the side has ended, waiting a little for that."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_word(self) -> str:
        """Say that the side ended, and why."""
        log = self._log.read_text(errors="replace").strip().splitlines()
        return f"the {self.role} ended: {log[-1] if log else 'no message'}"

    def wait_for(self, word: str, timeout_s: float) -> None:
        """Return when the side says what a sender may start with, or that it does."""
        if (said := self.line(timeout_s)) != word:
            raise RunError(f"the {self.role} begins with {said!r} instead of {word!r}")

    def result(self, timeout_s: float) -> Result:
        """Return the figures."""
        return Result(**json.loads(self.line(timeout_s)))

    def end(self) -> None:
        """Let the side go; one that does not is killed."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(2.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def _resident(arena: Arena, sides: Sequence[_Side]) -> dict[str, int]:
    """Return KiB by part, while both sides still wait to be let go."""
    found = {
        side.role: sum(map(resident_kib, descendants(side.process.pid))) for side in reversed(sides)
    }
    for pid, part in arena.helpers.items():
        found[part] = found.get(part, 0) + resident_kib(pid)
    return found


def play(
    arena: Arena,
    contestant: Contestant,
    scenario: Scenario,
    profile: Profile,
    repetition: int,
    *,
    counter: Counter | None = None,
    started: Callable[[int, int], None] | None = None,
) -> Run:
    """Run both sides once; with *counter* their system calls are counted, at some cost.

    *started* is told the processes of both sides.
    """
    run = Run(contestant.name, scenario.name, repetition, offered=scenario.rate)
    order = [scenario.shape, contestant.transport, contestant.address(arena), str(scenario.size)]
    order += [str(profile.warm_s), str(profile.run_s), str(scenario.rate or scenario.count)]
    noise = Noise(list(arena.helpers))
    many_s = scenario.count * (ATTACH_S if scenario.shape == "applications" else OPEN_S)
    sides: list[_Side] = []
    try:
        receiver = _Side(arena, contestant, "receiver", *order)
        sides.append(receiver)
        receiver.wait_for("ready", READY_S + many_s)
        sender = _Side(arena, contestant, "sender", *order)
        sides.append(sender)
        if started:
            started(sender.process.pid, receiver.process.pid)
        if counter:
            counter.watch([side.process.pid for side in sides])
        sender.wait_for("begin", MARGIN_S + many_s)
        watch = Watch(arena.helpers, counter)
        limit_s = 4 * (profile.warm_s + profile.run_s) + MARGIN_S
        there = sender.result(limit_s)
        here = receiver.result(limit_s)
        # Helpers are seen from outside: their share of the warm-up is taken off by time.
        spent = watch.stop(profile.run_s / (profile.run_s + profile.warm_s))
        run.memory_kib_by_part = _resident(arena, sides)
    except (RunError, OSError, ValueError) as error:
        # A receiver ends when it is let go: one that did before is why the sender failed.
        ended = sides and sides[0].ended(TOGETHER_S)
        run.error = sides[0].last_word() if ended else str(error)
        return run
    finally:
        for side in reversed(sides):
            side.end()
        run.foreign_share, run.stolen_share = noise.shares()
    run.cpu_ns_by_part = {"sender": there.cpu_ns, "receiver": here.cpu_ns, **spent.cpu_ns}
    if counter:
        calls = [counter.calls(side.process.pid).measured for side in (sender, receiver)]
        run.syscalls_by_part = {"sender": calls[0], "receiver": calls[1], **spent.syscalls}
    run.cpu_ns_per_message = sum(run.cpu_ns_by_part.values())
    run.switches_per_message = there.switches + here.switches + spent.switches
    run.memory_kib = sum(run.memory_kib_by_part.values())
    _fill(run, there, here, scenario)
    return run


def _fill(run: Run, there: Result, here: Result, scenario: Scenario) -> None:
    """Derive the figures from those of the two sides; costs are totals until now."""
    counting = there if scenario.shape in ("request", "marked") else here
    run.sent, run.received = there.messages, counting.messages
    # The longer of both times: a queue that the warm-up filled drains faster than anybody sends.
    run.rate = counting.messages * 1e9 / max(there.elapsed_ns, here.elapsed_ns, 1)
    run.lost = here.lost
    run.corrupt = there.corrupt + here.corrupt
    run.disordered = here.disordered
    histogram = Histogram.loads(counting.histogram)
    if histogram.total:
        run.histogram = counting.histogram
        run.latency_ns = {f"p{p:g}": histogram.percentile(p) for p in PERCENTILES}
    count = max(run.received, 1)
    run.cpu_ns_per_message /= count
    run.switches_per_message /= count
    for parts in (run.cpu_ns_by_part, run.syscalls_by_part):
        for part in parts:
            parts[part] /= count
    if not run.received:
        run.error = "nothing arrived"
    elif run.corrupt:
        run.error = f"{run.corrupt} messages with contents that nobody sent"
