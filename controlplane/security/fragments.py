"""Handshake messages larger than a datagram: cut into pieces, and put together with bounds.

Only messages behind a good cookie may come in pieces; a receiver keeps one message at a time.
"""

from __future__ import annotations

from .codes import Failure
from .errors import SecurityError

BODY_MAX = 16384
"""Bytes of one message: a post-quantum proof has 5 400, a chain of certificates some thousands."""
PIECES_MAX = 64


def split(body: bytes, size: int) -> list[tuple[int, bytes]]:
    """Return (offset, piece) of every piece of at most ``size`` bytes; at least one."""
    assert size * PIECES_MAX >= BODY_MAX
    assert len(body) <= BODY_MAX
    return [(at, body[at : at + size]) for at in range(0, max(len(body), 1), size)]


class Assembly:
    """One message that comes in pieces."""

    __slots__ = ("_pieces", "_size", "_total")

    def __init__(self) -> None:
        self._pieces: dict[int, bytes] = {}
        self._size = 0
        self._total: int | None = None

    def add(self, offset: int, total: int, piece: bytes) -> bytes | None:
        """Take a piece in; returns the whole message with the last one."""
        if total > BODY_MAX or offset + len(piece) > total or (not piece and total):
            raise SecurityError(Failure.MALFORMED, "a piece is not within its message")
        if self._total not in (None, total):
            raise SecurityError(Failure.MALFORMED, "pieces disagree about their message's size")
        self._total = total
        known = self._pieces.get(offset)
        if known is not None:
            if known != piece:
                raise SecurityError(Failure.MALFORMED, "two pieces contradict each other")
            return None
        self._size += len(piece)
        if len(self._pieces) == PIECES_MAX or self._size > total:
            raise SecurityError(Failure.MALFORMED, "pieces overlap, or are too many")
        self._pieces[offset] = piece
        if self._size < total:
            return None
        # As many bytes as the message has: they are it, unless some lie upon others.
        at = 0
        for start in sorted(self._pieces):
            if start != at:
                raise SecurityError(Failure.MALFORMED, "pieces overlap")
            at += len(self._pieces[start])
        return b"".join(self._pieces[start] for start in sorted(self._pieces))
