"""The responder's door: floods make no state, bounds hold, nothing is amplified."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.cookie import SLOT_NS
from valkyrie.controlplane.security.door import (
    AMPLIFICATION_MAX,
    BEGUN_MAX,
    BEGUN_NS,
    RETAIN_NS,
    Door,
)
from valkyrie.controlplane.security.handshake import Established, Failed, Handshake
from valkyrie.controlplane.security.messages import HEAD_SIZE, Piece, parse, parse_failure
from valkyrie.controlplane.security.modes import Mode, Policy
from valkyrie.dataplane.control import Message
from valkyrie.dataplane.wire import Type

from .parties import MS, SOURCE, entropy_of, peer, wire

NOW_NS = 50_000 * MS


def door(under_way_max: int = 100, per_source_max: int = 10, ended_max: int = 100) -> Door:
    return Door(
        wire(Mode.NOISE).responder,
        entropy_of(1),
        under_way_max=under_way_max,
        per_source_max=per_source_max,
        ended_max=ended_max,
    )


def ask(seed: int = 0) -> Handshake:
    return Handshake.asking(wire(Mode.NOISE).initiator, peer("bob"), entropy_of(seed), NOW_NS)


def greeted(found: Door, asking: Handshake, source: bytes = SOURCE) -> list[Message]:
    """Return the initiator's messages after HELLO_ACK."""
    for message in asking.to_send(NOW_NS):
        found.receive(source, message, NOW_NS)
    for _, message in found.to_send(NOW_NS):
        asking.receive(message, NOW_NS)
    return asking.to_send(NOW_NS)


def told(found: Door, now_ns: int = NOW_NS) -> list[Failure]:
    return [
        parse_failure(parse(message).data)
        for _, message in found.to_send(now_ns)
        if message.type == Type.AUTH_FAILURE
    ]


def test_floods_before_the_cookie_make_no_state() -> None:
    found = door()
    chance = random.Random(1)
    hello = ask().to_send(NOW_NS)[0]
    sent = received = 0
    for number in range(2000):
        source = chance.randbytes(6)
        attempt = chance.randbytes(8)
        junk = Piece(number, 1120 * (number % 3), 4000, chance.randbytes(1120)).pack()
        for message in (
            Message(Type.HELLO, attempt + hello.payload[8:]),
            Message(Type.KEY_EXCHANGE, junk),
            Message(Type.AUTH_RESPONSE, junk),
            Message(Type.NEGOTIATE, junk),
            Message(chance.randrange(256), chance.randbytes(chance.randrange(60))),
        ):
            found.receive(source, message, NOW_NS)
            received += len(message.payload)
    sent = sum(len(message.payload) for _, message in found.to_send(NOW_NS))
    assert len(found) == 0
    assert found.timer() is None
    assert sent <= AMPLIFICATION_MAX * received
    assert found.refused["unknown attempt"] >= 4000
    assert len(found.refused) < 10


def test_an_answer_is_never_three_times_its_question() -> None:
    found = door()
    hello = ask().to_send(NOW_NS)[0]
    found.receive(SOURCE, hello, NOW_NS)
    [(_, answer)] = found.to_send(NOW_NS)
    assert len(answer.payload) <= AMPLIFICATION_MAX * len(hello.payload)
    # A node that offers much does not answer who asks little.
    loud = Door(wire(Mode.NOISE).responder, entropy_of(1), extra=bytes(256))
    loud.receive(SOURCE, hello, NOW_NS)
    assert loud.to_send(NOW_NS) == []
    assert loud.refused["amplification"] == 1


def test_a_cookie_is_for_one_source_one_attempt_one_offer() -> None:
    found = door()
    negotiate, *_ = greeted(found, ask())
    other = Message(negotiate.type, b"another!" + negotiate.payload[8:])
    found.receive(b"10.0.0.2:9", negotiate, NOW_NS)
    found.receive(SOURCE, other, NOW_NS)
    found.receive(SOURCE, negotiate, NOW_NS + 2 * SLOT_NS)
    assert len(found) == 0
    assert found.refused["cookie"] == 3
    assert told(found) == [Failure.COOKIE] * 3
    found.receive(SOURCE, negotiate, NOW_NS)
    assert len(found) == 1


def test_an_initiator_with_an_old_cookie_begins_anew() -> None:
    found = wire(Mode.NOISE)
    for message in found.asking.to_send(found.now_ns):
        found.door.receive(SOURCE, message, found.now_ns)
    [(_, answer)] = found.door.to_send(found.now_ns)
    found.door._cookies = type(found.door._cookies)(b"k" * 32)  # the responder has restarted
    found.asking.receive(answer, found.now_ns)
    first = found.asking.attempt
    there, back = found.run()
    assert isinstance(there, Established)
    assert isinstance(back, Established)
    assert found.asking.attempt != first


def test_cookies_that_are_never_taken_end_the_attempt() -> None:
    found = wire(Mode.NOISE)

    def break_it(_number: int, _there: bool, message: Message) -> list[Message]:
        if message.type == Type.HELLO_ACK:
            payload = bytearray(message.payload)
            payload[HEAD_SIZE + 10] ^= 1
            return [Message(message.type, bytes(payload))]
        return [message]

    found.change = break_it
    there, back = found.run()
    assert isinstance(there, Failed)
    assert there.code is Failure.COOKIE
    assert back is None
    assert len(found.seen) < 30


def test_no_more_handshakes_are_under_way_than_allowed() -> None:
    found = door(under_way_max=3, per_source_max=2)
    outcomes = []
    for seed, source in enumerate([b"a", b"a", b"a", b"b", b"c"]):
        negotiate, *_ = greeted(found, ask(seed), source)
        found.receive(source, negotiate, NOW_NS)
        outcomes.append(told(found))
    assert outcomes == [[], [], [Failure.OVERLOAD], [], [Failure.OVERLOAD]]
    assert found.under_way == 3
    found.to_send(NOW_NS + 10_000 * MS)
    assert found.under_way == 0
    events = []
    while (event := found.next_event()) is not None:
        events.append(event[2])
    assert [event.code for event in events if isinstance(event, Failed)] == [Failure.TIMEOUT] * 3
    negotiate, *_ = greeted(found, ask(9), b"d")
    found.receive(b"d", negotiate, NOW_NS)
    assert found.under_way == 1
    found.to_send(NOW_NS + 2 * RETAIN_NS)
    found.to_send(NOW_NS + 2 * RETAIN_NS)
    assert len(found) == 0


def test_ended_handshakes_are_remembered_but_not_without_end() -> None:
    found = door(ended_max=2)
    for seed in range(6):
        negotiate, *_ = greeted(found, ask(seed), b"%d" % seed)
        found.receive(b"%d" % seed, negotiate, NOW_NS)
        found.receive(
            b"%d" % seed,
            Message(Type.KEY_EXCHANGE, negotiate.payload[:24] + b"\0\0\0\x04junk"),
            NOW_NS,
        )
    assert found.under_way == 0
    assert len(found) <= 3


def test_pieces_of_one_handshake_hold_no_more_than_a_message() -> None:
    found = door()
    asking = ask()
    negotiate, *_ = greeted(found, asking)
    found.receive(SOURCE, negotiate, NOW_NS)
    for number in range(200):
        piece = Piece(asking.attempt, 100 * number, 16384, bytes(100)).pack()
        found.receive(SOURCE, Message(Type.KEY_EXCHANGE, piece), NOW_NS)
    event = found.next_event()
    assert event is not None
    assert isinstance(event[2], Failed)
    assert event[2].code is Failure.MALFORMED
    assert found.under_way == 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 0x20), st.binary(max_size=300), st.booleans()), max_size=12)
)
def test_any_messages_from_anybody_are_survived(
    messages: list[tuple[int, bytes, bool]],
) -> None:
    found = door()
    asking = ask()
    negotiate, *_ = greeted(found, asking)
    found.receive(SOURCE, negotiate, NOW_NS)
    for kind, data, ours in messages:
        head = negotiate.payload[:8] if ours else b""
        found.receive(SOURCE, Message(kind, head + data), NOW_NS)
        found.to_send(NOW_NS)
    while (event := found.next_event()) is not None:
        assert isinstance(event[2], Failed)


def test_the_door_keeps_to_its_policy_whatever_is_asked() -> None:
    strict = wire(Mode.NOISE).responder
    found = Door(strict, entropy_of(1))
    weak = wire(Mode.PLAINTEXT).initiator
    both = Policy(modes=frozenset({Mode.PLAINTEXT, Mode.NOISE}), min_mode=Mode.PLAINTEXT)
    asking = Handshake.asking(
        type(weak)(weak.identity, weak.trust, both), peer("bob"), entropy_of(3), NOW_NS
    )
    greeted(found, asking)
    assert asking._choice is not None
    assert asking._choice.mode is Mode.NOISE


@pytest.mark.parametrize("jump_ns", [-20_000 * MS, 3_600_000 * MS])
def test_clock_jumps_end_in_a_session_or_a_documented_failure(jump_ns: int) -> None:
    found = wire(Mode.NOISE)
    found.step()
    found.now_ns += jump_ns
    there, back = found.run()
    assert isinstance(there, Failed | Established)
    if isinstance(there, Failed):
        assert there.code in (Failure.TIMEOUT, Failure.COOKIE)
    else:
        assert isinstance(back, Established)


def test_who_shares_a_peers_address_leaves_its_own_port_its_share() -> None:
    found = Door(
        wire(Mode.NOISE).responder,
        entropy_of(1),
        expected=lambda _source: peer("alice"),
        known=lambda source: source == b"own",
    )
    for seed in range(BEGUN_MAX + 5):
        source = b"other port %d" % seed
        negotiate, *_ = greeted(found, ask(seed), source)
        found.receive(source, negotiate, NOW_NS)
    assert found.refused["often"] == 5
    negotiate, *_ = greeted(found, ask(99), b"own")
    found.receive(b"own", negotiate, NOW_NS)
    assert found.under_way == BEGUN_MAX + 1


def test_one_peer_begins_no_more_than_its_share_and_another_one_is_not_held_up() -> None:
    expected = {b"a": peer("alice"), b"b": peer("bob")}
    found = Door(
        wire(Mode.NOISE).responder, entropy_of(1), expected=lambda source: expected[source[:1]]
    )
    for seed in range(BEGUN_MAX + 5):
        source = b"a%d" % seed
        negotiate, *_ = greeted(found, ask(seed), source)
        found.receive(source, negotiate, NOW_NS)
    assert found.under_way == BEGUN_MAX
    assert found.refused["often"] == 5
    assert told(found) == [Failure.OVERLOAD]
    negotiate, *_ = greeted(found, ask(99), b"b")
    found.receive(b"b", negotiate, NOW_NS)
    assert found.under_way == BEGUN_MAX + 1
    source, later_ns = b"a99", NOW_NS + BEGUN_NS
    negotiate, *_ = greeted(found, ask(100), source)
    found.receive(source, negotiate, later_ns)
    found.receive(source, negotiate, later_ns)
    assert found.under_way == BEGUN_MAX + 2
    found.to_send(NOW_NS + 2 * RETAIN_NS)
    found.to_send(NOW_NS + 4 * RETAIN_NS)
    assert (len(found), found.under_way, found.timer()) == (0, 0, None)
