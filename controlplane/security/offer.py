"""What each side of a handshake is willing to do, and the one choice that follows from both.

Both compute the choice from both offers, and both offers are the beginning of the transcript: an
offer that was edited on its way ends the handshake, except in plaintext, which proves nothing and
which a floor keeps out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from valkyrie.dataplane.signing.signature import Algorithm

from .codes import Failure
from .errors import SecurityError
from .modes import SIGNED, Cipher, Mode, NoisePattern

if TYPE_CHECKING:
    from collections.abc import Iterable

OFFER_VERSION = 1
NONCE_SIZE = 32
LIST_MAX = 16
EXTRA_MAX = 256
_HEAD = struct.Struct(f">B{NONCE_SIZE}s")
_SIZE = struct.Struct(">H")
_USES_NOISE = SIGNED | {Mode.NOISE}


class Reader:
    """Takes parts off bytes that somebody else sent."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._at = 0
        self._what = what

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            raise SecurityError(Failure.MALFORMED, f"{self._what} is cut off")
        self._at += size
        return part

    def number(self, size: int) -> int:
        """Return the next bytes as a number."""
        return int.from_bytes(self.take(size), "big")

    def sized(self, size_max: int) -> bytes:
        """Return bytes that their size (u16) stands before."""
        size = self.number(_SIZE.size)
        if size > size_max:
            raise SecurityError(Failure.MALFORMED, f"{self._what} has a part that is too long")
        return self.take(size)

    def list(self) -> tuple[int, ...]:
        """Return small numbers that their count (u8) stands before; none comes twice."""
        count = self.number(1)
        found = tuple(self.take(min(count, LIST_MAX)))
        if count > LIST_MAX or len(set(found)) != count:
            raise SecurityError(Failure.MALFORMED, f"{self._what} has a list that makes no sense")
        return found

    @property
    def left(self) -> int:
        """Bytes that have not been taken."""
        return len(self._data) - self._at

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(self.left)

    def end(self) -> None:
        """Refuse what is left over."""
        if self.left:
            raise SecurityError(Failure.MALFORMED, f"{self._what} is longer than it should be")


def sized(data: bytes) -> bytes:
    """Return bytes behind their size, as ``Reader.sized`` takes them."""
    return _SIZE.pack(len(data)) + data


def _listed(numbers: Iterable[int]) -> bytes:
    data = bytes(numbers)
    assert len(data) <= LIST_MAX
    return bytes([len(data)]) + data


@dataclass(frozen=True, slots=True)
class Offer:
    """One side's. Numbers that this version does not know are kept, and never chosen."""

    nonce: bytes
    modes: tuple[int, ...]
    patterns: tuple[int, ...]
    ciphers: tuple[int, ...]
    """Best first; so are patterns: the initiator's order counts."""
    signatures: tuple[int, ...] = (Algorithm.ED25519, Algorithm.ML_DSA_65)
    extra: bytes = b""
    """What the session's own protocol says in the clear; it is bound as all of the offer is."""
    version: int = OFFER_VERSION

    def pack(self) -> bytes:
        """Return the offer's bytes."""
        assert len(self.extra) <= EXTRA_MAX
        lists = (self.modes, self.patterns, self.ciphers, self.signatures)
        return b"".join(
            [
                _HEAD.pack(self.version, self.nonce),
                *(_listed(each) for each in lists),
                sized(self.extra),
            ]
        )

    @classmethod
    def parse(cls, data: bytes) -> Offer:
        """Return the offer that fills ``data``."""
        reader = Reader(data, "an offer")
        version = reader.number(1)
        if version != OFFER_VERSION:
            raise SecurityError(
                Failure.VERSION,
                f"the other side speaks version {version}, this one {OFFER_VERSION}",
            )
        nonce = reader.take(NONCE_SIZE)
        modes, patterns, ciphers, signatures = (reader.list() for _ in range(4))
        extra = reader.sized(EXTRA_MAX)
        reader.end()
        return cls(nonce, modes, patterns, ciphers, signatures, extra)


@dataclass(frozen=True, slots=True)
class Choice:
    """What the handshake will be."""

    mode: Mode
    pattern: NoisePattern | None
    cipher: Cipher
    signatures: tuple[Algorithm, ...]

    def pack(self) -> bytes:
        """Return the choice's bytes: said so that a difference is seen at once."""
        return bytes([self.mode, self.pattern or 0, self.cipher]) + _listed(self.signatures)


def choose(asked: Offer, answered: Offer) -> Choice:
    """Return the choice that follows from the initiator's offer and the responder's."""
    modes = set(asked.modes) & set(answered.modes) & set(Mode)
    signatures = _signatures(asked.signatures, answered.signatures)
    if not signatures:
        modes -= SIGNED
    pattern = _first(asked.patterns, answered.patterns, NoisePattern)
    if pattern is None:
        modes -= _USES_NOISE
    cipher = _first(asked.ciphers, answered.ciphers, Cipher)
    if not modes or cipher is None:
        raise SecurityError(
            Failure.FLOOR, "the two nodes have no security mode in common: compare their policies"
        )
    mode = Mode(max(modes))
    return Choice(
        mode,
        NoisePattern(pattern) if pattern is not None and mode in _USES_NOISE else None,
        Cipher(cipher),
        signatures if mode in SIGNED else (),
    )


def _signatures(asked: tuple[int, ...], answered: tuple[int, ...]) -> tuple[Algorithm, ...]:
    """Return Ed25519 and the first of the others; nothing without both."""
    second = _first(asked, answered, set(Algorithm) - {Algorithm.ED25519})
    if second is None or Algorithm.ED25519 not in set(asked) & set(answered):
        return ()
    return Algorithm.ED25519, Algorithm(second)


def _first(asked: Iterable[int], answered: Iterable[int], known: Iterable[int]) -> int | None:
    both = set(answered) & set(known)
    return next((each for each in asked if each in both), None)
