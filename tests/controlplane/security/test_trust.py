"""Who is let in."""

from __future__ import annotations

import pytest

from valkyrie.controlplane.security.claim import Claim
from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.errors import SecurityError
from valkyrie.controlplane.security.exchange import token_id
from valkyrie.controlplane.security.modes import Mode
from valkyrie.controlplane.security.revocation import Revocations
from valkyrie.controlplane.security.trust import Pins
from valkyrie.dataplane.errors import ConfigError

from .parties import SECRET, identity, peer

TOKEN = token_id(SECRET).hex()
CARD = {name: identity(name).card.short() for name in ("alice", "bob", "eve")}
PINS = {
    "alice": peer("alice", certificate_name="alice", min_mode=Mode.NOISE),
    "bob": peer("bob", token_id=b"other-id", certificate_name="", require_pq=True),
}


@pytest.mark.parametrize(
    ("number", "claim", "expected"),
    [
        (1, Claim(Mode.NOISE, card=CARD["alice"]), "alice"),
        (2, Claim(Mode.POST_QUANTUM, quantum_safe=True, card=CARD["bob"]), "bob"),
        (3, Claim(Mode.NOISE, card=CARD["bob"]), Failure.FLOOR),
        (4, Claim(Mode.NOISE, card=CARD["eve"]), Failure.IDENTITY),
        (5, Claim(Mode.TOKEN, name=TOKEN), Failure.FLOOR),
        (6, Claim(Mode.TOKEN, name=b"other-id".hex()), Failure.FLOOR),
        (7, Claim(Mode.TOKEN, name="ff"), Failure.IDENTITY),
        (8, Claim(Mode.MTLS, name="alice"), "alice"),
        (9, Claim(Mode.MTLS, name="eve"), Failure.IDENTITY),
        (10, Claim(Mode.MTLS, name=""), Failure.IDENTITY),
        (11, Claim(Mode.TOKEN, name=""), Failure.IDENTITY),
        (12, Claim(Mode.TOKEN, name="alice"), Failure.IDENTITY),
        (13, Claim(Mode.MTLS, name=TOKEN), Failure.IDENTITY),
        (14, Claim(Mode.PLAINTEXT), ""),
        (15, Claim(Mode.PLAINTEXT, name="alice"), ""),
    ],
)
def test_only_named_peers_are_let_in(number: int, claim: Claim, expected: object) -> None:
    pins = Pins(PINS)
    if isinstance(expected, Failure):
        with pytest.raises(SecurityError) as caught:
            pins.admit(claim)
        assert caught.value.code is expected
    else:
        assert pins.admit(claim).peer == expected


def test_a_revoked_fingerprint_is_not_let_in() -> None:
    pins = Pins(PINS, revocations=Revocations({CARD["alice"].fingerprint: "lost"}))
    with pytest.raises(SecurityError, match="revoked: lost"):
        pins.admit(Claim(Mode.NOISE, card=CARD["alice"]))


@pytest.mark.parametrize(
    "same", [{"card": CARD["alice"]}, {"token_id": token_id(SECRET)}, {"certificate_name": "alice"}]
)
def test_two_peers_that_nobody_could_tell_apart_are_refused(same: dict[str, object]) -> None:
    own = {"token_id": b"other-id", "certificate_name": "bob"}
    with pytest.raises(ConfigError, match="alice and bob have the same"):
        Pins({"alice": peer("alice"), "bob": peer("bob", **(own | same))})
