"""Two workers in one process under sanitizers, joined by a wire in memory: see worker_rig.h."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests.dataplane.native import PARTS, program
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import Class, Counter, Gauge, Type, stream_class

RING = 1 << 20
NO_FLOW = 0xFFFF_FFFF
ALL_CLASSES = 0b11_1110
STEP_S = 0.02
QUIET = 250
"""Steps without work after which nothing more is expected: longer than a probe takes."""
BROKEN_PAYLOAD = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True)
class Record:
    """A record that an application took from its ring."""

    kind: int
    flow: int
    generation: int
    peer: int
    stream: int
    sequence: int
    correlation: int
    type: int
    flags: int
    priority: int
    code: int
    size: int
    mark: int


@dataclass(frozen=True)
class Sent:
    """A frame that a worker sent, and how often it arrived."""

    node: int
    klass: Class
    fate: int
    data: bytes


@dataclass(frozen=True)
class Stream:
    """One end of an open stream."""

    node: int
    slot: int
    flow: int
    generation: int
    stream: int


class Rig:
    """Asks the rig's shell; every question has one line of answer."""

    def __init__(self) -> None:
        shell = ["worker_rig.c", "worker_shell.c"]
        binary = program("worker_rig", *shell, *PARTS)
        self.process = subprocess.Popen(
            [binary],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"ASAN_OPTIONS": "detect_leaks=0"},
        )
        self._token = 0

    def ask(self, *words: object) -> str:
        """Send a command and return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(" ".join(map(str, words)) + "\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            assert self.process.stderr is not None
            raise AssertionError(f"{words}: the worker died\n{self.process.stderr.read()}")
        return answer.strip()

    def close(self) -> None:
        """End it; a sanitizer's complaint is a failure."""
        _, errors = self.process.communicate()
        assert self.process.returncode == 0, errors

    def app(
        self,
        node: int,
        slot: int,
        *,
        ring: int = RING,
        classes: int = ALL_CLASSES,
        weight: int = 100,
        rates: tuple[int, int] = (0, 0),
        streams: tuple[int, int] = (0, NO_FLOW),
    ) -> int:
        """Attach an application; returns the worker's answer."""
        return int(self.ask("app", node, slot, ring, classes, weight, *rates, *streams))

    def service(self, node: int, slot: int, name: str) -> None:
        self.ask("service", node, slot, name)

    def ask_open(self, node: int, slot: int, stream: int, name: str) -> int:
        """Put an OPEN into the ring and return its token."""
        self._token += 1
        assert self.ask("open", node, slot, 0, stream, self._token, name) == "1"
        return self._token

    def open(self, node: int, slot: int, stream: int, name: str) -> Stream:
        """Open a stream over a calm wire and return this side's end."""
        token = self.ask_open(node, slot, stream, name)
        self.exchange(2, first=node)
        (answer,) = self.take(node, slot, stream_class(stream))
        assert (answer.kind, answer.code) == (lib.VK_RECORD_OPENED, 0)
        assert answer.correlation == token
        return Stream(node, slot, answer.flow, answer.generation, stream)

    def accept(self, node: int, slot: int, klass: Class) -> Stream:
        """Take the OPEN that a peer's open left and return this side's end."""
        (record,) = self.take(node, slot, klass)
        assert record.kind == lib.VK_RECORD_OPEN
        return Stream(node, slot, record.flow, record.generation, record.stream)

    def pair(self, name: str = "svc", stream: int = 1000) -> tuple[Stream, Stream]:
        """Attach an application on each side and join them by a stream."""
        for node in (0, 1):
            assert self.app(node, 0) == 0
        self.service(1, 0, name)
        ours = self.open(0, 0, stream, name)
        return ours, self.accept(1, 0, stream_class(stream))

    def put(
        self,
        end: Stream,
        size: int,
        mark: int,
        *,
        kind: int = lib.VK_RECORD_DATA,
        type: int = 0,  # noqa: A002
        flags: int = 0,
        priority: int = 0,
        correlation: int = 0,
        code: int = 0,
        stamp: int = 0,
    ) -> bool:
        """Put a record into the application's ring; False = it is full."""
        head = (end.flow, end.generation, 0, end.stream, correlation, type, flags, priority)
        return self.ask("put", end.node, end.slot, kind, *head, size, mark, code, stamp) == "1"

    def take(self, node: int, slot: int, klass: int, count_max: int = 1 << 20) -> list[Record]:
        """Take records from an application's ring."""
        answer = self.ask("take", node, slot, int(klass), count_max)
        return [Record(*map(int, each.split())) for each in answer.split(";") if each]

    def turn(self, node: int, count: int = 1) -> int:
        return int(self.ask("turn", node, count))

    def exchange(self, count: int = 1, first: int = 0) -> None:
        """Let both workers take turns."""
        for _ in range(count):
            self.turn(first)
            self.turn(1 - first)

    def settle(self, between: Callable[[], object] | None = None) -> None:
        """Let both work until neither has anything to do, nor waits for an answer; between: what
        applications do meanwhile."""
        quiet = 0
        for _ in range(20_000):
            quiet = 0 if self.turn(0) + self.turn(1) else quiet + 1
            if quiet > QUIET:
                return
            if between and quiet % 10 == 1:
                between()
            if quiet:
                self.wait(STEP_S)
        raise AssertionError("the workers never rest")

    def log(self) -> list[Sent]:
        """Return the frames sent since the last call."""
        found = []
        for each in self.ask("log").split(";"):
            if each:
                node, klass, fate, data = each.split()
                found.append(Sent(int(node), Class(int(klass)), int(fate), bytes.fromhex(data)))
        return found

    def _numbers(self, node: int) -> list[int]:
        return [int(word) for word in self.ask("counters", node).split()]

    def count(self, node: int, klass: Class) -> dict[str, int]:
        """Return a class's counters by name, in lower case."""
        row = self._numbers(node)[int(klass) * len(Counter) :]
        return {counter.name.lower(): row[counter] for counter in Counter}

    def gauge(self, node: int, gauge: Gauge) -> int:
        return self._numbers(node)[len(Class) * len(Counter) + int(gauge)]

    def net(
        self,
        *,
        loss: int = 0,
        twice: int = 0,
        reorder: int = 0,
        pad: int = 0,
        room: int = 0,
        seed: int = 0,
    ) -> None:
        """Set what the wire does to frames, in thousandths."""
        self.ask("net", loss, twice, reorder, pad, room, seed)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.ask("time", int(seconds * 1e9))


@contextmanager
def rig_of() -> Iterator[Rig]:
    """Yield a rig and end it."""
    rig = Rig()
    try:
        yield rig
    except BaseException:
        rig.process.kill()
        rig.process.communicate()
        raise
    rig.close()


STREAM_TYPES = frozenset({Type.STREAM_OPEN, Type.STREAM_CLOSE, Type.STREAM_ACK, Type.STREAM_RESET})
