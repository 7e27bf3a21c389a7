"""What each side says under seal when the keys are there: who it is, signatures, session terms."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from valkyrie.dataplane.signing.signature import SIGNATURE_SIZES, Algorithm

from .codes import Failure
from .errors import SecurityError
from .fragments import BODY_MAX
from .identity import Card, Identity
from .keys import KEY_SIZE, NONCE_SIZE, expand, extract
from .modes import Cipher
from .offer import Reader, sized

if TYPE_CHECKING:
    from .exchange import Outcome
    from .offer import Choice

TERMS_MAX = 1024
SEAL_SIZE = 16
EVIDENCE_MAX = 4096
_LABEL = b"valkyrie handshake proof 1"


@dataclass(frozen=True, slots=True)
class Proof:
    """The inside of AUTH_RESPONSE and AUTH_SUCCESS."""

    terms: bytes = b""
    """What the session's own protocol says."""
    card: bytes = b""
    signatures: tuple[bytes, ...] = ()
    """In the order of the choice."""
    evidence: bytes = b""
    """Of an authentication provider."""

    def pack(self) -> bytes:
        """Return the proof's bytes."""
        parts = [self.terms, self.card, self.evidence, *self.signatures]
        return b"".join(sized(part) for part in parts)

    @classmethod
    def parse(cls, data: bytes, choice: Choice) -> Proof:
        """Return the proof that fills ``data``."""
        reader = Reader(data, "a proof")
        terms, card = reader.sized(TERMS_MAX), reader.sized(BODY_MAX)
        evidence = reader.sized(EVIDENCE_MAX)
        signatures = tuple(reader.sized(SIGNATURE_SIZES[each]) for each in choice.signatures)
        reader.end()
        return cls(terms, card, signatures, evidence)


def _signed(role: str, choice: Choice, binding: bytes) -> bytes:
    """Return what a side signs: its role and all that both have seen."""
    return b"\0".join([_LABEL, role.encode(), choice.pack(), binding])


def sign(identity: Identity, role: str, choice: Choice, binding: bytes) -> tuple[bytes, ...]:
    """Return a signature of each algorithm that was chosen."""
    message = _signed(role, choice, binding)
    return tuple(identity.sign(algorithm, message) for algorithm in choice.signatures)


def verify(
    card: Card, role: str, choice: Choice, binding: bytes, signatures: tuple[bytes, ...]
) -> None:
    """Raise SecurityError unless every signature verifies."""
    message = _signed(role, choice, binding)
    for algorithm, signature in zip(choice.signatures, signatures, strict=True):
        card.verify(Algorithm(algorithm), signature, message)


class Seal:
    """Seals one proof of each role; plaintext mode has a checksum in the place of the tag."""

    __slots__ = ("_cipher", "_secret")

    def __init__(self, outcome: Outcome, cipher: Cipher, transcript: bytes) -> None:
        self._cipher = cipher
        secret = outcome.secret
        self._secret = None if secret is None else extract(transcript + outcome.binding, secret)

    def __repr__(self) -> str:
        return f"<Seal {self._cipher.name}>"

    def _aead(self, role: str) -> tuple[ChaCha20Poly1305 | AESGCM, bytes]:
        assert self._secret is not None
        key = expand(self._secret, f"proof key {role}", b"", KEY_SIZE)
        nonce = expand(self._secret, f"proof nonce {role}", b"", NONCE_SIZE)
        kind = AESGCM if self._cipher is Cipher.AES_256_GCM else ChaCha20Poly1305
        return kind(key), nonce

    def close(self, role: str, transcript: bytes, plaintext: bytes) -> bytes:
        """Return the sealed proof of a role; once for each role."""
        if self._secret is None:
            return plaintext + hashlib.sha256(transcript + plaintext).digest()[:SEAL_SIZE]
        aead, nonce = self._aead(role)
        return aead.encrypt(nonce, plaintext, transcript)

    def open(self, role: str, transcript: bytes, sealed: bytes) -> bytes:
        """Return the proof of a role."""
        if len(sealed) < SEAL_SIZE:
            raise SecurityError(Failure.MALFORMED, "a proof is shorter than its seal")
        if self._secret is None:
            plaintext = sealed[:-SEAL_SIZE]
            if not hmac.compare_digest(self.close(role, transcript, plaintext), sealed):
                raise SecurityError(Failure.UNPROVEN, "both sides have not seen the same")
            return plaintext
        aead, nonce = self._aead(role)
        try:
            return aead.decrypt(nonce, sealed, transcript)
        except InvalidTag:
            raise SecurityError(Failure.UNPROVEN, "a proof's seal does not verify") from None
