"""The transitions of a session, one numbered row for every state and input; and what strangers,
liars and broken senders get."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.controlplane.meeting import MS, PEER, SECOND, Meeting
from valkyrie.controlplane.cookie import KEY_SIZE, SLOT_NS, CookieJar
from valkyrie.controlplane.liveness import Liveness, Patience, Verdict
from valkyrie.controlplane.session import (
    Joined,
    Late,
    Left,
    Link,
    Session,
    Silent,
    State,
    Terms,
    Want,
)
from valkyrie.controlplane.sessions import AMPLIFICATION_MAX, Place
from valkyrie.dataplane import lib
from valkyrie.dataplane.control import (
    Answer,
    Close,
    Control,
    ControlError,
    Error,
    Hello,
    HelloAck,
    Limits,
    Offer,
    Option,
    Ping,
    Pong,
    parse_control,
)
from valkyrie.dataplane.errors import LocalProtocolError
from valkyrie.dataplane.wire import Code, Type, make_frame

OURS, THEIRS, OTHERS = 0x1111, 0x2222, 0x3333
"""Incarnations."""
LOCAL, REMOTE = 0x0A, 0x0B
"""Ids of the session that states with one have."""
COOKIE = Option(lib.VK_OPTION_COOKIE, bytes(lib.VK_COOKIE_SIZE))
TERMS = Terms(Limits(), Patience(100 * MS), eager=False)
TOKEN = 77


def offer(**changes: object) -> Offer:
    return replace(
        Offer(THEIRS, 5, REMOTE + 1, capabilities=1, required=1, options=(COOKIE,)),
        **changes,  # type: ignore[arg-type]
    )


def make(state: State, *, link: bool) -> Session:
    """Return a session in a state, with or without a session to lose."""
    session = Session(OURS, TERMS, random.Random(1).randbytes, 0)
    if link:
        session.restore(Link(LOCAL, REMOTE, THEIRS, Limits(), 0, asked=True), 0)
        session._asked.append((TOKEN, 0))
    if state in (State.GREETING, State.OFFERING):
        session._greet(Want(), 0)
    if state is State.OFFERING:
        assert session._attempt is not None
        session.receive(HelloAck(THEIRS, session._attempt.number, options=(COOKIE,)), 0)
    session.take_messages()
    session.take_events()
    return session


def inputs(session: Session) -> dict[str, object]:
    """Return one good instance of every input."""
    attempt = session._attempt
    number = attempt.number if attempt is not None else 9
    other = Option(lib.VK_OPTION_COOKIE, b"x" * lib.VK_COOKIE_SIZE)
    return {
        "want": Want(),
        "late": Late(),
        "silent": Silent(),
        "hello": Hello(THEIRS, 5),
        "hello_ack": HelloAck(THEIRS, number, options=(other,)),
        "offer": offer(),
        "answer": Answer(THEIRS, number, REMOTE + 1, capabilities=1, required=1),
        "unknown": Error(Code.SESSION_UNKNOWN, REMOTE),
        "version": Error(Code.VERSION, attempt.session if attempt is not None else REMOTE),
        "close": Close(Code.SESSION_CLOSED, LOCAL),
        "ping": Ping(TOKEN),
        "pong": Pong(TOKEN),
    }


# number, state, has a session, input: state after, messages, events
TABLE = """
 1 down     -    want      greeting Hello       -
 2 down     -    late      down     -           -
 3 down     -    silent    down     -           -
 4 down     -    hello     down     -           -
 5 down     -    hello_ack down     -           -
 6 down     -    offer     up       Answer      Joined
 7 down     -    answer    down     -           -
 8 down     -    unknown   down     -           -
 9 down     -    version   down     -           -
10 down     -    close     down     -           -
11 down     -    ping      down     Pong        -
12 down     -    pong      down     -           -
13 greeting -    want      greeting -           -
14 greeting -    late      greeting Hello       -
15 greeting -    silent    greeting -           Left
16 greeting -    hello     greeting -           -
17 greeting -    hello_ack offering Offer       -
18 greeting -    offer     up       Answer      Joined
19 greeting -    answer    greeting -           -
20 greeting -    unknown   greeting -           -
21 greeting -    version   down     -           Left
22 greeting -    close     greeting -           -
23 greeting -    ping      greeting Pong        -
24 greeting -    pong      greeting -           -
25 offering -    want      offering -           -
26 offering -    late      offering Offer       -
27 offering -    silent    offering -           Left
28 offering -    hello     offering -           -
29 offering -    hello_ack offering Offer       -
30 offering -    offer     up       Answer      Joined
31 offering -    answer    up       -           Joined
32 offering -    unknown   offering -           -
33 offering -    version   down     -           Left
34 offering -    close     offering -           -
35 offering -    ping      offering Pong        -
36 offering -    pong      offering -           -
37 greeting link want      greeting -           -
38 greeting link late      greeting Hello       -
39 greeting link silent    greeting -           Left
40 greeting link hello_ack offering Offer       -
41 greeting link offer     up       Answer      Joined
42 greeting link answer    greeting -           -
43 greeting link unknown   greeting -           -
44 greeting link version   down     -           Left
45 greeting link close     greeting -           Left
46 greeting link ping      greeting Pong        -
47 greeting link pong      greeting -           -
48 offering link want      offering -           -
49 offering link late      offering Offer       -
50 offering link silent    offering -           Left
51 offering link hello_ack offering Offer       -
52 offering link offer     up       Answer      Joined
53 offering link answer    up       -           Joined
54 offering link unknown   offering -           -
55 offering link version   down     -           Left
56 offering link close     offering -           Left
57 offering link ping      offering Pong        -
58 offering link pong      offering -           -
59 up       link want      up       -           -
60 up       link late      up       -           -
61 up       link silent    down     -           Left
62 up       link hello     up       -           -
63 up       link hello_ack up       -           -
64 up       link offer     up       Answer      Joined
65 up       link answer    up       -           -
66 up       link unknown   greeting Hello       -
67 up       link version   down     -           Left
68 up       link close     down     -           Left
69 up       link ping      up       Pong        -
70 up       link pong      up       -           -
71 greeting link hello     greeting -           -
72 offering link hello     offering -           -
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row[:4]))
def test_every_state_takes_every_input_as_the_table_says(row: list[str]) -> None:
    _, state, link, name, after, messages, events = row
    session = make(State(state), link=link == "link")
    assert session.state is State(state)
    message = inputs(session)[name]
    if name in ("silent", "late", "want"):
        session._apply(type(message), message, SECOND)
    else:
        session.receive(message, SECOND)  # type: ignore[arg-type]
    found = [type(each).__name__ for each in session.take_messages()]
    happened = [type(each).__name__ for each in session.take_events()]
    assert session.state is State(after)
    assert found == ([] if messages == "-" else [messages])
    assert happened == ([] if events == "-" else [events])
    assert (session.link is not None) >= (session.state is State.UP)


def test_the_table_has_every_state_and_every_input_once() -> None:
    seen = [(state, link, name) for _, state, link, name, *_ in ROWS]
    names = inputs(make(State.DOWN, link=False))
    states = [("down", "-"), ("up", "link")]
    states += [(state, link) for state in ("greeting", "offering") for link in ("-", "link")]
    assert sorted(seen) == sorted((*state, name) for state in states for name in names)
    assert [int(row[0]) for row in ROWS] == list(range(1, len(ROWS) + 1))


# ---- Details of single messages ----


def only(session: Session, message: Control) -> tuple[list[Control], list[object]]:
    session.receive(message, SECOND)
    return session.take_messages(), list(session.take_events())


@pytest.mark.parametrize(
    "wrong",
    [
        offer(session=0),
        offer(version=2),
        offer(required=0x80000000),
        offer(capabilities=0),
    ],
)
def test_terms_that_do_not_fit_make_no_session(wrong: Offer) -> None:
    session = make(State.DOWN, link=False)
    messages, events = only(session, wrong)
    assert not events
    assert session.link is None
    assert [each for each in messages if not isinstance(each, Error)] == []


def test_an_answer_whose_terms_do_not_fit_ends_the_attempt_and_tells_the_peer() -> None:
    session = make(State.OFFERING, link=False)
    assert session._attempt is not None
    answer = Answer(THEIRS, session._attempt.number, REMOTE, capabilities=0, required=0)
    messages, events = only(session, answer)
    assert messages == [Error(Code.VERSION, REMOTE)]
    assert events == [Left(Code.VERSION, joined=False)]


@pytest.mark.parametrize("state", [State.GREETING, State.OFFERING])
def test_answers_to_another_attempt_are_ignored(state: State) -> None:
    session = make(state, link=False)
    assert session._attempt is not None
    other = session._attempt.number ^ 1
    fresh = Option(lib.VK_OPTION_COOKIE, b"y" * lib.VK_COOKIE_SIZE)
    for message in (
        HelloAck(THEIRS, other, options=(fresh,)),
        Answer(THEIRS, other, REMOTE, capabilities=1),
    ):
        assert only(session, message) == ([], [])
    assert session.state is state


def test_an_offer_that_comes_twice_is_answered_alike_and_joins_once() -> None:
    session = make(State.DOWN, link=False)
    first, joined = only(session, offer())
    again, nothing = only(session, offer())
    assert first == again
    assert len(joined) == 1
    assert not nothing


def test_an_older_offer_than_the_last_is_ignored() -> None:
    session = make(State.DOWN, link=False)
    only(session, offer(attempt=6, session=8))
    assert only(session, offer(attempt=5, session=7)) == ([], [])


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
        message = offer(incarnation=incarnation, continues=continues)
        (answer,), (event,) = only(session, message)
        assert isinstance(event, Joined)
        assert isinstance(answer, Answer)
        assert event.lost is lost, number
        assert answer.continues == (REMOTE if link and not lost else 0), number


def test_an_answer_that_may_be_lost_is_repeated_to_who_does_not_know_the_session() -> None:
    session = make(State.DOWN, link=False)
    (answer,), _ = only(session, offer())
    messages, _ = only(session, Error(Code.SESSION_UNKNOWN, REMOTE + 1))
    assert messages == [answer]
    assert session.state is State.UP


def test_attempts_rise_and_ids_are_never_zero_nor_repeated() -> None:
    session = Session(OURS, TERMS, random.Random(3).randbytes, 0, queue=5)
    numbers, ids = [], []
    for i in range(200):
        session.want(i)
        assert session._attempt is not None
        numbers.append(session._attempt.number)
        ids.append(session._attempt.session)
        session.close(0, i)
    assert numbers == sorted(set(numbers))
    assert len(set(ids)) == len(ids)
    assert {each >> lib.VK_SESSION_QUEUE_SHIFT for each in ids} == {5}


def test_retransmissions_back_off_with_jitter_and_end() -> None:
    meeting = Meeting()
    meeting.cut = True
    meeting.want("a")
    meeting.run(60 * SECOND)
    assert 4 <= meeting.datagrams <= 8
    assert meeting.a.sessions[PEER].state is State.DOWN
    assert meeting.a.events == [Left(Code.UNREACHABLE, joined=False)]


# ---- Who is not believed ----


def test_a_flood_of_offers_with_forged_cookies_makes_no_session_and_no_amplifier() -> None:
    meeting = Meeting()
    sessions = meeting.b.sessions
    noise = random.Random(1)
    came = went = 0
    for _ in range(1000):
        forged = offer(
            incarnation=noise.getrandbits(64),
            options=(Option(lib.VK_OPTION_COOKIE, noise.randbytes(lib.VK_COOKIE_SIZE)),),
        ).pack()
        sessions.receive(meeting.a.place, forged, meeting.now_ns)
        came += len(forged)
        went += sum(len(data) for _, _, data in sessions.take_messages())
    assert went <= AMPLIFICATION_MAX * came
    assert sessions[PEER].state is State.DOWN
    assert sessions[PEER].link is None
    assert sessions.refused["cookie"] == 1000


@pytest.mark.parametrize(
    "message",
    [Hello(1, 2), offer(), Error(102, 1), Close(103, 1), Ping(1), Pong(1), HelloAck(1, 2)],
    ids=lambda message: type(message).__name__,
)
def test_a_stranger_gets_nothing(message: Control) -> None:
    meeting = Meeting()
    stranger = Place(ip_address("192.0.2.1"), lib.VK_PORT)
    meeting.b.sessions.receive(stranger, message.pack(), meeting.now_ns)
    assert not meeting.b.sessions.take_messages()
    assert meeting.b.sessions.refused == {"stranger": 1}


@pytest.mark.parametrize("message", [Hello(1, 2), Error(102, 9), Close(103, 9), Ping(5)])
def test_no_answer_to_an_unproven_address_is_three_times_what_came(message: Control) -> None:
    meeting = Meeting()
    data = message.pack()
    meeting.b.sessions.receive(meeting.a.place, data, meeting.now_ns)
    sent = sum(len(answer) for _, _, answer in meeting.b.sessions.take_messages())
    assert sent <= AMPLIFICATION_MAX * len(data)


def test_a_hello_of_a_version_that_nobody_speaks_is_refused() -> None:
    meeting = Meeting()
    hello = Hello(1, 2, version_min=7, version_max=9).pack()
    meeting.b.sessions.receive(meeting.a.place, hello, meeting.now_ns)
    ((_, _, data),) = meeting.b.sessions.take_messages()
    assert parse_control(data) == Error(Code.VERSION, 2)


def test_a_cookie_is_good_for_its_address_its_port_and_two_slots_only() -> None:
    jar = CookieJar(bytes(KEY_SIZE), OURS)
    here, there = ip_address("10.0.0.1"), ip_address("10.0.0.2")
    begin = 1000 * SLOT_NS
    cookie = jar.make(here, 1, begin)
    numbered = {
        1: (jar, cookie, here, 1, begin, True),
        2: (jar, cookie, here, 1, begin + 2 * SLOT_NS - 1, True),
        3: (jar, cookie, here, 1, begin + 2 * SLOT_NS, False),
        4: (jar, cookie, here, 1, begin - 1, False),
        5: (jar, cookie, there, 1, begin, False),
        6: (jar, cookie, here, 2, begin, False),
        7: (CookieJar(bytes(KEY_SIZE), THEIRS), cookie, here, 1, begin, False),
        8: (CookieJar(b"k" * KEY_SIZE, OURS), cookie, here, 1, begin, False),
        9: (jar, cookie[:-1], here, 1, begin, False),
        10: (jar, b"", here, 1, begin, False),
        11: (jar, jar.make(ip_address("::1"), 1, begin), ip_address("::1"), 1, begin, True),
    }
    for number, (whose, what, address, port, now_ns, good) in numbered.items():
        assert whose.good(what, address, port, now_ns) is good, number
    for bit in range(8 * len(cookie)):
        changed = (int.from_bytes(cookie, "big") ^ 1 << bit).to_bytes(len(cookie), "big")
        assert not jar.good(changed, here, 1, begin)


# ---- Parsers ----

SAMPLES: list[Control] = [
    Hello(2**64 - 1, 2**63, options=(Option(5, b"abc"),)),
    HelloAck(1, 2, options=(COOKIE,)),
    offer(),
    Answer(1, 2, 3, 4, session_window=2**40),
    Error(Code.VERSION, 7, options=(COOKIE,)),
    Close(Code.SESSION_CLOSED, 9),
    Ping(2**64 - 1),
    Pong(0),
]


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_is_parsed_as_it_was_packed(message: Control) -> None:
    assert parse_control(message.pack()) == message
    assert type(parse_control(message.pack())) is type(message)


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_every_truncation_and_every_changed_byte_ends_in_a_message_or_a_control_error(
    message: Control,
) -> None:
    data = message.pack()
    changed = [data[:size] for size in range(len(data))]
    changed += [
        data[:at] + bytes([value]) + data[at + 1 :]
        for at in range(len(data))
        for value in range(256)
    ]
    meeting = Meeting()
    for each in changed:
        with contextlib.suppress(ControlError):
            parse_control(each)
        meeting.b.sessions.receive(meeting.a.place, each, meeting.now_ns)
        meeting.b.sessions.take_messages()


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 0x10, 0x14]),
    flags=st.sampled_from([0, 1, 0x80]),
    payload=st.binary(max_size=200),
)
def test_any_payload_ends_in_a_message_or_a_control_error(
    kind: int, flags: int, payload: bytes
) -> None:
    data = make_frame(kind, 0, payload, flags=flags).pack()
    meeting = Meeting()
    meeting.b.sessions.receive(meeting.a.place, data, meeting.now_ns)
    try:
        message = parse_control(data)
    except ControlError:
        return
    assert message.type == kind


def test_an_option_that_is_required_and_unknown_refuses_the_message() -> None:
    known = Hello(1, 2, options=(Option(0x7001, b"?"),)).pack()
    assert isinstance(parse_control(known), Hello)
    with pytest.raises(ControlError) as caught:
        parse_control(Hello(1, 2, options=(Option(0xF001, b"?"),)).pack())
    assert caught.value.code == Code.VERSION


def test_an_option_has_a_largest_size() -> None:
    Option(5, bytes(lib.VK_OPTION_SIZE_MAX)).pack()
    with pytest.raises(LocalProtocolError):
        Option(5, bytes(lib.VK_OPTION_SIZE_MAX + 1)).pack()


@pytest.mark.parametrize("kind", [Type.AUTH_CHALLENGE, Type.KEY_EXCHANGE, Type.UPGRADE])
def test_messages_of_a_later_handshake_are_refused_as_a_matter_of_version(kind: int) -> None:
    with pytest.raises(ControlError) as caught:
        parse_control(make_frame(kind).pack())
    assert caught.value.code == Code.VERSION


# ---- Signs of life ----


def test_questions_and_death_come_when_the_table_says() -> None:
    live = Liveness(Patience(100), 0)
    live.expect(50, expecting=True)
    numbered = {
        # number: now, heard at, verdict
        1: (99, None, Verdict.NOTHING),
        2: (100, None, Verdict.ASK),
        3: (199, None, Verdict.NOTHING),
        4: (200, None, Verdict.ASK),
        5: (250, 240, Verdict.NOTHING),
        6: (339, None, Verdict.NOTHING),
        7: (340, None, Verdict.ASK),
        8: (440, None, Verdict.ASK),
        9: (540, None, Verdict.ASK),
        10: (639, None, Verdict.NOTHING),
        11: (640, None, Verdict.DEAD),
    }
    for number, (now, heard, verdict) in numbered.items():
        if heard is not None:
            live.hear(heard)
        assert live.look(now) is verdict, number


def test_silence_before_anything_was_at_stake_does_not_count() -> None:
    live = Liveness(Patience(100), 0)
    assert live.look(10_000) is Verdict.NOTHING
    live.expect(10_000, expecting=True)
    assert [live.look(now) for now in (10_000, 10_100, 10_200, 10_299, 10_300)] == [
        Verdict.ASK,
        Verdict.ASK,
        Verdict.ASK,
        Verdict.NOTHING,
        Verdict.DEAD,
    ]


def test_a_standstill_of_ours_does_not_kill_the_peer() -> None:
    live = Liveness(Patience(100), 0)
    live.expect(0, expecting=True)
    assert live.look(1_000_000) is Verdict.ASK
    assert live.look(1_000_050) is Verdict.NOTHING
