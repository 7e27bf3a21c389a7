"""Handshake messages: a type of ``bpf/vk_wire.h``, and what its frame's payload is.

Every payload begins with struct vk_handshake: the attempt that it belongs to, the responder's
cookie for its kernel, and where its piece lies in the message's body. bpf/vk_wire.h states the
bodies; here they are read and written.

    HELLO          I → R   the initiator's offer
    HELLO_ACK      I ← R   cookie, the responder's offer
    NEGOTIATE      I → R   both offers, the cookie, the choice          one datagram each up to here
    KEY_EXCHANGE   I → R   first message of the key exchange
    AUTH_CHALLENGE I ← R   second
    AUTH_RESPONSE  I → R   third, if there is one, and the sealed proof of the initiator
    AUTH_SUCCESS   I ← R   the sealed proof of the responder
    AUTH_FAILURE   both    why not
"""

from __future__ import annotations

from dataclasses import dataclass

from valkyrie.dataplane.control import Message
from valkyrie.dataplane.wire import Layout, Type

from . import cookie
from .codes import Failure
from .errors import SecurityError
from .offer import Offer, Reader, sized

_HEAD = Layout("vk_handshake")
HEAD_SIZE = _HEAD.size
NO_COOKIE = bytes(Layout("vk_cookie").size)
"""In the head of what is from the responder, or of who was given none."""
OFFER_SIZE_MAX = 512
PIECE_SIZE = 1120
"""Bytes of a piece by default: with all headers, within the 1280 bytes that IPv6 promises."""

WHOLE = frozenset({Type.HELLO, Type.HELLO_ACK, Type.NEGOTIATE, Type.AUTH_FAILURE})
"""Types that never come in pieces."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A message's payload, taken apart."""

    attempt: int
    offset: int
    total: int
    data: bytes
    cookie: bytes = NO_COOKIE
    """struct vk_cookie: the half that the responder's kernel checks."""

    def pack(self) -> bytes:
        """Return the payload."""
        head = {
            "attempt_high": self.attempt >> 32,
            "attempt_low": self.attempt & 0xFFFF_FFFF,
            "cookie": self.cookie,
            "offset": self.offset,
            "total": self.total,
        }
        return _HEAD.pack(head) + self.data


def whole(kind: int, attempt: int, body: bytes, cookie: bytes = NO_COOKIE) -> Message:
    """Return a message that is not in pieces."""
    return Message(kind, Piece(attempt, 0, len(body), body, cookie).pack())


def parse(message: Message) -> Piece:
    """Return the piece that a message carries."""
    if len(message.payload) < _HEAD.size:
        raise SecurityError(Failure.MALFORMED, "a handshake message is cut off")
    head = _HEAD.unpack(message.payload)
    attempt, offset, total = (
        head["attempt_high"] << 32 | head["attempt_low"],
        head["offset"],
        head["total"],
    )
    data = message.payload[_HEAD.size :]
    if message.type in WHOLE and (offset or total != len(data)):
        raise SecurityError(Failure.MALFORMED, "a message that must be whole is in pieces")
    return Piece(attempt, offset, total, data, head["cookie"])


@dataclass(frozen=True, slots=True)
class HelloAck:
    """Body of HELLO_ACK."""

    cookie: bytes
    offer: bytes

    def pack(self) -> bytes:
        """Return the body."""
        return self.cookie + self.offer

    @classmethod
    def parse(cls, body: bytes) -> HelloAck:
        """Return what a body has."""
        if not cookie.SIZE < len(body) <= cookie.SIZE + OFFER_SIZE_MAX:
            raise SecurityError(Failure.MALFORMED, "HELLO_ACK has no offer, or too long a one")
        return cls(body[: cookie.SIZE], body[cookie.SIZE :])


@dataclass(frozen=True, slots=True)
class Negotiate:
    """Body of NEGOTIATE: all that the responder did not keep."""

    hello: bytes
    answer: HelloAck
    choice: bytes

    def pack(self) -> bytes:
        """Return the body, which with the message types is all of the transcript so far."""
        return sized(self.hello) + sized(self.answer.pack()) + sized(self.choice)

    @classmethod
    def parse(cls, body: bytes) -> Negotiate:
        """Return what a body has."""
        reader = Reader(body, "NEGOTIATE")
        hello = reader.sized(OFFER_SIZE_MAX)
        answer = HelloAck.parse(reader.sized(OFFER_SIZE_MAX + cookie.SIZE))
        choice = reader.sized(64)
        reader.end()
        return cls(hello, answer, choice)


def failure_body(code: int) -> bytes:
    """Return the body of AUTH_FAILURE."""
    return code.to_bytes(4, "big")


def parse_failure(body: bytes) -> Failure:
    """Return why the other side gave up."""
    if len(body) != 4 or int.from_bytes(body, "big") not in set(Failure):
        raise SecurityError(Failure.MALFORMED, "AUTH_FAILURE has no code that is known")
    return Failure(int.from_bytes(body, "big"))


def cookie_subject(attempt: int, hello: bytes, offer: bytes) -> bytes:
    """Return what a cookie vouches for, beside the source."""
    return attempt.to_bytes(8, "big") + sized(hello) + sized(offer)


def parse_hello(body: bytes) -> Offer:
    """Return the initiator's offer in the body of HELLO."""
    if len(body) > OFFER_SIZE_MAX:
        raise SecurityError(Failure.MALFORMED, "an offer is too long")
    return Offer.parse(body)
