"""Daemons that die while a session is made anew: whichever, whenever, no stream is lost.

A daemon that dies leaves its node's row and worker behind: the worker answers questions, and the
next daemon goes on with what stands in the row.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.controlplane.meeting import MS, PEER, SECOND, Meeting
from valkyrie.controlplane.security.modes import Mode
from valkyrie.controlplane.sessions.link import Link
from valkyrie.controlplane.sessions.lives import spoken
from valkyrie.controlplane.sessions.protection import Protection
from valkyrie.controlplane.sessions.session import State
from valkyrie.controlplane.sessions.table import Place
from valkyrie.dataplane.control import Limits, Ping, Pong, SessionTerms, parse_control

_HANDSHAKE = {Mode.NOISE: 7, Mode.POST_QUANTUM: 12}
"""Messages of a handshake, with all their pieces."""
TURNS = [
    (mode, second, messages)
    for mode, all_ in _HANDSHAKE.items()
    for second in "ab"
    for messages in range(1, all_ + 1)
    if mode is Mode.NOISE or messages % 3 == 0
]

BEHIND = [30, 253, 275]
"""A daemon knows only the session before, and its peer's dies when it asks: nobody can answer."""


class Mortals(Meeting):
    """Two nodes whose daemons die, and come again after a while."""

    def __init__(self, mode: Mode, seed: int = 0) -> None:
        super().__init__(seed, mode=mode, eager=True)
        self.dead: dict[str, int] = {}
        """When the next daemon begins, by node."""
        self.rows: dict[str, Link] = {}
        """What the dead ones have left."""
        self.messages = 0
        """Of daemons, sent so far."""
        self.doom: list[tuple[int, str]] = []
        """After how many messages whose daemon dies."""

    def _put(self, sender: str, to: Place, what: object) -> None:
        if sender in self.dead:
            return
        super()._put(sender, to, what)
        if isinstance(what, bytes) and not isinstance(parse_control(what), Ping | Pong):
            self.messages += 1

    def kill(self, name: str, after_ns: int) -> None:
        """Let a daemon die, and another one begin after some time."""
        if name in self.dead:
            return
        session = self.sides[name].sessions[PEER]
        assert session.link is not None, "its streams are gone"
        self.dead[name] = self.now_ns + after_ns
        self.rows[name] = in_row(session.link)
        session.link = session._attempt = None  # nothing is done any more
        session.state, session.terms = State.DOWN, replace(self.terms, eager=False)

    def _revive(self, name: str) -> None:
        side, link = self.sides[name], self.rows.pop(name)
        del self.dead[name]
        incarnation = side.sessions.incarnation
        self.sides[name] = fresh = self._make(name, str(side.place.address))
        fresh.sessions.incarnation = fresh.sessions[PEER].incarnation = incarnation
        fresh.sessions._door._extra = spoken(incarnation)
        fresh.epoch, fresh.seals, fresh.opens = side.epoch, side.seals, side.opens
        fresh.ended = side.ended
        fresh.sessions.restore(PEER, link, self.now_ns)

    def _deliver(self, sender: str, to: Place, what: object) -> None:
        receiver = self.other(sender)
        if receiver.name not in self.dead:
            super()._deliver(sender, to, what)
            return
        link = self.rows[receiver.name]  # its worker is there
        if isinstance(what, bytes):
            message = parse_control(what)
            if isinstance(message, Ping) and link.protection.proves(message):
                pong = link.protection.prove(Pong(message.token)).pack()
                super()._put(receiver.name, self.sides[sender].place, pong)

    def pass_time(self, ns: int) -> None:
        """Let time pass, and those die whose time has come; streams are open all the while."""
        end_ns = self.now_ns + ns
        while self.now_ns < end_ns:
            for name, side in self.sides.items():
                if name not in self.dead:
                    side.sessions[PEER].expect(self.now_ns, expecting=True)
            self.run(MS // 2)
            for due, name in [each for each in self.doom if each[0] <= self.messages]:
                self.doom.remove((due, name))
                self.kill(name, 300 * MS)
            for name in [each for each, at_ns in self.dead.items() if at_ns <= self.now_ns]:
                self._revive(name)


def in_row(link: Link) -> Link:
    """Return what a daemon finds of a session in its node's row and key ring."""
    kept = link.protection
    return replace(
        link,
        asked=link.before == (0, 0),
        protection=Protection(cipher=kept.cipher, ours=kept.ours, theirs=kept.theirs),
    )


def met(mode: Mode, seed: int) -> Mortals:
    meeting = Mortals(mode, seed)
    meeting.want("a")
    meeting.pass_time(50 * MS)
    meeting.agree()
    return meeting


def both_go_on(meeting: Mortals) -> None:
    assert not meeting.dead
    meeting.agree()
    for side in meeting.sides.values():
        assert side.ended == []
        assert side.up


@pytest.mark.parametrize(("mode", "second", "messages"), TURNS)
def test_two_daemons_that_die_in_turn_cost_no_stream(
    mode: Mode, second: str, messages: int
) -> None:
    meeting = met(mode, messages)
    meeting.kill("a", 10 * MS)
    meeting.doom = [(meeting.messages + messages, second)]
    meeting.pass_time(6 * SECOND)
    assert meeting.doom == []
    both_go_on(meeting)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", [*range(24), *BEHIND])
def test_daemons_that_die_again_and_again_cost_no_stream(seed: int) -> None:
    meeting = met(Mode.NOISE, seed)
    at = meeting.messages
    for _ in range(meeting.random.randint(2, 5)):
        at += meeting.random.randint(1, 12)
        meeting.doom.append((at, meeting.random.choice("ab")))
    meeting.kill(meeting.random.choice("ab"), 10 * MS)
    meeting.pass_time(20 * SECOND)
    both_go_on(meeting)


def test_two_that_each_went_on_from_one_session_go_on_from_there() -> None:
    a = Link(11, 21, incarnation=2, limits=Limits(), since_ns=0, before=(10, 20))
    b = Link(22, 12, incarnation=1, limits=Limits(), since_ns=0, before=(20, 10))
    offer = SessionTerms(1, 5, 13, a.remote, options=a.options())
    assert b.continued(offer) == b.before
    assert a.continued(SessionTerms(2, 5, 23, b.before[1])) == a.before
    assert b.continued(replace(offer, options=())) is None
    assert replace(b, before=(0, 0)).continued(offer) is None
