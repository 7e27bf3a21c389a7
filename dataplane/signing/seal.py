"""Seals: what lets anybody verify later that a node signed a message, one signature a batch.

Sans-IO: a ``Draft`` makes the root of a batch, the node's daemon attests it, and every message gets
a ``Seal``. Each leaf begins with random bytes, so that who has one message's seal cannot try out
what the messages beside it were.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from valkyrie.dataplane.errors import LocalProtocolError, RemoteProtocolError, ValkyrieError

from . import signature as signing
from .fingerprint import Fingerprint, parse_fingerprint
from .fn_dsa import EXTRA
from .merkle import HASH_SIZE, Tree, leaf_hash, path_size, root_of
from .signature import PUBLIC_SIZES, SIGNATURE_SIZES, Algorithm
from .statement import ALGORITHMS, COUNT_MAX, Statement, algorithms

if TYPE_CHECKING:
    from collections.abc import Sequence

Message = bytes | bytearray | memoryview
SALT_SIZE = 16
_VERSION = 1
_KEY_SIZE = 32
_DIGESTS_MAX = 8
_HEAD = struct.Struct(">BH")
_PLACE = struct.Struct(f">I{SALT_SIZE}s")
_LONG = ALGORITHMS[1:]
"""Algorithms whose keys an identity's fingerprint has as digests, in its order."""

REASONS = {
    "malformed": "it is no seal, or was damaged: ask for it again",
    "signer": "another node made it: compare the fingerprint with the one you know the node by",
    "signature": "the node did not sign this: take neither message nor seal for its word",
    "message": "the node signed something else: the seal belongs to another message, or the"
    " message was changed",
    "algorithm": "it has not all signatures that were asked for: sign with post_quantum=True for"
    " ML-DSA-65, with fn_dsa=True for FN-DSA-512",
    "package": "it is signed by FN-DSA-512 too, which cannot be verified here:"
    f" `pip install '{EXTRA}'`",
}
"""Why a seal proves nothing, and what to do."""


class SealError(ValkyrieError):
    """A seal does not show that the node signed the message; ``reason`` is a key of ``REASONS``."""

    def __init__(self, reason: str, what: str = "") -> None:
        super().__init__(f"the seal is refused ({what or reason}): {REASONS[reason]}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Attestation:
    """A statement, its signatures, and the keys to verify them by."""

    statement: Statement
    exchange: bytes
    """X25519: part of the fingerprint."""
    ed25519: bytes
    digests: tuple[bytes, ...]
    """SHA-256 of each long key of the identity."""
    signatures: tuple[bytes, ...]
    """In the order of the statement's algorithms."""
    keys: tuple[bytes, ...] = ()
    """The long keys that the statement is signed with."""

    def pack(self) -> bytes:
        """Return the attestation's bytes."""
        statement = self.statement.pack()
        fixed = [_HEAD.pack(_VERSION, len(statement)), statement, self.exchange, self.ed25519]
        fixed += [bytes([len(self.digests)]), *self.digests]
        return b"".join([*fixed, *self.signatures, *self.keys])

    @classmethod
    def parse(cls, data: bytes) -> tuple[Attestation, bytes]:
        """Return the attestation that begins ``data``, and what is behind it; ValueError."""
        cursor = _Cursor(data)
        version, size = _HEAD.unpack(cursor.take(_HEAD.size))
        if version != _VERSION:
            raise ValueError(f"version {version} is not known here: bring valkyrie up to date")
        statement = Statement.parse(cursor.take(size))
        exchange, ed25519 = cursor.take(_KEY_SIZE), cursor.take(_KEY_SIZE)
        count = cursor.take(1)[0]
        used = statement.algorithms
        if not max(1, *map(_long_keys, used)) <= count <= _DIGESTS_MAX:
            raise ValueError("its keys cannot be")
        digests = tuple(cursor.take(HASH_SIZE) for _ in range(count))
        signatures = tuple(cursor.take(SIGNATURE_SIZES[each]) for each in used)
        keys = tuple(cursor.take(PUBLIC_SIZES[each]) for each in used if each in _LONG)
        return cls(statement, exchange, ed25519, digests, signatures, keys), cursor.rest()

    @property
    def fingerprint(self) -> Fingerprint:
        """Whose keys these are."""
        return Fingerprint.of_keys(self.exchange, self.ed25519, self.digests)

    def check(self) -> None:
        """Raise SealError unless every signature is by the keys of the fingerprint."""
        long = iter(self.keys)
        digests = dict(zip(_LONG, self.digests, strict=False))
        for algorithm, signature in zip(self.statement.algorithms, self.signatures, strict=True):
            key = next(long) if algorithm in _LONG else self.ed25519
            if algorithm in _LONG and hashlib.sha256(key).digest() != digests[algorithm]:
                raise SealError("signer", f"its {algorithm.name} key is not the fingerprint's")
            if not signing.verifies(algorithm):
                raise SealError("package")
            if not signing.holds(algorithm, key, signature, self.statement.signed()):
                raise SealError("signature", f"its {algorithm.name} signature does not verify")


def _long_keys(algorithm: Algorithm) -> int:
    """Return how many long keys an identity has at least that signs by an algorithm."""
    return _LONG.index(algorithm) + 1 if algorithm in _LONG else 0


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        if len(part) < size:
            raise ValueError("it is cut off")
        self._at += size
        return part

    def rest(self) -> bytes:
        return self._data[self._at :]


@dataclass(frozen=True, slots=True)
class Seal:
    """Of one message; ``pack()`` is what to keep or send beside it."""

    attestation: Attestation
    index: int
    """Of the message in its batch."""
    salt: bytes
    path: bytes

    @property
    def statement(self) -> Statement:
        """What the node signed."""
        return self.attestation.statement

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the node that it says it is of: ``verify`` compares it with the one you know."""
        return self.attestation.fingerprint

    def pack(self) -> bytes:
        """Return the seal's bytes."""
        return self.attestation.pack() + _PLACE.pack(self.index, self.salt) + self.path

    @classmethod
    def unpack(cls, data: Message) -> Seal:
        """Return the seal that fills ``data``; SealError if it is none."""
        try:
            attestation, rest = Attestation.parse(bytes(data))
            return cls(attestation, *_place(rest, attestation.statement.count))
        except ValueError as error:
            raise SealError("malformed", str(error)) from None


def _place(data: bytes, count: int) -> tuple[int, bytes, bytes]:
    """Return index, salt and path of a leaf; ValueError."""
    cursor = _Cursor(data)
    index, salt = _PLACE.unpack(cursor.take(_PLACE.size))
    path = cursor.rest()
    if index >= count or len(path) != path_size(index, count):
        raise ValueError("its path is not one of its batch")
    return index, salt, path


class Draft:
    """A batch that is to be signed."""

    __slots__ = ("_salts", "_tree", "count")

    def __init__(self, messages: Sequence[Message], salts: bytes) -> None:
        """``salts`` are SALT_SIZE random bytes a message, never used before."""
        self.count = check_batch(messages)
        assert len(salts) == self.count * SALT_SIZE
        self._salts = [salts[at : at + SALT_SIZE] for at in range(0, len(salts), SALT_SIZE)]
        leaves = map(leaf_hash, self._salts, messages)
        self._tree = Tree(list(leaves))

    @property
    def root(self) -> bytes:
        """What is to be signed."""
        return self._tree.root

    def seals(self, attested: bytes) -> list[Seal]:
        """Return a seal for each message of what the daemon answered, in their order."""
        try:
            attestation, rest = Attestation.parse(attested)
        except ValueError as error:
            raise RemoteProtocolError(f"the node's signature cannot be read: {error}") from None
        statement = attestation.statement
        if rest or (statement.root, statement.count) != (self.root, self.count):
            raise RemoteProtocolError("the node signed another batch: see its log")
        path = self._tree.path
        return [Seal(attestation, i, salt, path(i)) for i, salt in enumerate(self._salts)]


def check_batch(messages: Sequence[Message]) -> int:
    """Return how many messages a batch has; LocalProtocolError if it is none."""
    if isinstance(messages, bytes | bytearray | memoryview | str):
        raise LocalProtocolError("sign takes a list of messages: put a single one in brackets")
    if not 0 < len(messages) <= COUNT_MAX:
        raise LocalProtocolError(f"a batch has 1 to {COUNT_MAX} messages, not {len(messages)}")
    return len(messages)


@functools.lru_cache(64)
def _check(attestation: Attestation) -> None:
    """Check an attestation once: the other seals of its batch have the same."""
    attestation.check()


def verify(
    message: Message,
    seal: Seal | Message,
    signer: Fingerprint | str,
    *,
    post_quantum: bool = False,
    fn_dsa: bool = False,
) -> Statement:
    """Return what the node of a fingerprint signed, if the message is part of that.

    ``seal`` is one, or its bytes; ``signer`` comes from elsewhere than the seal: the fingerprint
    as `valkyrie key show` prints it. ``post_quantum`` asks for an ML-DSA-65 signature beside the
    Ed25519 one, ``fn_dsa`` for one by FN-DSA-512; all that there are must verify. Raises SealError,
    whose ``reason`` says why not; ConfigError: no fingerprint. Needs no node, no network and no
    privilege.
    """
    known = parse_fingerprint(signer) if isinstance(signer, str) else signer
    found = seal if isinstance(seal, Seal) else Seal.unpack(seal)
    statement = found.statement
    if found.fingerprint != known:
        raise SealError("signer", f"it is of {found.fingerprint}")
    if not {*algorithms(post_quantum=post_quantum, fn_dsa=fn_dsa)} <= {*statement.algorithms}:
        raise SealError("algorithm")
    _check(found.attestation)
    leaf = leaf_hash(found.salt, message)
    if root_of(leaf, found.index, statement.count, found.path) != statement.root:
        raise SealError("message")
    return statement
