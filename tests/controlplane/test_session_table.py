"""The transitions of a session, one numbered row for every state and input; details of terms."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.controlplane.meeting import MS, PEER, SECOND, Meeting, local_of
from tests.controlplane.security.parties import only, peer
from valkyrie.controlplane.security.claim import Claim
from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.door import Door
from valkyrie.controlplane.security.errors import SecurityError
from valkyrie.controlplane.security.handshake import Established
from valkyrie.controlplane.security.messages import failure_body, whole
from valkyrie.controlplane.security.modes import Cipher, Mode
from valkyrie.controlplane.security.offer import Choice
from valkyrie.controlplane.security.trust import Grant
from valkyrie.controlplane.sessions.inputs import Renew, Silent, Unproven, Want
from valkyrie.controlplane.sessions.link import Joined, Left, Link, Terms
from valkyrie.controlplane.sessions.liveness import Patience
from valkyrie.controlplane.sessions.lives import spoken
from valkyrie.controlplane.sessions.seats import Ids, Seats
from valkyrie.controlplane.sessions.session import Session, State
from valkyrie.dataplane import lib
from valkyrie.dataplane.control import (
    Close,
    Error,
    Limits,
    Message,
    Ping,
    Pong,
    SessionTerms,
)
from valkyrie.dataplane.wire import Code, Type

OURS, THEIRS, OTHERS = 0x1111, 0x2222, 0x3333
"""Incarnations."""
LOCAL, REMOTE = 0x0A, 0x0B
"""Ids of the session that states with one have."""
TERMS = Terms(Limits(), Patience(100 * MS), eager=False)
TOKEN = 77
SEATS = Seats([0] * lib.VK_SEAT_KEYS)
PLAINTEXT = Choice(Mode.PLAINTEXT, None, Cipher.AES_256_GCM, ())


def offer(**changes: object) -> SessionTerms:
    return replace(
        SessionTerms(THEIRS, 5, REMOTE + 1, capabilities=1, required=1),
        **changes,  # type: ignore[arg-type]
    )


def made(seed: int = 1, seat: int = 0) -> Session:
    parties = local_of("alice", only(Mode.PLAINTEXT), knows="bob"), peer("bob")
    entropy = random.Random(seed).randbytes
    ids = Ids(SEATS, seat, entropy)
    return Session(OURS, parties, TERMS, entropy, 0, ids=ids)


def make(state: State, *, link: bool) -> Session:
    """Return a session in a state, with or without a session to lose."""
    session = made()
    if link:
        session.restore(Link(LOCAL, REMOTE, THEIRS, Limits(), 0, asked=True), 0)
        session._questions._asked.append((TOKEN, 0))
    if state is State.ASKING:
        session._begin(None, 0)
    else:
        session.take_messages()
    session.take_events()
    return session


def hello_ack(session: Session) -> Message:
    """Return the good answer to a session's HELLO; takes its messages."""
    door = Door(
        local_of("bob", only(Mode.PLAINTEXT), knows="alice"),
        random.Random(2).randbytes,
        extra=spoken(THEIRS),
    )
    for message in session.take_messages():
        assert isinstance(message, Message)
        door.receive(b"alice", message, 0)
    for _, message in door.take():
        return message
    return whole(Type.HELLO_ACK, 9, b"")


def inputs(session: Session) -> dict[str, object]:
    """Return one good instance of every input."""
    number = session.attempt or 9
    return {
        "want": Want(),
        "silent": Silent(),
        "renew": Renew(),
        "late": Unproven(SecurityError(Failure.TIMEOUT, "late")),
        "answer": hello_ack(session),
        "failure": whole(Type.AUTH_FAILURE, number, failure_body(Failure.IDENTITY)),
        "unknown": Error(Code.SESSION_UNKNOWN, REMOTE),
        "version": Error(Code.VERSION, REMOTE),
        "close": Close(Code.SESSION_CLOSED, LOCAL),
        "ping": Ping(TOKEN),
        "pong": Pong(TOKEN),
    }


# number, state, has a session, input: state after, messages, events
TABLE = """
 1 down   -    want    asking HELLO     -
 2 down   -    silent  down   -         -
 3 down   -    renew   down   -         -
 4 down   -    late    down   -         -
 5 down   -    answer  down   -         -
 6 down   -    failure down   -         -
 7 down   -    unknown down   -         -
 8 down   -    version down   -         -
 9 down   -    close   down   -         -
10 down   -    ping    down   PONG      -
11 down   -    pong    down   -         -
12 asking -    want    asking -         -
13 asking -    silent  asking -         Left
14 asking -    renew   asking -         -
15 asking -    late    asking -         -
16 asking -    answer  asking NEGOTIATE -
17 asking -    failure down   -         Left
18 asking -    unknown asking -         -
19 asking -    version asking -         -
20 asking -    close   asking -         -
21 asking -    ping    asking PONG      -
22 asking -    pong    asking -         -
23 asking link want    asking -         -
24 asking link silent  asking HELLO     Left
25 asking link renew   asking -         -
26 asking link late    asking CLOSE     Left
27 asking link answer  asking NEGOTIATE -
28 asking link failure down   -         Left
29 asking link unknown asking -         -
30 asking link version asking -         -
31 asking link close   asking HELLO     Left
32 asking link ping    asking PONG      -
33 asking link pong    asking -         -
34 up     link want    up     -         -
35 up     link silent  down   -         Left
36 up     link renew   asking HELLO     -
37 up     link late    down   CLOSE     Left
38 up     link answer  up     -         -
39 up     link failure up     -         -
40 up     link unknown asking HELLO     -
41 up     link version up     -         -
42 up     link close   down   -         Left
43 up     link ping    up     PONG      -
44 up     link pong    up     -         -
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row[:4]))
def test_every_state_takes_every_input_as_the_table_says(row: list[str]) -> None:
    _, state, link, name, after, message, event = row
    session = make(State(state), link=link == "link")
    assert session.state is State(state)
    given = inputs(session)[name]
    session._apply(given, SECOND // 20)
    found = [Type(each.type).name for each in session.take_messages()]
    happened = [type(each).__name__ for each in session.take_events()]
    assert session.state is State(after)
    assert found[:1] == ([] if message == "-" else [message])
    assert happened == ([] if event == "-" else [event])
    assert (session.link is not None) >= (session.state is State.UP)


def test_the_table_has_every_state_and_every_input_once() -> None:
    seen = [(state, link, name) for _, state, link, name, *_ in ROWS]
    names = inputs(make(State.DOWN, link=False))
    states = [("down", "-"), ("up", "link"), ("asking", "-"), ("asking", "link")]
    assert sorted(seen) == sorted((*state, name) for state in states for name in names)
    assert [int(row[0]) for row in ROWS] == list(range(1, len(ROWS) + 1))


# ---- Terms ----


def ask(session: Session, theirs: SessionTerms) -> tuple[SessionTerms, Joined]:
    """Let a peer ask, and be let in; returns our terms and what happened."""
    ours = SessionTerms.parse(session.answer(PLAINTEXT, theirs.payload(), SECOND))
    claim = Claim(Mode.PLAINTEXT)
    event = Established(PLAINTEXT, Grant(""), None, claim, theirs.payload(), None)
    session.accepted(event, SECOND)
    (joined,) = session.take_events()
    assert isinstance(joined, Joined)
    return ours, joined


@pytest.mark.parametrize("state", ["down -", "asking -", "asking link", "up link"])
def test_who_asks_and_is_let_in_has_joined_in_every_state(state: str) -> None:
    name, link = state.split()
    session = make(State(name), link=link == "link")
    ours, joined = ask(session, offer())
    assert session.state is State.UP
    assert session.attempt is None
    assert (joined.link.local, joined.link.remote) == (ours.session, REMOTE + 1)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (offer(session=0), Failure.MALFORMED),
        (offer(version=2), Failure.VERSION),
        (offer(required=0x80000000), Failure.VERSION),
        (offer(capabilities=0), Failure.VERSION),
    ],
)
def test_terms_that_do_not_fit_make_no_session(wrong: SessionTerms, code: Failure) -> None:
    session = make(State.DOWN, link=False)
    with pytest.raises(SecurityError) as caught:
        session.answer(PLAINTEXT, wrong.payload(), SECOND)
    assert caught.value.code is code
    assert session.link is None


def test_any_bytes_in_the_place_of_terms_make_no_session() -> None:
    session = make(State.DOWN, link=False)
    data = offer().payload()
    for wrong in (b"", data[:-1], data + b"x", data + b"\0\1\xff\xff"):
        with pytest.raises(SecurityError):
            session.answer(PLAINTEXT, wrong, SECOND)


def test_an_older_offer_than_the_last_and_the_last_once_more_are_refused() -> None:
    session = make(State.DOWN, link=False)
    ask(session, offer(attempt=6, session=8))
    for late in (5, 6):
        with pytest.raises(SecurityError):
            session.answer(PLAINTEXT, offer(attempt=late, session=7).payload(), SECOND)


def test_an_offer_of_a_former_life_is_refused_as_long_as_it_may_be_late() -> None:
    session = make(State.DOWN, link=False)
    ask(session, offer())
    ask(session, offer(incarnation=OTHERS))
    with pytest.raises(SecurityError):
        session.answer(PLAINTEXT, offer(attempt=99).payload(), SECOND)
    session.answer(PLAINTEXT, offer(attempt=99).payload(), 100 * SECOND)


def test_the_streams_stay_only_when_both_sides_have_the_session() -> None:
    numbered = {
        # 1: has a link, the peer's incarnation, what it continues, streams are lost
        1: (True, THEIRS, LOCAL, False),
        2: (True, THEIRS, 0, True),
        3: (True, THEIRS, LOCAL + 5, True),
        4: (True, OTHERS, LOCAL, True),
        5: (False, THEIRS, LOCAL, False),
    }
    for number, (link, incarnation, continues, lost) in numbered.items():
        session = make(State.UP if link else State.DOWN, link=link)
        ours, joined = ask(session, offer(incarnation=incarnation, continues=continues))
        assert joined.lost is lost, number
        assert ours.continues == (REMOTE if link and not lost else 0), number


def test_who_has_just_asked_is_given_time_to_learn_that_it_has_joined() -> None:
    session = make(State.DOWN, link=False)
    ask(session, offer())
    unknown = Error(Code.SESSION_UNKNOWN, REMOTE + 1)
    session.receive(unknown, SECOND + 100 * MS)
    assert session.attempt is None
    session.receive(unknown, SECOND + 500 * MS)
    assert session.attempt is not None


def test_attempts_rise_and_ids_are_never_zero_nor_repeated() -> None:
    session = made(3, seat=5)
    numbers, ids = [], []
    for i in range(200):
        session.want(i)
        assert session._attempt is not None
        numbers.append(session._attempt.offer.attempt)
        ids.append(session._attempt.offer.session)
        session.close(0, i)
    assert numbers == sorted(set(numbers))
    assert len(set(ids)) == len(ids)
    assert {SEATS.name(5, turn) for turn in range(lib.VK_SEAT_TURNS)}.issuperset(ids)


def test_retransmissions_back_off_with_jitter_and_end() -> None:
    meeting = Meeting()
    meeting.cut = True
    meeting.want("a")
    meeting.run(60 * SECOND)
    assert 4 <= meeting.datagrams <= 8
    assert meeting.a.sessions[PEER].state is State.DOWN
    (event,) = meeting.a.events
    assert isinstance(event, Left)
    assert (event.code, event.joined) == (Code.UNREACHABLE, False)
