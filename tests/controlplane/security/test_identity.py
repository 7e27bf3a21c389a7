"""Identities: cards, fingerprints, signatures."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.controlplane.security.errors import MisuseError, SecurityError
from valkyrie.controlplane.security.identity import Card, Identity
from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.signing.fingerprint import SIZE, Fingerprint, parse_fingerprint
from valkyrie.dataplane.signing.signature import SIGNATURE_SIZES, Algorithm

ALICE, BOB = Identity.generate(), Identity.generate()


def test_a_fingerprint_reads_in_groups() -> None:
    text = str(ALICE.card.fingerprint)
    assert [len(group) for group in text.split("-")] == [5] * 8
    assert text == text.lower()


@settings(deadline=None)
@given(st.binary(min_size=SIZE, max_size=SIZE), st.sampled_from(["upper", "spaces", "bare"]))
def test_a_fingerprint_is_read_as_people_type_it(digest: bytes, way: str) -> None:
    text = str(Fingerprint(digest))
    typed = {"upper": text.upper(), "spaces": f" {text.replace('-', ' ')}\n"}.get(
        way, text.replace("-", "")
    )
    assert parse_fingerprint(typed) == Fingerprint(digest)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_other_text_is_no_fingerprint(text: str) -> None:
    try:
        found = parse_fingerprint(text)
    except ConfigError as error:
        assert "valkyrie key show" in str(error)  # noqa: PT017
    else:
        assert len(found.digest) == SIZE


def test_short_and_full_card_have_one_fingerprint() -> None:
    card = ALICE.card
    assert card.short().fingerprint == card.fingerprint != BOB.card.fingerprint
    assert Card.parse(card.pack()) == card
    assert Card.parse(card.pack()).keys == card.keys
    assert not Card.parse(card.short().pack()).keys
    assert Card.of_text(card.text()) == card.short()


def test_every_part_of_a_card_is_in_its_fingerprint() -> None:
    data = ALICE.card.short().pack()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        assert Card.parse(bytes(changed)).fingerprint != ALICE.card.fingerprint


def test_a_card_with_another_long_key_is_refused() -> None:
    data = ALICE.card.pack()
    for at in range(96, len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(SecurityError):
            Card.parse(bytes(changed))
    twice = data + data[96:]
    with pytest.raises(SecurityError, match="of no use"):
        Card.parse(twice)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_card_or_are_refused(data: bytes) -> None:
    try:
        card = Card.parse(data)
    except SecurityError:
        return
    assert card.pack() == data


@pytest.mark.parametrize("text", ["", "vkid1:", "vkid1:aaaa", "vkid1:!!", "hello", "vkid1:é"])
def test_other_text_is_no_card(text: str) -> None:
    with pytest.raises(ConfigError, match="valkyrie key show"):
        Card.of_text(text)


@pytest.mark.parametrize("algorithm", [Algorithm.ED25519, Algorithm.ML_DSA_65])
def test_signatures_are_of_one_identity_and_one_message(algorithm: Algorithm) -> None:
    signature = ALICE.sign(algorithm, b"message")
    assert len(signature) == SIGNATURE_SIZES[algorithm]
    ALICE.card.verify(algorithm, signature, b"message")
    for card, sig, message in (
        (BOB.card, signature, b"message"),
        (ALICE.card, signature, b"other"),
        (ALICE.card, signature[:-1], b"message"),
        (ALICE.card, b"", b"message"),
    ):
        with pytest.raises(SecurityError, match="does not verify"):
            card.verify(algorithm, sig, message)


def test_a_short_card_cannot_verify_long_signatures() -> None:
    with pytest.raises(SecurityError, match="no key"):
        ALICE.card.short().verify(
            Algorithm.ML_DSA_65, ALICE.sign(Algorithm.ML_DSA_65, b"message"), b"message"
        )


def test_an_identity_shows_and_gives_away_nothing() -> None:
    assert repr(ALICE) == f"<Identity {ALICE.card.fingerprint}>"
    assert str(ALICE) == repr(ALICE)
    assert ALICE.exchange.private_bytes_raw().hex() not in repr(vars(type(ALICE)))
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(MisuseError, match="not to be copied"):
            take(ALICE)
