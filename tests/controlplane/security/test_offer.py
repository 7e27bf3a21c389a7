"""Offers and the choice that follows from two of them."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.errors import SecurityError
from valkyrie.controlplane.security.modes import Cipher, Mode, NoisePattern
from valkyrie.controlplane.security.offer import EXTRA_MAX, NONCE_SIZE, Choice, Offer, choose
from valkyrie.dataplane.signing.signature import Algorithm

NONCE = bytes(range(NONCE_SIZE))
ALL = Offer(NONCE, tuple(Mode), tuple(NoisePattern), tuple(Cipher), tuple(Algorithm))
numbers = st.lists(st.integers(0, 255), max_size=16, unique=True).map(tuple)
offers = st.builds(
    Offer,
    st.binary(min_size=NONCE_SIZE, max_size=NONCE_SIZE),
    numbers,
    numbers,
    numbers,
    numbers,
    st.binary(max_size=EXTRA_MAX),
)


@settings(deadline=None)
@given(offers)
def test_an_offer_comes_back_as_it_was(offer: Offer) -> None:
    assert Offer.parse(offer.pack()) == offer


@settings(deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_are_an_offer_or_are_refused(data: bytes) -> None:
    try:
        offer = Offer.parse(data)
    except SecurityError as error:
        assert error.code in (Failure.MALFORMED, Failure.VERSION)  # noqa: PT017
    else:
        assert offer.pack() == data


@settings(deadline=None)
@given(offers, st.data())
def test_an_offer_that_was_cut_or_grew_is_refused(offer: Offer, data: st.DataObject) -> None:
    packed = offer.pack()
    for wrong in (packed[: data.draw(st.integers(0, len(packed) - 1))], packed + b"\0"):
        with pytest.raises(SecurityError):
            Offer.parse(wrong)


def test_another_version_says_so() -> None:
    with pytest.raises(SecurityError, match="version 2") as caught:
        Offer.parse(b"\x02" + ALL.pack()[1:])
    assert caught.value.code is Failure.VERSION


M, P, C, A = Mode, NoisePattern, Cipher, Algorithm
BOTH = (A.ED25519, A.ML_DSA_65)
SMALL = (A.ED25519, A.FN_DSA_512)
TABLE = [
    (1, {}, {}, (M.ZERO_TRUST, P.XK, C.CHACHA20_POLY1305, BOTH)),
    (2, {"modes": (M.NOISE,)}, {}, (M.NOISE, P.XK, C.CHACHA20_POLY1305, ())),
    (3, {}, {"modes": (M.MTLS, M.TOKEN)}, (M.MTLS, None, C.CHACHA20_POLY1305, ())),
    (4, {"signatures": (A.ED25519,)}, {}, (M.MTLS, None, C.CHACHA20_POLY1305, ())),
    (5, {}, {"signatures": (A.ML_DSA_65,)}, (M.MTLS, None, C.CHACHA20_POLY1305, ())),
    (6, {"patterns": (P.IK, P.XK)}, {}, (M.ZERO_TRUST, P.IK, C.CHACHA20_POLY1305, BOTH)),
    (7, {"patterns": (P.XX,)}, {"patterns": (P.XK,)}, (M.MTLS, None, C.CHACHA20_POLY1305, ())),
    (8, {"ciphers": (C.AES_256_GCM,)}, {}, (M.ZERO_TRUST, P.XK, C.AES_256_GCM, BOTH)),
    (9, {"ciphers": (99, C.AES_256_GCM)}, {"ciphers": (99, C.AES_256_GCM)}, None),
    (10, {"modes": (99,)}, {"modes": (99,)}, "none"),
    (11, {"modes": (M.NOISE,)}, {"modes": (M.MTLS,)}, "none"),
    (12, {"ciphers": (C.AES_256_GCM,)}, {"ciphers": (C.CHACHA20_POLY1305,)}, "none"),
    (13, {"modes": (M.NOISE,), "patterns": ()}, {}, "none"),
    (14, {"modes": (M.PLAINTEXT,)}, {}, (M.PLAINTEXT, None, C.CHACHA20_POLY1305, ())),
    (15, {"signatures": SMALL}, {}, (M.ZERO_TRUST, P.XK, C.CHACHA20_POLY1305, SMALL)),
    (16, {}, {"signatures": SMALL}, (M.ZERO_TRUST, P.XK, C.CHACHA20_POLY1305, SMALL)),
    (17, {"signatures": SMALL[::-1] + BOTH[1:]}, {}, (M.ZERO_TRUST, P.XK, C(1), SMALL)),
    (18, {"signatures": SMALL}, {"signatures": BOTH}, (M.MTLS, None, C.CHACHA20_POLY1305, ())),
]


@pytest.mark.parametrize(("number", "asked", "answered", "expected"), TABLE)
def test_the_choice_follows_from_both_offers(
    number: int, asked: dict[str, object], answered: dict[str, object], expected: object
) -> None:
    one = dataclasses.replace(ALL, **asked)  # type: ignore[arg-type]
    other = dataclasses.replace(ALL, **answered)  # type: ignore[arg-type]
    if expected == "none":
        with pytest.raises(SecurityError, match="no security mode in common"):
            choose(one, other)
    elif expected is None:
        assert choose(one, other).cipher is Cipher.AES_256_GCM
    else:
        assert choose(one, other) == Choice(*expected)  # type: ignore[misc]


@settings(deadline=None)
@given(offers, offers)
def test_the_choice_is_in_both_offers(one: Offer, other: Offer) -> None:
    try:
        choice = choose(one, other)
    except SecurityError as error:
        assert error.code is Failure.FLOOR  # noqa: PT017
        return
    for offer in (one, other):
        assert choice.mode in offer.modes
        assert choice.cipher in offer.ciphers
        assert choice.pattern is None or choice.pattern in offer.patterns
