"""Whole handshakes: in all modes, over bad wires, against who edits, reflects and pretends."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.handshake import Established, Failed, Handshake, State, Timing
from valkyrie.controlplane.security.keys import Direction
from valkyrie.controlplane.security.local import Local
from valkyrie.controlplane.security.messages import (
    HEAD_SIZE,
    NO_COOKIE,
    WHOLE,
)
from valkyrie.controlplane.security.modes import (
    ZERO_TRUST_LIFETIME_NS,
    Cipher,
    Mode,
    NoisePattern,
    Policy,
)
from valkyrie.controlplane.security.trust import Peer
from valkyrie.dataplane.control import Message
from valkyrie.dataplane.wire import Type

from .parties import (
    DOCUMENTED,
    FAST,
    KINDS,
    MS,
    SECRET,
    SOURCE,
    WAYS,
    Change,
    Wire,
    both,
    code,
    entropy_of,
    peer,
    trust,
    wire,
)

# ---- That it works ----


@pytest.mark.parametrize(("mode", "pattern"), WAYS)
@pytest.mark.parametrize("cipher", Cipher)
def test_two_nodes_agree_in_every_mode(mode: Mode, pattern: NoisePattern, cipher: Cipher) -> None:
    there, back = both(wire(mode, pattern=pattern, ciphers=(cipher,)))
    assert there.choice == back.choice
    assert (there.choice.mode, there.choice.cipher) == (mode, cipher)
    assert (there.terms, back.terms) == (b"responder's terms", b"initiator's terms")
    if mode is Mode.PLAINTEXT:
        assert there.schedule is None
        assert back.schedule is None
        return
    assert there.schedule is not None
    assert back.schedule is not None
    assert (there.grant.peer, back.grant.peer) == ("bob", "alice")
    for direction in Direction:
        assert there.schedule.traffic(direction) == back.schedule.traffic(direction)
    assert there.schedule.export("use", b"") == back.schedule.export("use", b"")


def test_zero_trust_sessions_are_short() -> None:
    there, back = both(wire(Mode.ZERO_TRUST))
    assert there.lifetime_ns == back.lifetime_ns == ZERO_TRUST_LIFETIME_NS
    assert both(wire(Mode.POST_QUANTUM))[0].lifetime_ns is None


def test_the_shorter_of_grant_and_mode_counts() -> None:
    found = wire(Mode.ZERO_TRUST)
    found.asking._local = dataclasses.replace(
        found.initiator, trust=trust("bob", lifetime_ns=5 * MS)
    )
    assert both(found)[0].lifetime_ns == 5 * MS


def test_two_handshakes_never_have_the_same_keys() -> None:
    found = [both(wire(Mode.NOISE))[0].schedule for _ in range(4)]
    assert len({each.export("use", b"") for each in found if each}) == 4


def test_the_strongest_common_mode_is_chosen() -> None:
    every = frozenset(Mode)
    found = wire(Mode.NOISE)
    policy = Policy(modes=every, min_mode=Mode.NOISE)
    found = Wire(
        dataclasses.replace(found.initiator, policy=policy),
        dataclasses.replace(found.responder, policy=policy),
        found.asked,
    )
    assert both(found)[0].choice.mode is Mode.ZERO_TRUST


# ---- Bad wires ----


@pytest.mark.parametrize(("mode", "pattern"), [*FAST, (Mode.POST_QUANTUM, NoisePattern.XK)])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_loss_copies_and_reordering_only_take_time(
    mode: Mode, pattern: NoisePattern, seed: int
) -> None:
    chance = random.Random(seed)
    held: dict[bool, list[Message]] = {True: [], False: []}

    def bad(_number: int, there: bool, message: Message) -> list[Message]:
        dice = chance.random()
        if dice < 0.15:
            return []
        if dice < 0.3:
            held[there].append(message)
            return []
        copies = [message] * (2 if dice < 0.4 else 1)
        late = [held[there].pop() for _ in range(chance.randrange(len(held[there]) + 1))]
        return copies + late

    patient = Timing(give_up_ns=100_000 * MS)
    there, back = both(wire(mode, pattern=pattern, change=bad, timing=patient))
    assert there.schedule is not None
    assert back.schedule is not None
    assert there.schedule.export("use", b"") == back.schedule.export("use", b"")


@pytest.mark.parametrize("kind", KINDS)
def test_silence_ends_in_a_timeout(kind: int) -> None:
    def lose(_number: int, _there: bool, message: Message) -> list[Message]:
        return [] if message.type == kind else [message]

    found = wire(Mode.NOISE, change=lose)
    there, back = found.run()
    assert code(there) is Failure.TIMEOUT
    if kind == Type.AUTH_SUCCESS:
        assert isinstance(back, Established)  # it cannot know; the session finds nobody there
    else:
        assert code(back) in (None, Failure.TIMEOUT)
    assert len(found.seen) < 60
    assert found.door.under_way == 0


# ---- Changed bytes ----


def flip(kind: int, occurrence: int, at: int, bits: int) -> Change:
    """Return a wire on which one byte of one datagram of a type is changed, and its copies too."""
    seen: list[bytes] = []

    def change(_number: int, _there: bool, message: Message) -> list[Message]:
        if message.type != kind:
            return [message]
        if message.payload not in seen:
            seen.append(message.payload)
        # What is in one datagram is changed every time, also when it is made anew.
        hit = kind in WHOLE or seen.index(message.payload) == occurrence
        if not hit or at >= len(message.payload):
            return [message]
        payload = bytearray(message.payload)
        payload[at] ^= bits
        return [Message(message.type, bytes(payload))]

    return change


KERNELS = set(range(8, 24))
"""The half of a cookie that the kernel checks, and nobody else: tests/bpf/test_cookie.py."""


def datagrams(mode: Mode, pattern: NoisePattern) -> list[Message]:
    found = wire(mode, pattern=pattern)
    both(found)
    return [message for _, message in found.seen]


@pytest.mark.parametrize(("mode", "pattern"), WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_changed_byte_ends_in_success(mode: Mode, pattern: NoisePattern, kind: int) -> None:
    """Every byte where that is quick; elsewhere all of the first 64 and every 37th."""
    sizes = [len(each.payload) for each in datagrams(mode, pattern) if each.type == kind]
    quick = (mode, pattern) in FAST or mode is Mode.PLAINTEXT
    for occurrence, size in enumerate(sizes):
        if mode is Mode.MTLS:
            places = {*range(HEAD_SIZE), *range(HEAD_SIZE, size, 101)}
        elif quick:
            places = set(range(size))
        else:
            places = {*range(HEAD_SIZE + 12), *range(HEAD_SIZE + 12, size, 211), size - 1}
        for at in places - KERNELS:
            change = flip(kind, occurrence, at, 1 << (at % 8))
            found = wire(mode, pattern=pattern, change=change)
            there, back = found.run()
            assert not isinstance(there, Established), (occurrence, at)
            assert code(there) in DOCUMENTED
            if kind == Type.AUTH_SUCCESS:
                assert isinstance(back, Established)
            else:
                assert not isinstance(back, Established), (occurrence, at)
                assert code(back) in DOCUMENTED


@pytest.mark.parametrize(("mode", "pattern"), WAYS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_payload_in_any_place_is_survived(
    mode: Mode, pattern: NoisePattern, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    body = data.draw(st.binary(max_size=200))
    keep_head = data.draw(st.booleans())
    same: list[bool] = []

    def change(_number: int, _there: bool, message: Message) -> list[Message]:
        if message.type != kind:
            return [message]
        head = message.payload[: HEAD_SIZE - 2] + len(body).to_bytes(2, "big") if keep_head else b""
        same.append(head + body == message.payload)
        return [Message(message.type, head + body)]

    there, _ = wire(mode, pattern=pattern, change=change).run()
    assert all(same) or code(there) in DOCUMENTED


# ---- The table ----


def reached(state: State) -> Handshake:
    """Return a handshake in a state."""
    found = wire(Mode.NOISE)
    for _ in range(10):
        sides = [found.asking, *(entry.handshake for entry in found.door._entries.values())]
        for side in sides:
            if side.state is state:
                return side
        for message in found.asking.to_send(found.now_ns):
            found.door.receive(SOURCE, message, found.now_ns)
            for entry in found.door._entries.values():
                if entry.handshake.state is state:
                    return entry.handshake
        for _, message in found.door.to_send(found.now_ns):
            found.asking.receive(message, found.now_ns)
    raise AssertionError(state)


@pytest.mark.parametrize("state", [state for state in State if state is not State.FAILED])
def test_every_message_in_every_state_is_taken_or_ignored(state: State) -> None:
    for kind in range(0x20):
        side = reached(state)
        side.to_send(50_000 * MS)
        payload = side.attempt.to_bytes(8, "big") + NO_COOKIE + b"\0\0\0\x04junk"
        side.receive(Message(kind, payload), 50_001 * MS)
        name = side.TRANSITIONS.get((state, kind))
        event = side.next_event()
        if name is None or name == "_repeat":
            assert side.state is state, kind
            assert not isinstance(event, Failed)
        else:
            assert side.state is State.FAILED, kind
            assert isinstance(event, Failed)
            assert event.code in DOCUMENTED
        other = reached(state)
        other.to_send(50_000 * MS)
        other.receive(Message(kind, bytes(HEAD_SIZE - 4) + b"\0\0\0\x04junk"), 50_001 * MS)
        assert other.state is state  # another attempt's
        assert not isinstance(other.next_event(), Failed)


def test_a_giving_up_that_nobody_asked_for_ends_no_session() -> None:
    found = wire(Mode.NOISE)
    both(found)
    told = Message(
        Type.AUTH_FAILURE, found.asking.attempt.to_bytes(8, "big") + b"\0\0\0\x04" + b"\0\0\0\xc9"
    )
    found.asking.receive(told, found.now_ns)
    found.door.receive(SOURCE, told, found.now_ns)
    assert found.asking.state is State.ESTABLISHED
    assert found.asking.next_event() is None
    assert found.door.next_event() is None


def test_nothing_secret_is_shown() -> None:
    found = wire(Mode.TOKEN)
    there, _ = both(found)
    shown = repr((there, found.asking, found.initiator))
    assert SECRET.decode() not in shown
    assert repr(SECRET)[2:-1] not in shown


def test_a_peer_without_a_fingerprint_is_for_the_trust_to_judge() -> None:
    base = wire(Mode.NOISE)
    unknown = Peer("bob")
    there, _ = Wire(base.initiator, base.responder, unknown).run()
    assert isinstance(there, Established)  # bob is pinned in alice's trust
    stranger = dataclasses.replace(base.initiator, trust=trust())
    there, _ = Wire(stranger, base.responder, unknown).run()
    assert code(there) is Failure.IDENTITY


def test_entropy_and_time_are_all_that_a_handshake_asks_for() -> None:
    local: Local = wire(Mode.NOISE).initiator
    one, other = (
        Handshake.asking(local, peer("bob"), entropy_of(7), 5 * MS).to_send(5 * MS)
        for _ in range(2)
    )
    assert one == other
