"""Proving anew within a session: in time, by the same identity, for this question only."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.handshake import Established
from valkyrie.controlplane.security.identity import Identity
from valkyrie.controlplane.security.modes import Cipher, Mode, Rhythm
from valkyrie.controlplane.security.reproof import Reproof
from valkyrie.dataplane.control import Message
from valkyrie.dataplane.units import NS_PER_S
from valkyrie.dataplane.wire import Type

from .parties import both, entropy_of, identity, wire

MINUTE_NS = 60 * NS_PER_S
PIECES = 1 + 4
"""Messages of a question and its answer."""


@functools.cache
def session(
    number: int = 0, cipher: Cipher = Cipher.AES_256_GCM
) -> tuple[Established, Established]:
    return both(wire(Mode.ZERO_TRUST, ciphers=(cipher,)))


def side(
    initiator: bool,
    *,
    who: Identity | None = None,
    number: int = 0,
    cipher: Cipher = Cipher.AES_256_GCM,
    seed: int = 3,
) -> Reproof:
    found = session(number, cipher)[0 if initiator else 1]
    return Reproof(
        who or identity("alice" if initiator else "bob"),
        found,
        entropy_of(seed if initiator else seed + 1),
        0,
        initiator=initiator,
        rhythm=Rhythm(),
    )


def carry(
    a: Reproof,
    b: Reproof,
    now_ns: int,
    change: Callable[[Message], list[Message]] = lambda message: [message],
) -> list[Message]:
    """Exchange what there is, and return it as it was sent."""
    sent = []
    for _ in range(4):
        for sender, receiver in ((a, b), (b, a)):
            for message in sender.to_send(now_ns):
                sent.append(message)
                for each in change(message):
                    receiver.receive(each, now_ns)
    return sent


def flipped(message: Message, at: int) -> Message:
    data = message.payload
    return Message(message.type, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


@pytest.mark.parametrize("cipher", Cipher)
def test_both_sides_prove_themselves_every_minute(cipher: Cipher) -> None:
    a, b = side(True, cipher=cipher), side(False, cipher=cipher)
    assert carry(a, b, MINUTE_NS - 1) == []
    for minute in range(1, 4):
        assert a.timer() == minute * MINUTE_NS
        assert len(carry(a, b, minute * MINUTE_NS)) == 2 * PIECES
        assert a.proven_ns == b.proven_ns == minute * MINUTE_NS
    assert a.failure is b.failure is None


def test_everything_fits_datagrams_and_nothing_is_said_in_the_clear() -> None:
    a, b = side(True), side(False)
    sent = carry(a, b, MINUTE_NS)
    assert max(len(message.pack()) for message in sent) < 1232  # IPv6 promises 1280
    numbers = {message.payload[:8] for message in sent}
    assert len(numbers) == 4  # a question and an answer each
    nonce = entropy_of(3)(32)
    assert all(nonce not in message.payload for message in sent)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_lost_or_comes_in_another_order_is_made_up_for(seed: int) -> None:
    a, b = side(True), side(False)
    chance = random.Random(seed)
    kept: list[tuple[Reproof, Message]] = []
    now_ns = MINUTE_NS
    while min(a.proven_ns, b.proven_ns) < MINUTE_NS:
        for sender, receiver in ((a, b), (b, a)):
            kept += [
                (receiver, each) for each in sender.to_send(now_ns) if chance.random() > 0.4
            ] * chance.choice([1, 1, 2])
        chance.shuffle(kept)
        for receiver, message in kept:
            receiver.receive(message, now_ns)
        kept.clear()
        now_ns += NS_PER_S // 4
    assert a.failure is b.failure is None
    assert now_ns <= MINUTE_NS + 10 * NS_PER_S


def test_silence_ends_the_session() -> None:
    a = side(True)
    now_ns, asked = MINUTE_NS, 0
    while a.failure is None:
        asked += len(a.to_send(now_ns))
        now_ns = a.timer() or now_ns
    assert a.failure.code is Failure.TIMEOUT
    assert now_ns == MINUTE_NS + 10 * NS_PER_S
    assert asked == 20
    assert a.timer() is None
    assert a.to_send(now_ns) == []


@pytest.mark.parametrize("answers", [True, False])
def test_who_stood_still_asks_again_before_it_takes_the_other_for_silent(answers: bool) -> None:
    a, b = side(True), side(False)
    assert len(a.to_send(MINUTE_NS)) == 1  # and is stopped before it reads the answer
    now_ns = MINUTE_NS + 100 * NS_PER_S
    sent = a.to_send(now_ns)
    assert len(sent) == 1
    assert a.failure is None
    if answers:
        b.receive(sent[0], now_ns)
        for message in b.to_send(0):
            a.receive(message, now_ns)
        assert a.proven_ns == now_ns
    now_ns += 3 * NS_PER_S
    a.to_send(now_ns)
    assert (a.failure is None) == answers


def test_another_identity_within_the_session_ends_it() -> None:
    a, b = side(True), side(False, who=identity("mallory"))
    carry(a, b, MINUTE_NS)
    assert a.failure is not None
    assert a.failure.code is Failure.UNPROVEN
    assert b.failure is None


@pytest.mark.parametrize("wrong", ["session", "role"])
def test_only_the_other_side_of_this_session_can_answer(wrong: str) -> None:
    a = side(True)
    other = side(False, number=1) if wrong == "session" else side(True, seed=5)
    assert carry(a, other, MINUTE_NS)
    for now_ns in range(MINUTE_NS, MINUTE_NS + 12 * NS_PER_S, NS_PER_S):
        carry(a, other, now_ns)
    assert a.proven_ns == 0
    assert a.failure is not None
    assert a.failure.code is Failure.TIMEOUT


def test_what_was_recorded_proves_nothing_later_and_is_not_answered() -> None:
    a, b = side(True), side(False)
    recorded = carry(a, b, MINUTE_NS) + carry(a, b, 2 * MINUTE_NS)
    now_ns = 3 * MINUTE_NS
    [question] = a.to_send(now_ns)
    assert question not in recorded
    assert not any(a.concerns(each) or b.concerns(each) for each in recorded[:PIECES])
    for message in recorded * 2:
        for each in (a, b):
            each.receive(message, now_ns)
    assert a.proven_ns == 2 * MINUTE_NS
    assert a.failure is b.failure is None
    # The last question, sent again, has the last answer sent again, and once.
    answers = [each for each in b.to_send(now_ns - 1) if each.type == Type.AUTH_RESPONSE]
    assert len(answers) == PIECES - 1
    assert set(map(Message.pack, answers)) <= set(map(Message.pack, recorded))


def test_no_forged_piece_does_anything() -> None:
    a, b = side(True), side(False)
    sent = carry(a, b, MINUTE_NS, lambda each: [flipped(each, i) for i in range(8, 60)])
    assert [each.type for each in sent] == [Type.AUTH_CHALLENGE] * 2
    now_ns = MINUTE_NS + NS_PER_S
    carry(
        a, b, now_ns, lambda each: [flipped(each, 20), each, flipped(each, 300 % len(each.payload))]
    )
    assert a.proven_ns == b.proven_ns == now_ns
    assert a.failure is b.failure is None


def test_a_forged_piece_is_told_from_one_of_the_other_side() -> None:
    a, b = side(True), side(False)
    [question] = a.to_send(MINUTE_NS)
    assert not b.receive(flipped(question, 30), MINUTE_NS)
    assert b.receive(question, MINUTE_NS)


@settings(deadline=None)
@given(st.data())
def test_no_changed_byte_proves_anything(data: st.DataObject) -> None:
    a, b = side(True), side(False)
    [question] = a.to_send(MINUTE_NS)
    b.receive(question, MINUTE_NS)
    answer = b.to_send(MINUTE_NS - 1)
    which = data.draw(st.integers(0, len(answer) - 1))
    at = data.draw(st.integers(0, len(answer[which].payload) - 1))
    for i, message in enumerate(answer):
        a.receive(flipped(message, at) if i == which else message, MINUTE_NS)
    assert a.proven_ns == 0
    assert a.failure is None
    a.receive(answer[which], MINUTE_NS)  # who asks again gets it
    assert a.proven_ns == MINUTE_NS


@settings(deadline=None)
@given(
    st.sampled_from([Type.AUTH_CHALLENGE, Type.AUTH_RESPONSE, Type.PING]),
    st.binary(),
    st.booleans(),
)
def test_any_message_is_survived(kind: int, body: bytes, known: bool) -> None:
    a = side(True)
    numbers = [each.number for each in a._envelopes()]
    a.to_send(MINUTE_NS)
    for number in numbers:
        head = number.to_bytes(8, "big") if known else b""
        message = Message(kind, head + body)
        assert a.concerns(message) <= known
        a.receive(message, MINUTE_NS)
    assert a.failure is None


def test_a_peer_cannot_have_signatures_made_without_end() -> None:
    a, b = side(True), side(False)
    b._rhythm, b._due_ns = Rhythm(every_ns=1), 0
    answers = 0
    for now_ns in range(0, 10 * NS_PER_S, NS_PER_S // 100):
        for message in b.to_send(now_ns):
            a.receive(message, now_ns)
        if a._queue:
            answers += 1
        for message in a.to_send(now_ns):
            b.receive(message, now_ns)
    assert b.failure is None
    assert 19 <= answers <= 21


def test_the_keys_of_frames_are_not_kept_for_proofs() -> None:
    a = side(True)
    schedule = session()[0].schedule
    assert schedule is not None
    held = [getattr(a, name) for name in vars(a)]
    assert schedule not in held
    assert session()[0] not in held
