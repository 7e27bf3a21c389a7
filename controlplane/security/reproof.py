"""zero_trust: each side of a session asks the other, again and again, to prove itself anew.

    reproof.receive(kind, body, now_ns)   AUTH_CHALLENGE or AUTH_RESPONSE of this session
    reproof.to_send(now_ns)               messages to send, under the session's protection
    reproof.timer()                       when to call ``to_send`` again
    reproof.failure                       why the session must end now; None: it may go on

A proof is a signature of each kind over a secret of this session and a number that was never used:
it shows that the other still has its identity's keys, and is of no use in any other session.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from valkyrie.dataplane.wire import Type

from .codes import Failure
from .errors import SecurityError
from .handshake import INITIATOR, RESPONDER, Established
from .identity import SIGNATURE_SIZES, Identity
from .offer import Reader, sized
from .proof import sign, verify

if TYPE_CHECKING:
    from .local import Entropy

SECOND_NS = 1_000_000_000
NONCE_SIZE = 32
_LABEL = "re-proof"


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often to ask, how often to repeat a question, and how long to wait for the answer."""

    every_ns: int = 60 * SECOND_NS
    again_ns: int = SECOND_NS
    answer_ns: int = 10 * SECOND_NS


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
        rhythm: Rhythm | None = None,
    ) -> None:
        card, schedule = session.claim.card, session.schedule
        assert session.choice.signatures, "only the modes that sign can prove anew"
        assert card is not None
        assert schedule is not None
        self._identity = identity
        self._card = card
        self._choice = session.choice
        self._schedule = schedule
        self._entropy = entropy
        self._rhythm = rhythm or Rhythm()
        self._role, self._other = (INITIATOR, RESPONDER) if initiator else (RESPONDER, INITIATOR)
        self._next_ns = now_ns + self._rhythm.every_ns
        self._nonce: bytes | None = None
        self._asked_ns = 0
        self._again_ns = 0
        self._answered: tuple[bytes, bytes] | None = None
        self._answered_ns = 0
        self._queue: list[tuple[int, bytes]] = []
        self.failure: SecurityError | None = None
        self.proven_ns = now_ns
        """When the other side last proved itself."""

    def _binding(self, nonce: bytes) -> bytes:
        return self._schedule.export(_LABEL, nonce)

    def receive(self, kind: int, body: bytes, now_ns: int) -> None:
        """Take a message of the other side in."""
        if self.failure is not None:
            return
        try:
            if kind == Type.AUTH_CHALLENGE:
                self._answer(body, now_ns)
            elif kind == Type.AUTH_RESPONSE:
                self._check(body, now_ns)
        except SecurityError as error:
            self.failure = error

    def _answer(self, body: bytes, now_ns: int) -> None:
        if len(body) != NONCE_SIZE:
            raise SecurityError(Failure.MALFORMED, "a challenge is not as long as it should be")
        if self._answered is None or self._answered[0] != body:  # a repetition costs no signature
            if self._answered is not None and now_ns < self._answered_ns + self._rhythm.again_ns:
                return  # nobody asks so often; a signature takes a millisecond
            self._answered_ns = now_ns
            signatures = sign(self._identity, self._role, self._choice, self._binding(body))
            self._answered = (body, body + b"".join(sized(each) for each in signatures))
        self._queue.append((Type.AUTH_RESPONSE, self._answered[1]))

    def _check(self, body: bytes, now_ns: int) -> None:
        reader = Reader(body, "a proof")
        nonce = reader.take(NONCE_SIZE)
        if self._nonce is None or not hmac.compare_digest(nonce, self._nonce):
            return  # late: answered already
        signatures = tuple(reader.sized(SIGNATURE_SIZES[each]) for each in self._choice.signatures)
        reader.end()
        verify(self._card, self._other, self._choice, self._binding(nonce), signatures)
        self._nonce = None
        self.proven_ns = now_ns
        self._next_ns = now_ns + self._rhythm.every_ns

    def to_send(self, now_ns: int) -> list[tuple[int, bytes]]:
        """Return (type, body) of what to send, once; does what is due."""
        if self.failure is not None:
            return []
        if self._nonce is None and now_ns >= self._next_ns:
            self._nonce = self._entropy(NONCE_SIZE)
            self._asked_ns = self._again_ns = now_ns
        if self._nonce is not None:
            if now_ns >= self._asked_ns + self._rhythm.answer_ns:
                what = "the peer did not prove itself anew in time"
                self.failure = SecurityError(Failure.TIMEOUT, what)
                return []
            if now_ns >= self._again_ns:
                self._again_ns = now_ns + self._rhythm.again_ns
                self._queue.append((Type.AUTH_CHALLENGE, self._nonce))
        found, self._queue = self._queue, []
        return found

    def timer(self) -> int | None:
        """Return when ``to_send`` is due."""
        if self.failure is not None:
            return None
        if self._queue:
            return 0
        if self._nonce is None:
            return self._next_ns
        return min(self._again_ns, self._asked_ns + self._rhythm.answer_ns)
