"""Fragments of a stream's large messages, joined as they come in whatever order.

What was sent is known from neighbours: a fragment that says MORE is followed by one that CONTINUES,
and nothing else. Whatever contradicts that is the peer's library's fault, and ends the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import cast

import msgspec

from valkyrie.dataplane._core import ffi, lib
from valkyrie.dataplane.wire import Flag, Fragment

from .message import Message

SEQUENCE_MAX = 0xFFFF_FFFF
MESSAGE_MAX: int = lib.VK_MESSAGE_MAX
HELD_MAX = 2 * MESSAGE_MAX
"""Bytes of fragments, and what they cost besides, that wait on one stream for others."""
OVERHEAD = 256
"""What a fragment costs in memory besides its payload, at least."""
LOOSE_MAX = 4 * 1024 * 1024
"""Bytes that are joined in one go. What is larger is gathered in a buffer that has room for all:
joining all of it in the end would take as long as receiving it, and nothing is received meanwhile.
Up to here that is faster, in memory that is used again and again. An allocator keeps only so much
of that: from 16 MiB of pieces it gave all back and asked for it again, message by message."""
_MORE = Fragment.MORE.value
_CONTINUES = Fragment.CONTINUES.value
_EOS = Flag.EOS.value
_ACK = Flag.ACK.value


class ContradictionError(Exception):
    """Fragments of a stream do not fit each other, or are more than a stream may have."""


def _spacious() -> BytesIO:
    """Return an empty buffer that takes the largest message, in large pages if there are any.

    Zeros of this size are pages that nobody has touched. The BytesIO is their only owner, so it
    writes there; and it cuts off in place what was not used.
    """
    body = BytesIO(bytes(MESSAGE_MAX))
    with body.getbuffer() as view:
        lib.vk_client_spread(ffi.from_buffer(view), len(view))
    return body


class _Run:
    """Fragments of one message that follow each other; more may come at its open ends."""

    __slots__ = (
        "body",
        "due",
        "end",
        "end_open",
        "first",
        "first_open",
        "head",
        "lent",
        "parts",
        "size",
        "tail_flags",
        "written",
    )

    def __init__(self, message: Message, mark: int) -> None:
        self.first = message.sequence
        self.end = (message.sequence + 1) & SEQUENCE_MAX
        self.first_open = bool(mark & _CONTINUES)
        self.end_open = bool(mark & _MORE)
        self.head = message
        self.tail_flags = message.flags
        self.size = len(message.payload)
        self.due = 0
        self.parts: list[bytes] | None = None if self.first_open else []
        """The payload from the beginning, if that is here, until ``body`` or ``lent`` has it."""
        self.written = 0
        """Bytes of the payload from the beginning."""
        self.body: BytesIO | None = None
        self.lent: memoryview | None = None
        """The reader's own buffer, which has them instead."""
        if not self.first_open:
            self.head = msgspec.structs.replace(message, payload=b"")

    def write(self, payload: bytes) -> None:
        """Put what comes next behind what there is from the beginning on."""
        assert self.parts is not None
        end = self.written + len(payload)
        if self.lent is not None:
            if end <= len(self.lent):
                self.lent[self.written : end] = payload
                self.written = end
                return
            self.give_back()
        self.written = end
        if self.body is not None:
            self.body.write(payload)
            return
        self.parts.append(payload)
        if self.written > LOOSE_MAX:
            self.body = _spacious()
            self.body.writelines(self.parts)
            self.parts.clear()

    def borrow(self, buffer: memoryview) -> None:
        """Gather the payload in the reader's buffer from now on, if what is here fits."""
        assert self.parts is not None
        if self.written > len(buffer):
            return
        parts, self.parts = self.parts, []
        if self.body is not None:
            parts = [self.whole()]
            self.body = None
        self.lent, self.written = buffer, 0
        for part in parts:
            self.write(part)

    def give_back(self) -> None:
        """Gather the payload in memory of its own again."""
        if self.lent is not None:
            here = self.lent[: self.written].tobytes()
            self.lent, self.written = None, 0
            if here:
                self.write(here)

    def whole(self) -> bytes:
        """Return the payload, once all is here; nothing may be written any more."""
        assert self.parts is not None
        if self.lent is not None:
            return cast("bytes", self.lent[: self.written].toreadonly())
        if self.body is None:
            return b"".join(self.parts)
        self.body.truncate()  # behind what was written last
        return self.body.getvalue()  # no copy, as it was never asked for before


class Joined(msgspec.Struct, frozen=True, gc=False):
    """A message whose last fragment has come."""

    message: Message
    due: int
    """What its fragments cost the peer's window and is not given back yet."""


def own(message: Message) -> Message:
    """Return a message whose payload does not lie in a buffer that a reader lent."""
    if type(message.payload) is bytes:
        return message
    return msgspec.structs.replace(message, payload=bytes(message.payload))


class Fragments:
    """The fragments of a stream that wait for others of their messages."""

    __slots__ = (
        "_borrower",
        "_buffer",
        "_ends",
        "_firsts",
        "_payloads",
        "count",
        "held",
        "size",
    )

    def __init__(self) -> None:
        self._firsts: dict[int, _Run] = {}
        """Runs that something comes before, by the first sequence they have."""
        self._ends: dict[int, _Run] = {}
        """Runs that go on, by the sequence that is missing next."""
        self._payloads: dict[int, bytes] = {}
        """Of fragments before which others are missing."""
        self._buffer: memoryview | None = None
        """What a reader lent, until a message lies in it."""
        self._borrower: _Run | None = None
        """The message that is gathered in it, or was too large for it."""
        self.count = 0
        """Fragments that wait."""
        self.size = 0
        """Bytes of payload that they have."""
        self.held = 0
        """Bytes of memory that they take."""

    def __bool__(self) -> bool:
        return self.count > 0

    def check(self, sequence: int) -> None:
        """Raise if a message that is no fragment stands where one is expected."""
        if sequence in self._ends or (sequence + 1) & SEQUENCE_MAX in self._firsts:
            raise ContradictionError(f"message {sequence} interrupts another")

    def add(
        self, message: Message, mark: int, due: int, came: Callable[[int], bool]
    ) -> Joined | None:
        """Take a fragment in; returns the message that it was the last missing one of.

        ``mark``: its ``enum vk_fragment``, not 0. ``due``: what is to be given back of the window
        once the message is read. ``came`` says whether a sequence was here before.
        """
        sequence = message.sequence
        run = _Run(message, mark)
        run.due = due
        left, right = self._neighbours(run, came)
        self._payloads[sequence] = message.payload
        self.count += 1
        self.size += run.size
        self.held += run.size + OVERHEAD
        if run.parts is not None:
            self._offer(run)
            self._write(run, sequence, run.end)
        if left is not None:
            del self._ends[sequence]
            self._append(left, run)
            run = left
        if right is not None:
            del self._firsts[right.first]
            self._append(run, right)
        if run.size > MESSAGE_MAX:
            raise ContradictionError(f"a message of more than {MESSAGE_MAX} bytes")
        if not run.first_open and not run.end_open:
            return self._join(run)
        if self.held > HELD_MAX:
            raise ContradictionError(f"more than {HELD_MAX} bytes of messages that do not end")
        if run.first_open:
            self._firsts[run.first] = run
        if run.end_open:
            self._ends[run.end] = run
        return None

    def space(self, sequence: int) -> memoryview | None:
        """Return where the payload of a message goes on with a sequence, if nothing else waits.

        What is put there is told to ``filled``, and the view released before anything else is done.
        """
        run = self._ends.get(sequence)
        if run is None or self._firsts or len(self._ends) != 1:
            return None
        if run.lent is not None:
            return run.lent[run.written : MESSAGE_MAX]
        return None if run.body is None else run.body.getbuffer()[run.written :]

    def filled(self, sequence: int, count: int, size: int) -> None:
        """Note that *count* fragments from a sequence on were put into ``space``."""
        run = self._ends.pop(sequence)
        run.end = (sequence + count) & SEQUENCE_MAX
        self._ends[run.end] = run
        run.size += size
        run.written += size
        if run.body is not None:
            run.body.seek(run.written)
        self.count += count
        self.size += size
        self.held += size + count * OVERHEAD

    def lend(self, buffer: memoryview) -> None:
        """Have one message, the next that can be, gathered in a reader's buffer."""
        self._buffer = buffer
        for run in self._ends.values():
            if run.parts is not None:
                self._offer(run)

    def give_back(self) -> None:
        """Let go of the reader's buffer; nothing of what it has is lost."""
        if self._borrower is not None:
            self._borrower.give_back()
        self._borrower = self._buffer = None

    def _offer(self, run: _Run) -> None:
        # A reply is for who asked, and not for the reader.
        if self._buffer is None or self._borrower is not None or run.head.flags & _ACK:
            return
        self._borrower = run
        run.borrow(self._buffer)

    def _neighbours(
        self, run: _Run, came: Callable[[int], bool]
    ) -> tuple[_Run | None, _Run | None]:
        """Return the runs that a new one joins; raises if it contradicts its neighbours."""
        left = self._ends.get(run.first)
        right = self._firsts.get(run.end)
        if (left is not None) != run.first_open and (left or came((run.first - 1) & SEQUENCE_MAX)):
            raise ContradictionError(f"fragment {run.first} does not follow the one before it")
        if (right is not None) != run.end_open and (right or came(run.end)):
            raise ContradictionError(f"fragment {run.first} is not followed by the one behind it")
        return left, right

    def _write(self, run: _Run, first: int, end: int) -> None:
        """Put the payloads of [first, end) behind what there is of a message."""
        while first != end:
            run.write(self._payloads.pop(first))
            first = (first + 1) & SEQUENCE_MAX

    def _append(self, run: _Run, behind: _Run) -> None:
        if run.parts is not None:
            self._write(run, behind.first, behind.end)
        run.end = behind.end
        run.end_open = behind.end_open
        run.tail_flags = behind.tail_flags
        run.size += behind.size
        run.due += behind.due

    def _join(self, run: _Run) -> Joined:
        count = (run.end - run.first) & SEQUENCE_MAX
        self.count -= count
        self.size -= run.size
        self.held -= run.size + count * OVERHEAD
        if run is self._borrower:
            self._borrower = self._buffer = None  # it stays as it is until the reader has seen it
        flags = run.head.flags | (run.tail_flags & _EOS)
        message = msgspec.structs.replace(run.head, payload=run.whole(), flags=flags)
        return Joined(message, run.due)

    def settle(self) -> int:
        """Return what is due of all that waits, and take it for given back."""
        due = 0
        for run in (*self._firsts.values(), *self._ends.values()):
            due += run.due
            run.due = 0
        return due

    def clear(self) -> int:
        """Let go of everything; returns what is due."""
        due = self.settle()
        self.__init__()  # type: ignore[misc]
        return due
