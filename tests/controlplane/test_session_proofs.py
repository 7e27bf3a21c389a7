"""Sessions in mode zero_trust: who does not prove itself again and again is out."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.controlplane.meeting import MS, PEER, SECOND, Meeting, locals_of
from tests.controlplane.security.parties import identity, only
from valkyrie.controlplane.security.modes import Mode, Rhythm
from valkyrie.controlplane.sessions.link import Left
from valkyrie.controlplane.sessions.protection import Protection
from valkyrie.controlplane.sessions.table import Place
from valkyrie.dataplane.wire import Code


def anew(**rhythm: int) -> Meeting:
    """Return a meeting in mode zero_trust."""
    meeting = Meeting(locals_=locals_of(only(Mode.ZERO_TRUST, rhythm=Rhythm(**rhythm))))
    meeting.want("a")
    meeting.run(50 * MS)
    meeting.agree()
    return meeting


def proven_s(meeting: Meeting) -> list[float]:
    """Return how long ago each side's peer has proven itself."""
    found = []
    for side in meeting.sides.values():
        reproof = side.sessions[PEER].reproof
        assert reproof is not None
        found.append((meeting.now_ns - reproof.proven_ns) / SECOND)
    return found


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_both_prove_themselves_every_minute_whatever_is_lost(loss: float) -> None:
    meeting = anew()
    chance = random.Random(1)
    meeting.fate = lambda: [MS // 2] if chance.random() >= loss else []
    session, ages = meeting.a.sessions[PEER], []
    for _ in range(1000):
        meeting.run(SECOND)
        ages += proven_s(meeting)
    meeting.run(5 * SECOND)
    assert 59 < max(ages) < (61 if not loss else 70)
    meeting.agree()
    assert not meeting.a.ended + meeting.b.ended
    assert session.refused.total() == meeting.b.sessions.refused.total() == 0 or loss


def test_a_peer_that_is_alive_and_does_not_prove_itself_is_out() -> None:
    meeting = anew(every_ns=5 * SECOND, answer_ns=SECOND)
    for side in meeting.sides.values():
        side.sessions[PEER].expect(meeting.now_ns, expecting=True)
    meeting.b.sessions[PEER].reproof = None  # PING it answers, as workers do
    meeting.run(5 * SECOND)
    assert meeting.a.up
    meeting.run(SECOND)
    for side in meeting.sides.values():  # the other one hears of it
        assert side.ended == [Code.HANDSHAKE_TIMEOUT]
        assert side.sessions[PEER].link is None
    assert isinstance(meeting.a.events[-1], Left)
    assert meeting.a.events[-1].why.startswith("the peer did not prove itself anew in time")
    meeting.want("a")  # who proves all that a handshake asks for may come back
    meeting.run(10 * SECOND)
    meeting.agree()


def test_a_peer_that_proves_something_else_is_out() -> None:
    meeting = anew(every_ns=5 * SECOND)
    reproof = meeting.b.sessions[PEER].reproof
    assert reproof is not None
    reproof._identity = identity("mallory")
    meeting.run(6 * SECOND)
    assert meeting.a.ended == meeting.b.ended == [Code.UNPROVEN]
    assert isinstance(meeting.a.events[-1], Left)
    assert "does not verify" in meeting.a.events[-1].why


def test_a_proof_is_asked_for_while_the_session_is_made_anew() -> None:
    meeting = anew(every_ns=5 * SECOND, answer_ns=SECOND)
    meeting.run(SECOND)
    reproof = meeting.b.sessions[PEER].reproof
    assert reproof is not None
    reproof._identity = identity("mallory")
    meeting.sides["a"].sessions[PEER]._local = replace(
        meeting.locals["a"], identity=identity("eve")
    )
    meeting.a.sessions.renew(PEER, meeting.now_ns)  # nobody takes eve
    meeting._collect("a")
    meeting.run(4 * SECOND + MS)
    assert Code.UNPROVEN in meeting.a.ended
    assert meeting.a.sessions[PEER].link is None


def test_a_forged_proof_is_counted_and_does_nothing() -> None:
    meeting = anew()
    seen: list[bytes] = []
    original = meeting.a.sessions.receive

    def spy(place: Place, data: bytes, now_ns: int) -> None:
        seen.append(data)
        original(place, data[:-1] + bytes([data[-1] ^ 1]), now_ns)
        original(place, data, now_ns)

    meeting.a.sessions.receive = spy  # type: ignore[method-assign]
    meeting.run(61 * SECOND)
    assert max(proven_s(meeting)) < 2
    assert meeting.a.sessions.refused["unproven proof"] == len(seen) > 3
    meeting.run(60 * SECOND)
    for data in seen:
        original(meeting.b.place, data, meeting.now_ns)
    assert meeting.a.up
    assert not meeting.a.ended + meeting.b.ended


@pytest.mark.parametrize("mute", [False, True])
def test_the_next_daemon_lets_a_peer_stay_only_when_it_proves_itself_at_once(mute: bool) -> None:
    meeting = anew(answer_ns=5 * SECOND)
    old, epoch = meeting.a.sessions[PEER].link, meeting.a.epoch
    assert old is not None
    incarnation = meeting.a.sessions.incarnation
    meeting.restart("a")
    meeting.a.sessions.incarnation = meeting.a.sessions[PEER].incarnation = incarnation
    meeting.a.epoch = epoch
    kept = Protection(old.protection.cipher, ours=old.protection.ours, theirs=old.protection.theirs)
    meeting.a.sessions.restore(PEER, replace(old, protection=kept), meeting.now_ns)
    meeting.cut = mute
    meeting.run(4 * SECOND)
    assert meeting.a.sessions[PEER].link is not None
    meeting.run(2 * SECOND)
    if mute:
        assert meeting.a.sessions[PEER].link is None
    else:
        meeting.agree()
        assert max(proven_s(meeting)) < 7
    assert bool(meeting.a.ended) == mute
