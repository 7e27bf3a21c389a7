"""Key exchanges, one for each way two nodes can come to a shared secret. No I/O.

All have up to three messages: the initiator writes the first, the responder the second, and the
third is part of the initiator's proof. Each begins with the transcript of the offers, so that two
sides who saw different offers do not end with the same secret.
"""

from __future__ import annotations

import hashlib
import hmac
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from . import noise
from .codes import Failure
from .errors import MisuseError, SecurityError
from .keys import expand, extract
from .modes import NOISE_CIPHERS, SIGNED

if TYPE_CHECKING:
    from .offer import Choice

TOKEN_SIZE_MIN = 16
"""Bytes of a shared secret: a shorter one could be guessed from a handshake that somebody kept."""
TOKEN_ID_SIZE = 8
_MAC_SIZE = 32


@dataclass(frozen=True, slots=True, repr=False)
class Outcome:
    """What a finished exchange leaves behind."""

    secret: bytes | None
    """None: nothing is secret."""
    binding: bytes
    """A hash that two sides share only if both saw the same exchange."""
    static: bytes | None = None
    """The other's X25519 key, proven."""
    name: str = ""
    """The other's name, proven by certificate or token."""
    serials: tuple[int, ...] = ()
    """Of the other's certificate, and of those above it."""
    quantum_safe: bool = False


class Exchange(ABC):
    """One side of one exchange: ``write`` and ``read`` in turn, then ``outcome``."""

    third = False
    """Whether there is a third message."""

    @abstractmethod
    def write(self, payload: bytes = b"") -> bytes:
        """Return our next message; a payload is encrypted if the exchange has a key by then."""

    @abstractmethod
    def read(self, message: bytes) -> bytes:
        """Take the other's next message in and return its payload."""

    @abstractmethod
    def outcome(self) -> Outcome:
        """Return what the exchange came to; MisuseError before its end."""


class PlainExchange(Exchange):
    """No exchange: its messages are their payloads, and nothing is secret or proven."""

    def __init__(self, prologue: bytes) -> None:
        self._hash = prologue

    def write(self, payload: bytes = b"") -> bytes:
        """Return the payload."""
        self._hash = hashlib.sha256(self._hash + payload).digest()
        return payload

    def read(self, message: bytes) -> bytes:
        """Return the message."""
        self._hash = hashlib.sha256(self._hash + message).digest()
        return message

    def outcome(self) -> Outcome:
        """Return a hash, and no secret."""
        return Outcome(None, self._hash)


def token_id(secret: bytes) -> bytes:
    """Return what a shared secret is named by on the wire."""
    return hmac.digest(secret, b"valkyrie token id 1", "sha256")[:TOKEN_ID_SIZE]


class TokenExchange(Exchange):
    """Both know a secret and prove it with HMAC-SHA256, in their roles; X25519 hides the session.

    The proofs are keyed by secret and X25519 result: who only listens cannot try secrets out.
    """

    def __init__(
        self, prologue: bytes, secrets: dict[bytes, bytes], chosen: bytes | None = None
    ) -> None:
        """Take ``chosen``, the name of the initiator's secret; None: we are the responder."""
        self._initiator = chosen is not None
        self._secrets = secrets
        self._id = chosen
        self._hash = hashlib.sha256(b"valkyrie token 1" + prologue).digest()
        self._private = X25519PrivateKey.generate()
        self._theirs: bytes | None = None
        self._prk = b""
        self._step = 0

    def _absorb(self, data: bytes) -> None:
        self._hash = hashlib.sha256(self._hash + len(data).to_bytes(2, "big") + data).digest()

    def _agree(self) -> None:
        assert self._id is not None
        assert self._theirs is not None
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(self._theirs))
        except ValueError:
            raise SecurityError(Failure.MALFORMED, "an X25519 key is of low order") from None
        self._prk = extract(self._secrets[self._id], shared)

    def _mac(self, role: str) -> bytes:
        return expand(self._prk, f"token proof {role}", self._hash, _MAC_SIZE)

    def write(self, payload: bytes = b"") -> bytes:
        """Return our message; a payload is not for this exchange."""
        if payload or self._step > 1 or self._initiator != (self._step == 0):
            raise MisuseError("it is not this side's turn, or a payload was given")
        self._step += 1
        public = self._private.public_key().public_bytes_raw()
        if self._initiator:
            assert self._id is not None
            message = self._id + public
            self._absorb(message)
            return message
        self._absorb(public)
        self._agree()
        mac = self._mac("responder")
        self._absorb(mac)
        return public + mac

    def read(self, message: bytes) -> bytes:
        """Take the other's message in; its payload is always empty."""
        if self._step > 1 or self._initiator != (self._step == 1):
            raise MisuseError("it is not the other side's turn")
        self._step += 1
        size = _MAC_SIZE if self._initiator else TOKEN_ID_SIZE
        if len(message) != noise.DH_SIZE + size:
            raise SecurityError(Failure.MALFORMED, "a token message is not as long as it should be")
        if not self._initiator:
            self._absorb(message)
            self._id = message[:TOKEN_ID_SIZE]
            self._theirs = message[TOKEN_ID_SIZE:]
            if self._id not in self._secrets:
                raise SecurityError(Failure.CREDENTIAL, "the peer has a secret nobody knows here")
            return b""
        self._theirs, mac = message[: noise.DH_SIZE], message[noise.DH_SIZE :]
        self._absorb(self._theirs)
        self._agree()
        if not hmac.compare_digest(mac, self._mac("responder")):
            raise SecurityError(Failure.UNPROVEN, "the peer does not know the shared secret")
        self._absorb(mac)
        return b""

    def outcome(self) -> Outcome:
        """Return the secret; the initiator's proof is sealed with it."""
        if self._step != 2:
            raise MisuseError("the exchange is not finished")
        assert self._id is not None
        secret = expand(self._prk, "token secret", self._hash, 32)
        return Outcome(secret, self._hash, name=self._id.hex())


class NoiseExchange(Exchange):
    """Noise; in the modes that sign, with ML-KEM-768."""

    def __init__(
        self,
        prologue: bytes,
        choice: Choice,
        static: X25519PrivateKey,
        *,
        initiator: bool,
        remote_static: bytes | None,
    ) -> None:
        assert choice.pattern is not None
        self._hybrid = choice.mode in SIGNED
        pattern = choice.pattern.name + ("hfs" if self._hybrid else "")
        self.third = len(noise.PATTERNS[pattern].messages) == 3
        knows = initiator and noise.PATTERNS[pattern].responder_known
        if knows and remote_static is None:
            raise MisuseError(f"{pattern} needs the peer's card: add it, or let XX be used")
        self._state = noise.Handshake(
            noise.protocol_name(pattern, NOISE_CIPHERS[choice.cipher], "SHA256"),
            initiator=initiator,
            static=static,
            prologue=prologue,
            remote_static=remote_static if knows else None,
        )
        self._initiator = initiator

    def write(self, payload: bytes = b"") -> bytes:
        """Return our next message."""
        return self._state.write(payload)

    def read(self, message: bytes) -> bytes:
        """Take the other's next message in."""
        return self._state.read(message)

    def outcome(self) -> Outcome:
        """Return both directions' keys as one secret, and the other's static key."""
        send, receive = self._state.split()
        there, back = (send, receive) if self._initiator else (receive, send)
        return Outcome(
            there.secret() + back.secret(),
            self._state.hash,
            static=self._state.remote_static,
            quantum_safe=self._hybrid,
        )
