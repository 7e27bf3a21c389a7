"""JSON web tokens (RFC 7519, signed as in RFC 7515) that an issuer of others gave to a node.

A token is a bearer's, good wherever it is shown to the audience in it, unless the issuer has bound
it to the node's fingerprint: ``"cnf": {"vkfp": "abcde-..."}`` (RFC 7800).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.units import NS_PER_S

from .codes import Failure
from .errors import SecurityError
from .proof import EVIDENCE_MAX
from .providers import Subject, unproven

if TYPE_CHECKING:
    from collections.abc import Mapping

Key = bytes | Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey
"""A secret is for HS256, the others for EdDSA, ES256 and RS256."""
SKEW_NS = 30 * NS_PER_S
"""How far the issuer's clock may be from ours."""
_SECRET_MIN = 32
"""Bytes: RFC 7518, section 3.2 ..."""
_RSA_BITS_MIN = 2048
"""... and section 3.3."""
_FINGERPRINT = "vkfp"


def decode(data: bytes) -> bytes:
    """Return the bytes of base64url without padding; ValueError if it is not, or not canonical."""
    decoded = base64.b64decode(data + b"=" * (-len(data) % 4), altchars=b"-_", validate=True)
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != data:
        raise ValueError("not canonical")
    return decoded


def _taken_apart(token: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Return header, claims and signature, of which nothing is proven yet."""
    if len(token) > EVIDENCE_MAX:
        raise SecurityError(Failure.MALFORMED, "the token is too long")
    try:
        head, body, tail = token.split(b".")
        header, claims = (json.loads(decode(part)) for part in (head, body))
        signature = decode(tail)
    except (ValueError, binascii.Error, RecursionError):
        raise SecurityError(Failure.MALFORMED, "this is no signed token") from None
    if not isinstance(header, dict) or not isinstance(claims, dict) or "crit" in header:
        raise SecurityError(Failure.MALFORMED, "this is no token that is known here")
    return header, claims, signature


def _bound_to(claims: Mapping[str, Any]) -> str:
    """Return the fingerprint that a token is bound to; empty: it is a bearer's."""
    confirmation = claims.get("cnf")
    if confirmation is None:
        return ""
    found = confirmation.get(_FINGERPRINT) if isinstance(confirmation, dict) else None
    if not isinstance(found, str) or not found:
        raise SecurityError(Failure.CREDENTIAL, "the token is bound to what nobody here can check")
    return found


@dataclass(frozen=True, slots=True)
class JwtProver:
    """Shows a token."""

    token: bytes = field(repr=False)

    @property
    def bearer(self) -> bool:
        """Whether the token is bound to nobody's keys."""
        return not _bound_to(_taken_apart(self.token)[1])

    def prove(self, binding: bytes) -> bytes:  # noqa: ARG002
        """Return the token."""
        return self.token


@dataclass(frozen=True, slots=True)
class JwtVerifier:
    """Trusts one issuer's keys. The key's kind decides the algorithm, never the token."""

    issuer: str
    audience: str
    keys: Mapping[str, Key] = field(repr=False)
    """By key id; "" for one that has none."""
    subjects = None

    def check(self, evidence: bytes, binding: bytes, unix_ns: int) -> Subject:  # noqa: ARG002
        """Return the token's subject; it must have been issued to this audience, and expire."""
        header, claims, signature = _taken_apart(evidence)
        self._verify(header, evidence.rpartition(b".")[0], signature)
        return self._subject(claims, unix_ns)

    def _verify(self, header: Mapping[str, object], said: bytes, signature: bytes) -> None:
        key_id = header.get("kid", "")
        key = self.keys.get(key_id) if isinstance(key_id, str) else None
        if "kid" not in header and len(self.keys) == 1:
            (key,) = self.keys.values()
        if key is None:
            raise unproven("nobody here knows the token's key")
        if header.get("alg") != algorithm(key) or not _verifies(key, said, signature):
            raise unproven("the token's signature does not verify")

    def _subject(self, claims: Mapping[str, object], unix_ns: int) -> Subject:
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        name, expires = claims.get("sub"), _time_ns(claims, "exp")
        if claims.get("iss") != self.issuer or self.audience not in audiences:
            raise SecurityError(Failure.CREDENTIAL, "the token is of or for somebody else")
        if not isinstance(name, str) or not name or expires is None:
            raise SecurityError(Failure.CREDENTIAL, "the token has no subject, or does not expire")
        if unix_ns >= expires + SKEW_NS:
            raise SecurityError(Failure.CREDENTIAL, "the token has expired")
        begins = _time_ns(claims, "nbf") or 0
        if unix_ns < begins - SKEW_NS:
            raise SecurityError(Failure.CREDENTIAL, "the token is not good yet")
        fingerprint = _bound_to(claims)
        return Subject(name, expires + SKEW_NS, fingerprint, bearer=not fingerprint)


def _time_ns(claims: Mapping[str, object], name: str) -> int | None:
    """Return a NumericDate as nanoseconds; None if there is none."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**40:
        raise SecurityError(Failure.CREDENTIAL, f"the token's {name} is no time")
    return int(value * NS_PER_S)


# ---- Keys ----


def algorithm(key: Key) -> str:
    """Return the only algorithm that a key is good for."""
    match key:
        case bytes():
            return "HS256"
        case Ed25519PublicKey():
            return "EdDSA"
        case ec.EllipticCurvePublicKey():
            return "ES256"
        case _:
            return "RS256"


def _verifies(key: Key, said: bytes, signature: bytes) -> bool:
    try:
        match key:
            case bytes():
                return hmac.compare_digest(signature, hmac.digest(key, said, "sha256"))
            case Ed25519PublicKey():
                key.verify(signature, said)
            case ec.EllipticCurvePublicKey():
                if len(signature) != 64:
                    return False
                halves = (int.from_bytes(signature[at : at + 32], "big") for at in (0, 32))
                key.verify(encode_dss_signature(*halves), said, ec.ECDSA(SHA256()))
            case _:
                key.verify(signature, said, padding.PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True


def parse_keys(data: bytes, name: str) -> dict[str, Key]:
    """Return an issuer's keys, by id, from its JSON web key set (RFC 7517)."""
    try:
        rows = json.loads(data)["keys"]
        found = [(str(row.get("kid", "")), _key(row)) for row in rows if _is_known(row)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ConfigError(f"{name}: is no set of JSON web keys that can be read") from None
    if not found:
        raise ConfigError(f"{name}: has no key for RS256, ES256, EdDSA or HS256")
    keys = dict(found)
    if len(keys) != len(found):
        raise ConfigError(f"{name}: has two keys with one id")
    for key_id, key in keys.items():
        if isinstance(key, bytes) and len(key) < _SECRET_MIN:
            raise ConfigError(f"{name}: key '{key_id}' needs at least {_SECRET_MIN} bytes")
        if isinstance(key, rsa.RSAPublicKey) and key.key_size < _RSA_BITS_MIN:
            raise ConfigError(f"{name}: key '{key_id}' needs at least {_RSA_BITS_MIN} bits")
    return keys


_KINDS = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
    ("oct", None): "HS256",
}


def _is_known(row: Mapping[str, str]) -> bool:
    ours = _KINDS.get((row["kty"], row.get("crv")))
    return ours is not None and row.get("alg", ours) == ours and row.get("use", "sig") == "sig"


def _key(row: Mapping[str, str]) -> Key:
    def part(name: str) -> bytes:
        return decode(row[name].encode())

    match row["kty"]:
        case "oct":
            return part("k")
        case "OKP":
            return Ed25519PublicKey.from_public_bytes(part("x"))
        case "EC":
            point = b"\x04" + part("x") + part("y")
            return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        case _:
            exponent, modulus = (int.from_bytes(part(each), "big") for each in ("e", "n"))
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
