"""One peer's session: how it begins, is made anew, and ends. No I/O; time and randomness come in.

    session.receive(message, now_ns)   what the peer sent; what asks for a session goes to the Door
    session.answer(...)                the peer asks, and has proven itself: our terms
    session.accepted(...)              the Door has let it in
    session.want(now_ns)               somebody has something to send
    session.advance(now_ns)            time has passed
    session.take_messages()            what to send, session.take_events() what has happened
    session.deadline_ns()              when to advance next

A session is a pair of ids, each chosen by the side that receives frames with it, and what the
handshake that made it has led to. Both sides may ask at once: whose incarnation is greater insists,
the other lets its own attempt go when it has joined. A new session with a peer that still has the
old one carries on its streams: each side says which session it continues, and whoever finds that
the other has forgotten lets its own streams go too.

What anybody could have sent begins a handshake at most. A session with keys ends by a proven CLOSE,
by silence, or when its time is over.

All transitions are in TRANSITIONS; what is not there is ignored.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.errors import SecurityError
from valkyrie.controlplane.security.handshake import Established, Failed, Handshake
from valkyrie.controlplane.security.handshake import State as Step
from valkyrie.controlplane.security.modes import PROVEN_ANEW, ZERO_TRUST_LIFETIME_NS, Mode
from valkyrie.controlplane.security.reproof import Reproof
from valkyrie.dataplane import lib
from valkyrie.dataplane.control import (
    TERMS_VERSION,
    Close,
    Control,
    ControlError,
    Error,
    Limits,
    Message,
    Option,
    Ping,
    Pong,
    SessionTerms,
)
from valkyrie.dataplane.units import NS_PER_MS
from valkyrie.dataplane.wire import Code

from .handing import Handing
from .inputs import Renew, Silent, Unproven, Want
from .link import Asked, Attempt, Event, Joined, Left, Link, Quiet, Terms
from .liveness import Liveness, Questions, Verdict
from .lives import Lives, said, spoken
from .protection import PLAIN, Protection, turned_away

if TYPE_CHECKING:
    from valkyrie.controlplane.security.local import Entropy, Local
    from valkyrie.controlplane.security.offer import Choice
    from valkyrie.controlplane.security.trust import Peer

    from .seats import Ids

_RENEW_NS = 20 * NS_PER_MS
"""Attempts to renew a session that the peer does not know are at least so far apart ..."""
_LIE_NS = 1_000 * NS_PER_MS
"""... and so far when the peer knew it all the time."""
_LATE_FIRSTS = 4
"""A peer that asked may not know its session yet: for so many times of its first repetition."""
_RENEW_SHARE, _RENEW_JITTER = 0.7, 0.1
"""Of a session's lifetime, when it is made anew: from then on, and spread over so much."""
_ATTEMPT_RANDOM_BITS = 20


class State(Enum):
    """What the session waits for. ASKING may still have a session to renew."""

    DOWN = "down"
    ASKING = "asking"
    UP = "up"


class Session:
    """The session with one peer."""

    def __init__(
        self,
        incarnation: int,
        parties: tuple[Local, Peer],
        terms: Terms,
        entropy: Entropy,
        now_ns: int,
        *,
        ids: Ids,
    ) -> None:
        """Begin; ``parties``: who we are, and who the peer has to be."""
        self.incarnation = incarnation
        self._local, self.peer = parties
        self.terms = terms
        self.state = State.DOWN
        self.link: Link | None = None
        self.reason = 0
        """Why there is no session, or why the last one ended: enum vk_code, 0 = there was none."""
        self.rtt_ns = 0
        """Of the last question that was answered; 0 = none yet."""
        self.liveness = Liveness(terms.patience, now_ns)
        self.handing = Handing()
        self.refused: Counter[str] = Counter()
        """Messages that proved nothing, by what they were."""
        self._entropy = entropy
        self._ids = ids
        self._attempt: Attempt | None = None
        self._number = 0
        self._considered: tuple[SessionTerms, SessionTerms, tuple[int, int] | None] | None = None
        """Terms that were asked for, our answer, and the session whose streams stay."""
        self._lives = Lives()
        self.reproof: Reproof | None = None
        """None: the session's mode asks nobody to prove anything anew."""
        self._questions = Questions()
        self._again_ns = now_ns
        self._again_wait_ns = terms.again_ns
        self._renew_ns: int | None = None
        self._hinted = False
        """The attempt is for a word that nobody has proven."""
        self._deaf_ns = 0
        """Until when such words are ignored."""
        self._patient_ns = 0
        """Until when silence says nothing: one side may have a session that the other has not yet,
        and what one of them says means nothing to the other."""
        self._messages: list[Control] = []
        self._events: list[Event] = []

    def restore(self, link: Link, now_ns: int) -> None:
        """Take over a session that an earlier daemon made.

        Of one with keys nobody knows any more how long it may last: it is made anew at once. Where
        proofs may have been due in it, that is one, and is late when they would be.
        """
        self.state = State.UP
        self._lives.restore(link.incarnation)
        if link.protection.keyed:
            self._renew_ns = now_ns
            left_ns, policy = ZERO_TRUST_LIFETIME_NS, self._local.policy_for(self.peer)
            if not PROVEN_ANEW.isdisjoint(policy.allowed()):
                left_ns = max(policy.rhythm.answer_ns, self.terms.give_up_ns)
            ends_ns = now_ns + left_ns
            link = replace(link, protection=replace(link.protection, ends_ns=ends_ns))
        self.link = link
        self.agree()
        self.liveness.hear(now_ns)
        if link.protection.keyed or not link.asked:  # the peer may be a session ahead, too
            self._bear(now_ns)

    def agree(self) -> None:
        """Ask the peer as our terms and its own say together, from now on."""
        theirs_ms = self.link.limits.keepalive_ms if self.link is not None else 0
        self.liveness.patience = self.terms.patience.beside(theirs_ms * NS_PER_MS)

    def _bear(self, now_ns: int) -> None:
        """Bear with the peer's silence for as long as a handshake may take."""
        self._patient_ns = now_ns + self.terms.give_up_ns

    # ---- Inputs ----

    def receive(self, message: Control, now_ns: int) -> None:
        """Take a message of the peer in, of a handshake those that answer."""
        if self.reproof is not None and self.concerns(message):
            if not self.reproof.receive(message, now_ns):
                self.refused["unproven proof"] += 1
            self._prove(now_ns)
        else:
            self._apply(message, now_ns)

    def concerns(self, message: Control) -> TypeGuard[Message]:
        """Say whether a message is about a new proof within the session that there is."""
        if self.reproof is None or not isinstance(message, Message):
            return False
        return self.reproof.concerns(message)

    def want(self, now_ns: int) -> None:
        """Make a session, if there is none."""
        if self.state is State.DOWN:
            self._again_wait_ns = self.terms.again_ns
        self._apply(Want(), now_ns)

    def renew(self, now_ns: int) -> None:
        """Make a new session with new keys in the place of the one there is."""
        self._apply(Renew(), now_ns)

    def nudge(self, now_ns: int) -> None:
        """Do at once what waits for its time: there was no way to the peer, and now there is."""
        if self._attempt is not None:
            self._attempt.handshake.nudge(now_ns)
        self._again_ns = min(self._again_ns, now_ns)

    def hear(self, now_ns: int) -> None:
        """Note that a frame of the session came."""
        if self.link is not None and now_ns > self.link.since_ns:
            self.link.asked = True
            if self._attempt is None:
                self._patient_ns = 0
        self.liveness.hear(now_ns)

    def expect(self, now_ns: int, *, expecting: bool) -> None:
        """Say whether streams or messages would be lost with the peer."""
        self.liveness.expect(now_ns, expecting=expecting and self.link is not None)

    def close(self, code: int, now_ns: int) -> None:
        """Leave the session and tell the peer."""
        self._attempt = None
        if self.link is not None:
            self._send(self.link.protection.prove(Close(code, self.link.remote)))
            self._leave(code, now_ns)
        self.state = State.DOWN

    def begins(self, now_ns: int) -> bool:
        """Say whether ``advance`` begins a handshake."""
        eager = self.state is State.DOWN and self.terms.eager
        due_ns = self._again_ns if eager else self._renew_ns
        return self._attempt is None and due_ns is not None and now_ns >= due_ns

    def advance(self, now_ns: int, *, may_begin: bool = True) -> None:
        """Do what is due; begin no handshake unless that may be."""
        if self._attempt is not None:
            self._pump(now_ns)
        elif may_begin and self.begins(now_ns):
            self._apply(Want() if self.state is State.DOWN else Renew(), now_ns)
        link = self.link
        if link is None:
            return
        if link.protection.ends_ns is not None and now_ns >= link.protection.ends_ns:
            self._lose(Code.CREDENTIAL, now_ns)
        elif link.protection.able:
            self._heed(self.liveness.look(now_ns, self._entropy(1)[0] / 255), link, now_ns)
            ping = self.handing.ask(link.local, now_ns, self._entropy) if self.link else None
            if ping is not None:
                self._send(link.protection.prove(ping))
            self._prove(now_ns)

    def _prove(self, now_ns: int) -> None:
        """Do what new proofs want done."""
        if self.reproof is not None:
            self._messages += self.reproof.to_send(now_ns)
            if self.reproof.failure is not None:
                self._apply(Unproven(self.reproof.failure), now_ns)

    def deadline_ns(self) -> int | None:
        """Return when ``advance`` is due; None: not before something comes in."""
        found: list[int | None] = []
        if self._attempt is not None:
            found.append(self._attempt.handshake.timer())
        elif self.state is State.DOWN and self.terms.eager:
            found.append(self._again_ns)
        elif self.state is State.UP:
            found.append(self._renew_ns)
        if self.link is not None:
            found.append(self.link.protection.ends_ns)
            if self.link.protection.able:
                found += [self.liveness.deadline_ns(), self.handing.deadline_ns()]
            if self.reproof is not None:
                found.append(self.reproof.timer())
        return min((each for each in found if each is not None), default=None)

    def take_messages(self) -> list[Control]:
        """Return what to send, once."""
        found, self._messages = self._messages, []
        return found

    def take_events(self) -> list[Event]:
        """Return what has happened, once."""
        found, self._events = self._events, []
        return found

    # ---- Asking ----

    @property
    def attempt(self) -> int | None:
        """The number that our handshake has on the wire; None: we do not ask."""
        return None if self._attempt is None else self._attempt.handshake.attempt

    @property
    def step(self) -> str:
        """How far our handshake is; empty: we do not ask."""
        return "" if self._attempt is None else self._attempt.handshake.state.value

    def insists(self, extra: bytes, *, proven: bool) -> bool:
        """Say whether our own attempt comes first, of which the peer has all, or soon will have.

        ``extra`` is what it said in the clear, where it asks us; ``proven``: it is about to join.
        """
        attempt = self._attempt
        if attempt is None or spoken(attempt.incarnation) != extra:
            return False
        far = (Step.PROVING,) if proven else (Step.PROVING, Step.KEYING)
        return attempt.handshake.state in far and self.incarnation > attempt.incarnation

    def _begin(self, _input: object, now_ns: int) -> None:
        noise = int.from_bytes(self._entropy(4), "big") >> (32 - _ATTEMPT_RANDOM_BITS)
        coarse = now_ns >> _ATTEMPT_RANDOM_BITS << _ATTEMPT_RANDOM_BITS
        self._number = max(self._number + 1, coarse | noise)
        link = self.link
        options = link.options() if link is not None else ()
        offer = self._terms(link.remote if link is not None else 0, now_ns, options)
        handshake = Handshake.asking(
            self._local,
            self.peer,
            self._entropy,
            now_ns,
            terms=offer.payload(),
            extra=spoken(self.incarnation),
            timing=self.terms.timing,
        )
        self._attempt = Attempt(handshake, offer, now_ns)
        self._hinted = False
        self.state = State.ASKING
        self._pump(now_ns)

    def _terms(self, continues: int, now_ns: int, more: tuple[Option, ...] = ()) -> SessionTerms:
        limits: dict[str, Any] = {
            each.name: getattr(self.terms.limits, each.name) for each in fields(Limits)
        }
        session = self._ids.next(self.link)
        options = (*self.handing.offer(session, now_ns), *more)
        return SessionTerms(
            self.incarnation, self._number, session, continues, **limits, options=options
        )

    def _pump(self, now_ns: int) -> None:
        """Send what our handshake has to send, and take what it came to."""
        attempt = self._attempt
        assert attempt is not None
        heard = attempt.handshake.state is not Step.GREETING
        if messages := attempt.handshake.to_send(now_ns):
            attempt.sent_ns = now_ns
            self._messages += messages
        event = attempt.handshake.next_event()
        if isinstance(event, Failed):
            if event.believing is not None:  # it has given the one before up for that
                self._messages += turned_away(event.believing, event.code)
                self._again_wait_ns = self.terms.again_max_ns  # the peer asks, and is told at once
                if self.link is not None:
                    self._leave(event.code, now_ns)
            silent = event.code is Failure.TIMEOUT and not heard
            self._fail(Code.UNREACHABLE if silent else event.code, now_ns, event.reason)
        elif event is not None:
            self._established(attempt, event, now_ns)

    def _answered(self, message: Control, now_ns: int) -> None:
        """A message came that answers our handshake's."""
        assert isinstance(message, Message)
        attempt = self._attempt
        assert attempt is not None
        greeting = attempt.handshake.state is Step.GREETING
        attempt.handshake.receive(message, now_ns)
        if greeting and attempt.handshake.state is Step.KEYING:
            self.rtt_ns = now_ns - attempt.sent_ns
            attempt.incarnation = said(attempt.handshake.extra)
        if attempt.handshake.state is Step.PROVING:
            self._bear(now_ns)  # from now on the peer may have joined
        self._pump(now_ns)

    def _established(self, attempt: Attempt, event: Established, now_ns: int) -> None:
        try:
            theirs = self._fitting(event.terms, now_ns)
        except SecurityError as error:
            self._fail(error.code, now_ns, str(error))
            return
        continued = self.link.continued(theirs) if self.link is not None else None
        if self._hinted and self.link is not None and continued == self.link.ids:
            self._deaf_ns = now_ns + _LIE_NS
        self._join(theirs, attempt.offer.session, event, now_ns, continued, asked=True)

    def _fail(self, code: int, now_ns: int, why: str = "") -> None:
        """Give an attempt up. Without keys the session that it was to renew is lost with it."""
        self._attempt = None
        self._again_ns = now_ns + self._again_wait_ns
        self._again_wait_ns = min(2 * self._again_wait_ns, self.terms.again_max_ns)
        link = self.link
        if link is not None and link.protection.keyed and link.protection.able:
            self.state = State.UP
            if self._renew_ns is not None:
                self._renew_ns = max(self._renew_ns, self._again_ns)
            return
        self.state = State.DOWN
        self.reason = code
        if link is not None:
            self._leave(code, now_ns)
        else:
            self._events.append(Left(code, joined=False, why=why))

    # ---- Being asked ----

    def answer(self, choice: Choice, terms: bytes, now_ns: int) -> bytes:
        """Return our terms to those of a peer that asks; SecurityError: it cannot have them."""
        theirs = self._fitting(terms, now_ns)
        if self._lives.late(theirs):
            raise SecurityError(Failure.TIMEOUT, "it comes late: there is a newer one")
        old = self.link
        if old is not None and old.protection.keyed and choice.mode is Mode.PLAINTEXT:
            raise SecurityError(Failure.FLOOR, "it has keys now: none without them can follow")
        continued = old.continued(theirs) if old is not None else None
        ours = self._terms(continued[1] if continued is not None else 0, now_ns)
        self._considered = (theirs, ours, continued)
        return ours.payload()

    def accepted(self, event: Established, now_ns: int) -> None:
        """Join on the terms that were answered last."""
        assert self._considered is not None
        theirs, ours, continued = self._considered
        self._considered = None
        self._join(theirs, ours.session, event, now_ns, continued, asked=False)

    def failed(self, code: int) -> None:
        """Note that somebody where the peer is has asked, and was not let in."""
        self.refused[f"asked, {code}"] += 1
        if self.link is None and self._attempt is None:
            self.reason = code

    def _fitting(self, terms: bytes, now_ns: int) -> SessionTerms:
        """Return the peer's terms; SecurityError: they cannot be taken."""
        try:
            theirs = SessionTerms.parse(terms)
        except ControlError as error:
            raise SecurityError(Failure(error.code), str(error)) from error
        ours = self.terms.limits
        lacking = theirs.required & ~ours.capabilities | ours.required & ~theirs.capabilities
        if theirs.version != TERMS_VERSION or lacking:
            what = "the other side speaks another version of a session's terms: upgrade the older"
            raise SecurityError(Failure.VERSION, what)
        if theirs.incarnation == self.incarnation:
            raise SecurityError(Failure.IDENTITY, "this node has met itself: see its [[peer]]")
        if not theirs.session:
            raise SecurityError(Failure.MALFORMED, "there is no session 0")
        if self._lives.past(theirs.incarnation, now_ns):
            raise SecurityError(Failure.TIMEOUT, "it comes late: the node has started anew")
        return theirs

    def _join(
        self,
        theirs: SessionTerms,
        local: int,
        event: Established,
        now_ns: int,
        continued: tuple[int, int] | None,
        *,
        asked: bool,
    ) -> None:
        old = self.link
        self._lives.join(theirs, now_ns)
        protection, secrets = Protection.of(event, now_ns, asked=asked)
        self.link = Link(
            local=local,
            remote=theirs.session,
            incarnation=theirs.incarnation,
            limits=theirs.limits,
            since_ns=now_ns,
            before=continued or (0, 0),
            asked=asked,
            protection=protection,
        )
        self._attempt = None
        self.state = State.UP
        self.reason = 0
        self._again_wait_ns = self.terms.again_ns
        self._renew_ns = None
        if event.lifetime_ns is not None:
            share = _RENEW_SHARE + _RENEW_JITTER * self._entropy(1)[0] / 255
            self._renew_ns = now_ns + int(event.lifetime_ns * share)
        self.reproof = Reproof.of(self._local, event, self._entropy, now_ns, initiator=asked)
        self._questions.clear()
        self.agree()
        self.liveness.hear(now_ns)
        told = self.handing.join(local, theirs)
        self._patient_ns = 0
        if continued is not None and not asked:
            self._bear(now_ns)
        lost = old is not None and continued is None
        self._events.append(Joined(self.link, lost, secrets, told))

    # ---- A session ----

    def _questioned(self, message: Control, now_ns: int) -> None:
        """Somebody says that the peer does not know the session: a new one shows whether."""
        assert isinstance(message, Error)
        link = self.link
        assert link is not None
        if message.code != Code.SESSION_UNKNOWN or message.subject != link.remote:
            return
        late_ns = 0 if link.asked else _LATE_FIRSTS * self.terms.first_ns
        if now_ns < max(link.since_ns + max(_RENEW_NS, late_ns), self._deaf_ns):
            return
        self._begin(message, now_ns)
        self._hinted = True

    def _closed(self, message: Control, now_ns: int) -> None:
        assert isinstance(message, Close)
        if self.link is None or message.session != self.link.local:
            return
        if self._proven(message):
            self._lose(message.code or Code.SESSION_CLOSED, now_ns)

    def _silent(self, _message: object, now_ns: int) -> None:
        if now_ns < self._patient_ns:
            self.liveness.wait(now_ns)
            return
        self._lose(Code.UNREACHABLE, now_ns)

    def _unproven(self, message: Unproven, now_ns: int) -> None:
        link, failure = self.link, message.failure
        if link is not None:
            self._send(link.protection.prove(Close(failure.code, link.remote)))
            self._lose(failure.code, now_ns, str(failure))

    def _lose(self, code: int, now_ns: int, why: str = "") -> None:
        """Leave; an attempt that was to continue the session begins anew without it."""
        self._leave(code, now_ns, why)
        if self._attempt is None:
            self.state = State.DOWN
        elif self._attempt.offer.continues:
            self._begin(None, now_ns)

    def _leave(self, code: int, now_ns: int, why: str = "") -> None:
        self.link = self.reproof = None
        self.handing.leave()
        self.reason = code
        self._renew_ns = None
        self._questions.clear()
        self.liveness.expect(now_ns, expecting=False)
        self._again_ns = now_ns + self._again_wait_ns
        self._events.append(Left(code, why=why))

    def _heed(self, verdict: Verdict, link: Link, now_ns: int) -> None:
        if verdict is Verdict.DEAD:
            self._apply(Silent(), now_ns)
        elif verdict is not Verdict.NOTHING:
            self._events.append(Quiet())
        if verdict is Verdict.LAST:  # it may be that only the session's frames do not arrive
            self._send(link.protection.prove(self._questions.ask(self._entropy, now_ns)))

    def _told(self, message: Control, now_ns: int) -> None:
        """An answer to a question of ours: a sign of life."""
        assert isinstance(message, Pong)
        if self.handing.asked(message.token) and self._proven(message):
            self.handing.answered()
            self.liveness.hear(now_ns)
            return
        if self.link is None or not self._questions.waits(message) or not self._proven(message):
            return
        self.rtt_ns = self._questions.answered(message, now_ns)
        self.liveness.hear(now_ns)

    def _pong(self, message: Control, _now_ns: int) -> None:
        assert isinstance(message, Ping)
        link, wanted = self.link, message.option(lib.VK_OPTION_TOKEN)
        if not self._proven(message):
            return
        if wanted is not None:
            if link is None or not self.handing.concerns(wanted, link.remote):
                return  # of a session that we do not know, or not yet: it will be said again
            if (told := self.handing.take(wanted, link.remote)) is not None:
                self._events.append(Asked(told))
        protection = link.protection if link is not None else PLAIN
        self._send(protection.prove(Pong(message.token)))

    def _proven(self, message: Close | Ping | Pong) -> bool:
        protection = self.link.protection if self.link is not None else PLAIN
        good = protection.proves(message)
        if not good:
            self.refused[f"unproven {type(message).__name__.lower()}"] += 1
        return good

    def _send(self, message: Control) -> None:
        self._messages.append(message)

    def _apply(self, message: object, now_ns: int) -> None:
        transition = self.TRANSITIONS.get((self.state, type(message)))
        if transition is not None:
            getattr(self, transition)(message, now_ns)

    TRANSITIONS: ClassVar[dict[tuple[State, type], str]] = {
        (State.DOWN, Want): "_begin",
        (State.DOWN, Ping): "_pong",
        (State.ASKING, Message): "_answered",
        (State.ASKING, Close): "_closed",
        (State.ASKING, Ping): "_pong",
        (State.ASKING, Pong): "_told",
        (State.ASKING, Silent): "_silent",
        (State.ASKING, Unproven): "_unproven",
        (State.UP, Error): "_questioned",
        (State.UP, Renew): "_begin",
        (State.UP, Close): "_closed",
        (State.UP, Ping): "_pong",
        (State.UP, Pong): "_told",
        (State.UP, Silent): "_silent",
        (State.UP, Unproven): "_unproven",
    }
    """Method by state and input; ``answer`` and ``accepted`` may come in all."""
