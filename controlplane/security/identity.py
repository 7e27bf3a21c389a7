"""Who a node is: one X25519 key, keys of two signature algorithms or three, one fingerprint of all.

A *card* is the public part. The short card has digests in the place of the post-quantum keys, and
the same fingerprint as the full one: a pin made before post-quantum modes were wanted stays good.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.signing import fn_dsa
from valkyrie.dataplane.signing import signature as signing
from valkyrie.dataplane.signing.fingerprint import Fingerprint
from valkyrie.dataplane.signing.fn_dsa import FnDsaKey
from valkyrie.dataplane.signing.signature import CONTEXT, PUBLIC_SIZES, Algorithm

from .codes import Failure
from .errors import MisuseError, SecurityError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_DIGEST_SIZE = 32
_TEXT_PREFIX = "vkid1:"
_KEY = struct.Struct(">BH")


_LONG = (Algorithm.ML_DSA_65, Algorithm.FN_DSA_512)
"""Algorithms whose keys a short card has as digests."""
_ALWAYS = _LONG[:1]
"""Those that every identity has."""
_DIGEST = 0x80
"""What a card has of the others begins with their number and this."""


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
        digests = [self.digests[each] for each in _LONG if each in self.digests]
        return Fingerprint.of_keys(self.exchange, self.ed25519, digests)

    def having(self, signatures: Collection[Algorithm]) -> Card:
        """Return the card with the long keys of these only."""
        keys = {each: key for each, key in self.keys.items() if each in signatures}
        return Card(self.exchange, self.ed25519, self.digests, keys)

    def pack(self) -> bytes:
        """Return the card's bytes."""
        fixed = [self.exchange, self.ed25519, *(self.digests[each] for each in _ALWAYS)]
        more = [(each | _DIGEST, self.digests.get(each)) for each in _LONG if each not in _ALWAYS]
        more += [(each, self.keys.get(each)) for each in _LONG]
        parts = [_KEY.pack(kind, len(data)) + data for kind, data in more if data is not None]
        return b"".join([*fixed, *parts])

    @classmethod
    def parse(cls, data: bytes) -> Card:
        """Return the card that fills ``data``; long keys must be those of the digests."""
        size = 2 * 32 + _DIGEST_SIZE * len(_ALWAYS)
        if len(data) < size:
            raise SecurityError(Failure.MALFORMED, "an identity card is cut off")
        fixed = [data[at : at + 32] for at in range(0, size, 32)]
        digests = dict(zip(_ALWAYS, fixed[2:], strict=True))
        keys: dict[Algorithm, bytes] = {}
        for kind, part in _parts(data, size):
            algorithm = Algorithm(kind & ~_DIGEST)
            if kind & _DIGEST:
                digests[algorithm] = part
            elif hashlib.sha256(part).digest() != digests.get(algorithm):
                what = "a card's key is not the one of its digest"
                raise SecurityError(Failure.MALFORMED, what)
            else:
                keys[algorithm] = part
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
        key = self.ed25519 if algorithm is Algorithm.ED25519 else self.keys.get(algorithm)
        if key is None:
            raise SecurityError(Failure.MALFORMED, f"the card has no key for {algorithm.name}")
        if not signing.holds(algorithm, key, signature, message):
            what = f"a {algorithm.name} signature does not verify"
            raise SecurityError(Failure.UNPROVEN, what)


def _parts(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Yield kind and bytes of what a card has behind its fixed part, each once and in order."""
    order = [each | _DIGEST for each in _LONG if each not in _ALWAYS] + list(_LONG)
    while at < len(data):
        if len(data) - at < _KEY.size:
            raise SecurityError(Failure.MALFORMED, "an identity card is cut off")
        kind, length = _KEY.unpack_from(data, at)
        part = data[at + _KEY.size : at + _KEY.size + length]
        at += _KEY.size + length
        size = _DIGEST_SIZE if kind & _DIGEST else PUBLIC_SIZES.get(kind, 0)
        if kind not in order or not length == len(part) == size:
            raise SecurityError(Failure.MALFORMED, "an identity card has a key of no use")
        order = order[order.index(kind) + 1 :]
        yield kind, part


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """A node's private keys. Neither its repr nor what it raises shows any."""

    exchange: X25519PrivateKey
    ed25519: Ed25519PrivateKey
    ml_dsa: MLDSA65PrivateKey
    fn_dsa: FnDsaKey | None = None

    def __repr__(self) -> str:
        return f"<Identity {self.card.fingerprint}>"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise MisuseError("an identity is not to be copied: load it from its file")

    @classmethod
    def generate(cls, *, with_fn_dsa: bool = False) -> Identity:
        """Return a new identity; ConfigError if FN-DSA is asked for where it is not to be had."""
        more = FnDsaKey.generate() if with_fn_dsa else None
        return cls(
            X25519PrivateKey.generate(),
            Ed25519PrivateKey.generate(),
            MLDSA65PrivateKey.generate(),
            more,
        )

    @property
    def card(self) -> Card:
        """The full card."""
        keys = {Algorithm.ML_DSA_65: self.ml_dsa.public_key().public_bytes_raw()}
        if self.fn_dsa is not None:
            keys[Algorithm.FN_DSA_512] = self.fn_dsa.public
        return Card(
            self.exchange.public_key().public_bytes_raw(),
            self.ed25519.public_key().public_bytes_raw(),
            {each: hashlib.sha256(key).digest() for each, key in keys.items()},
            keys,
        )

    def able(self, algorithm: Algorithm) -> bool:
        """Say whether it can sign so, and verify."""
        if algorithm is not Algorithm.FN_DSA_512:
            return True
        return self.fn_dsa is not None and fn_dsa.library() is not None

    def sign(self, algorithm: Algorithm, message: bytes) -> bytes:
        """Return a signature."""
        match algorithm:
            case Algorithm.ED25519:
                return self.ed25519.sign(message)
            case Algorithm.ML_DSA_65:
                return self.ml_dsa.sign(message, CONTEXT)
            case Algorithm.FN_DSA_512:
                assert self.fn_dsa is not None, "it is offered by who has it"
                return self.fn_dsa.sign(message, CONTEXT)
