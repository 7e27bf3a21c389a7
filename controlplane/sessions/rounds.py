"""Which peers are looked at now: all while there are few, and of many those that matter. No I/O.

The worker says in memory when a peer was heard and what is at stake with it; somebody has to look.
Peers with something at stake are looked at in every turn, so that one that dies is missed as soon
among many as among few. Of the others every turn takes so many, one after the other.
"""

from __future__ import annotations

A_TURN = 640
"""Peers with nothing at stake that a turn looks at; where there are no more, all. With 20 turns a
second each of 10 000 is seen within one second, and each of 100 000 within nine: so late may be
noted that something is at stake with one that was quiet. Then its silence counts from there."""
WARM_NS = 1_000_000_000
"""For so long a peer is looked at in every turn after something was last at stake."""


class Rounds:
    """The peers of a node. Who gets streams, or a new session, is to be warmed."""

    def __init__(self, turn_ns: int, few_ns: int) -> None:
        """Begin; ``few_ns`` is between turns that have room for all peers."""
        self._turn_ns = turn_ns
        self._few_ns = few_ns
        self.next_ns = 0
        """When the next turn is due. More may come before, for those with something at stake."""
        self._all: list[int] = []
        self._warm: dict[int, int] = {}
        """Until when each is looked at in every turn."""
        self._at = 0

    def add(self, index: int) -> None:
        """Add a peer."""
        self._all.append(index)

    def remove(self, index: int) -> None:
        """Look at a peer no more."""
        self._all.remove(index)
        self._warm.pop(index, None)

    def warm(self, index: int, now_ns: int) -> None:
        """Look at a peer in every turn, for a while."""
        self._warm[index] = now_ns + WARM_NS

    def turn(self, now_ns: int) -> list[int]:
        """Return whom to look at now."""
        if len(self._all) <= A_TURN:
            self.next_ns = now_ns + self._few_ns
            return self._all
        due = now_ns >= self.next_ns
        if due:
            self.next_ns = now_ns + self._turn_ns
        for index in [each for each, until_ns in self._warm.items() if now_ns >= until_ns]:
            del self._warm[index]
        return [*self._warm, *(self._some() if due else ())]

    def _some(self) -> list[int]:
        """Return the next ones of those with nothing at stake."""
        begin, self._at = self._at, self._at + A_TURN
        found = self._all[begin : self._at]
        if self._at >= len(self._all):
            self._at -= len(self._all)
            found += self._all[: self._at]
        return [each for each in found if each not in self._warm]
