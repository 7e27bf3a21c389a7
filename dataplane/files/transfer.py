"""The transfer of one file as two state machines, without I/O: what may be said, and when.

``bpf/vk_wire.h`` shows who says what. ``Sending`` and ``Receiving`` take the other side's packets
and say what they mean; files, digests and streams are for whoever drives them (``filesend``,
``filereceive``). Time is CLOCK_MONOTONIC in nanoseconds and always an argument.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Any, ClassVar, NamedTuple

from valkyrie.dataplane import lib
from valkyrie.dataplane.errors import ProtocolError
from valkyrie.dataplane.wire import FileCode, Layout, Type, halves, whole

START = Layout("vk_file_start")
HAVE = Layout("vk_file_have")
CHUNK = Layout("vk_file_chunk")
COMPLETE = Layout("vk_file_complete")
CHUNK_SIZE: int = lib.VK_FILE_CHUNK_SIZE
DIGEST_SIZE = 32
SIZE_MAX = (1 << 63) - 1
"""Bytes of a file that the kernel can tell."""

PATIENCE_NS = 60_000_000_000
"""After which a side that hears nothing gives up: longer than a network is gone for a while."""
SIGN_OF_LIFE_NS = 500_000_000
"""How often a busy side says that it is there, and a receiver how far it is."""
PART = ".part"
"""What follows the name of a file that is not complete."""

_FILE_TYPES = (Type.FILE_TRANSFER_START, Type.FILE_CHUNK, Type.FILE_COMPLETE)
_START, _CHUNK, _COMPLETE = (kind.value for kind in _FILE_TYPES)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class TransferError(ProtocolError):
    """A transfer ended without the file; ``code`` says why (``enum vk_file_code``)."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @property
    def name(self) -> str:
        """The code as ``enum vk_file_code`` names it, in lower case."""
        known = self.code in FileCode._value2member_map_
        return FileCode(self.code).name.lower() if known else f"code_{self.code}"


class Packet(NamedTuple):
    """A message of a transfer: its type, whether it comes from the receiver, its payload."""

    type: int
    ack: bool
    payload: bytes | memoryview


class Offer(NamedTuple):
    """What a sender has."""

    name: str
    size: int
    mtime_ns: int


class Have(NamedTuple):
    """What a receiver has already: so many bytes from the beginning, and their digest."""

    size: int
    digest: bytes


class Chunk(NamedTuple):
    """Bytes of the file; at offset 0 whatever was there before is void."""

    offset: int
    data: bytes | memoryview


class End(NamedTuple):
    """All is here that was sent; it should have this digest."""

    digest: bytes


def malformed(what: str) -> TransferError:
    """Return the error of a message that breaks the protocol."""
    return TransferError(FileCode.MALFORMED, f"the other side broke the protocol: {what}")


def check_name(name: str) -> None:
    """Raise TransferError unless a file may be stored under a name, in one directory."""
    why = ""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size, why = 0, "it is no UTF-8"
    if not name or name.startswith("."):
        why = "it is empty or begins with a dot"
    elif "/" in name or _CONTROL.search(name):
        why = "it has a slash or control characters"
    elif name.endswith(PART):
        why = f"{PART} is the ending of files on their way"
    elif size > lib.VK_FILE_NAME_MAX:
        why = f"it has more than {lib.VK_FILE_NAME_MAX} bytes"
    if why:
        raise TransferError(
            FileCode.NAME, f"no file is taken under the name {name!r}: {why}; give it another name"
        )


def readable(text: str) -> str:
    """Return a peer's text as it may stand on a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def verdict(code: int, text: str = "", digest: bytes = bytes(DIGEST_SIZE)) -> bytes:
    """Return the payload of FILE_COMPLETE."""
    said = text.encode(errors="replace")[: lib.VK_FILE_TEXT_MAX]
    return COMPLETE.pack({"code": code, "digest": digest}) + said


def chunk_head(offset: int) -> bytes:
    """Return what stands before the bytes of a chunk."""
    return CHUNK.pack(halves("offset", offset))


class _Side:
    """What both sides keep: when the other one was heard, and when it has to hear from this one."""

    def __init__(self, now_ns: int, patience_ns: int) -> None:
        self._patience_ns = patience_ns
        self._heard_ns = self._said_ns = now_ns

    @property
    def deadline_ns(self) -> int:
        """When this side has waited long enough, unless it hears something."""
        return self._heard_ns + self._patience_ns

    def check_silence(self, now_ns: int) -> None:
        """Raise TransferError when nothing was heard for too long."""
        if now_ns >= self.deadline_ns:
            silence_s = self._patience_ns / 1e9
            raise TransferError(
                FileCode.SILENT,
                f"nothing was heard from the other side for {silence_s:g} s: look after it, then "
                "send the file again, which goes on where it ended",
            )

    def ready(self, now_ns: int) -> None:
        """Note that this side was busy until now: the other may have waited for it in silence."""
        self._heard_ns = now_ns

    def said(self, now_ns: int) -> None:
        """Note that this side has just sent something."""
        self._said_ns = now_ns

    def sign_due(self, now_ns: int) -> bool:
        """Say whether the other side should hear that this one is there."""
        return now_ns - self._said_ns >= SIGN_OF_LIFE_NS


def _fixed(layout: Layout, packet: Packet) -> tuple[dict[str, Any], bytes | memoryview]:
    """Return the fields of a packet, and what follows them."""
    if len(packet.payload) < layout.size:
        raise malformed(f"{layout.name} of {len(packet.payload)} bytes")
    return layout.unpack(packet.payload), packet.payload[layout.size :]


def _complete(packet: Packet) -> tuple[int, bytes, str]:
    values, text = _fixed(COMPLETE, packet)
    said = bytes(text[: lib.VK_FILE_TEXT_MAX]).decode(errors="replace")
    return values["code"], values["digest"], readable(said)


class Sender(Enum):
    """What the side that has the file waits for."""

    OFFERED = auto()
    PROVING = auto()
    SENDING = auto()
    ENDING = auto()
    DONE = auto()


class Sending(_Side):
    """The side that has the file."""

    TRANSITIONS: ClassVar[dict[tuple[Sender, int], str]] = {
        (Sender.OFFERED, Type.FILE_TRANSFER_START): "_compare",
        (Sender.OFFERED, Type.FILE_CHUNK): "_progress",
        (Sender.OFFERED, Type.FILE_COMPLETE): "_end",
        (Sender.PROVING, Type.FILE_CHUNK): "_progress",
        (Sender.PROVING, Type.FILE_COMPLETE): "_end",
        (Sender.SENDING, Type.FILE_CHUNK): "_progress",
        (Sender.SENDING, Type.FILE_COMPLETE): "_end",
        (Sender.ENDING, Type.FILE_CHUNK): "_progress",
        (Sender.ENDING, Type.FILE_COMPLETE): "_end",
    }
    """What is done with messages of the receiver; any other breaks the protocol."""
    STEPS: ClassVar[dict[str, tuple[Sender, ...]]] = {
        "proved": (Sender.PROVING,),
        "sent": (Sender.SENDING,),
        "complete": (Sender.SENDING,),
        "give_up": tuple(Sender),
    }
    """In which states this side does what of its own accord."""

    def __init__(self, offer: Offer, now_ns: int, patience_ns: int = PATIENCE_NS) -> None:
        super().__init__(now_ns, patience_ns)
        check_name(offer.name)
        self._offer = offer
        self._state = Sender.OFFERED
        self._have: Have | None = None
        self.offset = 0
        """Where the next chunk begins."""
        self.done_with = 0
        """Bytes that the receiver says it is done with."""

    @property
    def done(self) -> bool:
        """Whether the receiver has stored the file."""
        return self._state is Sender.DONE

    def start(self) -> Packet:
        """Return what comes first."""
        offer = self._offer
        values = halves("size", offer.size) | halves("mtime", max(0, offer.mtime_ns))
        return Packet(_START, ack=False, payload=START.pack(values) + offer.name.encode())

    def receive(self, packet: Packet, now_ns: int) -> Have | None:
        """Take what the receiver said; a Have is to be compared, and ``proved``.

        Raises TransferError when that was no, or nonsense.
        """
        self._heard_ns = now_ns
        method = self.TRANSITIONS.get((self._state, packet.type)) if packet.ack else None
        if method is None:
            raise malformed(f"a message of type {packet.type:#x} out of turn")
        have: Have | None = getattr(self, method)(packet)
        return have

    def _progress(self, packet: Packet) -> None:
        values, _ = _fixed(CHUNK, packet)
        self.done_with = min(whole(values, "offset"), self._offer.size)

    def _compare(self, packet: Packet) -> Have:
        values, rest = _fixed(HAVE, packet)
        have = Have(whole(values, "size"), values["digest"])
        if have.size > self._offer.size or rest:
            raise malformed("it has more of the file than there is")
        self._have = have
        self._state = Sender.PROVING
        return have

    def proved(self, *, same: bool) -> None:
        """Note whether this side's bytes have the digest that the receiver's have."""
        assert self._have is not None
        assert self._state in self.STEPS["proved"]
        self.offset = self.done_with = self._have.size if same else 0
        self._state = Sender.SENDING

    def sent(self, size: int) -> None:
        """Note that chunks of so many bytes in all went."""
        assert self._state in self.STEPS["sent"]
        self.offset += size

    def sign(self) -> Packet:
        """Return what says that this side is there."""
        return Packet(_CHUNK, ack=False, payload=chunk_head(self.offset))

    def complete(self, digest: bytes) -> Packet:
        """Return the end of a file that was sent to its last byte."""
        assert self._state in self.STEPS["complete"]
        assert self.offset == self._offer.size
        self._state = Sender.ENDING
        return Packet(_COMPLETE, ack=False, payload=verdict(FileCode.OK, digest=digest))

    def give_up(self, code: int, text: str) -> Packet:
        """Return what ends the transfer without the file."""
        self._state = Sender.DONE
        return Packet(_COMPLETE, ack=False, payload=verdict(code, text))

    def _end(self, packet: Packet) -> None:
        code, _, text = _complete(packet)
        if code != FileCode.OK:
            raise TransferError(code, text or "the receiver refused it")
        if self._state is not Sender.ENDING:
            raise malformed("it has stored what was not sent yet")
        self.done_with = self._offer.size
        self._state = Sender.DONE


class Receiver(Enum):
    """What the side that stores the file waits for."""

    WAITING = auto()
    OFFERED = auto()
    AGREED = auto()
    RECEIVING = auto()
    ENDING = auto()
    DONE = auto()


class Receiving(_Side):
    """The side that stores the file."""

    TRANSITIONS: ClassVar[dict[tuple[Receiver, int], str]] = {
        (Receiver.WAITING, Type.FILE_TRANSFER_START): "_start",
        (Receiver.OFFERED, Type.FILE_CHUNK): "_chunk",
        (Receiver.OFFERED, Type.FILE_COMPLETE): "_end",
        (Receiver.AGREED, Type.FILE_CHUNK): "_chunk",
        (Receiver.AGREED, Type.FILE_COMPLETE): "_end",
        (Receiver.RECEIVING, Type.FILE_CHUNK): "_chunk",
        (Receiver.RECEIVING, Type.FILE_COMPLETE): "_end",
        (Receiver.ENDING, Type.FILE_COMPLETE): "_end",
    }
    """What is done with messages of the sender; any other breaks the protocol."""
    STEPS: ClassVar[dict[str, tuple[Receiver, ...]]] = {
        "have": (Receiver.OFFERED,),
        "stored": (Receiver.ENDING,),
        "refuse": tuple(Receiver),
    }
    """In which states this side does what of its own accord."""

    def __init__(self, now_ns: int, patience_ns: int = PATIENCE_NS) -> None:
        super().__init__(now_ns, patience_ns)
        self._state = Receiver.WAITING
        self._have = 0
        self.offer = Offer("", 0, 0)
        """What the sender has, once it has said so."""
        self.offset = 0
        """Where the next chunk has to begin."""

    @property
    def done(self) -> bool:
        """Whether this side has said its last."""
        return self._state is Receiver.DONE

    def receive(self, packet: Packet, now_ns: int) -> Offer | Chunk | End | None:
        """Take what the sender said, and say what is to be done.

        An Offer is to be answered by ``have``, an End by ``stored``. Raises TransferError when the
        sender gave up, or broke the protocol.
        """
        self._heard_ns = now_ns
        method = None if packet.ack else self.TRANSITIONS.get((self._state, packet.type))
        if method is None:
            raise malformed(f"a message of type {packet.type:#x} out of turn")
        found: Offer | Chunk | End | None = getattr(self, method)(packet)
        return found

    def _start(self, packet: Packet) -> Offer:
        values, name = _fixed(START, packet)
        try:
            text = bytes(name).decode()
        except UnicodeDecodeError:
            raise TransferError(FileCode.NAME, "the file's name is no UTF-8") from None
        offer = Offer(text, whole(values, "size"), whole(values, "mtime"))
        check_name(offer.name)
        if offer.size > SIZE_MAX or offer.mtime_ns > SIZE_MAX:
            raise malformed("a size or time beyond what there is")
        self.offer = offer
        self._state = Receiver.OFFERED
        return offer

    def have(self, have: Have) -> Packet:
        """Return the answer to an Offer."""
        assert self._state in self.STEPS["have"]
        assert 0 <= have.size <= self.offer.size
        self._state = Receiver.AGREED
        self._have = self.offset = have.size
        values = halves("size", have.size) | {"digest": have.digest}
        return Packet(_START, ack=True, payload=HAVE.pack(values))

    def _chunk(self, packet: Packet) -> Chunk | None:
        values, data = _fixed(CHUNK, packet)
        if not data:
            return None  # a sign of life
        if self._state is Receiver.OFFERED:
            raise malformed("bytes before they were asked for")
        offset = whole(values, "offset")
        if self._state is Receiver.AGREED and offset == 0:
            self.offset = 0
        if offset != self.offset:
            raise malformed(f"bytes at {offset}, where {self.offset} was to come")
        if len(data) > CHUNK_SIZE or len(data) > self.offer.size - offset:
            raise malformed(f"{len(data)} bytes at {offset} of a file of {self.offer.size}")
        self.offset += len(data)
        self._state = Receiver.RECEIVING
        return Chunk(offset, data)

    def _end(self, packet: Packet) -> End:
        code, digest, text = _complete(packet)
        if code != FileCode.OK:
            raise TransferError(code, text or "the sender gave up")
        if self._state not in (Receiver.AGREED, Receiver.RECEIVING):
            raise malformed("an end before there was anything")
        if self.offset != self.offer.size:
            raise malformed(f"an end after {self.offset} of {self.offer.size} bytes")
        self._state = Receiver.ENDING
        return End(digest)

    def progress(self, done_with: int) -> Packet:
        """Return how far this side is, which also says that it is there."""
        return Packet(_CHUNK, ack=True, payload=chunk_head(done_with))

    def stored(self) -> Packet:
        """Return the answer to an End: the file is there."""
        assert self._state in self.STEPS["stored"]
        self._state = Receiver.DONE
        return Packet(_COMPLETE, ack=True, payload=verdict(FileCode.OK))

    def refuse(self, error: TransferError) -> Packet:
        """Return what ends the transfer without the file."""
        self._state = Receiver.DONE
        return Packet(_COMPLETE, ack=True, payload=verdict(error.code, error.text))
