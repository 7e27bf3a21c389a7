"""When what is done again and again is done: at whole multiples of its period.

What is due then shares a wake, and a core that data uses is taken from it seldom.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_BEAT_EVERY = 1000
"""Things done between two beats: of the slowest that takes a tenth of a second."""


def left_s(period_s: float, now_s: float) -> float:
    """Return how long it is until the next multiple of a period; never 0."""
    return period_s - now_s % period_s


async def rest(period_s: float) -> None:
    """Sleep until the next multiple of a period, as the running loop counts."""
    await asyncio.sleep(left_s(period_s, asyncio.get_running_loop().time()))


def beating(items: Iterable[T], beat: Callable[[], None]) -> Iterator[T]:
    """Yield what much is to be done with, and show now and then that it goes on."""
    for number, each in enumerate(items):
        if number % _BEAT_EVERY == 0:
            beat()
        yield each


def unseen() -> None:
    """Show nobody that it goes on."""
