"""Authentication providers: other ways than a peer's key to say on whose behalf somebody asks.

Who asks shows *evidence*, made for one binding (what both sides of this connection have seen, and
nobody else's), so that evidence seen once is of no use elsewhere. API keys and JWTs are bearer
evidence: they are good wherever they are shown, and belong under encryption. Time is an argument.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from valkyrie.dataplane.errors import ConfigError

from .certificates import CHAIN_MAX, check_chain, load_chain
from .codes import Failure
from .errors import SecurityError
from .exchange import TOKEN_SIZE_MIN
from .offer import Reader, sized

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography import x509

SECOND_NS = 1_000_000_000
_NAME_MAX = 128
_EVIDENCE_MAX = 4096
_MAC = b"valkyrie provider hmac 1\0"
_SIGNED = b"valkyrie provider certificate 1\0"


@dataclass(frozen=True, slots=True)
class Subject:
    """On whose behalf somebody asks, and what it may do."""

    name: str
    rights: frozenset[str] = frozenset()
    expires_ns: int | None = None
    """Unix time."""


class Prover(Protocol):
    """The asking side."""

    def prove(self, binding: bytes) -> bytes:
        """Return evidence for a connection."""


class Verifier(Protocol):
    """The side that is asked."""

    def check(self, evidence: bytes, binding: bytes, unix_ns: int) -> Subject:
        """Return who the evidence is of; raises SecurityError for any other."""


def _unproven(what: str) -> SecurityError:
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

    def prove(self, binding: bytes) -> bytes:
        """Return name and HMAC-SHA256."""
        name = self.name.encode()
        return sized(name) + hmac.digest(self.secret, _MAC + sized(name) + binding, "sha256")


@dataclass(frozen=True, slots=True)
class HmacVerifier:
    """Knows the secrets."""

    secrets: Mapping[str, bytes] = field(repr=False)
    rights: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, secret in self.secrets.items():
            if len(secret) < TOKEN_SIZE_MIN:
                raise ConfigError(f"the secret of {name} needs at least {TOKEN_SIZE_MIN} bytes")

    def check(self, evidence: bytes, binding: bytes, unix_ns: int) -> Subject:  # noqa: ARG002
        """Return whose secret it is; unknown names take as long as known ones."""
        reader = Reader(evidence, "HMAC evidence")
        name, mac = reader.sized(_NAME_MAX), reader.rest()
        text = _text(name, "a name")
        secret = self.secrets.get(text, bytes(TOKEN_SIZE_MIN))
        expected = hmac.digest(secret, _MAC + sized(name) + binding, "sha256")
        if not hmac.compare_digest(mac, expected) or text not in self.secrets:
            raise _unproven("name and secret do not belong together")
        return Subject(text, self.rights.get(text, frozenset()))


# ---- Certificates ----


@dataclass(frozen=True, slots=True)
class CertificateProver:
    """Shows a chain, and signs with its key."""

    chain: Sequence[x509.Certificate]
    key: Ed25519PrivateKey = field(repr=False)

    def prove(self, binding: bytes) -> bytes:
        """Return signature and chain."""
        shown = b"".join(sized(each.public_bytes(Encoding.DER)) for each in self.chain)
        return self.key.sign(_SIGNED + binding) + shown


@dataclass(frozen=True, slots=True)
class CertificateVerifier:
    """Trusts roots."""

    roots: Sequence[x509.Certificate]
    crls: Sequence[x509.CertificateRevocationList] = ()
    rights: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def check(self, evidence: bytes, binding: bytes, unix_ns: int) -> Subject:
        """Return the name in a certificate whose key has signed this binding."""
        reader = Reader(evidence, "certificate evidence")
        signature = reader.take(64)
        shown: list[bytes] = []
        while reader.left and len(shown) < CHAIN_MAX:
            shown.append(reader.sized(_EVIDENCE_MAX))
        reader.end()
        chain = load_chain(shown)
        now = dt.datetime.fromtimestamp(unix_ns / SECOND_NS, dt.UTC)
        name = check_chain(chain, self.roots, self.crls, now)
        key = chain[0].public_key()
        if not isinstance(key, Ed25519PublicKey):
            raise SecurityError(Failure.CREDENTIAL, "the certificate's key is not Ed25519")
        try:
            key.verify(signature, _SIGNED + binding)
        except InvalidSignature:
            raise _unproven("who shows the certificate does not have its key") from None
        end_ns = int(chain[0].not_valid_after_utc.timestamp()) * SECOND_NS
        return Subject(name, self.rights.get(name, frozenset()), end_ns)


# ---- API keys ----


def api_key_digest(key: str) -> str:
    """Return what a configuration has of a key: nobody can use it.

    Keys are random, 128 bits or more: a plain hash will do, as it would not for a password.
    """
    return hashlib.sha256(b"valkyrie api key 1\0" + key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ApiKeyProver:
    """Shows a key."""

    key: str = field(repr=False)

    def prove(self, binding: bytes) -> bytes:  # noqa: ARG002
        """Return the key."""
        return self.key.encode()


@dataclass(frozen=True, slots=True)
class ApiKeyVerifier:
    """Knows the digests of keys."""

    subjects: Mapping[str, Subject]
    """By ``api_key_digest``."""

    def check(self, evidence: bytes, binding: bytes, unix_ns: int) -> Subject:  # noqa: ARG002
        """Return whose key it is."""
        digest = api_key_digest(_text(evidence, "an API key"))
        found: Subject | None = None
        for known, subject in self.subjects.items():  # all of them: none is seen by its time
            if hmac.compare_digest(known, digest):
                found = subject
        if found is None:
            raise _unproven("nobody here knows the API key")
        if found.expires_ns is not None and unix_ns >= found.expires_ns:
            raise SecurityError(Failure.CREDENTIAL, f"the API key of {found.name} has expired")
        return found


# ---- JSON web tokens (RFC 7519, signed as in RFC 7515) ----

_HS256_SECRET_MIN = 32
"""RFC 7518, section 3.2."""


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decode(data: bytes) -> bytes:
    decoded = base64.b64decode(data + b"=" * (-len(data) % 4), altchars=b"-_", validate=True)
    if _encode(decoded) != data:
        raise ValueError("not canonical")
    return decoded


def make_jwt(
    claims: Mapping[str, object], key: bytes | Ed25519PrivateKey, key_id: str = ""
) -> bytes:
    """Return a signed token: HS256 with a secret, EdDSA with a private key."""
    header = {"alg": "HS256" if isinstance(key, bytes) else "EdDSA", "typ": "JWT"}
    if key_id:
        header["kid"] = key_id
    parts = [_encode(json.dumps(each).encode()) for each in (header, claims)]
    said = b".".join(parts)
    signature = hmac.digest(key, said, "sha256") if isinstance(key, bytes) else key.sign(said)
    return said + b"." + _encode(signature)


@dataclass(frozen=True, slots=True)
class JwtProver:
    """Shows a token."""

    token: bytes = field(repr=False)

    def prove(self, binding: bytes) -> bytes:  # noqa: ARG002
        """Return the token."""
        return self.token


@dataclass(frozen=True, slots=True)
class JwtVerifier:
    """Trusts one issuer's keys. The key's kind decides the algorithm, never the token."""

    issuer: str
    audience: str
    keys: Mapping[str, bytes | Ed25519PublicKey] = field(repr=False)
    """By key id; "" for tokens that name none."""
    skew_ns: int = 30 * SECOND_NS

    def __post_init__(self) -> None:
        for name, key in self.keys.items():
            if isinstance(key, bytes) and len(key) < _HS256_SECRET_MIN:
                raise ConfigError(f"JWT key {name!r} needs at least {_HS256_SECRET_MIN} bytes")

    def check(self, evidence: bytes, binding: bytes, unix_ns: int) -> Subject:  # noqa: ARG002
        """Return the token's subject; it must have been issued to this audience, and expire."""
        if len(evidence) > _EVIDENCE_MAX:
            raise SecurityError(Failure.MALFORMED, "the token is too long")
        try:
            head, body, tail = evidence.split(b".")
            header, claims = (json.loads(_decode(part)) for part in (head, body))
            signature = _decode(tail)
        except (ValueError, binascii.Error, RecursionError):
            raise SecurityError(Failure.MALFORMED, "this is no signed token") from None
        if not isinstance(header, dict) or not isinstance(claims, dict) or "crit" in header:
            raise SecurityError(Failure.MALFORMED, "this is no token that is known here")
        self._verify(header, head + b"." + body, signature)
        return self._subject(claims, unix_ns)

    def _verify(self, header: Mapping[str, object], said: bytes, signature: bytes) -> None:
        key_id = header.get("kid", "")
        key = self.keys.get(key_id) if isinstance(key_id, str) else None
        if key is None:
            raise _unproven("nobody here knows the token's key")
        if isinstance(key, bytes):
            good = header.get("alg") == "HS256" and hmac.compare_digest(
                signature, hmac.digest(key, said, "sha256")
            )
        else:
            good = header.get("alg") == "EdDSA"
            try:
                key.verify(signature, said)
            except InvalidSignature:
                good = False
        if not good:
            raise _unproven("the token's signature does not verify")

    def _subject(self, claims: Mapping[str, object], unix_ns: int) -> Subject:
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        name, expires = claims.get("sub"), _time_ns(claims, "exp")
        if claims.get("iss") != self.issuer or self.audience not in audiences:
            raise SecurityError(Failure.CREDENTIAL, "the token is of or for somebody else")
        if not isinstance(name, str) or not name or expires is None:
            raise SecurityError(Failure.CREDENTIAL, "the token has no subject, or does not expire")
        if unix_ns >= expires + self.skew_ns:
            raise SecurityError(Failure.CREDENTIAL, "the token has expired")
        begins = _time_ns(claims, "nbf") or 0
        if unix_ns < begins - self.skew_ns:
            raise SecurityError(Failure.CREDENTIAL, "the token is not good yet")
        scope = claims.get("scope", "")
        rights = frozenset(scope.split()) if isinstance(scope, str) else frozenset[str]()
        return Subject(name, rights, expires)


def _time_ns(claims: Mapping[str, object], name: str) -> int | None:
    """Return a NumericDate as nanoseconds; None if there is none."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**40:
        raise SecurityError(Failure.CREDENTIAL, f"the token's {name} is no time")
    return int(value * SECOND_NS)
