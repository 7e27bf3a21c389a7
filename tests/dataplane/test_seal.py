"""Seals: what they show, what they refuse and why, and what they cost."""

from __future__ import annotations

import functools
import hashlib
import random
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

import valkyrie
from valkyrie.controlplane.daemon.notary import attest
from valkyrie.controlplane.security.identity import Identity
from valkyrie.dataplane.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from valkyrie.dataplane.signing import fn_dsa
from valkyrie.dataplane.signing.fn_dsa import FnDsaKey
from valkyrie.dataplane.signing.merkle import leaf_hash
from valkyrie.dataplane.signing.seal import (
    REASONS,
    SALT_SIZE,
    Attestation,
    Draft,
    Seal,
    SealError,
    verify,
)
from valkyrie.dataplane.signing.signature import _SMALL_ORDER, Algorithm, holds
from valkyrie.dataplane.signing.statement import Statement, algorithms

NODE, OTHER = Identity.generate(), Identity.generate()
KNOWN = NODE.card.fingerprint
MESSAGES = [b"open the valve", b"", b"close the valve", b"x" * 1000, b"log"]
TIME_NS = 1_700_000_000_000_000_000


def salts(count: int) -> bytes:
    return random.Random(7).randbytes(SALT_SIZE * count)


def statement(draft: Draft, *, post_quantum: bool = False, fn_dsa: bool = False) -> Statement:
    used = algorithms(post_quantum=post_quantum, fn_dsa=fn_dsa)
    return Statement("pump", "control", 1000, TIME_NS, draft.count, draft.root, used)


def sealed(messages: list[bytes] = MESSAGES, by: Identity = NODE, **wanted: bool) -> list[Seal]:
    draft = Draft(messages, salts(len(messages)))
    return draft.seals(attest(by, statement(draft, **wanted)))


SEALS, QUANTUM = sealed(), sealed(post_quantum=True)


def reason(message: bytes, seal: Seal | bytes, **options: bool) -> str:
    with pytest.raises(SealError) as caught:
        verify(message, seal, KNOWN, **options)
    assert REASONS[caught.value.reason] in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("seals", [SEALS, QUANTUM], ids=["ed25519", "with ml_dsa_65"])
def test_anybody_with_the_fingerprint_verifies_who_said_what(seals: list[Seal]) -> None:
    for index, (message, seal) in enumerate(zip(MESSAGES, seals, strict=True)):
        said = valkyrie.verify(message, seal.pack(), str(KNOWN))
        assert (said.node, said.rule, said.uid, said.time_ns) == ("pump", "control", 1000, TIME_NS)
        assert (said.count, seal.index) == (len(MESSAGES), index)
        assert Seal.unpack(seal.pack()) == seal
        assert verify(memoryview(message), seal, KNOWN) == said


@settings(max_examples=30)
@given(st.integers(1, 70), st.data())
def test_every_message_of_every_batch_verifies_and_no_other_one(
    count: int, data: st.DataObject
) -> None:
    messages = [b"%d" % i for i in range(count)]
    seals = sealed(messages)
    index = data.draw(st.integers(0, count - 1))
    verify(messages[index], seals[index].pack(), KNOWN)
    assert reason(b"-1", seals[index]) == "message"
    if count > 1:
        other = data.draw(st.integers(0, count - 1).filter(lambda i: i != index))
        assert reason(messages[other], seals[index]) == "message"


@pytest.mark.parametrize("seal", [SEALS[2], QUANTUM[2]], ids=["ed25519", "with ml_dsa_65"])
def test_no_byte_of_a_seal_can_be_changed(seal: Seal) -> None:
    packed = seal.pack()
    choice = random.Random(1)
    places = range(len(packed)) if len(packed) < 1000 else choice.sample(range(len(packed)), 400)
    reasons = set()
    for place in places:
        changed = bytearray(packed)
        changed[place] ^= 1 << choice.randrange(8)
        reasons.add(reason(MESSAGES[2], bytes(changed)))
    assert reasons >= {"malformed", "signer", "signature", "message"}


@given(st.binary(max_size=600))
def test_whatever_bytes_come_as_a_seal_they_are_refused_with_a_reason(data: bytes) -> None:
    assert reason(b"", data) in REASONS


def test_a_seal_that_is_cut_off_or_longer_is_refused() -> None:
    packed = QUANTUM[0].pack()
    for size in range(0, len(packed), 7):
        assert reason(MESSAGES[0], packed[:size]) == "malformed"
    assert reason(MESSAGES[0], packed + b"\0") == "malformed"
    assert reason(MESSAGES[0], packed + bytes(32)) == "malformed"


def test_a_seal_of_another_node_is_refused_whatever_it_says_of_itself() -> None:
    assert reason(MESSAGES[0], sealed(by=OTHER)[0]) == "signer"
    ours, theirs = SEALS[0].attestation, sealed(by=OTHER)[0].attestation
    forged = replace(theirs, exchange=ours.exchange, ed25519=ours.ed25519, digests=ours.digests)
    assert reason(MESSAGES[0], replace(SEALS[0], attestation=forged)) == "signature"


def test_the_post_quantum_signature_cannot_be_taken_out() -> None:
    whole = QUANTUM[0].attestation
    less = replace(whole.statement, algorithms=(Algorithm.ED25519,))
    stripped = replace(whole, statement=less, signatures=whole.signatures[:1], keys=())
    assert reason(MESSAGES[0], replace(QUANTUM[0], attestation=stripped)) == "signature"
    verify(MESSAGES[0], QUANTUM[0], KNOWN, post_quantum=True)
    assert reason(MESSAGES[0], SEALS[0], post_quantum=True) == "algorithm"


def test_a_post_quantum_key_that_is_not_the_fingerprints_is_refused() -> None:
    """Else who has broken Ed25519 could bring an ML-DSA key of his own."""
    whole = QUANTUM[0].attestation
    key = OTHER.card.keys[Algorithm.ML_DSA_65]
    signed = OTHER.sign(Algorithm.ML_DSA_65, whole.statement.signed())
    forged = replace(whole, keys=(key,), signatures=(whole.signatures[0], signed))
    assert reason(MESSAGES[0], replace(QUANTUM[0], attestation=forged)) == "signer"


def test_both_signatures_must_hold() -> None:
    whole = QUANTUM[0].attestation
    for at, size in enumerate((64, 3309)):
        signatures = list(whole.signatures)
        signatures[at] = bytes(size)
        forged = replace(whole, signatures=tuple(signatures))
        assert reason(MESSAGES[0], replace(QUANTUM[0], attestation=forged)) == "signature"


def test_a_signature_of_something_else_is_none_of_a_batch() -> None:
    """The same bytes without the label in front, as another part of the node might sign them."""
    whole = SEALS[0].attestation
    other = NODE.sign(Algorithm.ED25519, whole.statement.pack())
    forged = replace(whole, signatures=(other,))
    assert reason(MESSAGES[0], replace(SEALS[0], attestation=forged)) == "signature"


def test_who_has_one_seal_cannot_try_out_what_the_next_message_was() -> None:
    path = SEALS[0].path
    assert leaf_hash(SEALS[1].salt, MESSAGES[1]) in path  # its hash is there
    for message in MESSAGES:
        assert leaf_hash(b"", message) not in path
        assert leaf_hash(SEALS[0].salt, message) not in path
    assert len({seal.salt for seal in SEALS}) == len(SEALS)


def test_keys_under_which_a_signature_is_of_many_messages_are_refused() -> None:
    """Who made himself such a key could say later that he had signed something else."""
    neutral = b"\1" + bytes(31)
    signature = neutral + bytes(32)  # R neutral, S = 0: holds for one in 1, 2, 4 or 8 messages
    messages = [b"%d" % i for i in range(100)]
    taken = {key for key in _SMALL_ORDER if sum(map(partial(raw, key, signature), messages)) > 1}
    assert len(taken) >= 8  # all but some of those that are written in an unusual way
    for key in _SMALL_ORDER:
        assert not any(holds(Algorithm.ED25519, key, signature, each) for each in messages)


def raw(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def test_an_identity_with_another_key_in_its_fingerprint_signs_too() -> None:
    third = FnDsaKey(bytes(fn_dsa.PRIVATE_SIZE), bytes(fn_dsa.PUBLIC_SIZE))
    node = replace(NODE, fn_dsa=third)
    assert node.card.fingerprint != KNOWN
    for post_quantum in (False, True):
        seal = sealed(by=node, post_quantum=post_quantum)[3].pack()
        verify(MESSAGES[3], seal, node.card.fingerprint, post_quantum=post_quantum)
        assert reason(MESSAGES[3], seal) == "signer"


def test_a_seal_takes_what_the_documentation_says() -> None:
    for count, size in ((1, 246), (64, 438), (1024, 566)):
        seals = sealed([b""] * count)
        assert {len(seal.pack()) for seal in seals} == {size}
    assert len(QUANTUM[0].pack()) - len(SEALS[0].pack()) == 5261


# FN-DSA-512, by an optional package

needed = pytest.mark.skipif(fn_dsa.library() is None, reason="py-fn-dsa is not installed")


@functools.cache
def third() -> Identity:
    return replace(NODE, fn_dsa=FnDsaKey.generate())


@needed
@pytest.mark.parametrize("post_quantum", [False, True])
def test_a_seal_by_fn_dsa_says_so_and_every_changed_byte_is_found(post_quantum: bool) -> None:
    known = third().card.fingerprint
    seal = sealed(by=third(), post_quantum=post_quantum, fn_dsa=True)[0]
    found = verify(MESSAGES[0], seal.pack(), known, post_quantum=post_quantum, fn_dsa=True)
    assert Algorithm.FN_DSA_512 in found.algorithms
    plain = sealed(by=third(), post_quantum=post_quantum)[0].pack()
    data = seal.pack()
    assert len(data) - len(plain) == 1563
    for at in range(0, len(data), 7):
        changed = bytearray(data)
        changed[at] ^= 0x10
        with pytest.raises(SealError):
            verify(MESSAGES[0], bytes(changed), known)


@needed
def test_the_fn_dsa_signature_is_asked_for_and_cannot_be_taken_out() -> None:
    known = third().card.fingerprint
    with pytest.raises(SealError, match="fn_dsa=True") as refused:
        verify(MESSAGES[0], sealed(by=third())[0], known, fn_dsa=True)
    assert refused.value.reason == "algorithm"
    whole = sealed(by=third(), fn_dsa=True)[0]
    weaker = replace(whole.statement, algorithms=(Algorithm.ED25519,))
    forged = replace(
        whole.attestation,
        statement=weaker,
        signatures=whole.attestation.signatures[:1],
        keys=(),
    )
    with pytest.raises(SealError) as refused:
        verify(MESSAGES[0], replace(whole, attestation=forged), known)
    assert refused.value.reason == "signature"


@needed
def test_an_fn_dsa_signature_of_another_key_or_without_a_digest_is_none() -> None:
    known = third().card.fingerprint
    whole = sealed(by=third(), fn_dsa=True)[0]
    other = replace(NODE, fn_dsa=FnDsaKey.generate())
    theirs = sealed(by=other, fn_dsa=True)[0].attestation
    mixed = replace(whole.attestation, keys=theirs.keys, signatures=theirs.signatures)
    with pytest.raises(SealError) as refused:
        verify(MESSAGES[0], replace(whole, attestation=mixed), known)
    assert refused.value.reason == "signer"
    short = replace(whole.attestation, digests=whole.attestation.digests[:1])
    with pytest.raises(SealError) as refused:
        Seal.unpack(replace(whole, attestation=short).pack())
    assert refused.value.reason == "malformed"


@needed
def test_without_the_package_a_seal_by_fn_dsa_is_refused_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = b"of this test"  # what was verified before is not verified again
    known = third().card.fingerprint
    (seal,) = sealed([message], third(), fn_dsa=True)
    (plain,) = sealed([message], third(), post_quantum=True)
    monkeypatch.setattr(fn_dsa, "library", lambda: None)
    with pytest.raises(SealError, match=r"pip install 'valkyrie\[fn-dsa\]'") as refused:
        verify(message, seal.pack(), known)
    assert refused.value.reason == "package"
    verify(message, plain.pack(), known, post_quantum=True)


def test_what_is_no_batch_is_refused() -> None:
    batches: list[Any] = [b"one", "one", []]
    for messages in batches:
        with pytest.raises(LocalProtocolError):
            Draft(messages, b"")


def test_a_fingerprint_that_is_none_is_said_to_be_none() -> None:
    with pytest.raises(ConfigError, match="is no fingerprint"):
        verify(b"", SEALS[0], "somebody")


def test_an_answer_about_another_batch_is_not_taken_for_this_one() -> None:
    draft = Draft(MESSAGES, salts(5))
    wrong = replace(statement(draft), root=hashlib.sha256(b"").digest())
    good = attest(NODE, statement(draft))
    for answer in (attest(NODE, wrong), good + b"\0", b""):
        with pytest.raises(RemoteProtocolError):
            draft.seals(answer)
    assert Attestation.parse(good)[0].fingerprint == KNOWN
