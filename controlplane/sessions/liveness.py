"""Whether a peer still answers: asked only while there is something to lose.

On a LAN a peer that is silent for one interval is asked, and is dead when some questions in a row,
each an interval apart, have found no answer. On a WAN the intervals are long and jittered, so that
they keep a NAT's entry alive and many nodes do not ask in step. Time is an argument.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from valkyrie.dataplane.control import Ping

if TYPE_CHECKING:
    from collections.abc import Callable

    from valkyrie.dataplane.control import Pong

WAN_JITTER = 0.25
"""Of the interval, either way: 20 s become 15 to 25 s."""
INTERVAL_MIN_NS = 10_000_000
"""No peer has questions asked more often than this."""
_QUESTIONS_MAX = 8
_WAN_AGAIN_NS = 2_000_000_000
"""A question on a WAN that was not answered is asked again so soon ..."""
_WAN_AGAIN_MIN_NS = 1_000_000_000
"""... and no sooner, though the peer, which may take the path for a LAN, is in a hurry."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How a peer is asked."""

    interval_ns: int
    tries: int = 3
    wan: bool = False

    def beside(self, theirs_ns: int) -> Patience:
        """Return what holds beside a peer that asks after another time; 0 = it has not said.

        RFC 9000, 10.1: "each endpoint advertises a max_idle_timeout, but the effective value at an
        endpoint is computed as the minimum of the two advertised values".
        """
        if not theirs_ns:
            return self
        return replace(self, interval_ns=min(self.interval_ns, max(theirs_ns, INTERVAL_MIN_NS)))


class Verdict(Enum):
    """What to do about a peer now."""

    NOTHING = "nothing"
    ASK = "ask"
    LAST = "last"
    """Ask once more: without an answer it is dead."""
    DEAD = "dead"


class Liveness:
    """The questions to one peer, each with a number from 0 to 1 that spreads the next silence."""

    def __init__(self, patience: Patience, now_ns: int) -> None:
        self.patience = patience
        self.heard_ns = now_ns
        self._asked = 0
        self._due_ns = now_ns
        self._expecting = False
        self._jitter = 0.5

    def hear(self, now_ns: int) -> None:
        """Note a sign of life; one that is older than the last changes nothing."""
        if now_ns > self.heard_ns:
            self.heard_ns = now_ns
            self._asked = 0

    @property
    def expecting(self) -> bool:
        """Whether anything is lost if the peer is dead."""
        return self._expecting

    def wait(self, now_ns: int) -> None:
        """Forget that questions found no answer, and begin to ask again."""
        self._asked = 0
        self._due_ns = now_ns + self.patience.interval_ns

    def expect(self, now_ns: int, *, expecting: bool) -> None:
        """Say whether anything is lost if the peer is dead; silence before that counts for less."""
        if expecting and not self._expecting:
            self._asked = 0
            self._due_ns = now_ns
        self._expecting = expecting

    def _interval_ns(self) -> int:
        if not self.patience.wan:
            return self.patience.interval_ns
        return int(self.patience.interval_ns * (1 - WAN_JITTER + 2 * WAN_JITTER * self._jitter))

    def look(self, now_ns: int, jitter: float = 0.5) -> Verdict:
        """Return what is due; ASK and LAST count as asked."""
        if not self._expecting:
            return Verdict.NOTHING
        if not self._asked:
            due_ns = max(self.heard_ns + self._interval_ns(), self._due_ns)
        else:
            due_ns = self._due_ns
        if now_ns < due_ns:
            return Verdict.NOTHING
        if self._asked == self.patience.tries:
            return Verdict.DEAD
        self._asked += 1
        self._jitter = jitter
        again_ns = self.patience.interval_ns
        if self.patience.wan:
            again_ns = max(min(again_ns, _WAN_AGAIN_NS), _WAN_AGAIN_MIN_NS)
        self._due_ns = now_ns + again_ns
        return Verdict.LAST if self._asked == self.patience.tries else Verdict.ASK

    def deadline_ns(self) -> int | None:
        """Return when to look again; None: not of its own accord."""
        if not self._expecting:
            return None
        if self._asked:
            return self._due_ns
        return max(self.heard_ns + self._interval_ns(), self._due_ns)


class Questions:
    """The newest that one peer was asked, and has not answered."""

    def __init__(self) -> None:
        self._asked: deque[tuple[int, int]] = deque(maxlen=_QUESTIONS_MAX)
        """Token and time."""

    def ask(self, entropy: Callable[[int], bytes], now_ns: int) -> Ping:
        """Return a question that was never asked."""
        token = int.from_bytes(entropy(8), "big")
        self._asked.append((token, now_ns))
        return Ping(token)

    def waits(self, answer: Pong) -> bool:
        """Say whether an answer is to one of them."""
        return any(token == answer.token for token, _ in self._asked)

    def answered(self, answer: Pong, now_ns: int) -> int:
        """Return how long one of them took; it is none of them any more."""
        asked_ns = dict(self._asked)[answer.token]
        self._asked.remove((answer.token, asked_ns))
        return now_ns - asked_ns

    def clear(self) -> None:
        """Forget them."""
        self._asked.clear()
