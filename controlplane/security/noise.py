"""The Noise protocol core, revision 34, with the `hfs` modifier over ML-KEM-768.

    a, b = Handshake(name, initiator=True, ...), Handshake(name, initiator=False, ...)
    b.read(a.write(b"payload")); a.read(b.write()); ...
    a.split()  ->  what a sends with, what it receives with

Patterns and algorithms are data. A message that does not verify raises SecurityError and leaves a
handshake that cannot be used again: who wants to go on begins a new one.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from .codes import Failure
from .errors import MisuseError, SecurityError

DH_SIZE = 32
KEY_SIZE = 32
AEAD_TAG_SIZE = 16
KEM_PUBLIC_SIZE = 1184
"""ML-KEM-768 encapsulation key (FIPS 203, table 3)."""
KEM_CIPHERTEXT_SIZE = 1088
MESSAGE_SIZE_MAX = 65535
"""Section 3 of the specification."""
NONCE_MAX = 2**64 - 2
"""The last nonce of a key; 2^64 - 1 is reserved (section 5.1)."""

_CIPHERS: dict[str, tuple[type[ChaCha20Poly1305 | AESGCM], Literal["little", "big"]]] = {
    "ChaChaPoly": (ChaCha20Poly1305, "little"),
    "AESGCM": (AESGCM, "big"),
}
_HASHES = {"SHA256": "sha256", "SHA512": "sha512", "BLAKE2s": "blake2s", "BLAKE2b": "blake2b"}


@dataclass(frozen=True, slots=True)
class Pattern:
    """Who sends which tokens, and whose static key the other knows beforehand."""

    initiator_known: bool
    responder_known: bool
    messages: tuple[tuple[str, ...], ...]

    def hybrid(self) -> Pattern:
        """Return the pattern with the `hfs` modifier (HFS draft, section 3).

        ``e1`` follows the first ``e`` and the DH tokens directly after it; ``ekem1`` the first
        ``ee``.
        """
        first = list(self.messages[0])
        at = first.index("e") + 1
        while at < len(first) and first[at] in ("es", "ss"):
            at += 1
        first.insert(at, "e1")
        second = list(self.messages[1])
        second.insert(second.index("ee") + 1, "ekem1")
        return Pattern(
            self.initiator_known,
            self.responder_known,
            (tuple(first), tuple(second), *self.messages[2:]),
        )


def _pattern(known: str, *messages: str) -> Pattern:
    return Pattern("i" in known, "r" in known, tuple(tuple(each.split()) for each in messages))


_BASE = {
    "XK": _pattern("r", "e es", "e ee", "s se"),
    "IK": _pattern("r", "e es s ss", "e ee se"),
    "XX": _pattern("", "e", "e ee s es", "s se"),
}
PATTERNS: dict[str, Pattern] = _BASE | {f"{name}hfs": each.hybrid() for name, each in _BASE.items()}
_GROUPS = {False: "25519", True: "25519+MLKEM768"}


class CipherState:
    """A key and the count of messages under it (section 5.1); without a key it is transparent."""

    __slots__ = ("_aead", "_cipher", "_key", "_order", "nonce")

    def __init__(self, cipher: str, key: bytes | None = None) -> None:
        self._cipher, self._order = _CIPHERS[cipher]
        self._key = key
        self._aead = self._cipher(key) if key is not None else None
        self.nonce = 0

    def __repr__(self) -> str:
        return f"<CipherState keyed={self.keyed} nonce={self.nonce}>"

    @property
    def keyed(self) -> bool:
        """Whether messages are encrypted."""
        return self._aead is not None

    def secret(self) -> bytes:
        """Return the key, to derive others from."""
        if self._key is None:
            raise MisuseError("there is no key yet: finish the handshake first")
        return self._key

    def _next(self) -> bytes:
        if self.nonce > NONCE_MAX:
            raise MisuseError("the key has been used 2^64 - 1 times: make a new one")
        return bytes(4) + self.nonce.to_bytes(8, self._order)

    def encrypt(self, associated: bytes, plaintext: bytes) -> bytes:
        """Seal and count."""
        if self._aead is None:
            return plaintext
        sealed = self._aead.encrypt(self._next(), plaintext, associated)
        self.nonce += 1
        return sealed

    def decrypt(self, associated: bytes, sealed: bytes) -> bytes:
        """Open and count; a message that does not verify is not counted."""
        if self._aead is None:
            return sealed
        if len(sealed) < AEAD_TAG_SIZE:
            raise SecurityError(Failure.MALFORMED, "a sealed part is shorter than its tag")
        try:
            plaintext = self._aead.decrypt(self._next(), sealed, associated)
        except InvalidTag:
            raise SecurityError(Failure.UNPROVEN, "a sealed part does not verify") from None
        self.nonce += 1
        return plaintext


class SymmetricState:
    """Chaining key and transcript hash (section 5.2)."""

    __slots__ = ("_chaining", "_cipher_name", "_digest", "cipher", "hash")

    def __init__(self, name: str, cipher: str, hash_name: str) -> None:
        self._digest = _HASHES[hash_name]
        size = hashlib.new(self._digest).digest_size
        data = name.encode()
        self.hash = data.ljust(size, b"\0") if len(data) <= size else self._hash(data)
        self._chaining = self.hash
        self._cipher_name = cipher
        self.cipher = CipherState(cipher)

    def _hash(self, data: bytes) -> bytes:
        return hashlib.new(self._digest, data).digest()

    def _derive(self, material: bytes) -> tuple[bytes, bytes]:
        """Return two outputs of the HKDF of section 4.3."""
        secret = hmac.digest(self._chaining, material, self._digest)
        first = hmac.digest(secret, b"\x01", self._digest)
        return first, hmac.digest(secret, first + b"\x02", self._digest)

    def mix_key(self, material: bytes) -> None:
        """Take a shared secret in."""
        self._chaining, key = self._derive(material)
        self.cipher = CipherState(self._cipher_name, key[:KEY_SIZE])

    def mix_hash(self, data: bytes) -> None:
        """Take what both sides have seen in."""
        self.hash = self._hash(self.hash + data)

    def seal(self, plaintext: bytes) -> bytes:
        """Encrypt under the transcript and take the result in."""
        sealed = self.cipher.encrypt(self.hash, plaintext)
        self.mix_hash(sealed)
        return sealed

    def open(self, sealed: bytes) -> bytes:
        """Decrypt under the transcript and take it in."""
        plaintext = self.cipher.decrypt(self.hash, sealed)
        self.mix_hash(sealed)
        return plaintext

    def split(self) -> tuple[CipherState, CipherState]:
        """Return the ciphers for initiator → responder and for the way back."""
        keys = self._derive(b"")
        there, back = (CipherState(self._cipher_name, key[:KEY_SIZE]) for key in keys)
        return there, back


class _Reader:
    """Takes parts off a message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            raise SecurityError(Failure.MALFORMED, "a handshake message is cut off")
        self._at += size
        return part

    def rest(self) -> bytes:
        return self._data[self._at :]


def protocol_name(pattern: str, cipher: str, hash_name: str) -> str:
    """Return the full name, which the transcript begins with."""
    return f"Noise_{pattern}_{_GROUPS[pattern.endswith('hfs')]}_{cipher}_{hash_name}"


class Handshake:
    """HandshakeState (section 5.3): who writes first, alternates with the other.

    ``static`` is ours, ``remote_static`` the other's where the pattern knows it beforehand;
    ``ephemeral`` is for test vectors only: it is made anew otherwise.
    """

    def __init__(
        self,
        name: str,
        *,
        initiator: bool,
        static: X25519PrivateKey,
        prologue: bytes = b"",
        remote_static: bytes | None = None,
        ephemeral: X25519PrivateKey | None = None,
    ) -> None:
        prefix, pattern_name, group, cipher, hash_name = name.split("_")
        pattern = PATTERNS.get(pattern_name)
        if (
            prefix != "Noise"
            or pattern is None
            or group != _GROUPS[pattern_name.endswith("hfs")]
            or cipher not in _CIPHERS
            or hash_name not in _HASHES
        ):
            raise MisuseError(f"{name} is no protocol that this core knows")
        known = pattern.responder_known if initiator else pattern.initiator_known
        if known != (remote_static is not None):
            need = "needs" if known else "must not be given"
            raise MisuseError(f"{name} {need} the other side's static key")
        self.name = name
        self._initiator = initiator
        self._messages = list(pattern.messages)
        self._turn = initiator
        self._broken = False
        self._static = static
        self._ephemeral = ephemeral
        self._kem: MLKEM768PrivateKey | None = None
        self._remote_kem: MLKEM768PublicKey | None = None
        self._remote_ephemeral: bytes | None = None
        self.remote_static = remote_static
        """The other's static key, as soon as it is known; proven when ``done``."""
        self._state = SymmetricState(name, cipher, hash_name)
        self._state.mix_hash(prologue)
        own = static.public_key().public_bytes_raw()
        for theirs, is_known in (
            (not initiator, pattern.initiator_known),
            (initiator, pattern.responder_known),
        ):
            if is_known:
                assert remote_static is not None or not theirs
                self._state.mix_hash(remote_static if theirs and remote_static else own)

    def __repr__(self) -> str:
        side = "initiator" if self._initiator else "responder"
        return f"<Handshake {self.name} {side} messages_left={len(self._messages)}>"

    @property
    def done(self) -> bool:
        """Whether every message has been written and read."""
        return not self._messages and not self._broken

    @property
    def hash(self) -> bytes:
        """The transcript's hash: both sides have the same when done (section 11.2)."""
        return self._state.hash

    def write(self, payload: bytes = b"") -> bytes:
        """Return our next message."""
        tokens = self._begin(write=True)
        parts = [self._write_token(token) for token in tokens]
        message = b"".join([*parts, self._state.seal(payload)])
        if len(message) > MESSAGE_SIZE_MAX:
            raise MisuseError(f"a message has at most {MESSAGE_SIZE_MAX} bytes")
        self._broken = False
        return message

    def read(self, message: bytes) -> bytes:
        """Take the other's next message in and return its payload."""
        tokens = self._begin(write=False)
        if len(message) > MESSAGE_SIZE_MAX:
            raise SecurityError(Failure.MALFORMED, "a handshake message is too long")
        reader = _Reader(message)
        for token in tokens:
            self._read_token(token, reader)
        payload = self._state.open(reader.rest())
        self._broken = False
        return payload

    def split(self) -> tuple[CipherState, CipherState]:
        """Return what we send with and what we receive with."""
        if not self.done:
            raise MisuseError("the handshake is not finished")
        there, back = self._state.split()
        return (there, back) if self._initiator else (back, there)

    def _begin(self, *, write: bool) -> tuple[str, ...]:
        if self._broken:
            raise MisuseError("the handshake has failed: begin a new one")
        if not self._messages or write != self._turn:
            raise MisuseError("it is not this side's turn")
        self._broken = True  # until the message is whole
        self._turn = not self._turn
        return self._messages.pop(0)

    def _write_token(self, token: str) -> bytes:
        state = self._state
        match token:
            case "e":
                self._ephemeral = self._ephemeral or X25519PrivateKey.generate()
                public = self._ephemeral.public_key().public_bytes_raw()
                state.mix_hash(public)
                return public
            case "s":
                return state.seal(self._static.public_key().public_bytes_raw())
            case "e1":
                self._kem = MLKEM768PrivateKey.generate()
                return state.seal(self._kem.public_key().public_bytes_raw())
            case "ekem1":
                assert self._remote_kem is not None
                secret, ciphertext = self._remote_kem.encapsulate()
                sealed = state.seal(ciphertext)
                state.mix_key(secret)
                return sealed
            case _:
                self._mix_dh(token)
                return b""

    def _read_token(self, token: str, reader: _Reader) -> None:
        state = self._state
        tag_size = AEAD_TAG_SIZE if state.cipher.keyed else 0
        match token:
            case "e":
                self._remote_ephemeral = reader.take(DH_SIZE)
                state.mix_hash(self._remote_ephemeral)
            case "s":
                self.remote_static = state.open(reader.take(DH_SIZE + tag_size))
            case "e1":
                public = state.open(reader.take(KEM_PUBLIC_SIZE + tag_size))
                try:
                    self._remote_kem = MLKEM768PublicKey.from_public_bytes(public)
                except ValueError:
                    raise SecurityError(Failure.MALFORMED, "an ML-KEM key is not valid") from None
            case "ekem1":
                assert self._kem is not None
                ciphertext = state.open(reader.take(KEM_CIPHERTEXT_SIZE + tag_size))
                state.mix_key(self._kem.decapsulate(ciphertext))
            case _:
                self._mix_dh(token)

    def _mix_dh(self, token: str) -> None:
        """``es`` is the initiator's ephemeral with the responder's static key, and so on."""
        ours, theirs = token[0], token[1]
        if not self._initiator:
            ours, theirs = theirs, ours
        private = self._ephemeral if ours == "e" else self._static
        public = self._remote_ephemeral if theirs == "e" else self.remote_static
        assert private is not None
        assert public is not None
        try:
            secret = private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:  # of low order: the result would be known to anybody
            raise SecurityError(Failure.MALFORMED, "an X25519 key is of low order") from None
        self._state.mix_key(secret)
