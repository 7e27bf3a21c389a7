"""What strangers, liars and those who can write on the path get: nothing, or a handshake."""

from __future__ import annotations

import gc
import random
import tracemalloc
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.controlplane.meeting import MS, PEER, SECOND, Meeting, local_of
from tests.controlplane.security.parties import entropy_of, identity, only, peer
from valkyrie.controlplane.security.door import AMPLIFICATION_MAX, BEGUN_MAX, BEGUN_NS
from valkyrie.controlplane.security.handshake import Handshake
from valkyrie.controlplane.security.messages import parse
from valkyrie.controlplane.security.modes import Mode, Policy
from valkyrie.controlplane.sessions.link import Left
from valkyrie.controlplane.sessions.protection import Protection
from valkyrie.controlplane.sessions.session import State
from valkyrie.controlplane.sessions.table import Place
from valkyrie.dataplane import lib
from valkyrie.dataplane.control import (
    Close,
    Control,
    Error,
    Message,
    Option,
    Ping,
    Pong,
    parse_control,
)
from valkyrie.dataplane.wire import Code, Type, make_frame

KEYED = (Mode.TOKEN, Mode.NOISE, Mode.POST_QUANTUM, Mode.ZERO_TRUST)
STRONG, WEAK = bytes([2, Mode.POST_QUANTUM, Mode.NOISE]), bytes([1, Mode.NOISE])
"""Lists of modes, as offers have them."""
BOTH = Policy(modes=frozenset({Mode.PLAINTEXT, Mode.NOISE}), min_mode=Mode.PLAINTEXT)


def met(mode: Mode, **options: object) -> Meeting:
    meeting = Meeting(mode=mode, **options)  # type: ignore[arg-type]
    meeting.want("a")
    meeting.run(50 * MS)
    meeting.agree()
    return meeting


def link_of(meeting: Meeting, name: str) -> tuple[int, int, Protection]:
    link = meeting.sides[name].sessions[PEER].link
    assert link is not None
    return link.local, link.remote, link.protection


def give(meeting: Meeting, message: Control) -> list[Control]:
    """Let node a get a message as if b had sent it; returns what it answers."""
    meeting.a.sessions.receive(meeting.b.place, message.pack(), meeting.now_ns)
    found = [parse_control(data) for _, _, data in meeting.a.sessions.take_messages()]
    meeting.a.take_events()
    return found


# ---- Control frames ----


@pytest.mark.parametrize("mode", KEYED)
def test_close_ends_a_session_with_keys_on_both_sides(mode: Mode) -> None:
    meeting = met(mode)
    meeting.close("a")
    meeting.run(MS)
    for side in (meeting.a, meeting.b):
        assert side.sessions[PEER].link is None
        assert side.ended == [Code.SESSION_CLOSED]


def forged(close: Close, protection: Protection) -> list[Close]:
    """Return what somebody might send who has seen everything but the keys."""
    wrong = [Option(lib.VK_OPTION_PROOF, bytes(size)) for size in (0, 1, 15, 16, 17, 32)]
    reflected = replace(protection, ours=protection.theirs).prove(close)
    good = replace(protection, ours=protection.theirs, theirs=protection.ours).prove(close)
    (proof,) = good.options
    flipped = [
        replace(good, options=(Option(proof.kind, bytes([proof.body[0] ^ 1]) + proof.body[1:]),)),
        replace(good, code=good.code + 1),
        replace(good, options=(Option(9, b"more"), proof)),
        replace(good, options=(Option(proof.kind, proof.body[:8]),)),
    ]
    assert reflected == good  # the helper above proves as the peer does
    ours = protection.prove(close)
    return [close, ours, *(replace(close, options=(each,)) for each in wrong), *flipped]


@pytest.mark.parametrize("mode", KEYED)
def test_a_close_that_the_peer_did_not_prove_is_ignored_and_counted(mode: Mode) -> None:
    meeting = met(mode)
    local, _, protection = link_of(meeting, "a")
    attempts = forged(Close(Code.SESSION_CLOSED, local), protection)
    for each in attempts:
        assert give(meeting, each) == []
    assert meeting.a.up
    assert meeting.a.sessions.refused["unproven close"] == len(attempts)


@pytest.mark.parametrize("mode", KEYED)
def test_a_close_of_the_session_before_does_nothing_to_the_next(mode: Mode) -> None:
    meeting = met(mode)
    local, _, _ = link_of(meeting, "a")
    _, _, theirs = link_of(meeting, "b")
    late = theirs.prove(Close(Code.SESSION_CLOSED, local))
    meeting.run(SECOND)
    meeting.a.sessions.renew(PEER, meeting.now_ns)
    meeting._collect("a")
    meeting.run(SECOND)
    meeting.agree()
    now, _, _ = link_of(meeting, "a")
    give(meeting, late)
    give(meeting, replace(late, session=now))
    assert meeting.a.up
    assert not meeting.a.ended


@pytest.mark.parametrize("mode", KEYED)
def test_only_a_proven_pong_is_a_sign_of_life_and_only_once(mode: Mode) -> None:
    meeting = met(mode)
    session = meeting.a.sessions[PEER]
    _, _, theirs = link_of(meeting, "b")
    session.expect(meeting.now_ns, expecting=True)
    meeting.cut = True
    meeting.run(320 * MS)
    ((token, _),) = session._questions._asked
    heard_ns = session.liveness.heard_ns
    for wrong in (
        Pong(token),
        theirs.prove(Pong(token ^ 1)),
        link_of(meeting, "a")[2].prove(Pong(token)),
    ):
        give(meeting, wrong)
    assert session.liveness.heard_ns == heard_ns
    assert meeting.a.sessions.refused["unproven pong"] == 2
    good = theirs.prove(Pong(token))
    give(meeting, good)
    assert session.liveness.heard_ns == meeting.now_ns
    heard_ns = session.liveness.heard_ns
    meeting.run(10 * MS)
    give(meeting, good)
    assert session.liveness.heard_ns == heard_ns


@pytest.mark.parametrize("mode", KEYED)
def test_a_question_that_nobody_proved_is_not_answered(mode: Mode) -> None:
    meeting = met(mode)
    _, _, theirs = link_of(meeting, "b")
    assert give(meeting, Ping(5)) == []
    (pong,) = give(meeting, theirs.prove(Ping(5)))
    assert isinstance(pong, Pong)
    assert theirs.proves(pong)
    assert meeting.a.sessions.refused["unproven ping"] == 1


@pytest.mark.parametrize("mode", KEYED)
def test_a_silent_peer_is_dead_and_one_that_answers_is_not(mode: Mode) -> None:
    meeting = met(mode)
    meeting.a.sessions[PEER].expect(meeting.now_ns, expecting=True)
    meeting.run(2 * SECOND)
    meeting.agree()
    meeting.cut = True
    meeting.run(450 * MS)
    assert meeting.a.ended == [Code.UNREACHABLE]


@pytest.mark.parametrize("mode", KEYED)
def test_forged_errors_cost_a_handshake_a_second_and_no_stream(mode: Mode) -> None:
    meeting = met(mode)
    meeting.run(SECOND)
    epoch, before = meeting.a.epoch, meeting.datagrams
    for _ in range(300):
        _, remote, _ = link_of(meeting, "a")
        for code in Code:
            meeting.a.sessions.receive(meeting.b.place, Error(code, remote).pack(), meeting.now_ns)
        meeting._collect("a")
        meeting.run(10 * MS)
    meeting.run(SECOND)
    meeting.agree()
    assert meeting.a.epoch == epoch
    assert not meeting.a.ended
    handshakes = len(meeting.a.events) - 1
    assert 1 <= handshakes <= 4
    assert meeting.datagrams - before <= 30 * handshakes


@pytest.mark.parametrize("mode", KEYED)
def test_a_session_with_keys_outlives_a_renewal_that_nobody_answers(mode: Mode) -> None:
    meeting = met(mode)
    meeting.run(SECOND)
    _, remote, _ = link_of(meeting, "a")
    meeting.cut = True
    give(meeting, Error(Code.SESSION_UNKNOWN, remote))
    meeting.run(10 * SECOND)
    assert meeting.a.up
    assert not meeting.a.ended
    meeting.cut = False
    meeting.send_data("a")
    meeting.run(SECOND)
    assert meeting.b.heard == 1


@pytest.mark.parametrize("mode", KEYED)
def test_an_address_is_believed_only_when_the_peer_itself_answers_there(mode: Mode) -> None:
    meeting = met(mode)
    _, _, theirs = link_of(meeting, "b")
    elsewhere = Place(ip_address("10.9.9.9"), 4242)
    meeting.a.sessions.found_at(PEER, elsewhere, meeting.now_ns)
    ((_, _, data),) = meeting.a.sessions.take_messages()
    question = parse_control(data)
    assert isinstance(question, Ping)
    meeting.a.sessions.receive(elsewhere, Pong(question.token).pack(), meeting.now_ns)
    assert meeting.a.sessions.place(PEER) == meeting.b.place
    good = theirs.prove(Pong(question.token)).pack()
    meeting.a.sessions.receive(elsewhere, good, meeting.now_ns)
    assert meeting.a.sessions.place(PEER) == elsewhere


# ---- Who is let in ----


def codes(meeting: Meeting, name: str) -> set[int]:
    return {each.code for each in meeting.sides[name].events if isinstance(each, Left)}


@pytest.mark.parametrize("mode", [Mode.NOISE, Mode.POST_QUANTUM])
def test_a_node_with_another_identity_does_not_join_whoever_asks(mode: Mode) -> None:
    wrong = {"b": local_of("mallory", only(mode), knows="alice")}
    for asking in ("a", "b"):
        meeting = Meeting(mode=mode, locals_=wrong)
        meeting.want(asking)
        meeting.run(5 * SECOND)
        assert not meeting.a.up
        assert not meeting.b.up
        assert codes(meeting, asking) & {Code.UNPROVEN, Code.IDENTITY}
        assert meeting.sides[asking].sessions[PEER].reason in (Code.UNPROVEN, Code.IDENTITY)


def test_a_peer_that_is_known_cannot_take_the_place_of_another() -> None:
    """Node a knows carol too, but at another address: what comes from b's has to be bob."""
    from valkyrie.controlplane.security.local import Local
    from valkyrie.controlplane.security.trust import Pins

    known = Pins({"bob": peer("bob"), "carol": peer("carol", token_id=None, certificate_name="c")})
    locals_ = {
        "a": Local(identity("alice"), known, only(Mode.NOISE)),
        "b": local_of("carol", only(Mode.NOISE), knows="alice"),
    }
    meeting = Meeting(mode=Mode.NOISE, locals_=locals_)
    meeting.want("b")
    meeting.run(SECOND)
    assert not meeting.a.up
    assert meeting.a.sessions[PEER].reason == Code.IDENTITY
    assert codes(meeting, "b") == {Code.IDENTITY}


@pytest.mark.parametrize("weak", [Mode.PLAINTEXT, Mode.NOISE])
def test_two_nodes_without_a_mode_in_common_say_that_it_is_the_floor(weak: Mode) -> None:
    locals_ = {"b": local_of("bob", only(weak), knows="alice")}
    for asking in ("a", "b"):
        meeting = Meeting(mode=Mode.POST_QUANTUM, locals_=locals_)
        meeting.want(asking)
        meeting.run(5 * SECOND)
        assert codes(meeting, asking) == {Code.SECURITY_FLOOR}
        assert meeting.a.sessions[PEER].link is None
        assert meeting.b.sessions[PEER].link is None


def test_a_node_that_allows_plaintext_takes_it_only_from_peers_that_may() -> None:
    """Whoever has the address of a peer that is to prove itself cannot ask for less."""
    locals_ = {
        "a": local_of("alice", BOTH, knows="bob"),
        "b": local_of("bob", only(Mode.PLAINTEXT), knows="alice"),
    }
    strict = {"a": peer("bob", min_mode=Mode.NOISE)}
    for peers, joined in ((strict, False), ({}, True)):
        meeting = Meeting(locals_=locals_, peers=peers)
        meeting.want("b")
        meeting.run(SECOND)
        assert meeting.a.up is joined
        assert codes(meeting, "b") == (set() if joined else {Code.SECURITY_FLOOR})


def test_a_session_with_keys_is_not_replaced_by_one_without() -> None:
    locals_ = {"a": local_of("alice", BOTH, knows="bob")}
    meeting = met(Mode.NOISE, locals_=locals_)
    before = link_of(meeting, "a")
    meeting.locals["b"] = local_of("bob", only(Mode.PLAINTEXT), knows="alice")
    meeting.restart("b")
    meeting.want("b")
    meeting.run(SECOND)
    assert link_of(meeting, "a") == before
    assert codes(meeting, "b") == {Code.SECURITY_FLOOR}


def test_offers_that_are_changed_on_the_path_make_no_session() -> None:
    """A downgrade: whoever is on the path takes the stronger modes off an offer."""
    for changed in (Type.HELLO, Type.HELLO_ACK):
        both = Policy(modes=frozenset({Mode.NOISE, Mode.POST_QUANTUM}))
        locals_ = {
            "a": local_of("alice", both, knows="bob"),
            "b": local_of("bob", both, knows="alice"),
        }
        meeting = Meeting(locals_=locals_)
        put = meeting._put

        def change(
            sender: str, to: Place, what: object, kind: int = changed, put: object = put
        ) -> None:
            assert callable(put)
            if isinstance(what, bytes):
                message = parse_control(what)
                if isinstance(message, Message) and message.type == kind:
                    piece = parse(message)
                    data = piece.data.replace(STRONG, WEAK, 1)
                    assert data != piece.data
                    what = Message(kind, replace(piece, total=len(data), data=data).pack()).pack()
            put(sender, to, what)

        meeting._put = change  # type: ignore[method-assign]
        meeting.want("a")
        meeting.run(20 * SECOND)
        assert not meeting.a.up
        assert not meeting.b.up


@pytest.mark.parametrize("mode", [Mode.PLAINTEXT, Mode.NOISE])
def test_messages_sent_back_to_who_sent_them_make_no_session(mode: Mode) -> None:
    meeting = Meeting(mode=mode)
    put = meeting._put

    def reflect(sender: str, to: Place, what: object) -> None:
        put("b" if sender == "a" else "a", meeting.sides[sender].place, what)

    meeting._put = reflect  # type: ignore[method-assign]
    meeting.want("a")
    meeting.run(20 * SECOND)
    assert meeting.a.sessions[PEER].state is not State.UP
    assert not meeting.b.up


@pytest.mark.parametrize("mode", [Mode.PLAINTEXT, Mode.NOISE, Mode.POST_QUANTUM])
def test_all_that_was_ever_sent_does_nothing_when_it_is_sent_again(mode: Mode) -> None:
    meeting = Meeting(mode=mode)
    meeting.want("a")
    meeting.run(50 * MS)
    meeting.close("b")
    meeting.run(SECOND)
    meeting.want("b")
    meeting.run(50 * MS)
    meeting.agree()
    meeting.run(60 * SECOND)
    before = link_of(meeting, "a"), link_of(meeting, "b")
    for sender, data in meeting.said[:]:
        to = meeting.other(sender)
        to.sessions.receive(meeting.sides[sender].place, data, meeting.now_ns)
        meeting._collect(to.name)
        meeting.run(MS)
    assert (link_of(meeting, "a"), link_of(meeting, "b")) == before
    meeting.agree()


# ---- Floods ----


@pytest.mark.parametrize("mode", [Mode.PLAINTEXT, Mode.NOISE, Mode.POST_QUANTUM])
def test_a_spoofed_flood_grows_nothing_and_an_honest_peer_still_joins(mode: Mode) -> None:
    meeting = Meeting(mode=mode)
    sessions = meeting.b.sessions
    meeting.a.sessions.want(PEER, meeting.now_ns)
    ((_, _, hello),) = meeting.a.sessions.take_messages()
    noise = random.Random(1)
    kinds = (Type.HELLO, Type.NEGOTIATE, Type.KEY_EXCHANGE, Type.AUTH_RESPONSE, Type.AUTH_FAILURE)
    came = went = 0

    def flood(count: int) -> None:
        nonlocal came, went
        for number in range(count):
            port = noise.getrandbits(16)
            spoofed = hello[:24] + noise.randbytes(8) + hello[32:]
            junk = make_frame(kinds[number % len(kinds)], 0, noise.randbytes(600)).pack()
            for data in (spoofed, junk):
                sessions.receive(Place(meeting.a.place.address, port), data, meeting.now_ns)
                came += len(data)
            went += sum(len(data) for _, _, data in sessions.take_messages())

    tracemalloc.start()
    flood(500)
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    flood(1000)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert went <= AMPLIFICATION_MAX * came
    assert after - before < 20_000
    assert len(sessions._door) == 0
    assert sessions[PEER].state is State.DOWN
    assert 0 < len(sessions.refused) < 10
    meeting.run(SECOND)
    meeting.agree()


def test_who_shares_a_peers_address_does_not_keep_it_from_joining() -> None:
    meeting = Meeting(mode=Mode.NOISE)
    sessions, now_ns = meeting.b.sessions, meeting.now_ns
    for number in range(BEGUN_MAX + 5):
        who = meeting.locals["a"], meeting.peers["a"]
        asking = Handshake.asking(*who, entropy_of(number), now_ns)
        place = Place(meeting.a.place.address, 1000 + number)
        for _ in range(2):
            for message in asking.to_send(now_ns):
                sessions.receive(place, message.pack(), now_ns)
            for _, _, data in sessions.take_messages():
                answer = parse_control(data)
                assert isinstance(answer, Message)
                asking.receive(answer, now_ns)
    assert sessions.refused["often"] == 5
    meeting.want("a")
    meeting.run(BEGUN_NS // 2)
    meeting.agree()


@pytest.mark.parametrize(
    "message",
    [
        *(Message(kind, bytes(100)) for kind in (Type.HELLO, Type.NEGOTIATE, Type.AUTH_FAILURE)),
        Error(102, 1),
        Close(103, 1),
        Ping(1),
        Pong(1),
    ],
    ids=lambda message: Type(message.type).name,
)
def test_a_stranger_gets_nothing(message: Control) -> None:
    meeting = Meeting()
    stranger = Place(ip_address("192.0.2.1"), lib.VK_PORT)
    meeting.b.sessions.receive(stranger, message.pack(), meeting.now_ns)
    assert not meeting.b.sessions.take_messages()
    assert meeting.b.sessions.refused == {"stranger": 1}


@pytest.mark.parametrize("mode", [Mode.PLAINTEXT, Mode.NOISE])
def test_every_changed_byte_of_every_message_is_survived(mode: Mode) -> None:
    meeting = Meeting(mode=mode)
    meeting.want("a")
    meeting.run(50 * MS)
    meeting.close("a")
    chance = random.Random(1)
    fresh = Meeting(mode=mode)
    for sender, data in meeting.said:
        changed = [data[:size] for size in range(len(data))]
        changed += [
            data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
            for at in range(len(data))
        ]
        for each in changed:
            to = fresh.other(sender)
            to.sessions.receive(fresh.sides[sender].place, each, fresh.now_ns)
            to.sessions.take_messages()
    if mode is not Mode.PLAINTEXT:  # which proves nothing, and has been given all
        assert not fresh.a.up
        assert not fresh.b.up


@pytest.mark.parametrize("mode", [Mode.PLAINTEXT, *KEYED])
def test_an_address_is_proven_by_an_answer_and_by_nothing_else(mode: Mode) -> None:
    meeting = Meeting(mode=mode)
    meeting.want("b")
    meeting.run(50 * MS)
    meeting.agree()
    for name, side in meeting.sides.items():
        assert side.sessions.proven(PEER) == meeting.other(name).place

    other = Meeting(seed=1, mode=mode)  # where an attacker can send in b's name, and hears nothing
    other.cut = True
    other.want("a")
    for data in (said for sender, said in meeting.said if sender == "b"):
        other.a.sessions.receive(other.b.place, data, other.now_ns)
        other.run(MS)
    other.run(10 * SECOND)
    assert other.a.sessions[PEER].link is None
    assert other.a.sessions.proven(PEER) is None


def test_who_is_refused_has_proven_where_it_is_all_the_same() -> None:
    liar = local_of("carol", only(Mode.NOISE), knows="alice")
    meeting = Meeting(mode=Mode.NOISE, locals_={"b": liar})
    meeting.want("b")
    meeting.run(SECOND)
    assert meeting.a.sessions[PEER].link is None
    assert meeting.a.sessions.proven(PEER) == meeting.b.place
