"""What one side of a session says to the other in sealed pieces, each of which proves itself.

A message of a round has a number that only the two can tell in advance, and a key of its own; its
pieces fit datagrams. The same message is sealed to the same bytes each time, so it may be sent
again, and pieces of several times make it whole. A piece that was forged changes nothing.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from valkyrie.dataplane.control import Message

from .fragments import Assembly, split
from .keys import KEY_SIZE, NONCE_SIZE, expand
from .messages import HEAD_SIZE, PIECE_SIZE, Piece, parse
from .modes import Cipher
from .proof import SEAL_SIZE

_NUMBER_SIZE = 8
_INSIDE_SIZE = PIECE_SIZE - SEAL_SIZE


class Envelope:
    """One message of one round of one direction: seal it, or take it in."""

    __slots__ = ("_aead", "_assembly", "_kind", "number")

    def __init__(self, secret: bytes, cipher: Cipher, kind: int, context: bytes) -> None:
        """Begin; no other message has the same ``kind`` and ``context`` under the same secret."""
        context = bytes([kind]) + context
        self.number = int.from_bytes(expand(secret, "piece number", context, _NUMBER_SIZE), "big")
        self._kind = kind
        key = expand(secret, "piece key", context, KEY_SIZE)
        self._aead = AESGCM(key) if cipher is Cipher.AES_256_GCM else ChaCha20Poly1305(key)
        self._assembly = Assembly()

    def __repr__(self) -> str:
        return f"<Envelope {self._kind}>"

    def seal(self, body: bytes) -> list[Message]:
        """Return a message in pieces; an envelope is for one body only."""
        found = []
        for offset, inside in split(body, _INSIDE_SIZE):
            head = Piece(self.number, offset, len(body), b"").pack()
            sealed = self._aead.encrypt(_nonce(offset), inside, bytes([self._kind]) + head)
            found.append(Message(self._kind, head + sealed))
        return found

    def concerns(self, message: Message) -> bool:
        """Say whether a message claims to be a piece of this one."""
        if message.type != self._kind or len(message.payload) < HEAD_SIZE:
            return False
        return parse(message).attempt == self.number

    def add(self, message: Message) -> bytes | None:
        """Take a piece in, and return the whole body with the last one.

        InvalidTag of ``cryptography``: somebody else made it. SecurityError: the other side did,
        and it fits nowhere.
        """
        piece, head = parse(message), message.payload[:HEAD_SIZE]
        sealed = bytes([self._kind]) + head
        inside = self._aead.decrypt(_nonce(piece.offset), piece.data, sealed)
        return self._assembly.add(piece.offset, piece.total, inside)


def _nonce(offset: int) -> bytes:
    """Return a piece's nonce: the key is of one body."""
    return offset.to_bytes(NONCE_SIZE, "big")
