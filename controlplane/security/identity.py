"""Who a node is: one X25519 key, one key of each signature algorithm, and a fingerprint of all.

A *card* is the public part. The short card has digests in the place of the post-quantum keys, and
the same fingerprint as the full one: a pin made before post-quantum modes were wanted stays good.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from valkyrie.dataplane.errors import ConfigError

from .codes import Failure
from .errors import MisuseError, SecurityError
from .fingerprint import SIZE, Fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping

_LABEL = b"valkyrie identity 1"
_CONTEXT = b"valkyrie"
"""Domain of our ML-DSA signatures (FIPS 204, section 5.2)."""
_DIGEST_SIZE = 32
_TEXT_PREFIX = "vkid1:"
_KEY = struct.Struct(">BH")


class Algorithm(IntEnum):
    """Of a signature; the numbers cross the wire."""

    ED25519 = 1
    ML_DSA_65 = 2


PUBLIC_SIZES = {Algorithm.ED25519: 32, Algorithm.ML_DSA_65: 1952}
SIGNATURE_SIZES = {Algorithm.ED25519: 64, Algorithm.ML_DSA_65: 3309}
"""Bytes: RFC 8032, section 5.1; FIPS 204, table 2."""
_LONG = (Algorithm.ML_DSA_65,)
"""Algorithms whose keys a short card has as digests."""


@dataclass(frozen=True, slots=True)
class Card:
    """The public part of an identity: what a peer may know, and what a pin is about."""

    exchange: bytes
    """X25519."""
    ed25519: bytes
    digests: Mapping[Algorithm, bytes]
    """SHA-256 of each long key."""
    keys: Mapping[Algorithm, bytes] = field(default_factory=dict, compare=False)
    """The long keys themselves; empty in a short card."""

    def __repr__(self) -> str:
        return f"<Card {self.fingerprint}>"

    def short(self) -> Card:
        """Return the card without long keys."""
        return Card(self.exchange, self.ed25519, self.digests)

    @property
    def fingerprint(self) -> Fingerprint:
        """The same for the short card and the full one."""
        parts = [self.exchange, self.ed25519, *(self.digests[each] for each in _LONG)]
        return Fingerprint(hashlib.sha256(_LABEL + b"".join(parts)).digest()[:SIZE])

    def pack(self) -> bytes:
        """Return the card's bytes."""
        long_keys = b"".join(
            _KEY.pack(algorithm, len(self.keys[algorithm])) + self.keys[algorithm]
            for algorithm in _LONG
            if algorithm in self.keys
        )
        fixed = [self.exchange, self.ed25519, *(self.digests[each] for each in _LONG)]
        return b"".join([*fixed, long_keys])

    @classmethod
    def parse(cls, data: bytes) -> Card:
        """Return the card that fills ``data``; long keys must be those of the digests."""
        size = 2 * 32 + _DIGEST_SIZE * len(_LONG)
        if len(data) < size:
            raise SecurityError(Failure.MALFORMED, "an identity card is cut off")
        fixed = [data[at : at + 32] for at in range(0, size, 32)]
        digests = dict(zip(_LONG, fixed[2:], strict=True))
        keys: dict[Algorithm, bytes] = {}
        at = size
        while at < len(data):
            if len(data) - at < _KEY.size:
                raise SecurityError(Failure.MALFORMED, "an identity card is cut off")
            kind, length = _KEY.unpack_from(data, at)
            key = data[at + _KEY.size : at + _KEY.size + length]
            at += _KEY.size + length
            known = kind in _LONG and kind not in keys
            if not known or not length == len(key) == PUBLIC_SIZES[Algorithm(kind)]:
                raise SecurityError(Failure.MALFORMED, "an identity card has a key of no use")
            algorithm = Algorithm(kind)
            if hashlib.sha256(key).digest() != digests[algorithm]:
                raise SecurityError(Failure.MALFORMED, "a card's key is not the one of its digest")
            keys[algorithm] = key
        return cls(fixed[0], fixed[1], digests, keys)

    def text(self) -> str:
        """Return the short card as one word, to be pasted into a peer's configuration."""
        return _TEXT_PREFIX + base64.b32encode(self.short().pack()).decode().rstrip("=").lower()

    @classmethod
    def of_text(cls, text: str) -> Card:
        """Return the card of what ``text()`` returned."""
        prefix, letters = text.strip()[: len(_TEXT_PREFIX)], text.strip()[len(_TEXT_PREFIX) :]
        letters = letters.upper() if prefix == _TEXT_PREFIX else ""
        try:
            return cls.parse(base64.b32decode(letters + "=" * (-len(letters) % 8)))
        except (binascii.Error, ValueError, SecurityError):
            raise ConfigError(
                f"this is no identity card: it is one word that begins with {_TEXT_PREFIX}, as the "
                "other node prints with `valkyrie key show`"
            ) from None

    def verify(self, algorithm: Algorithm, signature: bytes, message: bytes) -> None:
        """Raise SecurityError unless the signature is this identity's."""
        try:
            if algorithm is Algorithm.ED25519:
                Ed25519PublicKey.from_public_bytes(self.ed25519).verify(signature, message)
            elif (key := self.keys.get(algorithm)) is not None:
                MLDSA65PublicKey.from_public_bytes(key).verify(signature, message, _CONTEXT)
            else:
                raise SecurityError(Failure.MALFORMED, f"the card has no key for {algorithm.name}")
        except (InvalidSignature, ValueError):
            what = f"a {algorithm.name} signature does not verify"
            raise SecurityError(Failure.UNPROVEN, what) from None


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """A node's private keys. Neither its repr nor what it raises shows any."""

    exchange: X25519PrivateKey
    ed25519: Ed25519PrivateKey
    ml_dsa: MLDSA65PrivateKey

    def __repr__(self) -> str:
        return f"<Identity {self.card.fingerprint}>"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise MisuseError("an identity is not to be copied: load it from its file")

    @classmethod
    def generate(cls) -> Identity:
        """Return a new identity."""
        return cls(
            X25519PrivateKey.generate(), Ed25519PrivateKey.generate(), MLDSA65PrivateKey.generate()
        )

    @property
    def card(self) -> Card:
        """The full card."""
        key = self.ml_dsa.public_key().public_bytes_raw()
        return Card(
            self.exchange.public_key().public_bytes_raw(),
            self.ed25519.public_key().public_bytes_raw(),
            {Algorithm.ML_DSA_65: hashlib.sha256(key).digest()},
            {Algorithm.ML_DSA_65: key},
        )

    def sign(self, algorithm: Algorithm, message: bytes) -> bytes:
        """Return a signature."""
        if algorithm is Algorithm.ED25519:
            return self.ed25519.sign(message)
        return self.ml_dsa.sign(message, _CONTEXT)
