"""Signatures of identities: the algorithms, their sizes, and whether one is right."""

from __future__ import annotations

from enum import IntEnum

from . import fn_dsa

CONTEXT = b"valkyrie"
"""Domain of our ML-DSA and FN-DSA signatures (FIPS 204, section 5.2)."""


class Algorithm(IntEnum):
    """Of a signature; the numbers cross the wire."""

    ED25519 = 1
    ML_DSA_65 = 2
    FN_DSA_512 = 3
    """Only where an optional package is (``fn_dsa.py``)."""


PUBLIC_SIZES = {
    Algorithm.ED25519: 32,
    Algorithm.ML_DSA_65: 1952,
    Algorithm.FN_DSA_512: fn_dsa.PUBLIC_SIZE,
}
SIGNATURE_SIZES = {
    Algorithm.ED25519: 64,
    Algorithm.ML_DSA_65: 3309,
    Algorithm.FN_DSA_512: fn_dsa.SIGNATURE_SIZE,
}
"""Bytes: RFC 8032, section 5.1; FIPS 204, table 2."""


def verifies(algorithm: Algorithm) -> bool:
    """Say whether signatures can be verified here."""
    return algorithm is not Algorithm.FN_DSA_512 or fn_dsa.library() is not None


_P = 2**255 - 19
_EIGHTH = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7
"""The y of a point of order 8; its negative is the other one."""
_SMALL_ORDER = frozenset(
    (y | sign << 255).to_bytes(32, "little")
    for y in (0, 1, _P - 1, _P, _P + 1, _EIGHTH, _P - _EIGHTH)
    for sign in (0, 1)
)
"""Ed25519 keys under which one signature holds for many messages: who has one could deny."""


def holds(algorithm: Algorithm, key: bytes, signature: bytes, message: bytes) -> bool:
    """Say whether a signature is of the key's owner; ConfigError where ``verifies`` says no."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey

    try:
        match algorithm:
            case Algorithm.ED25519 if key not in _SMALL_ORDER:
                Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
            case Algorithm.ML_DSA_65:
                MLDSA65PublicKey.from_public_bytes(key).verify(signature, message, CONTEXT)
            case Algorithm.FN_DSA_512:
                return fn_dsa.holds(key, signature, message, CONTEXT)
            case _:
                return False
    except (InvalidSignature, ValueError):
        return False
    return True
