"""An issuer of JSON web tokens, for tests."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

Private = bytes | Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def sign(key: Private, said: bytes) -> bytes:
    match key:
        case bytes():
            return hmac.digest(key, said, "sha256")
        case Ed25519PrivateKey():
            return key.sign(said)
        case ec.EllipticCurvePrivateKey():
            halves = decode_dss_signature(key.sign(said, ec.ECDSA(SHA256())))
            return b"".join(half.to_bytes(32, "big") for half in halves)
        case _:
            return key.sign(said, padding.PKCS1v15(), SHA256())


def algorithm(key: Private) -> str:
    match key:
        case bytes():
            return "HS256"
        case Ed25519PrivateKey():
            return "EdDSA"
        case ec.EllipticCurvePrivateKey():
            return "ES256"
        case _:
            return "RS256"


def make_jwt(claims: object, key: Private, key_id: str = "", header: object | None = None) -> bytes:
    """Return a signed token; ``header`` is another one than would be right."""
    if header is None:
        header = {"alg": algorithm(key), "typ": "JWT", **({"kid": key_id} if key_id else {})}
    said = b".".join(encode(json.dumps(each).encode()) for each in (header, claims))
    return said + b"." + encode(sign(key, said))


def web_key(key: Private, key_id: str = "") -> dict[str, str]:
    """Return what others may know of a key, and of a secret what they must, as RFC 7517 says."""

    def number(value: int, size: int) -> str:
        return encode(value.to_bytes(size, "big")).decode()

    match key:
        case bytes():
            found = {"kty": "oct", "k": encode(key).decode()}
        case Ed25519PrivateKey():
            x = key.public_key().public_bytes_raw()
            found = {"kty": "OKP", "crv": "Ed25519", "x": encode(x).decode()}
        case ec.EllipticCurvePrivateKey():
            at = key.public_key().public_numbers()
            found = {"kty": "EC", "crv": "P-256", "x": number(at.x, 32), "y": number(at.y, 32)}
        case _:
            of = key.public_key().public_numbers()
            found = {"kty": "RSA", "n": number(of.n, key.key_size // 8), "e": number(of.e, 3)}
    return {**found, "kid": key_id, "alg": algorithm(key), "use": "sig"}


def key_set(keys: Mapping[str, Private]) -> bytes:
    return json.dumps({"keys": [web_key(key, name) for name, key in keys.items()]}).encode()
