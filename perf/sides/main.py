"""What every side in Python begins with: its arguments, its end, its shape."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from . import bulk, shapes
from .bulk import BulkEnd
from .result import Result, say, wait_for_the_end
from .shapes import End


@dataclass(frozen=True)
class Order:
    """What a side is asked to do."""

    role: str
    shape: str
    transport: str
    address: str
    size: int
    warm_s: float
    run_s: float
    rate: float

    @property
    def listens(self) -> bool:
        """Whether this side listens and counts."""
        return self.role == "receiver"

    @property
    def two_way(self) -> bool:
        """Whether messages come back."""
        return self.shape == "request"


def order() -> Order:
    """Return what the arguments ask for."""
    role, shape, transport, address, size, *numbers = sys.argv[1:]
    return Order(role, shape, transport, address, int(size), *map(float, numbers))


def carry_out(asked: Order, end: End | BulkEnd) -> Result:
    """Do what is asked over *end*."""
    if asked.shape == "stream" and isinstance(end, BulkEnd):
        if asked.listens:
            return bulk.take_in(end, asked.size)
        return bulk.stream_out(end, asked.size, asked.warm_s, asked.run_s)
    return _one_by_one(asked, cast("End", end))


def _one_by_one(asked: Order, end: End) -> Result:
    if asked.listens:
        if asked.two_way:
            return shapes.answer(end)
        return shapes.take_in(end, asked.size, timed=asked.shape == "open")
    if asked.two_way:
        return shapes.ask(end, asked.size, asked.warm_s, asked.run_s)
    if asked.shape == "open":
        return shapes.open_out(end, asked.size, asked.warm_s, asked.run_s, asked.rate)
    return shapes.stream_out(end, asked.size, asked.warm_s, asked.run_s)


def run(make: Callable[[Order], End | BulkEnd]) -> None:
    """Run a side whose end *make* gives, listening or connected; a listener says so by itself.

    A listener whose library accepts by itself is ready when *make* returns; others call ``ready``
    once they listen and return the accepted connection.
    """
    asked = order()
    end = make(asked)
    if not asked.listens:
        begin()
    elif not _said:
        ready()
    say(carry_out(asked, end).dumps())
    wait_for_the_end()


_said: list[bool] = []


def ready() -> None:
    """Tell the harness that a sender may start."""
    _said.append(True)
    say("ready")


def begin() -> None:
    """Tell the harness that this sender has what it needs, and sends from now on."""
    say("begin")
