"""zero_trust: each side of a session asks the other, again and again, to prove itself anew.

    reproof.concerns(message)         whether it is for this session
    reproof.receive(message, now_ns)  take it in
    reproof.to_send(now_ns)           messages to send now; does what is due
    reproof.timer()                   when to call ``to_send`` again
    reproof.failure                   why the session must end now; None: it may go on

Questions are counted. The one who asks sends a number that was never used, the other answers with a
signature of each kind over it and a secret of this session: that shows that it still has its
identity's keys, is made after the question, and is of no use anywhere else. Both go sealed, in
pieces that are sent again until the answer is whole (``envelope.py``), under keys of this question
of this session. The next question comes only when this one is answered, so each side knows which
one can come: whatever was recorded is of a question that nobody waits for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag

from valkyrie.dataplane.signing.signature import SIGNATURE_SIZES
from valkyrie.dataplane.wire import Type

from .codes import Failure
from .envelope import Envelope
from .errors import SecurityError
from .handshake import INITIATOR, RESPONDER, Established
from .identity import Identity
from .keys import expand
from .modes import PROVEN_ANEW
from .offer import Reader, sized
from .proof import sign, verify

if TYPE_CHECKING:
    from valkyrie.dataplane.control import Message

    from .local import Entropy, Local
    from .modes import Cipher, Rhythm

NONCE_SIZE = 32
_LABEL = "re-proof"
_BINDING_SIZE = 32
_COUNT_SIZE = 8
_TRIES_MIN = 4
"""Nobody is late who was asked less often: it is us who stood still."""


class _Round:
    """One question of one side, and its answer."""

    __slots__ = ("answer", "asker", "count", "question", "sealed")

    def __init__(self, secret: bytes, cipher: Cipher, asker: str, count: int) -> None:
        self.asker = asker
        self.count = count
        context = count.to_bytes(_COUNT_SIZE, "big") + asker.encode()
        self.question = Envelope(secret, cipher, Type.AUTH_CHALLENGE, context)
        self.answer = Envelope(secret, cipher, Type.AUTH_RESPONSE, context)
        self.sealed: list[Message] = []
        """Of who has it: the question, or the answer, as it is sent again."""


class Reproof:
    """One side of one session; both sides ask and answer."""

    def __init__(
        self,
        identity: Identity,
        session: Established,
        entropy: Entropy,
        now_ns: int,
        *,
        initiator: bool,
        rhythm: Rhythm,
    ) -> None:
        card, schedule = session.claim.card, session.schedule
        assert session.choice.signatures, "only the modes that sign can prove anew"
        assert card is not None
        assert schedule is not None
        self._identity = identity
        self._card = card
        self._choice = session.choice
        # Not the schedule: the keys of frames that have passed could be had from it.
        self._secret = schedule.export(_LABEL, b"")
        self._entropy = entropy
        self._rhythm = rhythm
        self._role, self._other = (INITIATOR, RESPONDER) if initiator else (RESPONDER, INITIATOR)
        self._ours = self._round(self._role, 0)
        """Our question: the next, or the one that is not answered."""
        self._theirs = self._round(self._other, 0)
        """Their question: the one that we answered last, or the first."""
        self._next = self._theirs
        """The one that they may ask after it."""
        self._nonce: bytes | None = None
        """Of our question; None: it is not asked yet."""
        self._due_ns = now_ns + rhythm.every_ns
        """When to ask, or ask again."""
        self._late_ns = 0
        self._tries = 0
        self._signed_ns: int | None = None
        self._repeated_ns = 0
        self._queue: list[Message] = []
        self.failure: SecurityError | None = None
        self.proven_ns = now_ns
        """When the other side last proved itself."""

    @classmethod
    def of(
        cls, local: Local, session: Established, entropy: Entropy, now_ns: int, *, initiator: bool
    ) -> Reproof | None:
        """Return what a node keeps to with a new session; None: its mode asks for no more."""
        if session.choice.mode not in PROVEN_ANEW:
            return None
        rhythm = local.policy.rhythm
        return cls(local.identity, session, entropy, now_ns, initiator=initiator, rhythm=rhythm)

    def _round(self, asker: str, count: int) -> _Round:
        return _Round(self._secret, self._choice.cipher, asker, count)

    def _binding(self, asked: _Round, nonce: bytes) -> bytes:
        """Return what is signed; what a handshake signs is longer."""
        context = asked.count.to_bytes(_COUNT_SIZE, "big") + asked.asker.encode() + nonce
        return _LABEL.encode() + expand(self._secret, "binding", context, _BINDING_SIZE)

    def concerns(self, message: Message) -> bool:
        """Say whether a message is one that this session waits for, or claims to be."""
        return any(each.concerns(message) for each in self._envelopes())

    def _envelopes(self) -> tuple[Envelope, ...]:
        return self._ours.answer, self._theirs.question, self._next.question

    def receive(self, message: Message, now_ns: int) -> bool:
        """Take a message in; False: the other side did not make it. Never raises for what it is."""
        if self.failure is not None:
            return True
        try:
            if self._ours.answer.concerns(message):
                if self._nonce is not None and (body := self._ours.answer.add(message)) is not None:
                    self._check(body, now_ns)
            elif self._theirs.sealed and self._theirs.question.concerns(message):
                self._theirs.question.add(message)
                self._repeat(now_ns)
            elif self._next.question.concerns(message):
                self._answer(message, now_ns)
        except InvalidTag:
            return False
        except SecurityError as error:
            self.failure = error
        return True

    # ---- Answering ----

    def _answer(self, message: Message, now_ns: int) -> None:
        if self._signed_ns is not None and now_ns < self._signed_ns + self._rhythm.again_ns:
            return  # a signature takes a millisecond; who means it asks again
        body = self._next.question.add(message)
        if body is None or len(body) != NONCE_SIZE:
            raise SecurityError(Failure.MALFORMED, "a challenge is not as long as it should be")
        self._signed_ns = self._repeated_ns = now_ns
        asked = self._theirs = self._next
        self._next = self._round(self._other, asked.count + 1)
        binding = self._binding(asked, body)
        signatures = sign(self._identity, self._role, self._choice, binding)
        asked.sealed = asked.answer.seal(b"".join(sized(each) for each in signatures))
        self._queue += asked.sealed

    def _repeat(self, now_ns: int) -> None:
        """Say the last answer again: it was lost, or the question was recorded."""
        if now_ns >= self._repeated_ns + self._rhythm.again_ns // 2:
            self._repeated_ns = now_ns
            self._queue += self._theirs.sealed

    # ---- Asking ----

    def _check(self, body: bytes, now_ns: int) -> None:
        assert self._nonce is not None
        reader = Reader(body, "a proof")
        signatures = tuple(reader.sized(SIGNATURE_SIZES[each]) for each in self._choice.signatures)
        reader.end()
        binding = self._binding(self._ours, self._nonce)
        verify(self._card, self._other, self._choice, binding, signatures)
        self._nonce = None
        self._ours = self._round(self._role, self._ours.count + 1)
        self.proven_ns = now_ns
        self._due_ns = now_ns + self._rhythm.every_ns

    def to_send(self, now_ns: int) -> list[Message]:
        """Return what to send, once; does what is due."""
        if self._nonce is not None and now_ns >= self._late_ns:
            self._miss(now_ns)
        if self.failure is not None:
            return []
        if now_ns >= self._due_ns:
            if self._nonce is None:
                self._nonce = self._entropy(NONCE_SIZE)
                self._ours.sealed = self._ours.question.seal(self._nonce)
                self._late_ns = now_ns + self._rhythm.answer_ns
                self._tries = 0
            self._tries += 1
            self._due_ns = now_ns + self._rhythm.again_ns
            self._queue += self._ours.sealed
        found, self._queue = self._queue, []
        return found

    def _miss(self, now_ns: int) -> None:
        """The answer is late, unless nobody here has asked for it in earnest."""
        if self._tries < _TRIES_MIN:
            self._tries = _TRIES_MIN  # once: who is stopped again and again finds no end
            self._due_ns = now_ns
            self._late_ns = now_ns + _TRIES_MIN * self._rhythm.again_ns
        elif self.failure is None:
            what = "the peer did not prove itself anew in time"
            self.failure = SecurityError(Failure.TIMEOUT, what)

    def timer(self) -> int | None:
        """Return when ``to_send`` is due."""
        if self.failure is not None:
            return None
        if self._queue:
            return 0
        return self._due_ns if self._nonce is None else min(self._due_ns, self._late_ns)
