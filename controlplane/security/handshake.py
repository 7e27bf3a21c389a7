"""One side of one handshake, in all modes. No I/O; time and randomness come in.

    handshake.receive(message, now_ns)   what came from the other side
    handshake.to_send(now_ns)            messages to send now; does what is due
    handshake.timer()                    when to call ``to_send`` again
    handshake.next_event()               Established or Failed, once

All transitions are in TRANSITIONS; what is not there is ignored. A message that cannot be verified
ends the attempt on both sides: who can put one in on the path could as well drop them all. Off the
path nobody can, for want of the attempt's number.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

from valkyrie.dataplane.control import Message
from valkyrie.dataplane.units import NS_PER_MS
from valkyrie.dataplane.wire import Type

from .claim import Claim
from .codes import Failure
from .errors import SecurityError
from .exchange import Exchange, Outcome
from .fragments import BODY_MAX, Assembly, split
from .identity import Card
from .keys import Schedule
from .local import Entropy, Local
from .messages import (
    NO_COOKIE,
    PIECE_SIZE,
    WHOLE,
    HelloAck,
    Negotiate,
    Piece,
    failure_body,
    parse,
    parse_failure,
    whole,
)
from .modes import SIGNED, Mode
from .offer import Choice, Offer, Reader, choose, sized
from .proof import Proof, Seal, sign, verify
from .trust import Grant, Peer

_LABEL = b"valkyrie handshake 1"
_EVIDENCE = b"valkyrie evidence 1"
_USES_CARDS = SIGNED | {Mode.NOISE}
_RENEWALS_MAX = 3
"""Times that an initiator begins anew because its cookie is not taken."""
_REPEATS_MAX = 8
_REPEAT_NS = 5 * NS_PER_MS
"""A responder repeats an answer so often at most, and at least so far apart."""
INITIATOR, RESPONDER = "initiator", "responder"

Answer = Callable[[Choice, bytes, int], bytes]
"""``answer(choice, terms, now_ns)`` returns a responder's terms to an initiator's, or raises
SecurityError; who asks has proven itself by then, and is let in."""


class State(Enum):
    """What a side waits for."""

    GREETING = "greeting"
    """Initiator: HELLO is sent."""
    KEYING = "keying"
    """Initiator: NEGOTIATE and KEY_EXCHANGE are sent."""
    PROVING = "proving"
    """Initiator: AUTH_RESPONSE is sent."""
    LISTENING = "listening"
    """Responder: NEGOTIATE came, KEY_EXCHANGE may be on its way."""
    CHALLENGED = "challenged"
    """Responder: AUTH_CHALLENGE is sent."""
    ESTABLISHED = "established"
    """Initiator: AUTH_SUCCESS came."""
    ACCEPTED = "accepted"
    """Responder: AUTH_SUCCESS is sent."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Timing:
    """When to send again, and when to give up."""

    first_ns: int = 100 * NS_PER_MS
    again_max_ns: int = 2_000 * NS_PER_MS
    give_up_ns: int = 10_000 * NS_PER_MS


@dataclass(frozen=True, slots=True)
class Established:
    """Event: both sides are who they should be. In plaintext mode there are no keys."""

    choice: Choice
    grant: Grant
    schedule: Schedule | None
    claim: Claim
    """What the other has proven: with it a revocation finds the session."""
    terms: bytes
    """The other's."""
    lifetime_ns: int | None
    """After that the session is to end; None: it need not."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Event: there will be no session from this attempt."""

    code: Failure
    reason: str
    by_peer: bool
    """The other side gave up. It says so without proof: a hint, nothing to act on."""
    believing: Established | None = None
    """The session that the other side takes to be there: it has proven its keys, and is refused all
    the same."""


def _checked_choice(said: Negotiate) -> Choice:
    """Return the choice of the offers in a NEGOTIATE, which must be what it says."""
    choice = choose(Offer.parse(said.hello), Offer.parse(said.answer.offer))
    if choice.pack() != said.choice:
        raise SecurityError(Failure.MALFORMED, "the choice is not what the offers lead to")
    return choice


class Handshake:
    """Make with ``asking`` or ``answering``."""

    def __init__(
        self,
        local: Local,
        attempt: int,
        entropy: Entropy,
        *,
        asked: Peer | None,
        expected: Peer | None,
        timing: Timing,
    ) -> None:
        self.attempt = attempt
        self.state = State.FAILED
        self.extra = b""
        """What the other side said in the clear: it is proven only when all is."""
        self._local = local
        self._peer = asked
        self._expected = expected
        self._role, self._other = (INITIATOR, RESPONDER) if asked else (RESPONDER, INITIATOR)
        self._entropy = entropy
        self._timing = timing
        self._terms = b""
        self._offer: Offer | None = None
        self._hello = b""
        self._answer: Answer | None = None
        self._extra = b""
        self._renewals = 0
        self._cookie = NO_COOKIE
        self._choice: Choice | None = None
        self._exchange: Exchange | None = None
        self._card: Card | None = None
        self._seal: Seal | None = None
        self._outcome: Outcome | None = None
        self._transcript = b""
        self._binding = b""
        """What both sides sign."""
        self._assembly = Assembly()
        self._flight: list[Message] = []
        """What was sent last, to be sent again."""
        self._queue: list[Message] = []
        self._events: deque[Established | Failed] = deque()
        self._due_ns = self._wait_ns = self._deadline_ns = 0
        self._repeats = self._repeated_ns = 0

    def __repr__(self) -> str:
        return f"<Handshake {self._role} {self.state.value}>"

    @classmethod
    def asking(
        cls,
        local: Local,
        peer: Peer,
        entropy: Entropy,
        now_ns: int,
        *,
        terms: bytes = b"",
        extra: bytes = b"",
        timing: Timing | None = None,
    ) -> Handshake:
        """Begin with a peer. ``terms`` are sealed; ``extra`` is said in the clear, and bound."""
        self = cls(local, 0, entropy, asked=peer, expected=peer, timing=timing or Timing())
        self._terms = terms
        self._extra = extra
        self._deadline_ns = now_ns + self._timing.give_up_ns
        self._greet(now_ns)
        return self

    @classmethod
    def answering(
        cls,
        local: Local,
        attempt: int,
        negotiate: bytes,
        entropy: Entropy,
        now_ns: int,
        *,
        answer: Answer | None = None,
        expected: Peer | None = None,
        timing: Timing | None = None,
    ) -> Handshake:
        """Answer a NEGOTIATE whose cookie is good; one that cannot be answered has failed.

        ``expected`` is who should be where it came from: nobody else is taken, and what is demanded
        of it holds. None: anybody who is trusted.
        """
        timing = timing or Timing()
        self = cls(local, attempt, entropy, asked=None, expected=expected, timing=timing)
        self._answer = answer
        self._deadline_ns = now_ns + self._timing.give_up_ns
        try:
            said = Negotiate.parse(negotiate)
            self.extra = Offer.parse(said.hello).extra
            self._begin(_checked_choice(said), negotiate)
            self.state = State.LISTENING
        except SecurityError as error:
            self._fail(error, now_ns)
        return self

    # ---- Inputs ----

    def receive(self, message: Message, now_ns: int) -> None:
        """Take a message in; never raises for what the other side sent."""
        name = self.TRANSITIONS.get((self.state, message.type))
        if name is None:
            return
        try:
            piece = parse(message)
            if piece.attempt != self.attempt:
                return
            if name == "_repeat":
                self._repeat(piece, now_ns)
                return
            body = self._whole(message.type, piece)
            if message.type == Type.HELLO_ACK:
                self._cookie = piece.cookie
            if body is not None:
                transition: Callable[[bytes, int], None] = getattr(self, name)
                transition(body, now_ns)
        except SecurityError as error:
            self._fail(error, now_ns)

    def _whole(self, kind: int, piece: Piece) -> bytes | None:
        if kind in WHOLE:
            return piece.data
        body = self._assembly.add(piece.offset, piece.total, piece.data)
        if body is not None:
            self._assembly = Assembly()
        return body

    def to_send(self, now_ns: int) -> list[Message]:
        """Return what to send, once; what waits for an answer is sent again when it is due."""
        if not self.over:
            if now_ns >= self._deadline_ns:
                what = "the other side did not answer, or not to the end"
                self._fail(SecurityError(Failure.TIMEOUT, what), now_ns, tell=False)
            elif self._role == INITIATOR and now_ns >= self._due_ns:
                self._wait_ns = min(2 * self._wait_ns, self._timing.again_max_ns)
                self._schedule(now_ns)
                self._queue = list(self._flight)
        found, self._queue = self._queue, []
        return found

    def timer(self) -> int | None:
        """Return when ``to_send`` is due."""
        if self._queue:
            return 0
        if self.over:
            return None
        if self._role == RESPONDER:
            return self._deadline_ns
        return min(self._due_ns, self._deadline_ns)

    def next_event(self) -> Established | Failed | None:
        """Return what has happened, once."""
        return self._events.popleft() if self._events else None

    def nudge(self, now_ns: int) -> None:
        """Send again at once: there was no way to the other side, and now there is."""
        self._due_ns = now_ns

    @property
    def over(self) -> bool:
        """Whether nothing more will happen on this side's own account."""
        return self.state in (State.ESTABLISHED, State.ACCEPTED, State.FAILED)

    # ---- Sending ----

    def _send(self, flight: list[Message], now_ns: int) -> None:
        self._flight = flight
        self._queue += flight
        self._wait_ns = self._timing.first_ns
        self._schedule(now_ns)

    def _schedule(self, now_ns: int) -> None:
        """Set when to send again: three quarters to five quarters of the time."""
        share = 768 + 2 * self._entropy(1)[0]
        self._due_ns = now_ns + self._wait_ns * share // 1024

    def _pieces(self, kind: int, body: bytes) -> list[Message]:
        assert len(body) <= BODY_MAX
        return [
            Message(kind, Piece(self.attempt, offset, len(body), data, self._cookie).pack())
            for offset, data in split(body, PIECE_SIZE)
        ]

    def _repeat(self, piece: Piece, now_ns: int) -> None:
        """The other side has not got our last answer, or its own message came twice."""
        if piece.offset or not self._flight or self._repeats == _REPEATS_MAX:
            return
        if now_ns < self._repeated_ns + _REPEAT_NS:
            return
        self._repeats += 1
        self._repeated_ns = now_ns
        self._queue = list(self._flight)

    def _fail(self, error: SecurityError, now_ns: int, *, tell: bool = True) -> None:
        told = whole(Type.AUTH_FAILURE, self.attempt, failure_body(error.code), self._cookie)
        # A handshake that nobody has answered yet has nobody to tell.
        tell = tell and self.state is not State.GREETING
        self.state = State.FAILED
        self._queue = []
        self._flight = []
        if tell:
            self._send([told], now_ns)
        self._forget()
        self._events.append(Failed(error.code, str(error), by_peer=False))

    def _refused(self, body: bytes, now_ns: int) -> None:
        code = parse_failure(body)
        again = code is Failure.COOKIE and self._renewals < _RENEWALS_MAX
        if again and self.state in (State.KEYING, State.PROVING):
            self._renewals += 1
            self._forget()
            self._queue = []
            self._greet(now_ns)
            return
        self.state = State.FAILED
        self._queue = []
        self._flight = []
        self._forget()
        what = f"the other side gave up: {code.name.lower()}, code {int(code)}"
        self._events.append(Failed(code, what, by_peer=True))

    def _forget(self) -> None:
        self._exchange = self._seal = self._outcome = None
        self._assembly = Assembly()

    # ---- The offers ----

    def _begin(self, choice: Choice, negotiate: bytes) -> None:
        """Both sides: the offers are known, the key exchange begins."""
        self._local.check_floor(choice, self._expected)
        self._choice = choice
        self._transcript = hashlib.sha256(_LABEL + self.attempt.to_bytes(8, "big")).digest()
        self._absorb(Type.NEGOTIATE, negotiate)
        self._exchange = self._local.exchange(self._transcript, choice, self._peer)
        self._assembly = Assembly()

    def _absorb(self, kind: int, body: bytes) -> None:
        head = self._transcript + bytes([kind]) + len(body).to_bytes(4, "big")
        self._transcript = hashlib.sha256(head + body).digest()

    def _greet(self, now_ns: int) -> None:
        """Initiator: begin, under a number that was never used."""
        self.attempt = int.from_bytes(self._entropy(8), "big")
        self._cookie = NO_COOKIE
        self._offer = self._local.offer(self._peer, self._entropy, self._extra)
        self._hello = self._offer.pack()
        self.state = State.GREETING
        self._send([whole(Type.HELLO, self.attempt, self._hello)], now_ns)

    def _choose(self, body: bytes, now_ns: int) -> None:
        """Initiator: the responder's offer came."""
        answer = HelloAck.parse(body)
        assert self._offer is not None
        theirs = Offer.parse(answer.offer)
        self.extra = theirs.extra
        choice = choose(self._offer, theirs)
        negotiate = Negotiate(self._hello, answer, choice.pack()).pack()
        self._begin(choice, negotiate)
        assert self._exchange is not None
        first = self._exchange.write()
        self._absorb(Type.KEY_EXCHANGE, first)
        self.state = State.KEYING
        flight = [whole(Type.NEGOTIATE, self.attempt, negotiate, self._cookie)]
        self._send(flight + self._pieces(Type.KEY_EXCHANGE, first), now_ns)

    # ---- The exchange ----

    def _challenge(self, body: bytes, now_ns: int) -> None:
        """Responder: the first message of the exchange came."""
        assert self._exchange is not None
        if self._exchange.read(body):
            raise SecurityError(Failure.MALFORMED, "KEY_EXCHANGE has more than keys")
        self._absorb(Type.KEY_EXCHANGE, body)
        second = self._exchange.write(self._own_card())
        self._absorb(Type.AUTH_CHALLENGE, second)
        self.state = State.CHALLENGED
        self._send(self._pieces(Type.AUTH_CHALLENGE, second), now_ns)

    def _own_card(self) -> bytes:
        assert self._choice is not None
        if self._choice.mode not in _USES_CARDS:
            return b""
        return self._local.identity.card.having(self._choice.signatures).pack()

    def _respond(self, body: bytes, now_ns: int) -> None:
        """Initiator: the second message came; who the responder is, is known from here on."""
        assert self._exchange is not None
        assert self._choice is not None
        payload = self._exchange.read(body)
        self._absorb(Type.AUTH_CHALLENGE, body)
        if self._choice.mode in _USES_CARDS:
            self._card = Card.parse(payload)
            self._check_pin(self._card)
        elif payload:
            raise SecurityError(Failure.MALFORMED, "AUTH_CHALLENGE has more than keys")
        third = self._exchange.write() if self._exchange.third else b""
        self._conclude(third)
        proof = self._proof()
        assert self._seal is not None
        response = sized(third) + self._seal.close(self._role, self._transcript, proof.pack())
        self._absorb(Type.AUTH_RESPONSE, response)
        self.state = State.PROVING
        self._send(self._pieces(Type.AUTH_RESPONSE, response), now_ns)

    def _check_pin(self, card: Card) -> None:
        assert self._peer is not None
        if self._peer.pin is not None and self._peer.pin != card.fingerprint:
            raise SecurityError(
                Failure.IDENTITY,
                f"{self._peer.name} should be {self._peer.pin} and is {card.fingerprint}",
            )

    def _conclude(self, third: bytes) -> Outcome:
        """Both sides: the exchange is at its end."""
        assert self._exchange is not None
        assert self._choice is not None
        self._absorb(Type.KEY_EXCHANGE, third)
        self._outcome = self._exchange.outcome()
        if self._role == INITIATOR and self._choice.mode in _USES_CARDS:
            self._check_static(self._outcome)
        elif self._peer is not None and self._choice.mode is Mode.MTLS:
            self._check_name(self._peer, self._outcome)
        self._binding = self._transcript + self._outcome.binding
        self._seal = Seal(self._outcome, self._choice.cipher, self._transcript)
        return self._outcome

    def _check_static(self, outcome: Outcome) -> None:
        if self._card is None or self._card.exchange != outcome.static:
            raise SecurityError(Failure.IDENTITY, "the key that is proven is not on the card")

    @staticmethod
    def _check_name(peer: Peer, outcome: Outcome) -> None:
        """Initiator: before we prove anything, and the other takes us for joined."""
        if outcome.name != peer.certificate_name:
            raise SecurityError(
                Failure.IDENTITY,
                f"{peer.name} should be {peer.certificate_name} and is {outcome.name}",
            )

    def _proof(self) -> Proof:
        assert self._choice is not None
        card = self._own_card() if self._role == INITIATOR else b""
        signatures = sign(self._local.identity, self._role, self._choice, self._binding)
        evidence = b""
        if self._outcome is not None and self._outcome.secret is not None:
            evidence = self._local.evidence(self._expected, self._shown_for(self._role))
        return Proof(self._terms, card, signatures, evidence)

    def _shown_for(self, role: str) -> bytes:
        """Return what a side's evidence is bound to: nobody can send it back, or on."""
        return b"\0".join([_EVIDENCE, role.encode(), self._binding])

    # ---- The proofs ----

    def _accept(self, body: bytes, now_ns: int) -> None:
        """Responder: the initiator's proof came."""
        assert self._exchange is not None
        reader = Reader(body, "AUTH_RESPONSE")
        third, sealed = reader.sized(BODY_MAX), reader.rest()
        if self._exchange.third:
            if self._exchange.read(third):
                raise SecurityError(Failure.MALFORMED, "the third message has more than keys")
        elif third:
            raise SecurityError(Failure.MALFORMED, "there is a third message where none should be")
        outcome = self._conclude(third)
        claim, terms = self._open(sealed, outcome)
        event = (*self._admit(claim), terms)
        if self._answer is not None:
            assert self._choice is not None
            self._terms = self._answer(self._choice, event[2], now_ns)
        proof = self._proof()
        self._absorb(Type.AUTH_RESPONSE, body)
        assert self._seal is not None
        success = self._seal.close(self._role, self._transcript, proof.pack())
        self.state = State.ACCEPTED
        self._send(self._pieces(Type.AUTH_SUCCESS, success), now_ns)
        self._establish(event, outcome)

    def _finish(self, body: bytes, _now_ns: int) -> None:
        """Initiator: the responder's proof came."""
        assert self._outcome is not None
        outcome = self._outcome
        claim, terms = self._open(body, outcome)
        self._flight = []
        try:
            event = (*self._admit(claim), terms)
        except SecurityError as error:
            self.state = State.FAILED
            believing = self._established((Grant(""), claim, terms), outcome)
            self._events.append(Failed(error.code, str(error), by_peer=False, believing=believing))
            self._forget()
            return
        self.state = State.ESTABLISHED
        self._establish(event, outcome)

    def _open(self, sealed: bytes, outcome: Outcome) -> tuple[Claim, bytes]:
        """Open the other's proof, verify it, and return what it has proven, and its terms."""
        assert self._seal is not None
        assert self._choice is not None
        choice = self._choice
        proof = Proof.parse(self._seal.open(self._other, self._transcript, sealed), choice)
        if self._role == RESPONDER and choice.mode in _USES_CARDS:
            self._card = Card.parse(proof.card)
            self._check_static(outcome)
        elif proof.card:
            raise SecurityError(Failure.MALFORMED, "a proof has a card where none should be")
        if choice.signatures:
            assert self._card is not None
            verify(self._card, self._other, choice, self._binding, proof.signatures)
        claim = Claim(
            choice.mode,
            outcome.quantum_safe,
            self._card,
            outcome.name,
            outcome.serials,
            proof.evidence,
            self._shown_for(self._other),
        )
        return claim, proof.terms

    def _admit(self, claim: Claim) -> tuple[Grant, Claim]:
        """Ask whether the other is let in."""
        expected = self._expected
        grant = self._local.trust.admit(claim, expected)
        if expected is not None and grant.peer not in ("", expected.name):
            raise SecurityError(
                Failure.IDENTITY, f"it should be {expected.name}, and {grant.peer} is there"
            )
        serials = claim.serials + grant.serials
        return grant, replace(claim, serials=serials, evidence=b"")

    def _establish(self, judged: tuple[Grant, Claim, bytes], outcome: Outcome) -> None:
        self._events.append(self._established(judged, outcome))
        self._forget()

    def _established(self, judged: tuple[Grant, Claim, bytes], outcome: Outcome) -> Established:
        grant, claim, terms = judged
        assert self._choice is not None
        schedule = None
        if outcome.secret is not None:
            schedule = Schedule(outcome.secret + outcome.binding, self._transcript)
        lifetimes = [grant.lifetime_ns] if grant.lifetime_ns is not None else []
        if self._choice.mode is Mode.ZERO_TRUST:
            lifetimes.append(self._local.policy.rhythm.lifetime_ns)
        lifetime_ns = min(lifetimes, default=None)
        return Established(self._choice, grant, schedule, claim, terms, lifetime_ns)

    TRANSITIONS: ClassVar[dict[tuple[State, int], str]] = {
        (State.GREETING, Type.HELLO_ACK): "_choose",
        (State.GREETING, Type.AUTH_FAILURE): "_refused",
        (State.KEYING, Type.AUTH_CHALLENGE): "_respond",
        (State.KEYING, Type.AUTH_FAILURE): "_refused",
        (State.PROVING, Type.AUTH_SUCCESS): "_finish",
        (State.PROVING, Type.AUTH_FAILURE): "_refused",
        (State.LISTENING, Type.KEY_EXCHANGE): "_challenge",
        (State.LISTENING, Type.AUTH_FAILURE): "_refused",
        (State.CHALLENGED, Type.KEY_EXCHANGE): "_repeat",
        (State.CHALLENGED, Type.AUTH_RESPONSE): "_accept",
        (State.CHALLENGED, Type.AUTH_FAILURE): "_refused",
        (State.ACCEPTED, Type.AUTH_RESPONSE): "_repeat",
        (State.FAILED, Type.NEGOTIATE): "_repeat",
        (State.FAILED, Type.KEY_EXCHANGE): "_repeat",
        (State.FAILED, Type.AUTH_RESPONSE): "_repeat",
    }
    """Method by state and message."""
