"""Messages of a run: a number, a time, and a body that says whether it is intact.

The first 8 bytes hold phase and number, the next 8 the time (ns) at which the message was due;
the rest is a pattern that every message of a run shares.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from .result import Meter, Result

HEAD = struct.Struct("<QQ")
PHASE_SHIFT = 56
NUMBER_MASK = (1 << PHASE_SHIFT) - 1
WARM, RUN, END = range(3)
LOOK = 64
"""Of a stream, one message in so many is looked at: the rest is only counted. Of large ones all."""
LARGE = 8192
SAMPLE = 64
"""Where every message is looked at, the body of one in so many is compared."""


def body(size: int) -> bytes:
    """Return what follows the head."""
    return (bytes(range(1, 252)) * (size // 251 + 1))[: size - HEAD.size]


def look_every(size: int) -> int:
    """Return how often a stream's sender looks at the clock, and its receiver at a message."""
    return LOOK if size < LARGE else 1


def end_count(size: int) -> int:
    """Return how often the last word is said: receivers look at few, and some may be lost.

    A large one is said once: who has heard it reads no further.
    """
    return 2 * LOOK if size < LARGE else 1


def blank(size: int) -> bytearray:
    """Return a message whose head is still to be written."""
    assert size >= HEAD.size
    return bytearray(HEAD.size) + body(size)


class Checker:
    """Counts what a receiver takes in, and looks at some of it.

    Figures are those from the first message of the run that was looked at to the last one: what
    lies between is counted exactly, and the numbers tell how many should have come.
    """

    def __init__(self, size: int, clock: Callable[[], int]) -> None:
        self.result = Result()
        self.latencies_ns: list[int] = []
        self._size = size
        self._body = body(size)
        self._clock = clock
        self._first = self._last = -1
        self._meter = Meter()
        self._last_ns = 0

    def look(self, message: Any, taken: int, *, timed: bool = False) -> bool:
        """Look at a message, the last of *taken* that came since the last look.

        Returns False once the sender has said that it is done.
        """
        word: int
        word, due_ns = HEAD.unpack_from(message)
        phase, number = word >> PHASE_SHIFT, word & NUMBER_MASK
        if phase != RUN:
            return phase != END
        if timed:
            self.latencies_ns.append(self._clock() - due_ns)
        if taken > 1 or number % SAMPLE == 0 or self._size >= LARGE:
            self._last_ns = self._clock()
        if taken > 1 or number % SAMPLE == 0:
            whole = len(message) == self._size and message[HEAD.size :] == self._body
            self.result.corrupt += not whole
        if self._first < 0:
            self._first = self._last = number
            self._meter.start()
            return True
        self.result.messages += taken
        if number <= self._last:
            self.result.disordered += 1
        self._last = max(self._last, number)
        return True

    def finish(self) -> Result:
        """Return the figures."""
        self._meter.stop(self.result, end_ns=self._last_ns)
        self.result.lost = max(self._last - self._first - self.result.messages, 0)
        return self.result
