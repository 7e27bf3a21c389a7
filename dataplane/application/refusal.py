"""Answers that say no: one error class for each ``enum vk_code``, and what the rings can say."""

from __future__ import annotations

from valkyrie.dataplane.errors import LocalProtocolError, ValkyrieError
from valkyrie.dataplane.wire import Code

CODE_NAMES = {code.value: code.name.lower() for code in Code}
"""Names of ``enum vk_code`` as users see them: ``{301: "no_service", ...}``."""

ROOM_HINTS = {
    "ring": "the node is busy: wait, or attach with a larger ring_size",
    "policy": "the policy's rate for this application is used up: send less",
    "path": "the interface takes no more now: wait",
    "credit": "the application at the peer reads slower than this one sends: wait for it",
    "session": "all streams to this peer together are ahead of their readers, or its node has not "
    "answered yet: wait",
    "congestion": "the network on the way carries no more: wait, or send less",
    "memory": "the node's worker has no memory left to keep more under way: wait, or send less",
    "message": "a large message is on its way on this stream: wait for it, or use another stream",
}
"""Why a message has to wait (``enum vk_blocked``; "message" is the library's), and what to do."""


class WouldBlockError(ValkyrieError, BlockingIOError):
    """A send found no room within its time; ``reason`` is a key of ``ROOM_HINTS``."""

    def __init__(self, reason: str, class_name: str, sent: int = 0) -> None:
        super().__init__(f"no room in the {class_name} ring ({reason}): {ROOM_HINTS[reason]}")
        self.reason = reason
        self.sent = sent
        """Messages of a ``send_many`` that went before there was no room."""


class SmallBufferError(LocalProtocolError):
    """The next message does not fit the buffer given: it waits to be read into a larger one."""

    def __init__(self, size: int, room: int) -> None:
        super().__init__(
            f"a message of {size} bytes, and a buffer of {room}: it still waits, receive it into "
            "a larger one or with recv"
        )
        self.size = size
        """Bytes of the message."""


class NodeGoneError(ValkyrieError):
    """The node ended this attachment: its streams are gone; attach again."""


class RefusedError(ValkyrieError):
    """The node or a peer refused something; ``code`` and ``name`` say why (``enum vk_code``)."""

    def __init__(self, code: int, message: str = "") -> None:
        self.code = code
        self.name = CODE_NAMES.get(code, f"code_{code}")
        text = f"{self.name} ({code})"
        super().__init__(f"{text}: {message}" if message else text)


class NoServiceError(RefusedError):
    """Nobody listens under that name at the peer."""


class StreamInUseError(RefusedError):
    """Another application, or this one, has that stream to that peer: take another id."""


class StreamUnknownError(RefusedError):
    """The peer knows no such stream (any more): open it again."""


class StreamsFullError(RefusedError):
    """So many streams are open as the node, or its peer, takes at a time: close some."""


class ApplicationGoneError(RefusedError):
    """The application at the other end is gone: open the stream again."""


class PolicyError(RefusedError):
    """A policy refuses the class, stream, peer or service: ask whoever writes it."""


class NoPeerError(RefusedError):
    """The node has no such peer: add it to its configuration."""


class UnreachableError(RefusedError):
    """The peer does not answer: check that its node is up and the path to it."""


class UntrustedError(RefusedError):
    """The two nodes did not prove to each other who they are: `valkyrie session list` says why."""


class StreamResetError(RefusedError):
    """An open stream was reset by the peer or the node."""


_BY_CODE: dict[int, type[RefusedError]] = {
    Code.NO_SERVICE: NoServiceError,
    Code.STREAM_IN_USE: StreamInUseError,
    Code.STREAM_UNKNOWN: StreamUnknownError,
    Code.STREAMS_FULL: StreamsFullError,
    Code.APPLICATION_GONE: ApplicationGoneError,
    Code.POLICY: PolicyError,
    Code.NO_PEER: NoPeerError,
    Code.UNREACHABLE: UnreachableError,
    Code.UNPROVEN: UntrustedError,
    Code.IDENTITY: UntrustedError,
    Code.CREDENTIAL: UntrustedError,
    Code.HANDSHAKE_TIMEOUT: UntrustedError,
    Code.COOKIE: UntrustedError,
    Code.SECURITY_FLOOR: UntrustedError,
}


def meaning(code: int) -> str:
    """Return what a code means, and what to do, as the end of a sentence."""
    text = (_BY_CODE[code].__doc__ or "") if code in _BY_CODE else CODE_NAMES.get(code, str(code))
    return (text[:1].lower() + text[1:]).removesuffix(".").replace("_", " ")


def refusal(code: int, message: str = "") -> RefusedError:
    """Return the error for a code that an answer carried."""
    kind = _BY_CODE.get(code, RefusedError)
    return kind(code, message or (kind.__doc__ or ""))
