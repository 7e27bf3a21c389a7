"""Fingerprints as people read them: 200 bits in eight groups of five letters and digits."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from valkyrie.dataplane.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

_LABEL = b"valkyrie identity 1"
SIZE = 25
_GROUP = 5
_LOOKALIKES = str.maketrans({"0": "o", "1": "l", "8": "b"})
"""Digits that base32 does not have, and what people meant by them."""


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """What a peer is pinned by. Compared in constant time."""

    digest: bytes

    def __post_init__(self) -> None:
        assert len(self.digest) == SIZE

    @classmethod
    def of_keys(cls, exchange: bytes, ed25519: bytes, digests: Iterable[bytes]) -> Fingerprint:
        """Return the fingerprint of an identity: X25519, Ed25519, SHA-256 of each longer key."""
        parts = b"".join([_LABEL, exchange, ed25519, *digests])
        return cls(hashlib.sha256(parts).digest()[:SIZE])

    def __str__(self) -> str:
        letters = base64.b32encode(self.digest).decode().lower()
        return "-".join(letters[at : at + _GROUP] for at in range(0, len(letters), _GROUP))

    def __repr__(self) -> str:
        return f"<Fingerprint {self}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fingerprint) and hmac.compare_digest(self.digest, other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)


def parse_fingerprint(text: str) -> Fingerprint:
    """Return the fingerprint that somebody typed: case, blanks and hyphens do not matter."""
    letters = "".join(text.split()).replace("-", "").lower().translate(_LOOKALIKES).upper()
    try:
        digest = base64.b32decode(letters)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != SIZE:
        raise ConfigError(
            f"{text!r} is no fingerprint: it has eight groups of five, as the other node prints "
            "with `valkyrie key show`"
        )
    return Fingerprint(digest)
