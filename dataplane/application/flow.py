"""One end of a stream as the attachment knows it: how to send on it, and what came in."""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec

from valkyrie.dataplane._core import ffi, lib
from valkyrie.dataplane._stream import End, intake
from valkyrie.dataplane.errors import LocalProtocolError
from valkyrie.dataplane.wire import MESSAGE_TYPES, Class, Code, Flag, Type

from .fragments import ContradictionError, Fragments, Joined, own
from .message import Batch, Message
from .refusal import CODE_NAMES, RefusedError, StreamResetError, WouldBlockError
from .replies import CORRELATION_MAX, Replies
from .rings import Payload, Rings, buffer_of, size_of, span

QUEUE_MESSAGES_MAX = 8192
"""Messages of a stream without a window that wait for its reader. More than that: best effort
loses the oldest, and otherwise the class's ring is left alone until the reader has taken half."""
QUEUE_SIZE_MAX = 16 * 1024 * 1024
"""Bytes of payload that wait likewise."""
PRIORITY_MAX = 0xFF
SEQUENCE_MAX = 0xFFFF_FFFF
LIFETIME_US_MAX = 0xFFFF_FFFF
NO_FLOW = 0xFFFF_FFFF
"""In a record about a stream that has no flow yet, as far as the application knows."""
_HALF = 1 << 31
"""Sequences less than this far ahead are ahead, the others behind: they wrap."""
WINDOWED = frozenset({Class.SYSTEM, Class.JOB, Class.DATA})
"""Classes whose streams have a window: the peer sends no more than the reader has room for."""
ORDERED = frozenset({Class.CRITICAL, Class.SYSTEM, Class.JOB})
"""Classes that are read in the order of sending unless told otherwise."""
MESSAGE_MAX: int = lib.VK_MESSAGE_MAX
_COST = lib.VK_MESSAGE_COST
_send = lib.vk_client_send
_EOS = Flag.EOS.value
_ACK = Flag.ACK.value


class Counts(msgspec.Struct):
    """What one end of a stream has seen; nothing is dropped without a count."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
    held_up: int = 0
    """How often its class's ring was left alone because nobody read this stream."""
    after_close: int = 0
    """Messages that came after this side had closed or reset the stream."""
    duplicates: int = 0
    """Messages that came once more, after a worker died, and were left out."""
    early: int = 0
    """Messages that are here, and wait for others that were sent before them."""
    dropped: int = 0
    """Best effort: the oldest messages, left out because nobody read this stream."""
    fragments: int = 0
    """Parts of messages over 64 KiB that came."""
    fragments_waiting: int = 0
    """Those that are here, and wait for others of their messages."""
    late: int = 0
    """Replies that came when their requests had been given up, and were left out."""


def type_number(kind: int | str) -> int:
    """Return the number of a message type given by number or name; 0 is plain data.

    What is refused here would be refused by the worker, too late: the message has its sequence
    then, and the reader waits for it.
    """
    if kind == 0:
        return 0
    try:
        found = Type[kind.upper()] if isinstance(kind, str) else Type(kind)
    except (KeyError, ValueError):
        found = None
    if found not in MESSAGE_TYPES:
        raise LocalProtocolError(f"no type of messages: {kind!r}; see docs/FORMATS.md")
    return found.value


def address(struct: Any) -> int:
    """Return where a struct of cffi's lies."""
    return int(ffi.cast("uintptr_t", struct))


def take_in(client: int, ring: int, flows: dict[int, Flow], woken: set[object]) -> int:
    """Queue plain messages that are next in a ring; returns how many, at most a batch."""
    return intake(client, ring, flows, woken, QUEUE_MESSAGES_MAX, QUEUE_SIZE_MAX)


class LargeError(LocalProtocolError):
    """A message is too large for one record, but can be sent in fragments."""


class Flow(End):
    """The core of both kinds of Stream: no waiting happens here."""

    # More attributes than a dictionary shares between instances (30), and every message reads some.
    __slots__ = (
        "_client",
        "best_effort",
        "broken",
        "closed",
        "code",
        "ended",
        "ended_well",
        "error",
        "final",
        "fragments",
        "head",
        "inlet",
        "lent",
        "ordered",
        "outlet",
        "peer",
        "replies",
        "ring",
        "rings",
        "said_close",
        "seen",
        "service",
        "stream",
        "token",
        "windowed",
    )

    def __init__(
        self, rings: Rings, peer: int, stream: int, ring: int, ordered: bool | None = None
    ) -> None:
        self.rings = rings
        self._client = rings.client
        self.peer = peer
        self.stream = stream
        self.ring = ring
        self.best_effort = ring == Class.LOGS
        if ordered and self.best_effort:
            raise LocalProtocolError("logs are best effort, with gaps: no order can be promised")
        self.ordered = ring in ORDERED if ordered is None else ordered
        self.windowed = ring in WINDOWED
        self.halting = not self.windowed and not self.best_effort
        """Only by leaving its ring alone can it be kept from growing without bound."""
        self.number = -1
        """Index of the worker's vk_flow; -1 before the stream is open."""
        self.generation = 0
        self.service = ""
        self.token = 0
        self.code: int | None = None
        """The answer to an OPEN, once it is there."""
        self.outlet = ffi.new("struct vk_outlet *")
        self.head = ffi.addressof(self.outlet, "head")
        self.head.peer, self.head.stream = peer, stream
        self._prepare_reading()
        memory = (self._client, self.outlet, self.inlet)
        client, outlet, inlet = map(address, memory)
        self._begin(memory, client, outlet, inlet, Message)

    def _prepare_reading(self) -> None:
        self.inlet = ffi.new("struct vk_inlet *", {"windowed": self.windowed})
        self.held = self.rings.held(self.ring)
        self.careful = self.best_effort
        """Messages cannot simply be queued: a bound, an end, no reader, half a message."""
        self.expected = 0
        """Sequence of the first message that is missing."""
        self.early = {}
        """What came ahead of it, by sequence, and as what fragment; None: it was taken on."""
        self.fragments = Fragments()
        self.owed = {}
        """Joined messages that wait for the reader: by sequence, what taking them gives back to the
        peer's window, less what a message of that size would. Meanwhile fragments give nothing."""
        self.final: int | None = None
        """How many messages there are, once the peer has said so."""
        self.lent = False
        """A reader has lent a buffer: the payload of one message in ``queue`` may lie in it."""
        self.queue = deque()
        self.queue_size = 0
        self.replies = Replies()
        self.seen = Counts()
        """What happens rarely is counted here."""
        self.received = self.received_bytes = 0
        self.ended = False
        """The peer sends no more, and all it sent is here."""
        self.said_close = False
        """The worker knows that this side sends no more."""
        self.ended_well = False
        """The peer had said so before the stream was reset."""
        self.closed = False
        self.error: RefusedError | None = None
        self.broken: RefusedError | None = None
        """The reset, whoever did it, after which nobody knows what became of what was sent."""

    @property
    def counts(self) -> Counts:
        """What was sent and received so far."""
        return msgspec.structs.replace(
            self.seen,
            sent=self.outlet.sent,
            sent_bytes=self.outlet.sent_bytes,
            received=self.received,
            received_bytes=self.received_bytes,
            early=sum(message is not None for message in self.early.values()),
            fragments_waiting=self.fragments.count,
            late=self.replies.late,
        )

    def bind(self, number: int, generation: int) -> None:
        """Take the worker's flow for this stream."""
        self.number = self.head.flow = number
        self.generation = self.head.flow_generation = generation
        self.inlet.taken.flow, self.inlet.taken.flow_generation = number, generation

    @property
    def key(self) -> int:
        """Return what tells this stream's messages from a former one's with its number.

        It is what ``vk_client_flow`` has for them.
        """
        return (self.generation & 0x7FFF_FFFF) << 32 | self.number

    def answered(self) -> bool:
        """Say whether the answer to an OPEN is there."""
        return self.code is not None

    # Sending

    def check_sending(self) -> None:
        """Raise what keeps this end from sending."""
        if self.error is not None:
            raise self.error
        if self.outlet.closed:
            raise LocalProtocolError(f"stream {self.stream} is closed for sending: open another")

    def _send(self, payload: Payload) -> None:
        """Send what ``send`` leaves alone: large, of another type, without room, an error."""
        data = payload if type(payload) is bytes else buffer_of(payload)
        size = len(data)
        error = _send(self._client, self.outlet, data, size)
        if error:
            raise self.failure(error, size)

    def failure(self, error: int, size: int) -> Exception:
        """Return the exception for a negative result of sending size bytes."""
        if error == -errno.EPIPE:
            self.check_sending()
        if error == -errno.ENOBUFS:
            return WouldBlockError("credit", Class(self.ring).name.lower())
        if error == -errno.EBUSY:
            return WouldBlockError("message", Class(self.ring).name.lower())
        if error == -errno.EMSGSIZE and self.in_fragments(size):
            return LargeError(f"a message of {size} bytes goes in fragments")
        return self.rings.failure(error, self.ring, size)

    def short(self, size: int) -> bool:
        """Say whether the peer's reader is so far behind that size bytes have to wait for it."""
        outlet = self.outlet
        limit: int = outlet.limit
        spent: int = outlet.spent + min(size + _COST, lib.VK_CLIENT_PAID)
        return 0 < limit < spent

    def in_fragments(self, size: int) -> bool:
        """Say whether a message of size bytes is sent as fragments."""
        return not self.best_effort and self.rings.record_max(self.ring) < size <= MESSAGE_MAX

    def describe(
        self,
        *,
        kind: int | str = 0,
        correlation: int = 0,
        flags: int = 0,
        priority: int = 0,
        stamp: bool = False,
        lifetime: float | None = None,
    ) -> None:
        """Give the messages sent from now on a descriptor of their own, until ``undescribe``."""
        number = type_number(kind)
        lifetime_us = 0 if lifetime is None else self._lifetime_us(lifetime)
        head = self.head
        try:
            head.correlation, head.priority = correlation, priority
        except (OverflowError, TypeError):
            self.undescribe()
            raise LocalProtocolError(
                f"correlation={correlation!r}, priority={priority!r}: a correlation is 0 to "
                f"{CORRELATION_MAX}, a priority 0 to {PRIORITY_MAX}"
            ) from None
        head.type = number
        head.flags = flags
        head.code = lifetime_us
        head.time_ns = time.time_ns() if stamp or lifetime_us else 0

    def undescribe(self) -> None:
        """Send plain messages again."""
        head = self.head
        head.type = head.correlation = head.flags = head.priority = head.time_ns = head.code = 0

    def send_as(self, payload: Payload, *, flags: int = 0, **descriptor: Any) -> None:
        """Send a message with a descriptor of its own (``describe``), or raise WouldBlockError."""
        last = flags & _EOS
        if last and not self.outlet.closed:
            self._check_room_for_last(size_of(payload))
        self.describe(flags=flags, **descriptor)
        try:
            self.send(payload)
        finally:
            self.undescribe()
        if last:
            self.send_close()

    def _check_room_for_last(self, size: int) -> None:
        """Raise unless a message and the CLOSE behind it fit: neither may go without the other."""
        needed = span(size) + span(0)
        if needed > self.rings.tx_capacity[self.ring]:
            raise self.rings.failure(-errno.EMSGSIZE, self.ring, size)
        if 0 <= self.rings.room(self.ring) < needed:
            raise self.rings.failure(-errno.EAGAIN, self.ring, size)

    def _lifetime_us(self, lifetime: float) -> int:
        if not self.best_effort:
            raise LocalProtocolError(
                f"a lifetime on the {Class(self.ring).name.lower()} class, whose messages are "
                "delivered however late: use logs"
            )
        lifetime_us = round(lifetime * 1_000_000)
        if not 0 < lifetime_us <= LIFETIME_US_MAX:
            raise LocalProtocolError(
                f"lifetime={lifetime}: 0.000001 to {LIFETIME_US_MAX / 1e6:.0f} seconds"
            )
        return lifetime_us

    def send_control(self, record: int, code: int = 0) -> bool:
        """Put a RESET or FLUSH record; False = no room now. A channel that is gone needs none."""
        self.head.code = code
        error = self.rings.put(record, self.head)
        self.head.code = 0
        return error != -errno.EAGAIN

    def send_close(self) -> bool:
        """Say that this side sends no more; False = no room now, or within a message."""
        if self.outlet.within:
            return False
        if not self.said_close:
            self.said_close = self.send_control(lib.VK_RECORD_CLOSE)
        if self.said_close:
            self.outlet.closed = 1
        return self.said_close

    def give_up(self) -> bool:
        """Tell the worker that nobody waits for the answer to an OPEN; False = no room now."""
        if self.number < 0:
            self.head.flow = NO_FLOW
        self.head.correlation = self.token
        went = self.send_control(lib.VK_RECORD_RESET, Code.CANCELLED)
        self.head.correlation = 0
        return went

    # Receiving, called by the attachment

    @property
    def over(self) -> bool:
        """Whether both directions have ended: the worker forgets the stream."""
        return self.ended and (self.said_close or self.error is not None)

    @property
    def astray(self) -> bool:
        """Whether what comes next has to be looked at before the reader may have it."""
        return bool(self.early or self.replies or self.closed or self.fragments)

    @property
    def full(self) -> bool:
        """Whether as many messages wait for the reader as may without a window."""
        return len(self.queue) >= QUEUE_MESSAGES_MAX or self.queue_size >= QUEUE_SIZE_MAX

    @property
    def drained(self) -> bool:
        """Whether the reader has made room enough to go on."""
        return len(self.queue) <= QUEUE_MESSAGES_MAX // 2 and self.queue_size <= QUEUE_SIZE_MAX // 2

    def receive(self, message: Message) -> None:
        """Take a message in as it came; it goes on to the reader once, in its turn."""
        sequence = message.sequence
        if sequence != self.expected or self.early or self.careful or message.flags:
            self._receive_carefully(message)
            return
        size = len(message.payload)
        self.expected = (sequence + 1) & SEQUENCE_MAX
        self.received += 1
        self.received_bytes += size
        self.queue_size += size
        self.queue.append(message)

    def receive_fragment(self, message: Message, mark: int) -> None:
        """Take a part of a larger message in; ``mark`` is its ``enum vk_fragment``."""
        self.seen.fragments += 1
        self._receive_carefully(message, mark)

    def _receive_carefully(self, message: Message, mark: int = 0) -> None:
        """Take in any message: one that others are missing before, one that came before."""
        sequence = message.sequence
        if self.best_effort:
            self._accept(message, 0)
            return
        ahead = (sequence - self.expected) & SEQUENCE_MAX
        if ahead >= _HALF or sequence in self.early:
            self.seen.duplicates += 1
            return
        self.early[sequence] = (message, mark) if self.ordered else None
        if not self.ordered:
            self._accept(message, mark)
        while self.expected in self.early:
            waiting = self.early.pop(self.expected)
            self.expected = (self.expected + 1) & SEQUENCE_MAX
            if waiting is not None:
                self._accept(*waiting)
        if self.final is not None:
            self.finish(self.final)
        if self.halting and len(self.early) > QUEUE_MESSAGES_MAX:
            self._break(Code.FLOW_CONTROL)

    def interrupt(self) -> None:
        """Note that nobody knows whether a message is taken in: better no stream than a gap."""
        if not self.best_effort:
            self._break(Code.CANCELLED)

    def _break(self, code: int) -> None:
        """End the stream because of what the peer sent."""
        self.reset(code)
        self.rings.owe(self.ring, partial(self.send_control, lib.VK_RECORD_RESET, code))

    def _accept(self, message: Message, mark: int) -> None:
        """Take a message on in its turn: to the reader, or to others of the same message."""
        joined = None
        try:
            if mark and not self.closed:
                joined = self._join(message, mark)
            elif self.fragments:
                self.fragments.check(message.sequence)
        except ContradictionError:
            self._break(Code.SHARDS)
            return
        if message.flags & _EOS:
            self.finish((message.sequence + 1) & SEQUENCE_MAX)
        elif self.final is not None:
            self.finish(self.final)
        if joined is not None:
            self._deliver(joined.message, joined.due)
        elif not mark or self.closed:
            self._deliver(message)

    def _join(self, message: Message, mark: int) -> Joined | None:
        size = len(message.payload)
        due = size + _COST if self.owed else 0
        if not due:
            self.taken(size, 1)
        joined = self.fragments.add(message, mark, due, self._came)
        # Plain messages have to be looked at as long as one may stand where a fragment should.
        self.careful = bool(self.fragments) or self.ended or self.final is not None
        return joined

    def _came(self, sequence: int) -> bool:
        """Say whether a message was taken on before."""
        if (sequence - self.expected) & SEQUENCE_MAX >= _HALF:
            return True
        return not self.ordered and sequence in self.early

    def _deliver(self, message: Message, due: int | None = None) -> None:
        """Hand a message to the reader; due: what a joined one still owes to the window."""
        size = len(message.payload)
        flags = message.flags
        if self.closed:
            self.seen.after_close += 1
            self.taken(size, 1)
            self.idle()
            return
        self.received += 1
        self.received_bytes += size
        if flags & _ACK and self.replies.take(message):
            self.taken(size + _COST if due is None else due, 0)
            return
        if due is not None:
            self.owed[message.sequence] = due - size - _COST
        self.queue.append(message)
        self.queue_size += size
        if self.best_effort and self.full:
            self.queue_size -= len(self.queue.popleft().payload)
            self.seen.dropped += 1

    def finish(self, count: int) -> None:
        """Note that the peer sends no more than count messages in all."""
        self.final = count
        self.careful = True
        if self.best_effort or (self.expected - count) & SEQUENCE_MAX < _HALF:
            if self.fragments and not self.ended:
                self._break(Code.SHARDS)  # the end of a message was announced that never comes
            self.ended = True

    def reset(self, code: int) -> None:
        """Note that the stream is gone; a reader that has seen its end is not told."""
        if self.error is None:  # else it was told before
            self.ended_well = self.ended
        self.careful = True
        self.outlet.closed = 1
        self.outlet.within = 0
        self.early.clear()
        self.fragments.clear()
        self.break_(code, "was reset")
        if not self.closed:
            self.error = self.broken
        self.ended = True

    def break_(self, code: int, what: str) -> None:
        """Note how the stream ended before all that was sent need have arrived."""
        name = CODE_NAMES.get(code, f"with the application's own code {code}")
        text = f"stream {self.stream} {what} ({name}): open it again"
        self.broken = self.broken or StreamResetError(code, text)

    def discard(self) -> None:
        """Take nothing more in, and let go of what waits for the reader."""
        self.closed = self.careful = True
        due = self.fragments.clear() + self._settle(self.queue)
        self.taken(self.queue_size + due, len(self.queue))
        self.queue.clear()
        self.queue_size = 0

    # Receiving, called by the reader

    def _owe_report(self) -> None:
        """Tell the worker later what was taken."""
        self.rings.owe(Class.CONTROL, self.report)

    def _take(self) -> Message:
        """Return the next message, which ``take`` leaves alone while some were joined."""
        message = self.queue.popleft()
        size = len(message.payload)
        self.queue_size -= size
        if self.owed:
            size += self._settle((message,))
            message = own(message) if self.lent else message
        self.taken(size, 1)
        return message

    def _settle(self, messages: Iterable[Message]) -> int:
        """Return what taking messages gives back besides their size, if some were joined."""
        if not self.owed:
            return 0
        owed = sum(self.owed.pop(message.sequence, 0) for message in messages)
        return owed if self.owed else owed + self.fragments.settle()

    def take_many(self, count_max: int) -> list[Message]:
        """Return up to count_max messages."""
        queue = self.queue
        taken = [queue.popleft() for _ in range(min(count_max, len(queue)))]
        size = sum(len(message.payload) for message in taken)
        self.queue_size -= size
        if self.lent:
            taken = [own(message) for message in taken]
        self.taken(size + self._settle(taken), len(taken))
        return taken

    def took_batch(self, batch: Batch) -> None:
        """Note that the reader has the next messages, as they lie in the ring."""
        count, size = len(batch), sum(batch.sizes)
        self.received += count
        self.received_bytes += size
        self.expected = (self.expected + count) & SEQUENCE_MAX
        flags = batch.flags.tobytes()
        if any(flags) and any(flag & _EOS for flag in flags):
            self.finish(self.expected)
        elif self.final is not None:
            self.finish(self.final)
        batch.on_release(partial(self.taken, size, count))
