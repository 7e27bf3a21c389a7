"""Authentication providers: what a peer shows beside its keys, or instead of a pinned one.

Who shows makes *evidence* for one binding: what both sides of this handshake have seen, and whose
evidence it is. Evidence seen once is of no use elsewhere, nor can it be sent back to who made it.
Only a token of others' making (``jwt.py``) may be a bearer's. Time is an argument.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.units import NS_PER_S

from .certificates import CHAIN_MAX, check_chain, load_chain
from .codes import Failure
from .errors import SecurityError
from .exchange import TOKEN_SIZE_MIN
from .keys import expand
from .offer import Reader, sized
from .proof import EVIDENCE_MAX

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from cryptography import x509

_NAME_MAX = 128
_MAC = b"valkyrie provider hmac 1\0"
_SIGNED = b"valkyrie provider certificate 1\0"
_KEYED = b"valkyrie provider api key 1\0"


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose evidence it was."""

    name: str
    expires_ns: int | None = None
    """Unix time, from which on it is taken no more."""
    fingerprint: str = ""
    """Only a node with this fingerprint may show it."""
    bearer: bool = False
    """Whoever has it can show it, at every node that takes it."""
    chain: Sequence[x509.Certificate] = ()
    """Its own certificate first; they may have been revoked."""


class Prover(Protocol):
    """The side that shows."""

    @property
    def bearer(self) -> bool:
        """Whether who sees the evidence could use it: nobody may but a peer that is known."""

    def prove(self, binding: bytes) -> bytes:
        """Return evidence for a handshake."""


class Verifier(Protocol):
    """The side that demands."""

    def check(self, evidence: bytes, binding: bytes, unix_ns: int) -> Subject:
        """Return whose evidence it is; raises SecurityError for what is none."""

    @property
    def subjects(self) -> Collection[str] | None:
        """Whose evidence it would take; None: that is for others to say."""


def unproven(what: str) -> SecurityError:
    """Return what to raise for evidence that does not verify."""
    return SecurityError(Failure.UNPROVEN, what)


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SecurityError(Failure.MALFORMED, f"{what} is no text") from None


# ---- HMAC: a secret for each subject ----


@dataclass(frozen=True, slots=True)
class HmacProver:
    """Proves that it knows a subject's secret."""

    name: str
    secret: bytes = field(repr=False)
    bearer = False

    def prove(self, binding: bytes) -> bytes:
        """Return name and HMAC-SHA256."""
        name = self.name.encode()
        return sized(name) + hmac.digest(self.secret, _MAC + sized(name) + binding, "sha256")


@dataclass(frozen=True, slots=True)
class HmacVerifier:
    """Knows the secrets."""

    secrets: Mapping[str, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        for name, secret in self.secrets.items():
            if len(secret) < TOKEN_SIZE_MIN:
                raise ConfigError(f"the secret of {name} needs at least {TOKEN_SIZE_MIN} bytes")

    @property
    def subjects(self) -> Collection[str]:
        """Those whose secrets are here."""
        return self.secrets.keys()

    def check(self, evidence: bytes, binding: bytes, unix_ns: int) -> Subject:  # noqa: ARG002
        """Return whose secret it is; unknown names take as long as known ones."""
        reader = Reader(evidence, "HMAC evidence")
        name, mac = reader.sized(_NAME_MAX), reader.rest()
        text = _text(name, "a name")
        secret = self.secrets.get(text, bytes(TOKEN_SIZE_MIN))
        expected = hmac.digest(secret, _MAC + sized(name) + binding, "sha256")
        if not hmac.compare_digest(mac, expected) or text not in self.secrets:
            raise unproven("name and secret do not belong together")
        return Subject(text)


# ---- Certificates ----


@dataclass(frozen=True, slots=True)
class CertificateProver:
    """Shows a chain, and signs with its key."""

    chain: Sequence[x509.Certificate]
    key: Ed25519PrivateKey = field(repr=False)
    bearer = False

    def __post_init__(self) -> None:
        if len(self.prove(b"")) > EVIDENCE_MAX:
            raise ConfigError(f"its certificates have more than {EVIDENCE_MAX} bytes together")

    def prove(self, binding: bytes) -> bytes:
        """Return signature and chain."""
        shown = b"".join(sized(each.public_bytes(Encoding.DER)) for each in self.chain)
        return self.key.sign(_SIGNED + binding) + shown


@dataclass(frozen=True, slots=True)
class CertificateVerifier:
    """Trusts roots."""

    roots: Sequence[x509.Certificate]
    crls: Sequence[x509.CertificateRevocationList] = ()
    subjects = None

    def check(self, evidence: bytes, binding: bytes, unix_ns: int) -> Subject:
        """Return the name in a certificate whose key has signed this binding."""
        reader = Reader(evidence, "certificate evidence")
        signature = reader.take(64)
        shown: list[bytes] = []
        while reader.left and len(shown) < CHAIN_MAX:
            shown.append(reader.sized(EVIDENCE_MAX))
        reader.end()
        chain = load_chain(shown)
        now = dt.datetime.fromtimestamp(unix_ns / NS_PER_S, dt.UTC)
        name = check_chain(chain, self.roots, self.crls, now)
        key = chain[0].public_key()
        if not isinstance(key, Ed25519PublicKey):
            raise SecurityError(Failure.CREDENTIAL, "the certificate's key is not Ed25519")
        try:
            key.verify(signature, _SIGNED + binding)
        except InvalidSignature:
            raise unproven("who shows the certificate does not have its key") from None
        end = min(each.not_valid_after_utc for each in chain)
        return Subject(name, int(end.timestamp()) * NS_PER_S, chain=chain)


# ---- API keys: one word, of which the other side has what cannot be used ----

_KEY_PREFIX, _PUBLIC_PREFIX = "vkak1:", "vkpk1:"
API_KEY_SIZE = 32


def api_key_word(key: bytes) -> str:
    """Return a key as its holder keeps it."""
    assert len(key) == API_KEY_SIZE
    return _word(_KEY_PREFIX, key)


def api_key_of(word: str) -> bytes | None:
    """Return the key of a word; None: it is no key."""
    return _of_word(_KEY_PREFIX, word)


def public_word(key: bytes) -> str:
    """Return what who demands the key keeps: with it nobody can show it."""
    return _word(_PUBLIC_PREFIX, _private(key).public_key().public_bytes_raw())


def public_of(word: str) -> bytes | None:
    """Return the public half of a word; None: it is none."""
    return _of_word(_PUBLIC_PREFIX, word)


def _word(prefix: str, data: bytes) -> str:
    return prefix + base64.b32encode(data).decode().rstrip("=").lower()


def _of_word(prefix: str, word: str) -> bytes | None:
    if not word.startswith(prefix):
        return None
    letters = word[len(prefix) :].upper()
    try:
        found = base64.b32decode(letters + "=" * (-len(letters) % 8))
    except (binascii.Error, ValueError):
        return None
    return found if len(found) == API_KEY_SIZE else None


def _private(key: bytes) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(expand(key, "api key", b"", API_KEY_SIZE))


@dataclass(frozen=True, slots=True)
class ApiKeyProver:
    """Signs with what follows from a key; the key itself is never sent."""

    key: bytes = field(repr=False)
    bearer = False

    def prove(self, binding: bytes) -> bytes:
        """Return public half and signature."""
        private = _private(self.key)
        return private.public_key().public_bytes_raw() + private.sign(_KEYED + binding)


@dataclass(frozen=True, slots=True)
class ApiKeyVerifier:
    """Knows the public halves of keys."""

    known: Mapping[bytes, Subject]

    @property
    def subjects(self) -> Collection[str]:
        """Those who have a key."""
        return {subject.name for subject in self.known.values()}

    def check(self, evidence: bytes, binding: bytes, unix_ns: int) -> Subject:
        """Return whose key has signed this binding."""
        reader = Reader(evidence, "API key evidence")
        public, signature = reader.take(32), reader.rest()
        found = self.known.get(public)  # it is public: its time tells nothing
        if found is None:
            raise unproven("nobody here knows the API key")
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, _KEYED + binding)
        except (InvalidSignature, ValueError):
            raise unproven("who shows the API key does not have it") from None
        if found.expires_ns is not None and unix_ns >= found.expires_ns:
            raise SecurityError(Failure.CREDENTIAL, f"the API key of {found.name} has expired")
        return found
