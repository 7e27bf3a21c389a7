"""How many refused packets a second a host takes, against one whose program drops everything.

Frames come as fast as a program sends them over a veth and are dropped in the driver, by a bare
parse-and-drop program and by the classifier, in turns; what arrived is what the interface counted.
Sender and receiving driver share a core, so the figures are of both.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from statistics import median

from tests.lab import Link
from valkyrie.dataplane.guard import Guard, Master, tick
from valkyrie.dataplane.loader import Program, XdpMode, open_classifier
from valkyrie.dataplane.wire import Class, Session, Token, Type, make_frame

from .classifier import XDP_DROP
from .kernel import compiled
from .receive import Bench, headed, ready
from .rows import Row, make_row

MASTER = Master(1, bytes(range(16)))
SESSION = 77
STREAM = 2000
SIZE = 64
LIFE = 100_000
"""Ticks that a token is good for."""
_row = partial(make_row, "flood", digits=None)


def _frames(source: Link) -> dict[str, bytes]:
    """Return frames by what the classifier says of them; all but the first are of one size."""
    now = tick(time.monotonic_ns())
    good = MASTER.token(SESSION, now + LIFE, ip_address(source.v4.ip))
    tokens: dict[str, tuple[Token, ...]] = {
        "token missing": (),
        "token of another key": (replace(good, generation=good.generation + 1),),
        "token expired": (replace(good, expiry=now - 1),),
        "token forged": (replace(good, tag=good.tag ^ 1),),
    }
    return {
        name: make_frame(
            Type.STREAM_DATA, STREAM, bytes(SIZE), Session(SESSION, 1, space=1), *each
        ).pack()
        for name, each in tokens.items()
    }


@contextlib.contextmanager
def _dropping(bench: Bench, program: Program) -> Iterator[None]:
    hook = bench.target.host.run(program.attach, bench.target.index, (XdpMode.NATIVE,))
    try:
        yield
    finally:
        bench.target.host.run(hook.close)


def _counted(name: str) -> int:
    """Return the packets that an interface of this thread's namespace has received."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        device, _, fields = line.partition(":")
        if device.strip() == name:
            return int(fields.split()[1])
    raise LookupError(f"there is no interface {name}")


def _received(link: Link) -> int:
    return link.host.run(_counted, link.name)


def _rate(bench: Bench, packet: bytes, duration_s: float) -> float:
    with bench.sending(packet):
        time.sleep(duration_s / 4)
        first, begin = _received(bench.target), time.monotonic()
        time.sleep(duration_s)
        return (_received(bench.target) - first) / (time.monotonic() - begin)


@contextlib.contextmanager
def _guarded() -> Iterator[Program]:
    with open_classifier() as program:
        guard = Guard(program)
        guard.enter(MASTER)
        guard.demand({Class.DATA})
        yield program


def run(quick: bool) -> list[Row]:  # every scenario is called run(quick)
    """Return the rows: packets a second dropped, against a bare drop of the same packets."""
    rounds, duration_s = (3, 0.2) if quick else (7, 0.4)
    rows: list[Row] = []
    with ready() as bench:
        makers: list[Callable[[], contextlib.AbstractContextManager[Program]]] = [
            lambda: Program("parse_drop", image=compiled("parse_drop")),
            _guarded,
        ]
        for name, frame in _frames(bench.source).items():
            packet = headed(bench.source, bench.target, frame)
            rates: tuple[list[float], list[float]] = ([], [])
            for _ in range(rounds):
                for make, found in zip(makers, rates, strict=True):
                    with make() as program, _dropping(bench, program):
                        assert program.test_run(packet).result == XDP_DROP, name
                        found.append(_rate(bench, packet, duration_s))
            bare, ours = map(median, rates)
            rows.append(_row(f"{name}, dropped", ours, "packets/s", bare))
    return rows
