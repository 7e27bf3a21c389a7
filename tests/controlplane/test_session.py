"""Sessions over a simulated wire: they converge whatever it does, and never believe a stranger."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.controlplane.meeting import MS, PEER, SECOND, Meeting, locals_of
from tests.controlplane.security.parties import only
from valkyrie.controlplane.security.modes import Mode, Rhythm
from valkyrie.controlplane.sessions.link import Joined, Left
from valkyrie.controlplane.sessions.liveness import Patience
from valkyrie.controlplane.sessions.protection import Protection
from valkyrie.controlplane.sessions.session import State
from valkyrie.controlplane.sessions.table import Place
from valkyrie.dataplane import lib
from valkyrie.dataplane.control import Close, Limits
from valkyrie.dataplane.wire import Code

MODES = (Mode.PLAINTEXT, Mode.NOISE, Mode.POST_QUANTUM)


def met(**terms: object) -> Meeting:
    """Return a meeting in which both have joined."""
    meeting = Meeting(**terms)  # type: ignore[arg-type]
    meeting.want("a")
    meeting.run(50 * MS)
    meeting.agree()
    return meeting


def test_a_handshake_takes_three_round_trips_and_seven_datagrams() -> None:
    meeting = Meeting()
    meeting.want("a")
    meeting.run(3 * MS + MS // 4)
    meeting.agree()
    assert meeting.datagrams == 7
    assert meeting.a.sessions[PEER].rtt_ns == MS


def test_the_side_that_was_asked_has_nothing_until_the_address_is_proven() -> None:
    meeting = Meeting()
    meeting.want("a")
    meeting.run(MS + MS // 4)
    assert meeting.b.sessions[PEER].state is State.DOWN
    assert meeting.b.sessions[PEER].link is None


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mode", MODES)
def test_both_asking_at_once_get_one_session(mode: Mode, seed: int) -> None:
    meeting = Meeting(seed, mode=mode)
    meeting.want("a")
    meeting.run(seed * MS // 4)
    meeting.want("b")
    meeting.run(SECOND)
    meeting.agree()
    assert len(meeting.a.events) == len(meeting.b.events) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_node_that_started_anew_is_found_out_in_one_round_trip_and_joined_in_three_more(
    mode: Mode,
) -> None:
    meeting = met(mode=mode)
    meeting.restart("b")
    meeting.send_data("a")
    meeting.run(4 * MS + MS // 4)
    meeting.agree()
    assert meeting.a.ended == [Code.PEER_RESTARTED]


def test_a_node_that_started_anew_and_asks_ends_the_streams_of_before() -> None:
    meeting = met()
    meeting.restart("b")
    meeting.want("b")
    meeting.run(10 * MS)
    meeting.agree()
    assert meeting.a.ended == [Code.PEER_RESTARTED]


def test_an_error_that_the_peer_never_meant_costs_no_stream() -> None:
    from valkyrie.dataplane.control import Error

    meeting = met()
    meeting.run(SECOND)
    epoch = meeting.a.epoch
    link = meeting.a.sessions[PEER].link
    assert link is not None
    forged = Error(Code.SESSION_UNKNOWN, link.remote).pack()
    meeting.a.sessions.receive(meeting.b.place, forged, meeting.now_ns)
    meeting._collect("a")
    meeting.run(SECOND)
    meeting.agree()
    assert meeting.a.epoch == epoch
    assert not meeting.a.ended


def test_an_error_about_another_session_changes_nothing() -> None:
    from valkyrie.dataplane.control import Error

    meeting = met()
    link = meeting.a.sessions[PEER].link
    assert link is not None
    for code in Code:
        forged = Error(code, link.remote ^ 1).pack()
        meeting.a.sessions.receive(meeting.b.place, forged, meeting.now_ns)
    meeting._collect("a")
    assert meeting.a.sessions[PEER].link == link
    assert meeting.a.up


def test_close_ends_the_session_on_both_sides() -> None:
    meeting = met()
    meeting.close("a")
    meeting.run(MS)
    for side in (meeting.a, meeting.b):
        assert side.sessions[PEER].link is None
        assert side.ended == [Code.SESSION_CLOSED]


def test_close_by_who_does_not_know_the_session_is_ignored() -> None:
    meeting = met()
    link = meeting.b.sessions[PEER].link
    assert link is not None
    forged = Close(Code.SESSION_CLOSED, link.local ^ 1).pack()
    meeting.b.sessions.receive(meeting.a.place, forged, meeting.now_ns)
    assert meeting.b.up


def test_a_silent_peer_is_dead_within_the_lan_time() -> None:
    meeting = met()
    meeting.cut = True
    meeting.a.sessions[PEER].expect(meeting.now_ns, expecting=True)
    meeting.run(450 * MS)
    assert meeting.a.sessions[PEER].link is None
    assert meeting.a.ended == [Code.UNREACHABLE]


@pytest.mark.parametrize(("ours", "theirs", "ends_ms"), [(500, 100, 450), (100, 500, 450)])
def test_the_shorter_keepalive_of_both_holds_on_both(ours: int, theirs: int, ends_ms: int) -> None:
    meeting = Meeting()
    for side, ms in ((meeting.a, ours), (meeting.b, theirs)):
        session = side.sessions[PEER]
        session.terms = replace(
            session.terms, limits=Limits(keepalive_ms=ms), patience=Patience(ms * MS)
        )
    meeting.want("a")
    meeting.run(50 * MS)
    meeting.agree()
    meeting.cut = True
    for side in (meeting.a, meeting.b):
        side.sessions[PEER].expect(meeting.now_ns, expecting=True)
    meeting.run(ends_ms * MS)
    assert meeting.a.ended == meeting.b.ended == [Code.UNREACHABLE]


def test_nobody_is_asked_while_nothing_is_at_stake() -> None:
    meeting = met()
    before = meeting.datagrams
    meeting.run(100 * SECOND)
    assert meeting.datagrams == before
    assert meeting.a.up


def test_a_peer_that_answers_lives_on_and_shows_its_round_trip() -> None:
    meeting = met()
    meeting.a.sessions[PEER].expect(meeting.now_ns, expecting=True)
    meeting.run(2 * SECOND)
    meeting.agree()
    assert meeting.a.sessions[PEER].rtt_ns == MS


def test_on_a_wan_questions_are_15_to_25_seconds_apart() -> None:
    meeting = met(patience=Patience(20 * SECOND, wan=True))
    meeting.a.sessions[PEER].expect(meeting.now_ns, expecting=True)
    before = meeting.datagrams
    meeting.run(200 * SECOND)
    assert 2 * 8 <= meeting.datagrams - before <= 2 * 14
    meeting.agree()


def test_a_dead_peer_is_tried_again_and_less_often() -> None:
    meeting = Meeting(eager=True)
    meeting.cut = True
    meeting.run(SECOND)
    per_second = meeting.datagrams
    before = meeting.datagrams
    meeting.run(600 * SECOND)
    assert 0 < (meeting.datagrams - before) / 600 < per_second / 4
    meeting.cut = False
    meeting.run(40 * SECOND)
    meeting.agree()


def test_after_a_blackout_both_agree_that_the_streams_are_gone() -> None:
    meeting = met(eager=True)
    meeting.a.sessions[PEER].expect(meeting.now_ns, expecting=True)
    meeting.cut = True
    meeting.run(30 * SECOND)
    assert meeting.a.ended[0] == Code.UNREACHABLE
    assert meeting.b.up  # it had nothing to lose, so it did not ask
    meeting.cut = False
    meeting.run(60 * SECOND)
    meeting.agree()
    assert Code.PEER_RESTARTED in meeting.b.ended


def test_a_late_offer_of_a_former_life_does_not_end_the_session() -> None:
    meeting = Meeting()
    kept: list[bytes] = []
    original = meeting.a.sessions.receive

    def spy(place: Place, data: bytes, now_ns: int) -> None:
        kept.append(data)
        original(place, data, now_ns)

    meeting.a.sessions.receive = spy  # type: ignore[method-assign]
    meeting.want("b")
    meeting.run(10 * MS)
    meeting.restart("b")
    meeting.want("b")
    meeting.run(10 * MS)
    meeting.agree()
    epoch = meeting.a.epoch
    for data in kept:
        original(meeting.b.place, data, meeting.now_ns)
    meeting._collect("a")
    meeting.run(SECOND)
    meeting.agree()
    assert meeting.a.epoch == epoch


def test_a_peer_behind_another_address_is_asked_there_before_it_is_believed() -> None:
    meeting = met()
    elsewhere = Place(ip_address("10.9.9.9"), 4242)
    meeting.b.place = elsewhere
    meeting.send_data("b")
    meeting.run(MS // 2 + MS // 4)
    assert meeting.a.sessions.place(PEER) != elsewhere
    meeting.run(MS + MS // 2)
    assert meeting.a.sessions.place(PEER) == elsewhere
    meeting.agree()
    assert not meeting.a.ended


def test_a_peer_that_goes_on_sending_is_believed_though_answers_take_long() -> None:
    meeting = met()
    meeting.fate = lambda: [150 * MS]
    meeting.b.place = Place(ip_address("10.9.9.9"), 4242)
    for _ in range(20):
        meeting.send_data("b")
        meeting.run(50 * MS)
    assert meeting.a.sessions.place(PEER) == meeting.b.place
    meeting.agree()
    assert not meeting.a.ended


HOME, ELSEWHERE = Place(ip_address("10.0.0.2"), lib.VK_PORT), Place(ip_address("10.9.9.9"), 4242)


def moved(**terms: object) -> Meeting:
    """Return a meeting whose b has moved."""
    meeting = met(**terms)
    meeting.b.place = ELSEWHERE
    meeting.send_data("b")
    meeting.run(SECOND)
    assert meeting.a.sessions.place(PEER) == ELSEWHERE
    return meeting


@pytest.mark.parametrize("asking", "ab")
def test_a_peer_that_has_moved_and_started_anew_at_home_is_found_there(asking: str) -> None:
    meeting = moved()
    meeting.b.place = HOME
    meeting.restart("b")
    meeting.a.sessions[PEER].expect(meeting.now_ns, expecting=True)
    meeting.run(SECOND)
    assert meeting.a.ended == [Code.UNREACHABLE]
    meeting.want(asking)
    meeting.run(4 * SECOND)
    meeting.want(asking)
    meeting.run(SECOND)
    meeting.agree()
    assert meeting.a.sessions.place(PEER) == HOME


def test_a_peer_at_home_again_is_let_in_though_nobody_has_missed_it() -> None:
    meeting = moved()
    meeting.b.place = HOME
    meeting.restart("b")
    meeting.want("b")
    meeting.run(SECOND)
    meeting.agree()
    assert meeting.a.sessions.place(PEER) == HOME


def test_a_peer_that_has_moved_is_found_again_where_it_was_after_a_blackout() -> None:
    meeting = moved(eager=True)
    for side in (meeting.a, meeting.b):
        side.sessions[PEER].expect(meeting.now_ns, expecting=True)
    meeting.cut = True
    meeting.run(30 * SECOND)
    assert meeting.a.sessions.place(PEER) == HOME
    meeting.cut = False
    meeting.run(60 * SECOND)
    meeting.agree()
    assert meeting.a.sessions.place(PEER) == ELSEWHERE


def test_at_home_whoever_asks_for_no_session_is_a_stranger_while_the_peer_is_elsewhere() -> None:
    meeting = moved()
    link = meeting.a.sessions[PEER].link
    assert link is not None
    close = Close(Code.SESSION_CLOSED, link.local).pack()
    meeting.a.sessions.receive(HOME, close, meeting.now_ns)
    assert meeting.a.up
    assert meeting.a.sessions.refused["stranger"] == 1


def test_an_address_that_does_not_answer_gets_one_small_question_at_a_time() -> None:
    meeting = met()
    for i in range(100):
        forged = Place(ip_address(f"10.9.{i}.9"), 4242)
        meeting.a.sessions.found_at(PEER, forged, meeting.now_ns)
    assert len(meeting.a.sessions.take_messages()) == 1
    meeting.agree()


@pytest.mark.parametrize("mode", MODES)
def test_a_session_is_made_anew_on_demand_and_its_streams_go_on(mode: Mode) -> None:
    meeting = met(mode=mode)
    epoch = meeting.a.epoch
    seen = {meeting.a.seals}
    for name in "abab":
        before = meeting.a.sessions[PEER].link
        meeting.sides[name].sessions.renew(PEER, meeting.now_ns)
        meeting._collect(name)
        meeting.run(SECOND)
        meeting.agree()
        assert meeting.a.sessions[PEER].link is not before
        seen.add(meeting.a.seals)
    assert meeting.a.epoch == epoch
    assert not meeting.a.ended + meeting.b.ended
    assert len(seen) == (5 if mode is not Mode.PLAINTEXT else 1)


def test_a_session_whose_lifetime_ends_is_made_anew_before_and_loses_nothing() -> None:
    meeting = met(mode=Mode.ZERO_TRUST)
    epoch = meeting.a.epoch
    for _ in range(100):
        meeting.run(30 * SECOND)
        meeting.agree()
        link = meeting.a.sessions[PEER].link
        assert link is not None
        assert link.protection.ends_ns is not None
        assert 0 < link.protection.ends_ns - meeting.now_ns <= 300 * SECOND
    assert meeting.a.epoch == epoch
    assert not meeting.a.ended + meeting.b.ended
    assert 10 <= len(meeting.a.events) <= 3000 / 200


def test_a_session_that_cannot_be_made_anew_ends_with_its_lifetime() -> None:
    never = only(Mode.ZERO_TRUST, rhythm=Rhythm(every_ns=400 * SECOND))
    meeting = met(locals_=locals_of(never))
    meeting.cut = True
    meeting.run(299 * SECOND)
    assert meeting.a.sessions[PEER].link is not None
    meeting.run(2 * SECOND)
    for side in (meeting.a, meeting.b):
        assert side.sessions[PEER].link is None
        assert side.ended == [Code.CREDENTIAL]
    meeting.cut = False
    meeting.want("a")
    meeting.run(SECOND)
    meeting.agree()


@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("able", [True, False])
def test_a_sealed_session_that_was_taken_over_is_made_anew_at_once(mode: Mode, able: bool) -> None:
    meeting = met(mode=mode)
    epoch, link = meeting.a.epoch, meeting.a.sessions[PEER].link
    assert link is not None
    incarnation = meeting.a.sessions.incarnation
    meeting.restart("a")  # another daemon, and the same node
    meeting.a.sessions.incarnation = meeting.a.sessions[PEER].incarnation = incarnation
    meeting.a.epoch = epoch
    known = link.protection
    blind = Protection(known.cipher)
    seeing = replace(blind, ours=known.ours, theirs=known.theirs)
    adopted = replace(link, protection=seeing if able else blind)
    meeting.a.sessions.restore(PEER, adopted, meeting.now_ns)
    meeting.a.sessions[PEER].expect(meeting.now_ns, expecting=True)
    meeting.run(SECOND)
    meeting.agree()
    link = meeting.a.sessions[PEER].link
    assert link is not None
    assert link.local != adopted.local
    assert meeting.a.epoch == epoch
    assert not meeting.a.ended + meeting.b.ended


def test_a_sealed_session_that_was_taken_over_from_a_dead_peer_ends() -> None:
    meeting = met(mode=Mode.NOISE)
    link = meeting.a.sessions[PEER].link
    assert link is not None
    meeting.restart("a")
    blind = replace(link, protection=Protection(link.protection.cipher), asked=True)
    meeting.a.sessions.restore(PEER, blind, meeting.now_ns)
    meeting.cut = True
    meeting.run(4 * SECOND)
    assert meeting.a.sessions[PEER].link is None


STEPS = st.lists(
    st.sampled_from(
        [
            "want",
            "want",
            "data",
            "data",
            "data",
            "restart",
            "close",
            "run",
            "run",
            "long",
            "cut",
            "join",
            "expect",
            "rest",
        ]
    ).flatmap(lambda step: st.tuples(st.just(step), st.sampled_from("ab"))),
    max_size=30,
)


def take(meeting: Meeting, step: str, name: str, chance: random.Random) -> None:
    """Do one step of a story."""
    match step:
        case "want":
            meeting.want(name)
        case "data":
            meeting.send_data(name)
            meeting.run(chance.randrange(2 * MS))
        case "restart":
            meeting.restart(name)
        case "close":
            meeting.close(name)
        case "run":
            meeting.run(chance.randrange(50 * MS))
        case "long":
            meeting.run(chance.randrange(5 * SECOND))
        case "cut":
            meeting.cut = True
        case "join":
            meeting.cut = False
        case _:
            session = meeting.sides[name].sessions[PEER]
            session.expect(meeting.now_ns, expecting=step == "expect")


def tell(mode: Mode, seed: int, steps: list[tuple[str, str]], loss: float) -> None:
    """Tell a story on a bad wire, and check what it ends with on a good one."""
    chance = random.Random(seed)

    def fate() -> list[int]:
        copies = 0 if chance.random() < loss else chance.choice([1, 1, 1, 2, 3])
        return [chance.choice([MS // 2, MS, 20 * MS, 300 * MS, 5 * SECOND]) for _ in range(copies)]

    meeting = Meeting(seed, fate, mode, eager=True)
    for step, name in steps:
        take(meeting, step, name, chance)
    meeting.cut = False
    meeting.run(10 * SECOND)  # what is on the wire arrives
    meeting.fate = lambda: [MS]
    for _ in range(100):  # traffic finds out what is not true any more
        meeting.send_data("a")
        meeting.send_data("b")
        meeting.run(SECOND)
    meeting.agree()
    before = meeting.a.heard, meeting.b.heard
    meeting.send_data("a")
    meeting.send_data("b")
    meeting.run(SECOND)
    assert (meeting.a.heard, meeting.b.heard) == (before[0] + 1, before[1] + 1)


LOSSES = st.sampled_from([0, 0.1, 0.4, 0.7])


@example(seed=0, steps=[("want", "a"), ("run", "a"), ("restart", "a")], loss=0)  # a late offer
@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), steps=STEPS, loss=LOSSES)
def test_on_any_wire_they_end_with_one_session_and_one_set_of_streams(
    seed: int, steps: list[tuple[str, str]], loss: float
) -> None:
    tell(Mode.PLAINTEXT, seed, steps, loss)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), steps=STEPS, loss=LOSSES)
def test_on_any_wire_they_end_with_one_session_and_the_same_keys(
    seed: int, steps: list[tuple[str, str]], loss: float
) -> None:
    tell(Mode.NOISE, seed, steps, loss)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), steps=STEPS, loss=LOSSES)
def test_on_any_wire_they_end_with_one_session_and_the_same_post_quantum_keys(
    seed: int, steps: list[tuple[str, str]], loss: float
) -> None:
    tell(Mode.POST_QUANTUM, seed, steps, loss)


@pytest.mark.parametrize("seed", range(5))
def test_sessions_alternate_between_joined_and_left(seed: int) -> None:
    chance = random.Random(seed)
    meeting = Meeting(seed, lambda: [MS] if chance.random() < 0.6 else [], eager=True)
    for _ in range(20):
        meeting.restart("b")
        meeting.send_data("a")
        meeting.run(chance.randrange(3 * SECOND))
    up = False
    for event in meeting.a.events:
        if isinstance(event, Joined):
            assert event.lost <= up
            up = True
        elif isinstance(event, Left):
            up = False
