"""Many peers: time costs what is due, and nothing that is due is forgotten."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.controlplane.meeting import MS, SECOND, local_of
from tests.controlplane.security.parties import only, peer
from tests.controlplane.security.test_token import DATA, Node
from valkyrie.controlplane.security.modes import Mode
from valkyrie.controlplane.sessions.link import Left, Link, Quiet, Terms
from valkyrie.controlplane.sessions.liveness import Patience
from valkyrie.controlplane.sessions.session import Session
from valkyrie.controlplane.sessions.table import BEGIN_MAX, Place, Sessions
from valkyrie.dataplane import lib
from valkyrie.dataplane.control import Error, Limits, Ping, Pong, parse_control
from valkyrie.dataplane.wire import Code

PEERS = 200
QUIET = Terms(Limits(), Patience(100 * MS), eager=False)


@pytest.fixture(name="turns")
def _turns(monkeypatch: pytest.MonkeyPatch) -> Counter[Session]:
    """How often each session was advanced."""
    turns, advance = Counter[Session](), Session.advance

    def counted(session: Session, now_ns: int, *, may_begin: bool) -> None:
        turns[session] += 1
        advance(session, now_ns, may_begin=may_begin)

    monkeypatch.setattr(Session, "advance", counted)
    return turns


@pytest.fixture(name="sessions")
def _sessions(turns: Counter[Session]) -> Sessions:
    """A node in a session with each of its peers, which have been quiet since."""
    local = local_of("alice", only(Mode.PLAINTEXT), knows="bob")
    sessions = Sessions(1, local, random.Random(1).randbytes)
    for index in range(PEERS):
        known = replace(peer("bob"), name=f"peer{index}")
        sessions.add(index, place(index), known, QUIET, 0)
        sessions.restore(index, Link(index + 1, index + 1, 7, Limits(), 0), 0)
    sessions.advance(1)
    turns.clear()
    return sessions


def place(index: int) -> Place:
    return Place(ip_address("10.0.0.1") + index, lib.VK_PORT)


def test_quiet_sessions_are_left_alone(sessions: Sessions, turns: Counter[Session]) -> None:
    assert sessions.deadline_ns() is None
    for tick in range(100):
        now_ns = SECOND + tick * 50 * MS
        for index in range(PEERS):
            sessions.look(index, now_ns, heard_ns=now_ns - MS, expecting=False)
        sessions.advance(now_ns)
    assert not turns
    assert sessions[0].liveness.heard_ns == now_ns - MS


def test_of_many_peers_the_one_with_streams_is_missed_as_soon_as_of_one(
    sessions: Sessions, turns: Counter[Session]
) -> None:
    sessions.look(7, SECOND, heard_ns=SECOND, expecting=True)
    asked, insisted, now_ns = [], [], SECOND
    while (due_ns := sessions.deadline_ns()) is not None and now_ns < 3 * SECOND:
        now_ns = max(due_ns, now_ns)
        sessions.advance(now_ns)
        insisted += [(index, now_ns) for index, _, _ in sessions.take_messages()]
        events = sessions.take_events()
        asked += [(index, now_ns) for index, event in events if event == Quiet()]
    interval_ns, tries = QUIET.patience.interval_ns, QUIET.patience.tries
    assert asked == [(7, SECOND + each * interval_ns) for each in range(1, tries + 1)]
    assert insisted == asked[-1:], "the last one goes outside the session, too"
    assert events == [(7, Left(Code.UNREACHABLE))]
    assert now_ns == SECOND + (tries + 1) * interval_ns
    assert set(turns) == {sessions[7]}


def test_signs_of_life_put_off_when_a_peer_is_asked(
    sessions: Sessions, turns: Counter[Session]
) -> None:
    for tick in range(1, 200):
        now_ns = tick * 50 * MS
        sessions.look(7, now_ns, heard_ns=now_ns, expecting=True)
        sessions.advance(now_ns)
    assert not sessions.take_messages()
    assert turns.total() < 110, "once an interval, not once a tick"
    sessions.look(7, now_ns, heard_ns=now_ns, expecting=False)
    sessions.advance(now_ns)
    assert sessions.deadline_ns() is None


def test_what_came_just_now_counts_before_a_peer_is_given_up(sessions: Sessions) -> None:
    sessions.look(7, SECOND, heard_ns=SECOND, expecting=True)
    heard_ns = SECOND
    sessions.heard_ns = lambda _index: heard_ns
    for _ in range(20):
        due_ns = sessions.deadline_ns()
        assert due_ns is not None
        sessions.advance(due_ns)
        heard_ns = due_ns + MS
    assert all(event == Quiet() for _, event in sessions.take_events())
    assert not sessions.take_messages()


def test_a_session_that_somebody_changes_has_its_turn(
    sessions: Sessions, turns: Counter[Session]
) -> None:
    session = sessions[3]
    session.terms = replace(session.terms, eager=True)
    sessions.close(3, Code.SESSION_CLOSED, SECOND)
    sessions.take_messages()
    due_ns = sessions.deadline_ns()
    assert due_ns == SECOND + QUIET.again_ns
    sessions.advance(due_ns - 1)
    assert not sessions.take_messages()
    sessions.advance(due_ns)
    assert [index for index, _, _ in sessions.take_messages()] == [3]
    assert set(turns) == {session}


def test_all_are_told_when_other_classes_want_tokens(
    sessions: Sessions, turns: Counter[Session]
) -> None:
    node = Node(SECOND)
    node.issuer.classes = 0
    node.pass_time(0)
    sessions.issuer = node.issuer
    sessions.advance(SECOND)
    turns.clear()
    sessions.advance(SECOND + MS)
    assert not sessions.take_messages()
    assert not turns
    node.issuer.classes = DATA
    sessions.advance(SECOND + 2 * MS)
    told = [index for index, _, data in sessions.take_messages() if _tells(data)]
    assert told == list(range(PEERS))


def _tells(data: bytes) -> bool:
    message = parse_control(data)
    return isinstance(message, Ping) and message.option(lib.VK_OPTION_TOKEN) is not None


def test_every_peer_that_has_moved_is_found_by_its_own_answer(sessions: Sessions) -> None:
    for index in range(PEERS):
        sessions.found_at(index, place(index + PEERS), SECOND)
    asked = [(index, parse_control(data)) for index, _, data in sessions.take_messages()]
    assert len(asked) == PEERS
    for index, question in reversed(asked):
        assert isinstance(question, Ping)
        other = place((index + 1) % PEERS + PEERS)
        sessions.receive(other, _pong(question), SECOND + MS)
        assert sessions.place(index) == place(index), "another one's answer"
        sessions.receive(place(index + PEERS), _pong(question), SECOND + MS)
        assert sessions.place(index) == place(index + PEERS)


def test_of_peers_that_move_behind_one_address_at_once_the_faster_one_has_it(
    sessions: Sessions,
) -> None:
    shared = place(2 * PEERS)
    for index in (1, 2):
        sessions.found_at(index, replace(shared, udp_port=index), SECOND)
    for index, there, data in reversed(sessions.take_messages()):
        question = parse_control(data)
        assert isinstance(question, Ping)
        sessions.receive(there, _pong(question), SECOND + MS)
        assert sessions.place(index) == (there if index == 2 else place(1))
    sessions.remove(1)
    assert sessions.refused["address taken"] == 1
    sessions.receive(shared, Error(Code.SESSION_UNKNOWN, 0).pack(), SECOND + MS)
    assert not sessions.refused["stranger"]


def _pong(question: Ping) -> bytes:
    return Pong(question.token).pack()


EAGER = replace(QUIET, eager=True)


def test_many_handshakes_begin_by_turns_and_hold_up_nobodys_silence() -> None:
    local = local_of("alice", only(Mode.PLAINTEXT), knows="bob")
    sessions = Sessions(1, local, random.Random(1).randbytes)
    for index in range(PEERS):
        known = replace(peer("bob"), name=f"peer{index}")
        sessions.add(index, place(index), known, EAGER if index else QUIET, 0)
    sessions.restore(0, Link(1, 1, 7, Limits(), 0), 0)
    sessions.look(0, MS, heard_ns=MS, expecting=True)
    begun: list[int] = []
    turns, now_ns = 0, QUIET.patience.interval_ns + MS
    while len(begun) < PEERS - 1:
        sessions.advance(now_ns)
        found = [index for index, _, _ in sessions.take_messages()]
        asked = sessions.take_events()
        assert asked == [(0, Quiet())] * (turns == 0), "the one that may be dead is asked at once"
        assert 0 < len(found) <= BEGIN_MAX
        begun += found
        turns += 1
        due_ns = sessions.deadline_ns()
        assert due_ns is not None
        assert (due_ns <= now_ns) == (len(begun) < PEERS - 1)
    assert sorted(begun) == list(range(1, PEERS))


def test_a_peer_that_is_removed_before_its_turn_has_none() -> None:
    local = local_of("alice", only(Mode.PLAINTEXT), knows="bob")
    sessions = Sessions(1, local, random.Random(1).randbytes)
    for index in range(PEERS):
        known = replace(peer("bob"), name=f"peer{index}")
        sessions.add(index, place(index), known, EAGER, 0)
    sessions.advance(1)
    for index in range(PEERS):
        sessions.remove(index)
    sessions.take_messages()
    sessions.advance(2)
    assert not sessions.take_messages()
    assert sessions.deadline_ns() is None
