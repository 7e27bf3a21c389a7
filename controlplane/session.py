"""One peer's session: how it begins, is made anew, and ends. No I/O; time and randomness come in.

    session.receive(message, now_ns)   what the peer sent (offers: with a good cookie only)
    session.want(now_ns)               somebody has something to send
    session.advance(now_ns)            time has passed
    session.take_messages()            what to send, session.take_events() what has happened
    session.deadline_ns()              when to advance next

A session is a pair of ids, each chosen by the side that receives frames with it. An attempt keeps
its id until it ends, so that two sides who ask at once arrive at the same pair. A new session with
a peer that still has the old one carries on its streams: each side says which session it continues,
and whoever finds that the other has forgotten lets its own streams go too.

All transitions are in TRANSITIONS; what is not there is ignored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, ClassVar

from valkyrie.dataplane import lib
from valkyrie.dataplane.control import (
    HANDSHAKE_VERSION,
    Answer,
    Close,
    Control,
    Error,
    Hello,
    HelloAck,
    Limits,
    Offer,
    Option,
    Ping,
    Pong,
)
from valkyrie.dataplane.wire import Code

from .cookie import SLOT_NS
from .liveness import Liveness, Patience, Verdict

_MS = 1_000_000
_RETIRED_MAX = 4
_TOKENS_MAX = 8
_REPEATS_MAX = 8
_REPEAT_NS = 5 * _MS
"""An answer is repeated at most so often, to a peer that does not know the session yet."""
_RENEW_NS = 20 * _MS
"""Attempts to renew a session that the peer does not know are at least so far apart."""
_BACKOFF_MAX_NS = 2_000 * _MS
_ATTEMPT_RANDOM_BITS = 20

Entropy = Callable[[int], bytes]
"""``entropy(n)`` returns n random bytes."""


class State(Enum):
    """What the session waits for. GREETING and OFFERING may still have a session to renew."""

    DOWN = "down"
    GREETING = "greeting"
    OFFERING = "offering"
    UP = "up"


class Want:
    """Input: there is something to send, or it is time to try again."""


class Late:
    """Input: nothing has come in answer to what was sent last."""


class Silent:
    """Input: the peer does not answer questions any more."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How an attempt is made, and what we set for the peer."""

    limits: Limits
    patience: Patience
    first_ns: int = 100 * _MS
    """The first message is repeated after this time, later ones after twice as much each."""
    give_up_ns: int = 3_000 * _MS
    again_ns: int = 1_000 * _MS
    """After an attempt that found nobody; twice as much each time, up to again_max_ns."""
    again_max_ns: int = 30_000 * _MS
    eager: bool = True
    """Try again though nobody wants to send."""


@dataclass(slots=True)
class Link:
    """A session that is there."""

    local: int
    """Id on the frames that we get."""
    remote: int
    """Id on the frames that we send."""
    incarnation: int
    """The peer's."""
    limits: Limits
    """The peer's."""
    since_ns: int
    continued: int = 0
    """The session id before it, on frames that we sent; 0 = its streams are new."""
    asked: bool = False
    """We asked for it, and the peer is known to have it."""
    repeated_ns: int = 0
    repeats: int = 0


@dataclass(slots=True)
class Attempt:
    """Our asking for a session."""

    number: int
    session: int
    began_ns: int
    due_ns: int
    wait_ns: int
    sent_ns: int
    cookie: bytes = b""


@dataclass(frozen=True, slots=True)
class Joined:
    """Event: frames may come and go. ``lost``: the peer has forgotten what streams there were."""

    link: Link
    lost: bool


@dataclass(frozen=True, slots=True)
class Left:
    """Event: the session is over, and its streams; enum vk_code. Or nobody was found to join."""

    code: int
    joined: bool = True
    """There was one."""


Event = Joined | Left


class Session:
    """The session with one peer."""

    def __init__(
        self, incarnation: int, terms: Terms, entropy: Entropy, now_ns: int, queue: int = 0
    ) -> None:
        self.incarnation = incarnation
        self.terms = terms
        self.state = State.DOWN
        self.link: Link | None = None
        self.reason = 0
        """Why there is no session, or why the last one ended: enum vk_code, 0 = there was none."""
        self.rtt_ns = 0
        """Of the last question that was answered; 0 = none yet."""
        self.liveness = Liveness(terms.patience, now_ns)
        self._entropy = entropy
        self._queue = queue
        self._attempt: Attempt | None = None
        self._number = 0
        self._seen = (0, 0)
        """The peer's incarnation and newest attempt."""
        self._retired: deque[tuple[int, int]] = deque(maxlen=_RETIRED_MAX)
        """Incarnations that the peer has left behind, and until when their offers may be late: no
        longer than a cookie is good. For ever would lock out a peer of whose former life an offer
        came late, and was believed."""
        self._asked: deque[tuple[int, int]] = deque(maxlen=_TOKENS_MAX)
        """Token and time of questions."""
        self._again_ns = now_ns
        self._again_wait_ns = terms.again_ns
        self._messages: list[Control] = []
        self._events: list[Event] = []

    def restore(self, link: Link, now_ns: int) -> None:
        """Take over a session that an earlier daemon made."""
        self.link = link
        self.state = State.UP
        self._seen = (link.incarnation, 0)
        self.liveness.hear(now_ns)

    # ---- Inputs ----

    def receive(self, message: Control, now_ns: int) -> None:
        """Take a message of the peer in; a Hello is not for here, its answer keeps no state."""
        self._apply(type(message), message, now_ns)

    def want(self, now_ns: int) -> None:
        """Make a session, if there is none."""
        if self.state is State.DOWN:
            self._again_wait_ns = self.terms.again_ns
        self._apply(Want, Want(), now_ns)

    def nudge(self, now_ns: int) -> None:
        """Do at once what waits for its time: there was no way to the peer, and now there is."""
        if self._attempt is not None:
            self._attempt.due_ns = now_ns
        self._again_ns = min(self._again_ns, now_ns)

    def hear(self, now_ns: int) -> None:
        """Note that a frame of the session came."""
        if self.link is not None and now_ns > self.link.since_ns:
            self.link.asked = True
        self.liveness.hear(now_ns)

    def expect(self, now_ns: int, *, expecting: bool) -> None:
        """Say whether streams or messages would be lost with the peer."""
        self.liveness.expect(now_ns, expecting=expecting and self.link is not None)

    def close(self, code: int, now_ns: int) -> None:
        """Leave the session and tell the peer."""
        if self.link is not None:
            self._send(Close(code, self.link.remote))
            self._leave(code, now_ns)
        self._attempt = None
        self.state = State.DOWN

    def advance(self, now_ns: int) -> None:
        """Do what is due."""
        attempt = self._attempt
        if attempt is not None:
            if now_ns >= attempt.began_ns + self.terms.give_up_ns:
                self._fail(Code.UNREACHABLE, now_ns)
            elif now_ns >= attempt.due_ns:
                self._apply(Late, Late(), now_ns)
        elif self.state is State.DOWN and self.terms.eager and now_ns >= self._again_ns:
            self._apply(Want, Want(), now_ns)
        if self.link is not None:
            verdict = self.liveness.look(now_ns, self._entropy(1)[0] / 255)
            if verdict is Verdict.ASK:
                self._ask(now_ns)
            elif verdict is Verdict.DEAD:
                self._apply(Silent, Silent(), now_ns)

    def deadline_ns(self) -> int | None:
        """Return when ``advance`` is due; None: not before something comes in."""
        found = []
        if self._attempt is not None:
            found.append(min(self._attempt.due_ns, self._attempt.began_ns + self.terms.give_up_ns))
        elif self.state is State.DOWN and self.terms.eager:
            found.append(self._again_ns)
        if self.link is not None and (due_ns := self.liveness.deadline_ns()) is not None:
            found.append(due_ns)
        return min(found, default=None)

    def take_messages(self) -> list[Control]:
        """Return what to send, once."""
        found, self._messages = self._messages, []
        return found

    def take_events(self) -> list[Event]:
        """Return what has happened, once."""
        found, self._events = self._events, []
        return found

    # ---- Asking ----

    def _begin(self, now_ns: int) -> Attempt:
        noise = int.from_bytes(self._entropy(4), "big") >> (32 - _ATTEMPT_RANDOM_BITS)
        coarse = now_ns >> _ATTEMPT_RANDOM_BITS << _ATTEMPT_RANDOM_BITS
        self._number = max(self._number + 1, coarse | noise)
        self._attempt = Attempt(
            number=self._number,
            session=self._new_id(),
            began_ns=now_ns,
            due_ns=0,
            wait_ns=self.terms.first_ns,
            sent_ns=now_ns,
        )
        self._wait(self._attempt, now_ns)
        return self._attempt

    def _new_id(self) -> int:
        shift: int = lib.VK_SESSION_QUEUE_SHIFT
        mask = (1 << shift) - 1
        taken = {0} if self.link is None else {0, self.link.local & mask}
        while (low := int.from_bytes(self._entropy(4), "big") & mask) in taken:
            continue
        return self._queue << shift | low

    def _wait(self, attempt: Attempt, now_ns: int) -> None:
        """Set when the last message is sent again: three quarters to five quarters of the time."""
        share = 0.75 + self._entropy(1)[0] / 510
        attempt.due_ns = now_ns + int(attempt.wait_ns * share)
        attempt.sent_ns = now_ns
        attempt.wait_ns = min(2 * attempt.wait_ns, _BACKOFF_MAX_NS)

    def _greet(self, _message: object, now_ns: int) -> None:
        attempt = self._attempt or self._begin(now_ns)
        self.state = State.GREETING
        self._send(Hello(self.incarnation, attempt.number))

    def _greet_again(self, message: object, now_ns: int) -> None:
        assert self._attempt is not None
        self._wait(self._attempt, now_ns)
        self._greet(message, now_ns)

    def _offer(self, message: Control, now_ns: int) -> None:
        assert isinstance(message, HelloAck)
        attempt = self._attempt
        assert attempt is not None
        if message.attempt != attempt.number or not message.cookie:
            return
        if not message.version_min <= HANDSHAKE_VERSION <= message.version_max:
            self._fail(Code.VERSION, now_ns)
            return
        if message.cookie == attempt.cookie:
            return  # a copy
        if not attempt.cookie:
            self.rtt_ns = now_ns - attempt.sent_ns
        self._make_offer(attempt, message.cookie, now_ns)

    def _make_offer(self, attempt: Attempt, cookie: bytes, now_ns: int) -> None:
        attempt.cookie = cookie
        attempt.wait_ns = self.terms.first_ns
        self.state = State.OFFERING
        self._repeat_offer(None, now_ns)

    def _repeat_offer(self, _message: object, now_ns: int) -> None:
        attempt = self._attempt
        assert attempt is not None
        self._wait(attempt, now_ns)
        self._send(
            Offer(
                incarnation=self.incarnation,
                attempt=attempt.number,
                session=attempt.session,
                continues=self.link.remote if self.link is not None else 0,
                options=(Option(lib.VK_OPTION_COOKIE, attempt.cookie),),
                **self._limits(),
            )
        )

    def _limits(self) -> dict[str, Any]:
        return {each.name: getattr(self.terms.limits, each.name) for each in fields(Limits)}

    def _answered(self, message: Control, now_ns: int) -> None:
        assert isinstance(message, Answer)
        attempt, old = self._attempt, self.link
        assert attempt is not None
        if message.attempt != attempt.number or not message.session:
            return
        if self._is_retired(message.incarnation, now_ns):
            return
        if code := self._unfit(message):
            self._send(Error(code, message.session))
            self._fail(code, now_ns)
            return
        kept = (
            old is not None
            and old.incarnation == message.incarnation
            and message.continues == old.local
        )
        self._join(message, attempt.session, now_ns, kept=kept, asked=True)

    def _fail(self, code: int, now_ns: int) -> None:
        """Give an attempt up; the session it was to renew is lost with it."""
        self._attempt = None
        self.state = State.DOWN
        self.reason = code
        if self.link is not None:
            self._leave(code, now_ns)
        else:
            self._events.append(Left(code, joined=False))
        self._again_ns = now_ns + self._again_wait_ns
        self._again_wait_ns = min(2 * self._again_wait_ns, self.terms.again_max_ns)

    # ---- Being asked ----

    def _accept(self, message: Control, now_ns: int) -> None:
        assert isinstance(message, Offer)
        old = self.link
        if not message.session or self._is_retired(message.incarnation, now_ns):
            return
        if self._seen[0] == message.incarnation and message.attempt < self._seen[1]:
            return  # late: a newer one came
        known = old is not None and old.incarnation == message.incarnation
        if old is not None and known and message.session == old.remote:
            self._answer(old, message.attempt)
            return
        if code := self._unfit(message):
            self._send(Error(code, message.session))
            return
        kept = old is not None and known and message.continues == old.local
        local = self._attempt.session if self._attempt is not None else self._new_id()
        self._join(message, local, now_ns, kept=kept, asked=False)
        assert self.link is not None
        self._answer(self.link, message.attempt)

    def _answer(self, link: Link, attempt: int) -> None:
        self._seen = (link.incarnation, max(attempt, self._seen[1]))
        self._send(
            Answer(
                incarnation=self.incarnation,
                attempt=attempt,
                session=link.local,
                continues=link.continued,
                **self._limits(),
            )
        )

    def _is_retired(self, incarnation: int, now_ns: int) -> bool:
        return any(old == incarnation and now_ns < end_ns for old, end_ns in self._retired)

    def _unfit(self, terms: Offer) -> int:
        """Return the code to refuse a peer's terms with; 0 = they fit."""
        ours = self.terms.limits
        lacking = terms.required & ~ours.capabilities | ours.required & ~terms.capabilities
        return int(Code.VERSION) if terms.version != HANDSHAKE_VERSION or lacking else 0

    def _join(self, terms: Offer, local: int, now_ns: int, *, kept: bool, asked: bool) -> None:
        old = self.link
        if self._seen[0] != terms.incarnation:
            if self._seen[0]:
                self._retired.append((self._seen[0], now_ns + 2 * SLOT_NS))
            self._seen = (terms.incarnation, 0)
        self.link = Link(
            local=local,
            remote=terms.session,
            incarnation=terms.incarnation,
            limits=terms.limits,
            since_ns=now_ns,
            continued=old.remote if old is not None and kept else 0,
            asked=asked,
        )
        self._attempt = None
        self.state = State.UP
        self.reason = 0
        self._again_wait_ns = self.terms.again_ns
        self.liveness.hear(now_ns)
        self._events.append(Joined(self.link, lost=old is not None and not kept))

    # ---- A session ----

    def _questioned(self, message: Control, now_ns: int) -> None:
        """The peer says that it does not know the session, or cannot have it."""
        assert isinstance(message, Error)
        link = self.link
        if link is None or message.subject != link.remote:
            return
        if message.code != Code.SESSION_UNKNOWN:
            self._leave(message.code, now_ns)
            self.state = State.DOWN
            return
        if not link.asked and link.repeats < _REPEATS_MAX:
            # Our answer may be lost, or on its way: the peer asks again itself.
            if now_ns >= link.repeated_ns + _REPEAT_NS:
                link.repeated_ns = now_ns
                link.repeats += 1
                self._answer(link, self._seen[1])
            return
        if now_ns < link.since_ns + _RENEW_NS:
            return
        attempt = self._begin(now_ns)
        if message.cookie:
            self._make_offer(attempt, message.cookie, now_ns)
        else:
            self._greet(message, now_ns)

    def _refused(self, message: Control, now_ns: int) -> None:
        assert isinstance(message, Error)
        attempt = self._attempt
        assert attempt is not None
        if message.code == Code.SESSION_UNKNOWN:
            return
        if message.subject in (attempt.session, attempt.number & 0xFFFF_FFFF):
            self._fail(message.code, now_ns)

    def _closed(self, message: Control, now_ns: int) -> None:
        assert isinstance(message, Close)
        if self.link is None or message.session != self.link.local:
            return
        self._leave(message.code or Code.SESSION_CLOSED, now_ns)
        if self._attempt is None:
            self.state = State.DOWN

    def _silent(self, _message: object, now_ns: int) -> None:
        self._leave(Code.UNREACHABLE, now_ns)
        if self._attempt is None:
            self.state = State.DOWN

    def _leave(self, code: int, now_ns: int) -> None:
        self.link = None
        self.reason = code
        self.liveness.expect(now_ns, expecting=False)
        self._again_ns = now_ns + self._again_wait_ns
        self._events.append(Left(code))

    def _ask(self, now_ns: int) -> None:
        token = int.from_bytes(self._entropy(8), "big")
        self._asked.append((token, now_ns))
        self._send(Ping(token))

    def _told(self, message: Control, now_ns: int) -> None:
        """An answer to a question of ours: a sign of life."""
        assert isinstance(message, Pong)
        for token, asked_ns in self._asked:
            if token == message.token:
                self.rtt_ns = now_ns - asked_ns
                self.liveness.hear(now_ns)
                return

    def _pong(self, message: Control, _now_ns: int) -> None:
        assert isinstance(message, Ping)
        self._send(Pong(message.token))

    def _send(self, message: Control) -> None:
        self._messages.append(message)

    def _apply(self, kind: type, message: object, now_ns: int) -> None:
        transition = self.TRANSITIONS.get((self.state, kind))
        if transition is not None:
            getattr(self, transition)(message, now_ns)

    TRANSITIONS: ClassVar[dict[tuple[State, type], str]] = {
        (State.DOWN, Want): "_greet",
        (State.DOWN, Offer): "_accept",
        (State.DOWN, Ping): "_pong",
        (State.GREETING, Late): "_greet_again",
        (State.GREETING, HelloAck): "_offer",
        (State.GREETING, Offer): "_accept",
        (State.GREETING, Error): "_refused",
        (State.GREETING, Close): "_closed",
        (State.GREETING, Ping): "_pong",
        (State.GREETING, Pong): "_told",
        (State.GREETING, Silent): "_silent",
        (State.OFFERING, Late): "_repeat_offer",
        (State.OFFERING, HelloAck): "_offer",
        (State.OFFERING, Offer): "_accept",
        (State.OFFERING, Answer): "_answered",
        (State.OFFERING, Error): "_refused",
        (State.OFFERING, Close): "_closed",
        (State.OFFERING, Ping): "_pong",
        (State.OFFERING, Pong): "_told",
        (State.OFFERING, Silent): "_silent",
        (State.UP, Offer): "_accept",
        (State.UP, Error): "_questioned",
        (State.UP, Close): "_closed",
        (State.UP, Ping): "_pong",
        (State.UP, Pong): "_told",
        (State.UP, Silent): "_silent",
    }
    """Method by state and input."""
