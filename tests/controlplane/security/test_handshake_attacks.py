"""Handshakes against who edits offers, pretends, reflects and replays."""

from __future__ import annotations

import dataclasses

import pytest

from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.handshake import Established, Failed, State
from valkyrie.controlplane.security.messages import (
    HEAD_SIZE,
    HelloAck,
    Negotiate,
)
from valkyrie.controlplane.security.modes import (
    Cipher,
    Mode,
    NoisePattern,
    Policy,
)
from valkyrie.controlplane.security.offer import Offer
from valkyrie.controlplane.security.revocation import Revocations
from valkyrie.controlplane.security.trust import Peer, Pins
from valkyrie.dataplane.control import Message
from valkyrie.dataplane.wire import Type

from .parties import (
    DOCUMENTED,
    FAST,
    KINDS,
    MS,
    SECRET,
    SECURE,
    SOURCE,
    Change,
    Wire,
    both,
    code,
    identity,
    only,
    peer,
    trust,
    wire,
)

# ---- Downgrades: somebody edits offers, and everything that repeats them ----


def edit(which: str, **values: object) -> Change:
    """Return a wire on which one side's offer is another, consistently in all messages."""

    def edited(packed: bytes) -> bytes:
        return dataclasses.replace(Offer.parse(packed), **values).pack()  # type: ignore[arg-type]

    originals: dict[str, bytes] = {}

    def change(_number: int, _there: bool, message: Message) -> list[Message]:
        head, body = message.payload[:HEAD_SIZE], message.payload[HEAD_SIZE:]
        if message.type == Type.HELLO and which == "hello":
            originals.setdefault("hello", body)
            body = edited(body)
        elif message.type == Type.HELLO_ACK and which == "answer":
            answer = HelloAck.parse(body)
            originals["answer"] = answer.offer
            body = HelloAck(answer.cookie, edited(answer.offer)).pack()
        elif message.type == Type.NEGOTIATE:
            said = Negotiate.parse(body)
            if which == "hello":
                said = dataclasses.replace(said, hello=edited(said.hello))
            else:
                answer = HelloAck(said.answer.cookie, originals["answer"])
                said = dataclasses.replace(said, answer=answer)
            body = said.pack()
        head = (
            head[:-2] + len(body).to_bytes(2, "big")
            if body != message.payload[HEAD_SIZE:]
            else head
        )
        return [Message(message.type, head + body)]

    return change


FIELDS = [
    (1, {"modes": (Mode.NOISE,)}),
    (2, {"modes": (Mode.TOKEN,)}),
    (3, {"modes": (Mode.PLAINTEXT,)}),
    (4, {"patterns": (NoisePattern.IK,)}),
    (5, {"patterns": (NoisePattern.XX,)}),
    (6, {"ciphers": (Cipher.CHACHA20_POLY1305,)}),
    (7, {"signatures": (1,)}),
    (8, {"nonce": bytes(32)}),
    (9, {"extra": b"other"}),
    (10, {"modes": (Mode.POST_QUANTUM, Mode.NOISE, Mode.TOKEN, 77)}),
]


@pytest.mark.parametrize(("number", "values"), FIELDS)
@pytest.mark.parametrize("which", ["hello", "answer"])
@pytest.mark.parametrize("fix_choice", [False, True])
def test_an_edited_offer_never_ends_in_a_session(
    number: int, values: dict[str, object], which: str, fix_choice: bool
) -> None:
    """Also where each side is shown the choice that follows from what it saw."""
    from valkyrie.controlplane.security.errors import SecurityError
    from valkyrie.controlplane.security.offer import choose

    policy = Policy(
        modes=frozenset({Mode.TOKEN, Mode.NOISE, Mode.POST_QUANTUM}), min_mode=Mode.TOKEN
    )
    base = wire(Mode.NOISE)
    inner = edit(which, **values)

    def change(number_: int, there: bool, message: Message) -> list[Message]:
        found = inner(number_, there, message)
        if not fix_choice or message.type != Type.NEGOTIATE:
            return found
        head, body = found[0].payload[: HEAD_SIZE - 2], found[0].payload[HEAD_SIZE:]
        said = Negotiate.parse(body)
        try:
            choice = choose(Offer.parse(said.hello), Offer.parse(said.answer.offer)).pack()
        except SecurityError:
            return found
        body = dataclasses.replace(said, choice=choice).pack()
        return [Message(message.type, head + len(body).to_bytes(2, "big") + body)]

    found = Wire(
        dataclasses.replace(base.initiator, policy=policy),
        dataclasses.replace(base.responder, policy=policy),
        base.asked,
        change=change,
    )
    there, back = found.run()
    assert code(there) in DOCUMENTED - {None}
    assert code(back) in DOCUMENTED


def test_plaintext_is_taken_only_where_both_allow_it() -> None:
    every = Policy(modes=frozenset(Mode), min_mode=Mode.PLAINTEXT)
    for one, other in ((every, only(Mode.NOISE)), (only(Mode.NOISE), every)):
        base = wire(Mode.NOISE)
        found = Wire(
            dataclasses.replace(base.initiator, policy=one),
            dataclasses.replace(base.responder, policy=other),
            base.asked,
            change=edit("hello", modes=(Mode.PLAINTEXT,)),
        )
        there, back = found.run()
        assert code(there) is not None
        assert code(back) is not Failure.TIMEOUT or found.door.under_way == 0


@pytest.mark.parametrize(
    ("number", "ours", "theirs"),
    [
        (1, only(Mode.NOISE), only(Mode.POST_QUANTUM)),
        (2, only(Mode.POST_QUANTUM), only(Mode.NOISE)),
        (3, only(Mode.TOKEN), only(Mode.PLAINTEXT)),
        (4, Policy(require_pq=True), only(Mode.NOISE)),
        (5, only(Mode.NOISE), Policy(require_pq=True)),
        (6, Policy(min_mode=Mode.ZERO_TRUST, modes=frozenset(Mode)), Policy()),
        (
            7,
            only(Mode.NOISE, patterns=(NoisePattern.XK,)),
            only(Mode.NOISE, patterns=(NoisePattern.XX,)),
        ),
    ],
)
def test_policies_with_nothing_in_common_say_so(number: int, ours: Policy, theirs: Policy) -> None:
    base = wire(Mode.NOISE)
    found = Wire(
        dataclasses.replace(base.initiator, policy=ours),
        dataclasses.replace(base.responder, policy=theirs),
        base.asked,
    )
    there, back = found.run()
    assert code(there) is Failure.FLOOR
    assert back is None
    assert len(found.door) == 0


# ---- Who pretends ----


@pytest.mark.parametrize("pattern", NoisePattern)
@pytest.mark.parametrize("mode", [Mode.NOISE, Mode.POST_QUANTUM])
def test_a_responder_with_another_identity_is_not_taken(mode: Mode, pattern: NoisePattern) -> None:
    base = wire(mode, pattern=pattern)
    mallory = dataclasses.replace(base.responder, identity=identity("mallory"))
    there, back = Wire(base.initiator, mallory, base.asked).run()
    assert code(there) in (Failure.UNPROVEN, Failure.IDENTITY)
    assert not isinstance(back, Established)


@pytest.mark.parametrize("pattern", NoisePattern)
@pytest.mark.parametrize("mode", [Mode.NOISE, Mode.POST_QUANTUM])
def test_an_initiator_that_nobody_named_is_not_taken(mode: Mode, pattern: NoisePattern) -> None:
    base = wire(mode, pattern=pattern)
    mallory = dataclasses.replace(base.initiator, identity=identity("mallory"))
    there, back = Wire(mallory, base.responder, base.asked).run()
    assert isinstance(back, Failed)
    assert back.code is Failure.IDENTITY
    assert str(identity("mallory").card.fingerprint) in back.reason
    assert "valkyrie peer add" in back.reason
    assert isinstance(there, Failed)
    assert there.by_peer


@pytest.mark.parametrize("who", ["initiator", "responder"])
@pytest.mark.parametrize("algorithm", ["ed25519", "ml_dsa"])
@pytest.mark.parametrize("mode", [Mode.POST_QUANTUM, Mode.ZERO_TRUST])
def test_both_signatures_must_verify(who: str, algorithm: str, mode: Mode) -> None:
    base = wire(mode)
    name = "alice" if who == "initiator" else "bob"
    real, other = identity(name), identity("mallory")

    class Half(type(real)):  # type: ignore[misc]
        @property
        def card(self) -> object:
            return real.card

    half = Half(real.exchange, real.ed25519, real.ml_dsa)
    object.__setattr__(half, algorithm, getattr(other, algorithm))
    sides = {"initiator": base.initiator, "responder": base.responder}
    sides[who] = dataclasses.replace(sides[who], identity=half)
    there, back = Wire(sides["initiator"], sides["responder"], base.asked).run()
    found = back if who == "initiator" else there
    assert code(found) is Failure.UNPROVEN
    assert not isinstance(there, Established)


@pytest.mark.parametrize("who", ["initiator", "responder"])
def test_a_wrong_shared_secret_is_found_out(who: str) -> None:
    from valkyrie.controlplane.security.exchange import token_id

    base = wire(Mode.TOKEN)
    wrong = b"another secret of enough bytes!!"
    if who == "initiator":
        asked = peer("bob", token_id=token_id(wrong))
        local = dataclasses.replace(base.initiator, secrets=(wrong,))
        there, back = Wire(local, base.responder, asked).run()
        assert code(back) is Failure.CREDENTIAL
    else:
        local = dataclasses.replace(base.responder, secrets=(wrong,))
        there, back = Wire(base.initiator, local, base.asked).run()
        assert code(back) is Failure.CREDENTIAL
    assert code(there) is Failure.CREDENTIAL


def test_a_responder_that_knows_only_the_name_of_the_secret_is_found_out() -> None:
    from valkyrie.controlplane.security import local as module
    from valkyrie.controlplane.security.exchange import token_id

    base = wire(Mode.TOKEN)
    wrong = b"another secret of enough bytes!!"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "token_id", lambda _secret: token_id(SECRET))
        responder = dataclasses.replace(base.responder, secrets=(wrong,))
        there, _ = Wire(base.initiator, responder, base.asked).run()
    assert code(there) is Failure.UNPROVEN


def test_a_pin_may_demand_more_than_the_policy() -> None:
    base = wire(Mode.NOISE)
    for demand in ({"min_mode": Mode.POST_QUANTUM}, {"require_pq": True}):
        responder = dataclasses.replace(base.responder, trust=trust("alice", **demand))
        there, back = Wire(base.initiator, responder, base.asked).run()
        assert code(back) is Failure.FLOOR
        assert code(there) is Failure.FLOOR


def test_a_revoked_peer_is_refused() -> None:
    base = wire(Mode.NOISE)
    pins = Pins(
        {"alice": peer("alice")}, revocations=Revocations({identity("alice").card.fingerprint: ""})
    )
    _, back = Wire(
        base.initiator, dataclasses.replace(base.responder, trust=pins), base.asked
    ).run()
    assert code(back) is Failure.CREDENTIAL


@pytest.mark.parametrize(("mode", "pattern"), SECURE)
def test_what_comes_back_reflected_is_not_taken(mode: Mode, pattern: NoisePattern) -> None:
    """An initiator alone with a mirror, which even turns the types round."""
    turned = {
        Type.HELLO: Type.HELLO_ACK,
        Type.KEY_EXCHANGE: Type.AUTH_CHALLENGE,
        Type.AUTH_RESPONSE: Type.AUTH_SUCCESS,
    }
    found = wire(mode, pattern=pattern)
    found.step()
    asking = found.asking
    for _ in range(20):
        for message in asking.to_send(found.now_ns):
            asking.receive(message, found.now_ns)
            asking.receive(Message(turned.get(message.type, 0), message.payload), found.now_ns)
        found.now_ns = max(found.now_ns + 1, asking.timer() or 0)
        if asking.over:
            break
    assert asking.state is State.FAILED


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("mode", "pattern"), FAST)
def test_a_message_of_another_attempt_is_not_taken(
    mode: Mode, pattern: NoisePattern, kind: int
) -> None:
    """Recorded in one handshake, replayed into the next, with the right attempt written on it."""
    earlier = wire(mode, pattern=pattern)
    both(earlier)
    old = next(message for _, message in earlier.seen if message.type == kind)

    def replay(_number: int, _there: bool, message: Message) -> list[Message]:
        if message.type != kind:
            return [message]
        return [Message(kind, message.payload[:8] + old.payload[8:])]

    found = wire(mode, pattern=pattern, change=replay)
    found.seed = 1
    found.__post_init__()
    there, back = found.run()
    assert code(there) is not None
    assert kind == Type.AUTH_SUCCESS or not isinstance(back, Established)


def test_a_recorded_initiator_played_again_gets_nowhere() -> None:
    found = wire(Mode.NOISE, pattern=NoisePattern.IK)
    both(found)
    played = [message for there, message in found.seen if there]
    for message in played:
        found.door.receive(SOURCE, message, found.now_ns)
    assert found.door.next_event() is None
    # Later, when the door has forgotten the attempt, its cookie is too old.
    found.now_ns += 120_000 * MS
    found.door.to_send(found.now_ns)
    assert len(found.door) == 0
    for message in played:
        found.door.receive(SOURCE, message, found.now_ns)
    assert found.door.next_event() is None
    assert len(found.door) == 0


@pytest.mark.parametrize("mode", [Mode.TOKEN, Mode.NOISE])
def test_another_peer_that_is_known_is_not_the_one_that_was_asked(mode: Mode) -> None:
    base = wire(mode)
    unpinned = Peer("carol", token_id=base.asked.token_id)
    there, _ = Wire(base.initiator, base.responder, unpinned).run()
    assert code(there) is Failure.IDENTITY
