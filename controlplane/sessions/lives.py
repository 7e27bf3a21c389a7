"""The lives of a peer's node, by incarnation: which is the newest, and what comes late."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from valkyrie.controlplane.security.cookie import SLOT_NS

if TYPE_CHECKING:
    from valkyrie.dataplane.control import SessionTerms

_RETIRED_MAX = 4
_INCARNATION_SIZE = 8


def spoken(incarnation: int) -> bytes:
    """Return what a node says in the clear, in its offers."""
    return incarnation.to_bytes(_INCARNATION_SIZE, "big")


def said(extra: bytes) -> int:
    """Return the incarnation that a node spoke of."""
    return int.from_bytes(extra[:_INCARNATION_SIZE], "big")


class Lives:
    """Of one peer."""

    def __init__(self) -> None:
        self._seen = (0, 0)
        """The peer's incarnation and newest attempt."""
        self._retired: deque[tuple[int, int]] = deque(maxlen=_RETIRED_MAX)
        """Incarnations that the peer has left behind, and until when their offers may be late: no
        longer than a cookie is good. For ever would lock out a peer of whose former life an offer
        came late, and was believed."""

    def restore(self, incarnation: int) -> None:
        """Begin with a life that an earlier daemon knew."""
        self._seen = (incarnation, 0)

    def late(self, theirs: SessionTerms) -> bool:
        """Say whether the peer has asked again since, in the same life."""
        return self._seen[0] == theirs.incarnation and theirs.attempt <= self._seen[1]

    def past(self, incarnation: int, now_ns: int) -> bool:
        """Say whether the peer has left a life behind."""
        return any(old == incarnation and now_ns < end_ns for old, end_ns in self._retired)

    def join(self, theirs: SessionTerms, now_ns: int) -> None:
        """Note that there is a session with a life of the peer."""
        if self._seen[0] not in (0, theirs.incarnation):
            self._retired.append((self._seen[0], now_ns + 2 * SLOT_NS))
        newest = self._seen[1] if self._seen[0] == theirs.incarnation else 0
        self._seen = (theirs.incarnation, max(theirs.attempt, newest))
