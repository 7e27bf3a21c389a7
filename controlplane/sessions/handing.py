"""Which token the peer of a session has from us, and which we have from it. No I/O.

Both are said in the terms of a new session, so that not one frame goes without. What changes later
(a token gets old, the peer moves, other classes want one) is said by PING until a PONG has come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from valkyrie.controlplane.security.token import Told
from valkyrie.dataplane import lib
from valkyrie.dataplane.control import Option, Ping

if TYPE_CHECKING:
    from valkyrie.controlplane.security.token import Grant
    from valkyrie.dataplane.control import SessionTerms

_AGAIN_NS = 200_000_000
"""A PING without PONG is sent again after this time."""
_OFFERS_MAX = 8

Issue = Callable[[int, "Grant | None", int], "Grant | None"]
"""``issue(session, had, now_ns)`` returns what a peer who has taken ``had`` is to be told."""


@dataclass(slots=True)
class _Question:
    ping: Ping
    grant: Grant
    due_ns: int


class Handing:
    """The tokens of a session with one peer, and of those that follow it."""

    def __init__(self) -> None:
        self.issue: Issue = lambda _session, _had, _now_ns: None
        self._offered: dict[int, Grant] = {}
        """Said in terms, by our session id; the newest last."""
        self._had: Grant | None = None
        """What the peer has taken."""
        self._question: _Question | None = None
        self._number = 0
        """Of what the peer has told us last."""

    def offer(self, session: int, now_ns: int) -> tuple[Option, ...]:
        """Return what our terms say of tokens."""
        grant = self.issue(session, None, now_ns)
        if grant is None:
            return ()
        self._offered[session] = grant
        while len(self._offered) > _OFFERS_MAX:
            del self._offered[next(iter(self._offered))]
        return (Option(lib.VK_OPTION_TOKEN, grant.told.pack()),)

    def join(self, local: int, theirs: SessionTerms) -> Told | None:
        """Begin a session; return what the peer's terms say."""
        self._had = self._offered.get(local)
        self._offered.clear()
        self._question = None
        self._number = 0
        return self.take(theirs.option(lib.VK_OPTION_TOKEN), theirs.session)

    def leave(self) -> None:
        """End the session."""
        self._had = self._question = None

    @staticmethod
    def concerns(body: bytes, remote: int) -> bool:
        """Say whether a PING is about this session."""
        told = Told.parse(body)
        return told is not None and told.session == remote

    def take(self, body: bytes | None, remote: int) -> Told | None:
        """Return what the peer wants on our frames of this session, unless it comes late."""
        told = Told.parse(body) if body is not None else None
        if told is None or told.session != remote or told.number <= self._number:
            return None
        self._number = told.number
        return told

    def ask(self, local: int, now_ns: int, entropy: Callable[[int], bytes]) -> Ping | None:
        """Return the PING that is due, if one is."""
        question = self._question
        if question is not None:
            if now_ns < question.due_ns:
                return None
            newer = self.issue(local, question.grant, now_ns)
        else:
            newer = self.issue(local, self._had, now_ns)
            if newer is None:
                return None
        if newer is not None:
            option = Option(lib.VK_OPTION_TOKEN, newer.told.pack())
            ping = Ping(int.from_bytes(entropy(8), "big"), (option,))
            self._question = question = _Question(ping, newer, 0)
        assert question is not None
        question.due_ns = now_ns + _AGAIN_NS
        return question.ping

    def deadline_ns(self) -> int | None:
        """Return when ``ask`` is due, unless something changes before."""
        if self._question is not None:
            return self._question.due_ns
        had = self._had
        return had.renew_ns if had is not None and had.told.classes else None

    def asked(self, token: int) -> bool:
        """Say whether a PONG answers our PING."""
        return self._question is not None and self._question.ping.token == token

    def answered(self) -> None:
        """Note that it has come: the peer has taken the token."""
        assert self._question is not None
        self._had, self._question = self._question.grant, None

    def owing(self, local: int, now_ns: int) -> bool:
        """Say whether the peer has not yet taken what it is to have."""
        return self._question is not None or self.issue(local, self._had, now_ns) is not None
