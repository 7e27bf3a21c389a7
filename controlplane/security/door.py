"""Where handshakes of others arrive: cookies first, and no state for who has not returned one."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from valkyrie.dataplane.control import Message
from valkyrie.dataplane.wire import Type

from .codes import Failure
from .cookie import KEY_SIZE, SLOT_NS, CookieJar
from .errors import SecurityError
from .handshake import Established, Failed, Handshake, Timing
from .local import Entropy, Local
from .messages import (
    NO_COOKIE,
    HelloAck,
    Negotiate,
    Piece,
    cookie_subject,
    failure_body,
    parse,
    parse_hello,
    whole,
)

if TYPE_CHECKING:
    from .offer import Choice
    from .trust import Peer

AMPLIFICATION_MAX = 3
"""Bytes to an unproven source, for each that came from it (RFC 9000, section 8)."""
BEGUN_MAX, BEGUN_NS = 32, 125_000_000
"""Handshakes that one peer may begin at once, and one more every so often: from its known place,
and as many from all other ports of its address, where anybody on its host or behind its NAT gets
cookies. Only who is between the peer and the node, or is the peer, can use up the former."""
RETAIN_NS = 2 * SLOT_NS + 10_000_000_000
"""How long an attempt is remembered: longer than its cookie is good, so none is done twice."""


@dataclass(slots=True)
class _Entry:
    handshake: Handshake
    expected: Peer | None
    forget_ns: int
    counted: bool = True
    """Among those that are under way."""


class Door:
    """The responder's side of a node.

    ``source`` is any bytes that name where a message came from: address and port. ``expected``
    says who should be at a source, ``known`` whether that is just where it is; ``answer`` is
    Handshake's, with who was expected before the others; ``stamp`` returns the half of a cookie
    that the kernel checks, for a source and attempt.
    """

    def __init__(
        self,
        local: Local,
        entropy: Entropy,
        *,
        under_way_max: int = 1024,
        ended_max: int = 8192,
        per_source_max: int = 16,
        timing: Timing | None = None,
        answer: Callable[[Peer | None, Choice, bytes, int], bytes] = lambda *_: b"",
        expected: Callable[[bytes], Peer | None] = lambda _source: None,
        known: Callable[[bytes], bool] = lambda _source: True,
        stamp: Callable[[bytes, int, int], bytes] = lambda *_: NO_COOKIE,
        extra: bytes = b"",
    ) -> None:
        self._local = local
        self._entropy = entropy
        self._cookies = CookieJar(entropy(KEY_SIZE))
        self._under_way_max = under_way_max
        self._ended_max = ended_max
        self._per_source_max = per_source_max
        self._timing = timing or Timing()
        self._answer = answer
        self._expected = expected
        self._known = known
        self._stamp = stamp
        self._extra = extra
        self._entries: dict[tuple[bytes, int], _Entry] = {}
        self._open: Counter[bytes] = Counter()
        """Handshakes that are under way, by source."""
        self.under_way = 0
        """Of all sources."""
        self._due: list[tuple[int, bytes, int]] = []
        """When something is to be done for an entry, a heap: a flood makes thousands."""
        self._begun: dict[tuple[str, bool], int] = {}
        """When what a peer has begun will be forgiven, by its name and ``known``."""
        self._queue: list[tuple[bytes, Message]] = []
        self._events: deque[tuple[bytes, Peer | None, Established | Failed]] = deque()
        self.refused: Counter[str] = Counter()
        """Messages that no handshake took, by why."""

    def __len__(self) -> int:
        return len(self._entries)

    def receive(self, source: bytes, message: Message, now_ns: int) -> None:
        """Take a message of an initiator in; never raises for what it has."""
        try:
            piece = parse(message)
            entry = self._entries.get((source, piece.attempt))
            if entry is not None:
                entry.handshake.receive(message, now_ns)
                self._collect(source, entry, now_ns)
            elif message.type == Type.HELLO:
                parse_hello(piece.data)
                self._greet(source, piece.attempt, piece.data, len(message.payload), now_ns)
            elif message.type == Type.NEGOTIATE:
                self._negotiate(source, piece, now_ns)
            else:
                self.refused["unknown attempt"] += 1
                if message.type == Type.AUTH_RESPONSE and not piece.offset:
                    # Who has come so far will not begin anew before its time is over.
                    self._tell(source, piece.attempt, Failure.COOKIE)
        except SecurityError as error:
            self.refused[error.code.name.lower()] += 1

    def _greet(self, source: bytes, attempt: int, hello: bytes, size: int, now_ns: int) -> None:
        offer = self._local.offer(None, self._entropy, self._extra).pack()
        cookie = self._cookies.make(source, cookie_subject(attempt, hello, offer), now_ns)
        stamp = self._stamp(source, attempt, now_ns)
        answer = whole(Type.HELLO_ACK, attempt, HelloAck(cookie, offer).pack(), stamp)
        if len(answer.payload) > AMPLIFICATION_MAX * size:
            self.refused["amplification"] += 1
            return
        self._queue.append((source, answer))

    def _negotiate(self, source: bytes, piece: Piece, now_ns: int) -> None:
        said = Negotiate.parse(piece.data)
        subject = cookie_subject(piece.attempt, said.hello, said.answer.offer)
        if not self._cookies.good(said.answer.cookie, source, subject, now_ns):
            # It was good once, or never: the initiator knows, and begins anew if it was.
            self.refused["cookie"] += 1
            self._tell(source, piece.attempt, Failure.COOKIE)
            return
        full = self.under_way >= self._under_way_max
        if full or self._open[source] >= self._per_source_max:
            self.refused["full"] += 1
            self._tell(source, piece.attempt, Failure.OVERLOAD)
            return
        expected = self._expected(source)
        share = (expected.name, self._known(source)) if expected is not None else None
        if share is not None and not self._may_begin(share, now_ns):
            self.refused["often"] += 1
            self._tell(source, piece.attempt, Failure.OVERLOAD)
            return
        handshake = Handshake.answering(
            self._local,
            piece.attempt,
            piece.data,
            self._entropy,
            now_ns,
            answer=partial(self._answer, expected),
            expected=expected,
            timing=self._timing,
        )
        entry = _Entry(handshake, expected, now_ns + RETAIN_NS)
        self._entries[source, piece.attempt] = entry
        self._open[source] += 1
        self.under_way += 1
        self._collect(source, entry, now_ns)
        self._schedule(source, piece.attempt, entry)
        self._trim()

    def _may_begin(self, share: tuple[str, bool], now_ns: int) -> bool:
        forgiven_ns = max(self._begun.get(share, 0), now_ns)
        if forgiven_ns - now_ns > (BEGUN_MAX - 1) * BEGUN_NS:
            return False
        self._begun[share] = forgiven_ns + BEGUN_NS
        return True

    def _schedule(self, source: bytes, attempt: int, entry: _Entry) -> None:
        due_ns = entry.handshake.timer()
        heapq.heappush(self._due, (entry.forget_ns if due_ns is None else due_ns, source, attempt))

    def _tell(self, source: bytes, attempt: int, code: Failure) -> None:
        self._queue.append((source, whole(Type.AUTH_FAILURE, attempt, failure_body(code))))

    def _trim(self) -> None:
        """Forget the oldest ended ones when there are too many."""
        if len(self._entries) - self.under_way > self._ended_max:
            oldest = next(key for key, entry in self._entries.items() if not entry.counted)
            del self._entries[oldest]

    def _collect(self, source: bytes, entry: _Entry, now_ns: int) -> None:
        handshake = entry.handshake
        self._queue += [(source, message) for message in handshake.to_send(now_ns)]
        while (event := handshake.next_event()) is not None:
            self._events.append((source, entry.expected, event))
        if entry.counted and handshake.over:
            entry.counted = False
            self.under_way -= 1
            self._open[source] -= 1
            if not self._open[source]:
                del self._open[source]

    def to_send(self, now_ns: int) -> list[tuple[bytes, Message]]:
        """Return what to send and where, once; does what is due."""
        self.advance(now_ns)
        return self.take()

    def advance(self, now_ns: int) -> None:
        """Do what is due."""
        while self._due and self._due[0][0] <= now_ns:
            _, source, attempt = heapq.heappop(self._due)
            entry = self._entries.get((source, attempt))
            if entry is None:
                continue
            self._collect(source, entry, now_ns)
            if now_ns >= entry.forget_ns and entry.handshake.over:
                del self._entries[source, attempt]
            else:
                self._schedule(source, attempt, entry)

    def take(self) -> list[tuple[bytes, Message]]:
        """Return what to send and where, once; nothing else is done."""
        found, self._queue = self._queue, []
        return found

    def said_by(self, source: bytes, attempt: int) -> bytes:
        """Return what the initiator of an attempt said in the clear; empty if there is none."""
        entry = self._entries.get((source, attempt))
        return entry.handshake.extra if entry is not None else b""

    def timer(self) -> int | None:
        """Return when ``to_send`` is due."""
        if self._queue:
            return 0
        return self._due[0][0] if self._due else None

    def next_event(self) -> tuple[bytes, Peer | None, Established | Failed] | None:
        """Return what has happened, once: where, who was expected there, what."""
        return self._events.popleft() if self._events else None
