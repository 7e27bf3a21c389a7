"""Proving anew within a session: in time, by the same identity, for this session only."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.handshake import Established
from valkyrie.controlplane.security.identity import Identity
from valkyrie.controlplane.security.modes import Mode
from valkyrie.controlplane.security.reproof import NONCE_SIZE, SECOND_NS, Reproof
from valkyrie.dataplane.wire import Type

from .parties import both, entropy_of, identity, wire

MINUTE_NS = 60 * SECOND_NS


@functools.cache
def session(number: int = 0) -> tuple[Established, Established]:
    return both(wire(Mode.ZERO_TRUST))


def side(initiator: bool, *, who: Identity | None = None, number: int = 0) -> Reproof:
    found = session(number)[0 if initiator else 1]
    return Reproof(
        who or identity("alice" if initiator else "bob"),
        found,
        entropy_of(3 if initiator else 4),
        0,
        initiator=initiator,
    )


def carry(a: Reproof, b: Reproof, now_ns: int) -> int:
    """Exchange what there is, and return how many messages that was."""
    count = 0
    for _ in range(4):
        for sender, receiver in ((a, b), (b, a)):
            for kind, body in sender.to_send(now_ns):
                receiver.receive(kind, body, now_ns)
                count += 1
    return count


def test_both_sides_prove_themselves_every_minute() -> None:
    a, b = side(True), side(False)
    assert carry(a, b, MINUTE_NS - 1) == 0
    for minute in range(1, 4):
        assert a.timer() == minute * MINUTE_NS
        assert carry(a, b, minute * MINUTE_NS) == 4
        assert a.proven_ns == b.proven_ns == minute * MINUTE_NS
    assert a.failure is b.failure is None


def test_a_lost_question_is_repeated_and_a_late_answer_is_not_taken_for_another() -> None:
    a, b = side(True), side(False)
    [question] = a.to_send(MINUTE_NS)
    assert a.to_send(MINUTE_NS) == []
    [again] = a.to_send(MINUTE_NS + SECOND_NS)
    assert again == question
    b.receive(*again, MINUTE_NS)
    b.receive(*again, MINUTE_NS)
    first, second = (each for each in b.to_send(MINUTE_NS - 1))
    assert first == second
    a.receive(*first, MINUTE_NS)
    a.receive(*second, MINUTE_NS)
    assert a.failure is None


def test_silence_ends_the_session() -> None:
    a = side(True)
    now_ns = MINUTE_NS
    while a.failure is None:
        a.to_send(now_ns)
        now_ns = a.timer() or now_ns
    assert a.failure.code is Failure.TIMEOUT
    assert now_ns == MINUTE_NS + 10 * SECOND_NS
    assert a.timer() is None
    assert a.to_send(now_ns) == []


@pytest.mark.parametrize("wrong", ["identity", "session", "role"])
def test_only_this_peer_in_this_session_in_its_role_can_answer(wrong: str) -> None:
    a = side(True)
    other = {
        "identity": lambda: side(False, who=identity("mallory")),
        "session": lambda: side(False, number=1),
        "role": lambda: side(True),
    }[wrong]()
    for kind, body in a.to_send(MINUTE_NS):
        other.receive(kind, body, MINUTE_NS)
    for kind, body in other.to_send(MINUTE_NS - 1):
        a.receive(kind, body, MINUTE_NS)
    assert a.failure is not None
    assert a.failure.code is Failure.UNPROVEN


@settings(deadline=None)
@given(st.data())
def test_no_changed_byte_proves_anything(data: st.DataObject) -> None:
    a, b = side(True), side(False)
    [question] = a.to_send(MINUTE_NS)
    b.receive(*question, MINUTE_NS)
    [(kind, answer)] = b.to_send(MINUTE_NS - 1)
    at = data.draw(st.integers(0, len(answer) - 1))
    a.receive(kind, answer[:at] + bytes([answer[at] ^ 1]) + answer[at + 1 :], MINUTE_NS)
    assert a.proven_ns == 0
    assert (a.failure is None) == (at < NONCE_SIZE)


@settings(deadline=None)
@given(st.sampled_from([Type.AUTH_CHALLENGE, Type.AUTH_RESPONSE, Type.PING]), st.binary())
def test_any_message_is_survived(kind: int, body: bytes) -> None:
    a = side(True)
    a.to_send(MINUTE_NS)
    a.receive(kind, body, MINUTE_NS)
    assert a.failure is None or a.failure.code in (Failure.MALFORMED, Failure.UNPROVEN)


def test_a_peer_cannot_have_signatures_made_without_end() -> None:
    a = side(True)
    for number in range(50):
        a.receive(Type.AUTH_CHALLENGE, bytes([number]) * NONCE_SIZE, MINUTE_NS)
    assert len(a.to_send(0)) == 1
    a.receive(Type.AUTH_CHALLENGE, b"x" * NONCE_SIZE, MINUTE_NS + SECOND_NS)
    assert len(a.to_send(0)) == 1
