"""Authentication providers: what they take, and everything that they do not."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.controlplane.security.certificates import issue, make_crl, make_root
from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.errors import SecurityError
from valkyrie.controlplane.security.modes import Mode
from valkyrie.controlplane.security.providers import (
    SECOND_NS,
    ApiKeyProver,
    ApiKeyVerifier,
    CertificateProver,
    CertificateVerifier,
    HmacProver,
    HmacVerifier,
    JwtProver,
    JwtVerifier,
    Prover,
    Subject,
    Verifier,
    _encode,
    api_key_digest,
    make_jwt,
)
from valkyrie.controlplane.security.trust import Pins
from valkyrie.dataplane.errors import ConfigError

from .parties import Wire, both, code, peer, wire

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
NOW_NS = int(NOW.timestamp()) * SECOND_NS
BINDING = b"what both have seen"
RIGHTS = frozenset({"read", "send"})
SECRET = b"thirty-two bytes that are secret"
KEY = Ed25519PrivateKey.generate()
ROOT = make_root("root", NOW)
CHAIN = issue(ROOT, "alice", KEY.public_key(), NOW)
CLAIMS = {
    "iss": "us",
    "aud": ["x", "valkyrie"],
    "sub": "alice",
    "exp": NOW_NS // SECOND_NS + 60,
    "nbf": NOW_NS // SECOND_NS,
    "scope": "read send",
}
JWT = JwtVerifier("us", "valkyrie", {"": SECRET, "ed": KEY.public_key()})
WAYS: dict[str, tuple[Prover, Verifier]] = {
    "hmac": (HmacProver("alice", SECRET), HmacVerifier({"alice": SECRET}, {"alice": RIGHTS})),
    "certificate": (
        CertificateProver(CHAIN, KEY),
        CertificateVerifier([ROOT.certificate], rights={"alice": RIGHTS}),
    ),
    "api key": (
        ApiKeyProver("vk_0123456789abcdef0123456789abcdef"),
        ApiKeyVerifier(
            {
                api_key_digest("another"): Subject("bob"),
                api_key_digest("vk_0123456789abcdef0123456789abcdef"): Subject("alice", RIGHTS),
            }
        ),
    ),
    "jwt": (JwtProver(make_jwt(CLAIMS, SECRET)), JWT),
    "jwt eddsa": (JwtProver(make_jwt(CLAIMS, KEY, "ed")), JWT),
}
BOUND = ("hmac", "certificate")


@pytest.mark.parametrize("way", WAYS)
def test_what_is_proven_is_taken(way: str) -> None:
    prover, verifier = WAYS[way]
    subject = verifier.check(prover.prove(BINDING), BINDING, NOW_NS)
    assert (subject.name, subject.rights) == ("alice", RIGHTS)


@pytest.mark.parametrize("way", WAYS)
def test_every_changed_or_missing_byte_is_refused(way: str) -> None:
    prover, verifier = WAYS[way]
    evidence = prover.prove(BINDING)
    # The unused bits of the certificate's signature say nothing.
    skipped = {len(evidence) - 65} if way == "certificate" else set()
    for at in {*range(len(evidence))} - skipped:
        for wrong in (
            evidence[:at] + bytes([evidence[at] ^ 1]) + evidence[at + 1 :],
            evidence[:at],
        ):
            with pytest.raises(SecurityError):
                verifier.check(wrong, BINDING, NOW_NS)
    with pytest.raises(SecurityError):
        verifier.check(evidence + b"x", BINDING, NOW_NS)


@pytest.mark.parametrize("way", BOUND)
def test_bound_evidence_is_of_no_use_elsewhere(way: str) -> None:
    prover, verifier = WAYS[way]
    with pytest.raises(SecurityError):
        verifier.check(prover.prove(BINDING), b"elsewhere", NOW_NS)


@pytest.mark.parametrize("way", WAYS)
@settings(deadline=None)
@given(evidence=st.binary(max_size=200))
def test_any_bytes_are_refused(way: str, evidence: bytes) -> None:
    with pytest.raises(SecurityError):
        WAYS[way][1].check(evidence, BINDING, NOW_NS)


@pytest.mark.parametrize("way", WAYS)
def test_no_repr_shows_a_secret(way: str) -> None:
    shown = repr(WAYS[way][0]) + repr(WAYS[way][1])
    assert "secret" not in shown
    assert "vk_0123" not in shown
    assert "eyJ" not in shown


def jwt(key: bytes | Ed25519PrivateKey = SECRET, key_id: str = "", **changes: object) -> bytes:
    claims = {name: value for name, value in (CLAIMS | changes).items() if value is not None}
    return make_jwt(claims, key, key_id)


def headed(header: object, secret: bytes = SECRET) -> bytes:
    """Return a token with a header of somebody's own, rightly signed with a secret."""
    import hmac

    said = _encode(json.dumps(header).encode()) + b"." + _encode(json.dumps(CLAIMS).encode())
    return said + b"." + _encode(hmac.digest(secret, said, "sha256"))


PUBLIC = KEY.public_key().public_bytes_raw()
LATER = NOW_NS // SECOND_NS


@pytest.mark.parametrize(
    ("number", "evidence", "expected"),
    [
        (1, jwt(exp=LATER - 31), Failure.CREDENTIAL),
        (2, jwt(exp=None), Failure.CREDENTIAL),
        (3, jwt(exp="soon"), Failure.CREDENTIAL),
        (4, jwt(exp=True), Failure.CREDENTIAL),
        (5, jwt(nbf=LATER + 31), Failure.CREDENTIAL),
        (6, jwt(iss="them"), Failure.CREDENTIAL),
        (7, jwt(aud="other"), Failure.CREDENTIAL),
        (8, jwt(aud=None), Failure.CREDENTIAL),
        (9, jwt(sub=""), Failure.CREDENTIAL),
        (10, jwt(sub=7), Failure.CREDENTIAL),
        (11, jwt(b"x" * 32), Failure.UNPROVEN),
        (12, jwt(Ed25519PrivateKey.generate(), "ed"), Failure.UNPROVEN),
        (13, jwt(key_id="nobody"), Failure.UNPROVEN),
        (14, headed({"alg": "none"}), Failure.UNPROVEN),
        (15, headed({"alg": "EdDSA"}), Failure.UNPROVEN),
        (16, headed({"alg": "HS256", "kid": "ed"}, PUBLIC), Failure.UNPROVEN),
        (17, headed({"alg": "HS256", "crit": ["x"]}), Failure.MALFORMED),
        (18, headed({"alg": "HS256", "kid": ["x"]}), Failure.UNPROVEN),
        (19, headed([]), Failure.MALFORMED),
        (20, jwt().rpartition(b".")[0] + b".", Failure.UNPROVEN),
        (21, b"x" * 5000, Failure.MALFORMED),
        (22, jwt(exp=1e30), Failure.CREDENTIAL),
        (23, jwt(exp=float("nan")), Failure.CREDENTIAL),
    ],
)
def test_other_tokens_are_refused(number: int, evidence: bytes, expected: Failure) -> None:
    with pytest.raises(SecurityError) as caught:
        JWT.check(evidence, BINDING, NOW_NS)
    assert caught.value.code is expected


def test_clocks_may_be_a_little_apart() -> None:
    for evidence in (jwt(exp=LATER - 29), jwt(nbf=LATER + 29), jwt(nbf=None, aud="valkyrie")):
        assert JWT.check(evidence, BINDING, NOW_NS).name == "alice"


def test_api_keys_and_certificates_end() -> None:
    subject = Subject("alice", expires_ns=NOW_NS)
    verifier = ApiKeyVerifier({api_key_digest("k"): subject})
    assert verifier.check(b"k", b"", NOW_NS - 1) == subject
    with pytest.raises(SecurityError, match="expired"):
        verifier.check(b"k", b"", NOW_NS)
    crl = make_crl(ROOT, [CHAIN[0].serial_number], NOW, dt.timedelta(days=1))
    revoking = CertificateVerifier([ROOT.certificate], [crl])
    with pytest.raises(SecurityError, match="revoked"):
        revoking.check(WAYS["certificate"][0].prove(b""), b"", NOW_NS)


def test_weak_secrets_are_refused_when_they_are_configured() -> None:
    with pytest.raises(ConfigError, match="at least 16"):
        HmacVerifier({"alice": b"short"})
    with pytest.raises(ConfigError, match="at least 32"):
        JwtVerifier("us", "valkyrie", {"": b"short"})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", [Mode.TOKEN, Mode.NOISE])
def test_a_handshake_carries_evidence(way: str, mode: Mode) -> None:
    prover, verifier = WAYS[way]
    base = wire(mode)
    asked = peer("alice", evidence=True, rights=frozenset({"send", "tune"}))
    pins = Pins({"alice": asked}, verifier=verifier, clock=lambda: NOW_NS)
    responder = dataclasses.replace(base.responder, trust=pins)
    showing = dataclasses.replace(base.initiator, prover=prover)
    _, back = both(Wire(showing, responder, base.asked))
    assert back.grant.subject == "alice"
    assert back.grant.rights == {"send"}
    if way.startswith("jwt"):
        assert back.grant.lifetime_ns == back.lifetime_ns == 60 * SECOND_NS
    there, none = Wire(base.initiator, responder, base.asked).run()
    assert code(none) in (Failure.UNPROVEN, Failure.MALFORMED)
    assert code(there) is code(none)


def test_evidence_that_nobody_can_check_is_not_enough() -> None:
    base = wire(Mode.NOISE)
    pins = Pins({"alice": peer("alice", evidence=True)})
    _, back = Wire(
        base.initiator, dataclasses.replace(base.responder, trust=pins), base.asked
    ).run()
    assert code(back) is Failure.CREDENTIAL


def test_evidence_is_not_shown_in_the_clear() -> None:
    base = wire(Mode.PLAINTEXT)
    showing = dataclasses.replace(base.initiator, prover=WAYS["api key"][0])
    found = Wire(showing, base.responder, base.asked)
    both(found)
    assert not any(b"vk_0123" in message.payload for _, message in found.seen)
